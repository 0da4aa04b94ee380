//! The main loop of a helper process.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::statfs::{FUSE_SUPER_MAGIC, FsType, OVERLAYFS_SUPER_MAGIC, fstatfs};

use super::messages::{Answer, MAX_READ_BYTES, Piece, Request};
use crate::elf::{Version, open_regular};
use crate::fuse;

/// `V9FS_MAGIC` in `include/uapi/linux/magic.h`.
const V9FS_MAGIC: FsType = FsType(0x0102_1997);

/// Answers until the channel ends.
pub(super) fn serve(channel: &UnixStream) {
    let mut kept = None;
    while let Ok(request) = Request::receive(channel) {
        let answer = match request {
            Request::Open(path) => {
                // Closing a file may block as long as reading it: here that delays nobody.
                kept = None;
                match open_regular(&path.find()) {
                    Ok(file) if waits_without_end(&file) => keep(file, &mut kept),
                    Ok(file) => Ok(Answer::Open { file }),
                    Err(why) => Err(why),
                }
            }
            Request::Copy(limit) => copy(kept.as_ref(), limit),
            Request::Read { memory, pieces } => Ok(read(&memory, &pieces)),
        };
        if answer
            .unwrap_or_else(Answer::Refused)
            .send(channel)
            .is_err()
        {
            return;
        }
    }
}

/// Whether a file's file system may wait for an answer regardless of signals: FUSE once its server
/// has the request (`request_wait_answer` in `fs/fuse/dev.c`), 9P while it cancels one
/// (`p9_client_rpc`), and an overlay, which any user can mount over either. If the file system does
/// not report its type, its server does not even answer that.
fn waits_without_end(file: &File) -> bool {
    match fstatfs(file).map(|about| about.filesystem_type()) {
        Ok(OVERLAYFS_SUPER_MAGIC) => fuse::may_be_mounted(),
        Ok(kind) => [FUSE_SUPER_MAGIC, V9FS_MAGIC].contains(&kind),
        Err(_) => true,
    }
}

fn keep(file: File, kept: &mut Option<File>) -> io::Result<Answer> {
    let about = Version::of(&file.metadata()?);
    *kept = Some(file);
    Ok(Answer::Kept { about })
}

fn copy(kept: Option<&File>, limit: u64) -> io::Result<Answer> {
    let mut from = kept.ok_or(io::ErrorKind::InvalidInput)?;
    let mut file = File::from(memfd_create(c"mapped-file", MFdFlags::MFD_CLOEXEC)?);
    io::Seek::rewind(&mut from)?;
    let bytes = io::copy(&mut io::Read::take(from, limit), &mut file)?;
    Ok(Answer::Copied { file, bytes })
}

/// Reads pieces of a process's memory.
fn read(memory: &File, pieces: &[Piece]) -> Answer {
    let all: usize = pieces.iter().map(|piece| piece.len as usize).sum();
    let mut bytes = vec![0; all.min(MAX_READ_BYTES)];
    let mut rest = &mut bytes[..];
    let mut read = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let (part, others) = rest.split_at_mut((piece.len as usize).min(rest.len()));
        rest = others;
        read.push(match memory.read_at(part, piece.addr) {
            Ok(read) => read as i64,
            Err(error) => -i64::from(error.raw_os_error().unwrap_or(libc::EIO)),
        });
    }
    Answer::Read { read, bytes }
}
