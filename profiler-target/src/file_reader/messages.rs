//! Messages between fragscope and its helper processes. Both ends are the same program.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use crate::elf::{FilePath, Version};

/// A request.
pub(super) enum Request {
    /// Open the regular file at a path.
    Open(FilePath),
    /// Copy at most this many bytes of the file that was opened.
    Copy(u64),
    /// Read pieces of a process's memory.
    Read {
        /// `/proc/PID/mem`.
        memory: File,
        pieces: Vec<Piece>,
    },
}

/// A piece of memory.
#[derive(Copy, Clone, Debug, FromBytes, Immutable, IntoBytes)]
#[repr(C)]
pub(crate) struct Piece {
    /// Its start address.
    pub addr: u64,
    /// Bytes.
    pub len: u64,
}

/// What reading a piece gave: bytes, or less than zero the system's number of an error.
pub(super) type PieceRead = i64;

/// An answer.
pub(super) enum Answer {
    /// The file.
    Open {
        /// Open for reading.
        file: File,
    },
    /// It is open in the helper, and can be copied.
    Kept {
        /// The file's version.
        about: Version,
    },
    /// A copy.
    Copied {
        /// A file in memory.
        file: File,
        /// Its length in bytes.
        bytes: u64,
    },
    /// The pieces.
    Read {
        /// The result of each piece.
        read: Vec<PieceRead>,
        /// As many bytes as were requested in total, each piece at the position it would have if
        /// all previous ones were complete.
        bytes: Vec<u8>,
    },
    /// Why not.
    Refused(io::Error),
}

/// The head of a request, which is sent with a descriptor; the paths or the pieces follow.
#[derive(Debug, Default, FromBytes, Immutable, IntoBytes)]
#[repr(C)]
struct RequestHead {
    /// Bytes of the file to copy, or zero.
    limit: u64,
    /// Pieces of memory to read, or zero.
    pieces: u64,
    /// Bytes of the path to be tried first; zero for none.
    linked: u32,
    /// Bytes of the other path.
    named: u32,
}

/// The head of an answer, which is sent with a descriptor; a text follows.
#[derive(Debug, Default, FromBytes, Immutable, IntoBytes)]
#[repr(C)]
struct AnswerHead {
    kind: u32,
    /// The system's number of an error, or zero.
    errno: i32,
    /// Bytes of an error's text.
    text: u64,
    /// Bytes that were copied.
    copied: u64,
    /// Pieces that were read.
    pieces: u64,
    device: u64,
    inode: u64,
    bytes: u64,
    modified: [i64; 2],
    changed: [i64; 2],
}

const OPEN: u32 = 1;
const KEPT: u32 = 2;
const COPIED: u32 = 3;
const REFUSED: u32 = 4;
const READ: u32 = 5;

/// No path is longer (`PATH_MAX` is 4096; those of a mapping may have a few words more).
const MAX_BYTES: usize = 1 << 16;
/// Pieces of one request.
pub(crate) const MAX_PIECES: usize = 1024;
/// The most bytes of all pieces.
pub(crate) const MAX_READ_BYTES: usize = 1 << 20;

impl Request {
    pub(super) fn send(&self, channel: &UnixStream) -> io::Result<()> {
        let (linked, named) = match self {
            Self::Open(path) => (path.linked_path(), path.named_path()),
            Self::Copy(limit) => {
                let head = RequestHead {
                    limit: *limit,
                    ..RequestHead::default()
                };
                return send_head(channel, head.as_bytes(), None);
            }
            Self::Read { memory, pieces } => {
                let head = RequestHead {
                    pieces: pieces.len() as u64,
                    ..RequestHead::default()
                };
                send_head(channel, head.as_bytes(), Some(memory))?;
                return (&mut &*channel).write_all(pieces.as_bytes());
            }
        };
        // Its directory may not remain ours.
        let named = match named.as_os_str().is_empty() {
            true => PathBuf::new(),
            false => std::path::absolute(named)?,
        };
        let linked = linked.map_or(&b""[..], |path| path.as_os_str().as_bytes());
        let named = named.as_os_str().as_bytes();
        if linked.len().max(named.len()) > MAX_BYTES {
            return Err(Errno::ENAMETOOLONG.into());
        }
        let head = RequestHead {
            linked: linked.len() as u32,
            named: named.len() as u32,
            ..RequestHead::default()
        };
        send_head(channel, head.as_bytes(), None)?;
        (&mut &*channel).write_all(&[linked, named].concat())
    }

    pub(super) fn receive(mut channel: &UnixStream) -> io::Result<Self> {
        let mut head = RequestHead::default();
        let (memory, _) = receive_head(channel, head.as_mut_bytes())?;
        if head.limit > 0 {
            return Ok(Self::Copy(head.limit));
        }
        if head.pieces > 0 {
            let memory = memory.ok_or(io::ErrorKind::InvalidData)?;
            let mut pieces = vec![Piece::new_zeroed(); (head.pieces as usize).min(MAX_PIECES)];
            channel.read_exact(pieces.as_mut_bytes())?;
            return Ok(Self::Read { memory, pieces });
        }
        let mut path = |len: u32| {
            let mut bytes = vec![0; (len as usize).min(MAX_BYTES)];
            channel.read_exact(&mut bytes)?;
            Ok::<_, io::Error>(PathBuf::from(OsString::from_vec(bytes)))
        };
        let (linked, named) = (path(head.linked)?, path(head.named)?);
        Ok(Self::Open(match head.linked {
            0 => named.into(),
            _ => FilePath::linked(linked, named, None),
        }))
    }
}

