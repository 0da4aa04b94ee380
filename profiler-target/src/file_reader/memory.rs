//! Reads the memory of a running process.
//!
//! The process may map another file at an address just before the address is read. The read then
//! waits for that file's file system, and no signal interrupts it (`filemap_fault` in
//! `mm/filemap.c` may not give up the lock of the address space here).

use std::fs::File;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::helpers::{Helper, NoHelper};
use super::messages::{Answer, Piece, Request};
use super::{MAX_AT_SERVED, is_late};
use crate::proc_dir::PidFd;

/// Why nothing was read.
#[derive(Debug)]
pub(crate) enum NotAnswered {
    /// It takes too long. This helper is waiting.
    Waits(PidFd),
    /// Others take all that there is, or fragscope ends.
    TooMany,
    /// There is no helper: the caller must read itself.
    NoProcess,
}

/// Pieces that were read.
pub(crate) struct PiecesRead {
    /// How many bytes came of each.
    pub read: Vec<Result<usize, Errno>>,
    /// The bytes: each piece at the position it would have if all previous pieces were complete.
    pub bytes: Vec<u8>,
}

/// Reads pieces of the memory behind `memory`, `/proc/PID/mem`: [`MAX_PIECES`](super::MAX_PIECES) at most, which have
/// [`MAX_READ_BYTES`](super::MAX_READ_BYTES) at most together, within `limit`.
pub(crate) fn read_memory(
    memory: &File,
    pieces: Vec<Piece>,
    limit: Duration,
) -> Result<PiecesRead, NotAnswered> {
    let memory = memory.try_clone().map_err(|_| NotAnswered::NoProcess)?;
    let deadline = Instant::now() + limit;
    let request = Request::Read { memory, pieces };
    // A helper that somebody killed is replaced once.
    for _ in 0..2 {
        let mut helper = match Helper::idle_or_new(MAX_AT_SERVED) {
            Ok(helper) => helper,
            Err(NoHelper::TooMany | NoHelper::IsOver) => return Err(NotAnswered::TooMany),
            Err(NoHelper::NotStarted) => break,
        };
        match helper.ask(&request, deadline) {
            Ok(Answer::Read { read, bytes }) => {
                helper.put_back();
                let read = read.into_iter().map(result_of).collect();
                return Ok(PiecesRead { read, bytes });
            }
            Err(why) if is_late(&why) => {
                let waits = helper.process.clone();
                helper.give_up(None);
                return Err(NotAnswered::Waits(waits));
            }
            // It ended, or its answer is invalid.
            Ok(_) | Err(_) => helper.give_up(None),
        }
    }
    Err(NotAnswered::NoProcess)
}

fn result_of(read: i64) -> Result<usize, Errno> {
    usize::try_from(read).map_err(|_| Errno::from_raw(read.unsigned_abs() as i32))
}

#[cfg(test)]
mod tests {

    use profiler_testing::silent_files::SilentFiles;

    use super::*;
    use crate::elf::FILE_TIME;
    use crate::forked::end_forked;

    /// Maps a given file and prints the address.
    const MAPS: &str = "
import ctypes, os, sys
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
opened = os.open(sys.argv[1], os.O_RDONLY)
print(libc.mmap(None, 1 << 16, 1, 2, opened, 0), flush=True)
here = ctypes.create_string_buffer(b'here')
print(ctypes.addressof(here), flush=True)
sys.stdin.readline()
";

    #[test]
    fn a_page_that_nobody_answers_for_keeps_another_process() {
        let mut python = SilentFiles::of_mounts(1, MAPS);
        let address = |line: &str| line.parse().expect("an address");
        let silent = address(python.program().first_line());
        let here = address(&python.program().next_line());
        python.fall_silent();
        let memory = File::open(format!("/proc/{}/mem", python.pid())).expect("opened");
        let read = |addr, limit| read_memory(&memory, vec![Piece { addr, len: 4 }], limit);
        let nobody = read(silent, Duration::from_millis(200)).map(|_| ());
        let Err(NotAnswered::Waits(waits)) = nobody else {
            panic!("{nobody:?}");
        };
        assert!(waits.is_alive());
        let PiecesRead { read, bytes } = read(here, FILE_TIME).expect("another process reads");
        assert_eq!((&read[..], &bytes[..]), (&[Ok(4)][..], &b"here"[..]));
        // Ending does not wait for it either.
        assert_eq!(end_forked(Duration::ZERO), []);
    }
}
