//! Reads a running process through a helper process, because the memory may have become one that
//! does not answer.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use profiler_core::addr::RemoteAddr;
use profiler_core::memory::{ReadError, TargetMemory, fill};

use super::{LiveMemory, what_came};
use crate::elf::FILE_TIME;
use crate::file_reader::{MAX_PIECES, MAX_READ_BYTES, NotAnswered, Piece, PiecesRead, read_memory};
use crate::proc_dir::PidFd;

/// Memory that did not answer is not read again for this long while its process runs.
const SILENT_FOR: Duration = Duration::from_secs(60);

/// When memory did not answer, and the helper that waits for it. If the helper cannot be ended, the
/// memory is not read again as long as it waits: it holds the lock of the address space, and
/// another helper would wait for that.
#[derive(Clone, Debug, Default)]
pub(super) struct Silent(Arc<Mutex<Option<(Instant, PidFd)>>>);

impl Silent {
    fn is_set(&self) -> bool {
        let waits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waits
            .as_ref()
            .is_some_and(|(at, waits)| at.elapsed() < SILENT_FOR || waits.is_alive())
    }

    fn set(&self, waits: PidFd) {
        let mut before = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Of several simultaneous readers one holds the lock, and is the one that cannot be ended.
        if before.as_ref().is_none_or(|(_, waits)| !waits.is_alive()) {
            *before = Some((Instant::now(), waits));
        }
    }
}

impl LiveMemory {
    /// Fills all of `buf`, whose pages were looked up.
    pub(super) fn read_aside(&self, addr: RemoteAddr, buf: &mut [u8]) -> Result<(), ReadError> {
        fill(addr, buf, |at, rest| {
            let len = rest.len().min(MAX_READ_BYTES);
            let piece = Piece {
                addr: at.get(),
                len: len as u64,
            };
            match self.pieces_aside(vec![piece]) {
                Ok(PiecesRead { read, bytes }) => {
                    let read = read.first().copied().unwrap_or(Err(Errno::EIO));
                    let read = what_came(at, read)?.min(len).min(bytes.len());
                    rest[..read].copy_from_slice(&bytes[..read]);
                    Ok(read)
                }
                Err(NotAnswered::Waits(_) | NotAnswered::TooMany) => {
                    Err(ReadError::NotAnswered(at))
                }
                Err(NotAnswered::NoProcess) => {
                    let (part, _) = rest.split_at_mut(len);
                    self.read_unchecked(at, part).map(|()| len)
                }
            }
        })
    }

    /// Looks up and reads pieces, as many at once as can be.
    pub(super) fn read_scattered_aside<const N: usize>(
        &self,
        addrs: &[RemoteAddr],
        out: &mut Vec<Option<[u8; N]>>,
    ) {
        out.clear();
        for addrs in addrs.chunks(MAX_PIECES.min(MAX_READ_BYTES / N.max(1)).max(1)) {
            let is_over = self.is_out_of_time();
            let may_be = |addr: &RemoteAddr| !is_over && self.check(*addr, N).is_ok();
            let may_be: Vec<bool> = addrs.iter().map(may_be).collect();
            let wanted = addrs.iter().zip(&may_be).filter(|(_, may_be)| **may_be);
            let pieces: Vec<Piece> = wanted
                .map(|(addr, _)| Piece {
                    addr: addr.get(),
                    len: N as u64,
                })
                .collect();
            if pieces.is_empty() {
                out.extend(addrs.iter().map(|_| None));
                continue;
            }
            let Ok(PiecesRead { read, bytes }) = self.pieces_aside(pieces) else {
                // They are read one by one, or it is determined why not.
                out.extend(addrs.iter().zip(&may_be).map(|(&addr, &may_be)| {
                    let mut piece = [0; N];
                    let read = may_be.then(|| self.read_aside(addr, &mut piece).ok());
                    read.flatten().map(|()| piece)
                }));
                continue;
            };
            let mut got = read.into_iter().zip(bytes.as_chunks::<N>().0);
            out.extend(may_be.iter().map(|&may_be| {
                let (read, piece) = may_be.then(|| got.next())??;
                (read == Ok(N)).then_some(*piece)
            }));
        }
    }

    /// Has pieces read.
    fn pieces_aside(&self, pieces: Vec<Piece>) -> Result<PiecesRead, NotAnswered> {
        if self.silent.is_set() {
            return Err(NotAnswered::TooMany);
        }
        let read = read_memory(&self.mem, pieces, FILE_TIME);
        match &read {
            Ok(all) => all
                .read
                .iter()
                .for_each(|read| self.counted.call(read.unwrap_or(0))),
            Err(NotAnswered::Waits(waits)) => self.silent.set(waits.clone()),
            Err(NotAnswered::TooMany | NotAnswered::NoProcess) => {}
        }
        read
    }
}