impl Answer {
    pub(super) fn send(self, mut channel: &UnixStream) -> io::Result<()> {
        let mut head = AnswerHead::default();
        let (mut file, mut text) = (None, String::new());
        match self {
            Self::Open { file: opened } => {
                head.kind = OPEN;
                file = Some(opened);
            }
            Self::Kept { about } => {
                head.kind = KEPT;
                (head.device, head.inode) = about.file;
                head.bytes = about.bytes;
                head.modified = about.modified.into();
                head.changed = about.changed.into();
            }
            Self::Copied {
                file: copied,
                bytes,
            } => {
                head.kind = COPIED;
                head.copied = bytes;
                file = Some(copied);
            }
            Self::Read { read, bytes } => {
                head.kind = READ;
                head.pieces = read.len() as u64;
                head.bytes = bytes.len() as u64;
                send_head(channel, head.as_bytes(), None)?;
                channel.write_all(read.as_bytes())?;
                return channel.write_all(&bytes);
            }
            Self::Refused(why) => {
                head.kind = REFUSED;
                head.errno = why.raw_os_error().unwrap_or(0);
                if head.errno == 0 {
                    text = why.to_string();
                    head.text = text.len() as u64;
                }
            }
        }
        send_head(channel, head.as_bytes(), file.as_ref())?;
        channel.write_all(text.as_bytes())
    }

    pub(super) fn receive(mut channel: &UnixStream) -> io::Result<Self> {
        let mut head = AnswerHead::default();
        let (file, was_cut) = receive_head(channel, head.as_mut_bytes())?;
        let file = || match (file, was_cut) {
            (Some(file), _) => Ok(file),
            // The kernel had no free descriptor for it.
            (None, true) => Err(Errno::EMFILE.into()),
            (None, false) => Err(io::Error::from(io::ErrorKind::InvalidData)),
        };
        Ok(match head.kind {
            OPEN => file().map_or_else(Self::Refused, |file| Self::Open { file }),
            KEPT => Self::Kept {
                about: Version {
                    file: (head.device, head.inode),
                    bytes: head.bytes,
                    modified: head.modified.into(),
                    changed: head.changed.into(),
                },
            },
            COPIED => file().map_or_else(Self::Refused, |file| Self::Copied {
                file,
                bytes: head.copied,
            }),
            READ => {
                let mut read = vec![0; (head.pieces as usize).min(MAX_PIECES)];
                channel.read_exact(read.as_mut_bytes())?;
                let mut bytes = vec![0; (head.bytes as usize).min(MAX_READ_BYTES)];
                channel.read_exact(&mut bytes)?;
                Self::Read { read, bytes }
            }
            REFUSED if head.errno != 0 => Self::Refused(io::Error::from_raw_os_error(head.errno)),
            REFUSED => {
                let mut text = vec![0; (head.text as usize).min(MAX_BYTES)];
                channel.read_exact(&mut text)?;
                let text = String::from_utf8_lossy(&text).into_owned();
                Self::Refused(io::Error::new(io::ErrorKind::InvalidInput, text))
            }
            _ => return Err(io::ErrorKind::InvalidData.into()),
        })
    }
}

/// Sends the head of a request or an answer, together with a file.
fn send_head(channel: &UnixStream, head: &[u8], file: Option<&File>) -> io::Result<()> {
    let descriptors: Vec<RawFd> = file.iter().map(|file| file.as_raw_fd()).collect();
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let rights = if file.is_some() { &rights[..] } else { &[] };
    let bytes = [IoSlice::new(head)];
    let sent = sendmsg::<UnixAddr>(
        channel.as_raw_fd(),
        &bytes,
        rights,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    match sent == head.len() {
        true => Ok(()),
        false => Err(io::ErrorKind::WriteZero.into()),
    }
}

/// Receives the head of a request or an answer: the file sent with it, and whether one was lost.
fn receive_head(channel: &UnixStream, head: &mut [u8]) -> io::Result<(Option<File>, bool)> {
    let whole = head.len();
    let mut space = cmsg_space!(RawFd);
    let mut bytes = [IoSliceMut::new(head)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_WAITALL;
    let got = loop {
        match recvmsg::<UnixAddr>(channel.as_raw_fd(), &mut bytes, Some(&mut space), flags) {
            Err(Errno::EINTR) => {}
            got => break got?,
        }
    };
    let was_cut = got.flags.contains(MsgFlags::MSG_CTRUNC);
    let mut file = None;
    for message in got.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = message {
            for descriptor in descriptors {
                // SAFETY: the kernel just gave us this descriptor, and no other code knows about
                // it.
                file = Some(File::from(unsafe { OwnedFd::from_raw_fd(descriptor) }));
            }
        }
    }
    match got.bytes == whole {
        true => Ok((file, was_cut)),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
