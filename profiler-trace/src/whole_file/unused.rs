//! Recorder objects of other versions of fragscope that nobody loads any more.
//!
//! A recorded program has the object's path in its environment and passes it on. So an object is
//! needed as long as a process visible from here has the path in the environment it was started
//! with, or has the file mapped; processes of other users cannot load an ordinary user's object. An
//! object that was used within the last hour is kept as well: its program may be about to start. A
//! process that removed the path from its environment, or that runs where this host cannot see it,
//! is not counted: what it executes later prints a message of the loader that the object is
//! missing, and runs.
//!
//! Any user can have processes with much to read, so reading is limited. When a limit is reached,
//! everything not yet decided counts as needed.

use std::fs::{self, DirEntry, File, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use memchr::memmem;
use nix::unistd::geteuid;

/// A file that was used within this time is kept.
const RECENT: Duration = Duration::from_secs(3600);
/// Bytes that are read at once.
const PIECE: usize = 64 << 10;
/// An environment has 6 MiB at most, and 65,530 mappings, the kernel's limit, take as much with usual paths.
const LIMITS: Limits = Limits {
    file_bytes: 16 << 20,
    processes: 1 << 16,
    time: Duration::from_secs(10),
};
/// A thread of the kernel's, in the flags of `/proc/PID/stat` (`PF_KTHREAD`, include/linux/sched.h).
const KERNEL_THREAD: u64 = 0x0020_0000;

/// Limits on what is read.
#[derive(Copy, Clone, Debug)]
struct Limits {
    /// Bytes of each file of a process.
    file_bytes: u64,
    processes: usize,
    /// For all processes together. A read that the kernel delays may take longer.
    time: Duration,
}

/// An object that may be removed.
struct Object {
    path: PathBuf,
    /// When it was last used.
    modified: SystemTime,
}

/// Removes the objects of this name, as created by [`object`](super::RuntimeDir::object), that are
/// beside the one that is `used` now, unless they are needed. A file that cannot be removed does no
/// harm. It reads information about all processes, and may wait for one that the kernel delays.
///
/// # Errors
/// If it cannot be determined who needs them: then none is removed.
pub fn remove_unused(name: &str, used: &Path) -> io::Result<()> {
    remove_within(LIMITS, name, used)
}

fn remove_within(limits: Limits, name: &str, used: &Path) -> io::Result<()> {
    let folder = used.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let begin = format!("{name}-");
    let mut objects: Vec<Object> = fs::read_dir(folder)?
        .flatten()
        .filter(|entry| is_object(entry, &begin) && entry.path() != used)
        .filter_map(|entry| Object::unless_recent(entry.path()))
        .collect();
    if !objects.is_empty() {
        Search::new(limits, &objects).drop_needed(&mut objects)?;
    }
    for object in objects {
        object.remove();
    }
    Ok(())
}

fn is_object(entry: &DirEntry, begin: &str) -> bool {
    let name = entry.file_name();
    name.to_str()
        .is_some_and(|name| name.starts_with(begin) && name.ends_with(".so"))
}

impl Object {
    /// A file of our own that was not used lately.
    fn unless_recent(path: PathBuf) -> Option<Self> {
        let about = fs::symlink_metadata(&path).ok()?;
        let modified = about.modified().ok()?;
        (is_own(&about) && !is_recent(modified)).then_some(Self { path, modified })
    }

    /// Removes it, unless it was used meanwhile.
    fn remove(self) {
        let modified = self.modified;
        let now = Self::unless_recent(self.path);
        if let Some(now) = now.filter(|now| now.modified == modified) {
            // Another fragscope may have removed it.
            let _ = fs::remove_file(now.path);
        }
    }
}

fn is_own(about: &Metadata) -> bool {
    about.is_file() && about.uid() == geteuid().as_raw()
}

/// A time in the future means that the clock was set.
fn is_recent(at: SystemTime) -> bool {
    at.elapsed().is_ok_and(|age| age < RECENT)
}

/// A search in the files of all processes.
struct Search {
    limits: Limits,
    until: Instant,
    /// The end of each piece that is searched again with the next, as a path may have begun there.
    carried: usize,
    piece: Vec<u8>,
}

impl Search {
    fn new(limits: Limits, objects: &[Object]) -> Self {
        let longest = objects.iter().map(|object| object.path.as_os_str().len());
        let carried = longest.max().unwrap_or(0);
        Self {
            limits,
            until: Instant::now() + limits.time,
            carried,
            piece: vec![0; carried + PIECE],
        }
    }

    /// Drops the objects that a process needs, or may need.
    fn drop_needed(&mut self, objects: &mut Vec<Object>) -> io::Result<()> {
        let mut processes = 0;
        for entry in fs::read_dir("/proc")? {
            let entry = entry?;
            let name = entry.file_name();
            if objects.is_empty() || !name.as_bytes().iter().all(u8::is_ascii_digit) {
                continue;
            }
            processes += 1;
            if processes > self.limits.processes {
                objects.clear();
            }
            // No recording started it, and some hosts let nobody look at it.
            if name == "1" {
                continue;
            }
            let process = entry.path();
            if is_another_users(&process) {
                continue;
            }
            if self.drop_named(&process.join("environ"), objects) == Some(0)
                && !has_no_environment(&process)
            {
                // It is executing another program right now: the environment of that is not visible
                // yet.
                objects.clear();
            }
            self.drop_named(&process.join("maps"), objects);
        }
        Ok(())
    }

    /// Drops the objects that this file names, or all of them if it is not read completely or must
    /// not be read. Returns its size, unless it does not exist: a process that has ended holds
    /// nothing.
    fn drop_named(&mut self, path: &Path, objects: &mut Vec<Object>) -> Option<u64> {
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) => {
                if error.kind() == io::ErrorKind::PermissionDenied {
                    objects.clear();
                }
                return None;
            }
        };
        let (mut carried, mut bytes) = (0, 0);
        while !objects.is_empty() {
            let read = match file.read(&mut self.piece[carried..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Ok(read) if read > 0 => read,
                _ => break,
            };
            bytes += read as u64;
            if bytes > self.limits.file_bytes || Instant::now() >= self.until {
                objects.clear();
            }
            let end = carried + read;
            let piece = &self.piece[..end];
            objects
                .retain(|object| memmem::find(piece, object.path.as_os_str().as_bytes()).is_none());
            carried = end.min(self.carried);
            self.piece.copy_within(end - carried..end, 0);
        }
        Some(bytes)
    }
}

