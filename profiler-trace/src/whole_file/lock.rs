//! Locks that only our own user (and root) can hold, and that a kill does not leave behind.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::unistd::geteuid;

use super::runtime_dir::{NoRuntimeDir, RuntimeDir};

/// Bytes of a file that can be locked (`OFFSET_MAX`).
const BYTES: u64 = i64::MAX as u64;

/// A lock held as long as this lives: a byte of a file in the [runtime directory](RuntimeDir),
/// which only our own user can open. The kernel releases it with the process, however that ends,
/// and the file stays empty.
#[derive(Debug)]
pub struct Lock(File);

/// Why a lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process of the same user holds it, or this one.
    #[error("{} holds the lock", .0.map_or("another process".into(), |pid| format!("process {pid}")))]
    Held(
        /// The process, if it is visible from here.
        Option<i32>,
    ),
    /// There is no directory for locks.
    #[error(transparent)]
    NoPlace(#[from] NoRuntimeDir),
}

impl Lock {
    /// Takes the lock with this number, in the file of this name.
    ///
    /// # Errors
    /// If it is held, or no lock is available.
    pub fn take(file: &str, number: u64) -> Result<Self, LockError> {
        let byte = number & BYTES;
        let taken = RuntimeDir::first("locks", |dir| Self::within(dir, file, byte))?;
        taken.map_err(LockError::Held)
    }

    /// Whether the file that contains it has these device and inode numbers.
    ///
    /// # Errors
    /// If the kernel does not say.
    pub(super) fn is_in(&self, file: (u64, u64)) -> io::Result<bool> {
        let own = self.0.metadata()?;
        Ok((own.dev(), own.ino()) == file)
    }

    fn within(dir: &RuntimeDir, file: &str, byte: u64) -> io::Result<Result<Self, Option<i32>>> {
        let file = dir.lock_file(file)?;
        match lock(&file, byte, 1)? {
            true => Ok(Ok(Self(file))),
            false => Ok(Err(holder(file.metadata()?.ino(), byte))),
        }
    }
}

/// Locks a whole file, which is open for writing, for as long as it is open; false if it is locked
/// through another open file description.
///
/// # Errors
/// If its file system has no locks.
pub(super) fn lock_whole(file: &File) -> Result<bool, Errno> {
    // Up to any end that it will have (fcntl(2)).
    lock(file, 0, 0)
}

fn lock(file: &File, start: u64, bytes: i64) -> Result<bool, Errno> {
    let lock = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start.cast_signed(),
        l_len: bytes,
        l_pid: 0,
    };
    match fcntl(file, FcntlArg::F_OFD_SETLK(&lock)) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The process that holds this byte of the file with this inode, among our own user's inspectable
/// processes. The kernel does not report the holder of a lock of this kind, but shows the lock with
/// the open file.
fn holder(inode: u64, byte: u64) -> Option<i32> {
    let own = geteuid().as_raw();
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let mut holders = processes.filter_map(|process| {
        let pid: i32 = process.file_name().to_str()?.parse().ok()?;
        process.metadata().ok().filter(|found| found.uid() == own)?;
        let open = fs::read_dir(process.path().join("fdinfo")).ok()?.flatten();
        let mut open = open.filter_map(|fd| fs::read(fd.path()).ok());
        open.any(|about| {
            String::from_utf8_lossy(&about)
                .lines()
                .any(|line| shows(line, inode, byte))
        })
        .then_some(pid)
    });
    holders.next()
}

/// Whether a line of `fdinfo` is of a lock on this byte of the file with this inode.
fn shows(line: &str, inode: u64, byte: u64) -> bool {
    // `fs/locks.c`, `lock_get_status`: `lock: 1: OFDLCK ADVISORY WRITE -1 00:1a:INODE START END`.
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let ["lock:", _, "OFDLCK", _, _, _, file, start, _] = words[..] else {
        return false;
    };
    let of_file = file.rsplit(':').next().and_then(|word| word.parse().ok());
    of_file == Some(inode) && start.parse() == Ok(byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_taken_once_until_it_is_given_up_and_its_holder_is_seen() {
        let take = |number| Lock::take("tests", number);
        let number = BYTES - u64::from(std::process::id());
        let first = take(number).expect("free");
        let held = take(number).expect_err("held");
        let own = std::process::id().cast_signed();
        assert!(matches!(held, LockError::Held(Some(pid)) if pid == own));
        take(number - 1_000_000).expect("another one");
        drop(first);
        take(number).expect("free again");
    }

    #[test]
    fn nobody_else_can_open_the_file_of_locks() {
        let file = RuntimeDir::first("tests", |dir| dir.lock_file("tests")).expect("made");
        let about = file.metadata().expect("there");
        assert_eq!(about.uid(), geteuid().as_raw());
        assert_eq!(about.mode() & 0o777, 0o600);
    }

    #[test]
    fn only_a_lock_on_the_byte_shows_it() {
        let line = "lock:\t1: OFDLCK ADVISORY  WRITE -1 00:1a:77 5 5";
        assert!(shows(line, 77, 5));
        assert!(!shows(line, 77, 6) && !shows(line, 7, 5));
        assert!(!shows(
            "lock:\t1: POSIX  ADVISORY  WRITE 9 00:1a:77 5 5",
            77,
            5
        ));
        assert!(!shows("ino:\t77", 77, 5));
    }
}
