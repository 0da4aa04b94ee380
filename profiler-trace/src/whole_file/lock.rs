//! One writer of a path at a time, with nothing on disk that a kill could leave there.

use std::ffi::OsString;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, getsockopt, listen, socket,
};
use nix::unistd::geteuid;

/// How often a name that nobody listens to yet is asked, a millisecond apart.
const TRIES: u32 = 10;

/// Held while a path is written: a listening socket with an abstract name, which the kernel takes
/// back when the process ends, however it ends.
///
/// Anybody can take such a name. So the name counts only when root or the user of this process holds
/// it, which the kernel says of the listener: nobody else can keep us from writing.
#[derive(Debug)]
pub(super) struct Lock {
    _listening: Option<OwnedFd>,
}

/// Another process of root's or of our own writes there; its number, where it can be seen from here.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) struct Held(pub(super) Option<i32>);

impl Lock {
    /// Takes the lock with this name.
    ///
    /// # Errors
    /// When root or our own user holds it. Where sockets cannot be had there is no lock.
    pub(super) fn take(name: &str) -> Result<Self, Held> {
        let none = Ok(Self { _listening: None });
        let (Ok(address), Ok(socket)) = (UnixAddr::new_abstract(name.as_bytes()), unix_socket())
        else {
            return none;
        };
        let bound = bind(socket.as_raw_fd(), &address);
        match bound.and_then(|()| listen(&socket, Backlog::MAXCONN)) {
            Ok(()) => Ok(Self {
                _listening: Some(socket),
            }),
            Err(Errno::EADDRINUSE) => match holder(&address) {
                Some((user, pid)) if user == 0 || user == geteuid().as_raw() => {
                    Err(Held((pid > 0).then_some(pid)))
                }
                _ => none,
            },
            Err(_) => none,
        }
    }
}

/// User and number of the process that listens there.
fn holder(address: &UnixAddr) -> Option<(u32, i32)> {
    let socket = unix_socket().ok()?;
    // Nothing here blocks, for somebody may have filled the queue. Who took the name a moment ago
    // may not listen yet.
    let mut tries = 0;
    while let Err(error) = connect(socket.as_raw_fd(), address) {
        tries += 1;
        // Anybody can connect until the queue is full, and make the kernel say nothing of who listens.
        if error == Errno::EAGAIN {
            return holder_by_descriptor(address);
        }
        if error != Errno::ECONNREFUSED || tries == TRIES {
            return None;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let peer = getsockopt(&socket, PeerCredentials).ok()?;
    Some((peer.uid(), peer.pid()))
}

/// The same, found among the open files of all processes that may be looked at: for root that is all,
/// for another user his own, where he is not shut out of them.
fn holder_by_descriptor(address: &UnixAddr) -> Option<(u32, i32)> {
    let name = format!("@{}", String::from_utf8_lossy(address.as_abstract()?));
    let sockets = fs::read_to_string("/proc/net/unix").ok()?;
    let mut listening = sockets.lines().filter_map(|line| {
        // `net/unix/af_unix.c`, `unix_seq_show`: the flags of one that listens, its inode, its name.
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let is_it = words.get(7) == Some(&&*name) && words[3] == "00010000";
        is_it.then(|| format!("socket:[{}]", words[6]))
    });
    let link = OsString::from(listening.next()?);
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let mut holders = processes.filter_map(|process| {
        let pid: i32 = process.file_name().to_str()?.parse().ok()?;
        let open = fs::read_dir(process.path().join("fd")).ok()?.flatten();
        let mut open = open.filter_map(|fd| fs::read_link(fd.path()).ok());
        open.find(|target| *target == link)?;
        let status = fs::read_to_string(process.path().join("status")).ok()?;
        let users = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
        Some((users.split_ascii_whitespace().nth(1)?.parse().ok()?, pid))
    });
    holders.next()
}

fn unix_socket() -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    socket(AddressFamily::Unix, SockType::Stream, flags, None)
}