/// Whether a process can neither be inspected nor load our objects: an ordinary user's objects are
/// in a directory for that user alone.
fn is_another_users(process: &Path) -> bool {
    let own = geteuid();
    if own.is_root() {
        return false;
    }
    let status = fs::read(process.join("status")).unwrap_or_default();
    let status = String::from_utf8_lossy(&status);
    let users = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    // The real one, the effective one, and two more.
    let mut users = users.into_iter().flat_map(str::split_ascii_whitespace);
    let is_own = |user: &str| user.parse() == Ok(own.as_raw());
    users.clone().next().is_some() && !users.any(is_own)
}

/// Whether a process of which no environment was read has none, and will not get one at once.
fn has_no_environment(process: &Path) -> bool {
    // A process that has ended has none.
    fs::read(process.join("stat")).map_or(true, |stat| is_without_environment(&stat))
}

/// The same, based on its `/proc/PID/stat` (proc_pid_stat(5)): it is a kernel thread, or has ended,
/// or was started with an empty environment. While a program is being executed, the addresses of
/// its environment are 0.
fn is_without_environment(stat: &[u8]) -> bool {
    let Some(end) = memchr::memrchr(b')', stat) else {
        return false;
    };
    let fields = String::from_utf8_lossy(&stat[end + 1..]);
    let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
    // The first of these is the third.
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let has_ended = fields
        .first()
        .is_some_and(|state| ["Z", "X"].contains(state))
        && number(20).is_some_and(|threads| threads <= 1);
    let is_of_the_kernel = number(9).is_some_and(|flags| flags & KERNEL_THREAD != 0);
    let (start, end) = (number(50), number(51));
    has_ended || is_of_the_kernel || (start == end && end.is_some_and(|end| end > 0))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command};

    use super::*;

    const OLD: Duration = Duration::from_secs(2 * 3600);

    /// Puts an object there that was last used `age` ago.
    fn put(folder: &Path, name: &str, age: Duration) -> PathBuf {
        let path = folder.join(name);
        fs::write(&path, "an object").expect("ours");
        used(&path, age);
        path
    }

    fn used(path: &Path, age: Duration) {
        let file = File::options().write(true).open(path).expect("ours");
        file.set_modified(SystemTime::now() - age).expect("ours");
    }

    fn end(mut process: Child) {
        process.kill().expect("ours");
        process.wait().expect("ours");
    }

    /// Until it has executed its program; a concurrent test may be starting one as well.
    fn remove(used: &Path, until: impl Fn() -> bool) {
        for _ in 0..100 {
            remove_unused("it", used).expect("listed");
            if until() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("it is not removed");
    }

    #[test]
    fn an_object_is_removed_once_no_process_can_load_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path();
        let used = put(folder, "it-3.so", OLD);
        let named = put(folder, "it-1.so", OLD);
        let unused = put(folder, "it-2.so", OLD);
        let recent = put(folder, "it-4.so", RECENT / 2);
        let other = put(folder, "another-1.so", OLD);
        let process = Command::new("sleep")
            .arg("1000")
            .env("FRAGSCOPE_TEST", &named)
            .spawn()
            .expect("it starts");
        remove(&used, || !unused.exists());
        let is_there = [&used, &named, &unused, &recent, &other].map(|path| path.exists());
        assert_eq!(is_there, [true, true, false, true, true]);
        end(process);
        remove(&used, || !named.exists());
    }

    #[test]
    fn an_object_that_is_mapped_but_not_in_the_environment_is_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path();
        let used_now = put(folder, "it-used.so", OLD);
        let unused = put(folder, "it-unused.so", OLD);
        let mapped = folder.join("it-mapped.so");
        // A program maps its own file.
        fs::copy("/bin/sleep", &mapped).expect("a program");
        used(&mapped, OLD);
        let process = loop {
            match Command::new(&mapped).arg0("sleep").arg("1000").spawn() {
                // A process forked by another test has it open for writing.
                Err(busy) if busy.kind() == io::ErrorKind::ExecutableFileBusy => {}
                process => break process.expect("it starts"),
            }
        };
        remove(&used_now, || !unused.exists());
        assert!(mapped.exists());
        end(process);
        remove(&used_now, || !mapped.exists());
    }

    #[test]
    fn recent_ones_are_kept_however_many_they_are() {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path();
        let used = put(folder, "it-used.so", OLD);
        let old = put(folder, "it-old.so", OLD);
        for number in 0..40 {
            let name = format!("it-{number}.so");
            put(folder, &name, Duration::from_secs(number));
        }
        remove(&used, || !old.exists());
        assert_eq!(fs::read_dir(folder).expect("listed").count(), 41);
    }

    #[test]
    fn nothing_is_removed_where_a_limit_is_met() {
        let folder = tempfile::tempdir().expect("a folder");
        let used = put(folder.path(), "it-used.so", OLD);
        let unused = put(folder.path(), "it-unused.so", OLD);
        let few_bytes = Limits {
            file_bytes: 10,
            ..LIMITS
        };
        let few_processes = Limits {
            processes: 1,
            ..LIMITS
        };
        let no_time = Limits {
            time: Duration::ZERO,
            ..LIMITS
        };
        for limits in [few_bytes, few_processes, no_time] {
            remove_within(limits, "it", &used).expect("listed");
            assert!(unused.exists(), "{limits:?}");
        }
        remove(&used, || !unused.exists());
    }

    #[test]
    fn one_that_is_used_meanwhile_is_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = put(folder.path(), "it-1.so", OLD);
        let found = || Object::unless_recent(path.clone()).expect("old");
        for age in [Duration::ZERO, OLD * 2] {
            let object = found();
            used(&path, age);
            object.remove();
            assert!(path.exists());
            used(&path, OLD);
        }
        found().remove();
        assert!(!path.exists());
    }

    #[test]
    fn a_path_is_found_wherever_the_pieces_end() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = put(folder.path(), "it-1.so", OLD);
        let text = folder.path().join("environ");
        let length = path.as_os_str().len();
        for before in [0, PIECE, PIECE + 1, PIECE + length - 1, PIECE + length] {
            let mut bytes = vec![b'x'; before];
            bytes.extend_from_slice(path.as_os_str().as_bytes());
            fs::write(&text, &bytes).expect("ours");
            let mut objects = vec![Object::unless_recent(path.clone()).expect("old")];
            let mut search = Search::new(LIMITS, &objects);
            search.drop_named(&text, &mut objects);
            assert!(objects.is_empty(), "{before}");
        }
    }

    #[test]
    fn a_process_that_executes_another_program_just_now_may_get_any_environment() {
        let stat = |state: &str, flags: u64, threads: u64, places: &str| {
            let until_threads = "0 0 0 0 0 0 0 0 0 0";
            let between = vec!["0"; 29].join(" ");
            let stat = format!(
                "7 (a) b) {state} 1 1 1 0 -1 {flags} {until_threads} {threads} {between} {places} 0\n"
            );
            is_without_environment(stat.as_bytes())
        };
        assert!(!stat("R", 0x40_0000, 1, "0 0"));
        // It had one when this was read.
        assert!(!stat("S", 0x40_0000, 1, "4096 5000"));
        assert!(stat("S", 0x40_0000, 1, "4096 4096"));
        assert!(stat("I", 0x20_8040, 1, "0 0"));
        assert!(stat("Z", 0x40_0000, 1, "0 0"));
        // Its first thread has ended.
        assert!(!stat("Z", 0x40_0000, 2, "0 0"));
        assert!(!is_without_environment(b"nonsense"));
    }

    #[test]
    fn what_may_not_be_read_may_name_any_object() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = put(folder.path(), "it-1.so", OLD);
        let left_with = |file: &Path| {
            let mut objects = vec![Object::unless_recent(path.clone()).expect("old")];
            Search::new(LIMITS, &objects).drop_named(file, &mut objects);
            objects.len()
        };
        // In a directory that nobody may enter, whoever asks: no thread has privileges for that
        // long.
        let closed = folder.path().join("closed");
        fs::create_dir(&closed).expect("made");
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o0)).expect("ours");
        let denied = std::thread::scope(|scope| {
            let within = || {
                nix::unistd::setfsuid(nix::unistd::Uid::from_raw(65_534));
                left_with(&closed.join("environ"))
            };
            scope.spawn(within).join().expect("it looked")
        });
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).expect("ours");
        assert_eq!(denied, 0);
        assert_eq!(left_with(&folder.path().join("gone")), 1);
    }

    #[test]
    fn a_process_without_an_environment_keeps_nothing() {
        let process = Command::new("sleep").arg("1000").env_clear().spawn();
        let process = process.expect("it starts");
        let folder = PathBuf::from(format!("/proc/{}", process.id()));
        let executed = || {
            fs::read(folder.join("cmdline"))
                .expect("ours")
                .starts_with(b"sleep")
        };
        while !executed() {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(has_no_environment(&folder));
        end(process);
    }
}
