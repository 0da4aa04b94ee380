//! Links: attached probes, held by a guard.
//!
//! A process with a pending fatal signal can neither attach nor remove a uprobe: the kernel gives
//! up half-way, and the breakpoint stays in the target for good (`register_for_each_vma` in
//! `kernel/events/uprobes.c`; its log then has "failed to unregister, leaking uprobe"). So a guard
//! does both. It does not die with fragscope but after it, once the links are gone.
//!
//! The two ends of its channel exchange a [`Request`] with its points and path, and an [`Answer`]
//! with its words.

use std::collections::HashMap;
use std::ffi::{CStr, OsStr};
use std::io::{self, Read, Write};
use std::mem;
use std::num::NonZeroU32;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use aya::Ebpf;
use aya::programs::uprobe::{UProbeAttachLocation, UProbeAttachPoint, UProbeLink, UProbeScope};
use aya::programs::{ProgramError, UProbe};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use profiler_target::{Deadline, Guard, Needed};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use super::by_site::SitePrograms;
use super::error::{NotLoaded, deepest, os_error};
use super::multi::MultiProgram;
use super::pins::{Pinned, Pins};
use super::program::BpfProgram;

/// The name under which the guard shows up: `pkill fragscope` does not match it.
pub(super) const GUARD_NAME: &CStr = c"probe-guard";

/// The programs that are loaded.
pub(super) struct Programs {
    /// The object that has them.
    pub(super) bpf: Ebpf,
    /// How they are attached.
    pub(super) attaching: Attaching,
}

/// How programs are attached to sites, depending on what the kernel offers.
pub(super) enum Attaching {
    /// By links of any number of sites, of these programs in the order of [`BpfProgram::ALL`].
    Multi(Vec<MultiProgram>),
    /// Each site by itself, with a perf event with a cookie.
    Events,
    /// Each site by itself, with a perf event and a program of its own.
    BySite(Box<SitePrograms>),
}

impl Programs {
    /// The descriptors of the programs.
    fn descriptors(&self) -> Result<Vec<RawFd>, ProgramError> {
        match &self.attaching {
            Attaching::Multi(programs) => {
                return Ok(programs.iter().map(MultiProgram::as_raw_fd).collect());
            }
            // They are made by the guard, of maps.
            Attaching::BySite(programs) => return Ok(programs.maps().to_vec()),
            Attaching::Events => {}
        }
        let descriptor = |program: &BpfProgram| {
            let program = self.bpf.program(program.name());
            let program: &UProbe = program.expect("found when it was loaded").try_into()?;
            Ok(program.fd()?.as_fd().as_raw_fd())
        };
        BpfProgram::ALL.iter().map(descriptor).collect()
    }

    /// Attaches one of them in process `pid` at `points` of the file at `path`.
    fn attach(
        &mut self,
        program: BpfProgram,
        path: &Path,
        pid: NonZeroU32,
        points: &[(u64, u64)],
    ) -> Result<Held, ProgramError> {
        if let Attaching::Multi(multi) = &self.attaching {
            let link = multi[program as usize].link(path, pid.get(), points)?;
            return Ok(Held::Multi(link));
        }
        let [(offset, cookie)] = *points else {
            return Err(invalid());
        };
        if let Attaching::BySite(programs) = &mut self.attaching {
            let event = programs.attach(program, path, pid.get(), (offset, cookie));
            return event.map(Held::Event).map_err(ProgramError::IOError);
        }
        let point = UProbeAttachPoint {
            location: UProbeAttachLocation::AbsoluteOffset(offset),
            cookie: Some(cookie),
        };
        let program = self.bpf.program_mut(program.name());
        let program: &mut UProbe = program.expect("found when it was loaded").try_into()?;
        let link = program.attach(point, path, UProbeScope::OneProcess(pid))?;
        program.take_link(link).map(Held::Single)
    }
}

/// What the guard holds.
enum Held {
    /// A link of any number of sites that the kernel removes by itself.
    Pinned(Pinned),
    /// A link that it removes when the descriptor is closed.
    Multi(OwnedFd),
    /// The event of one site, removed when it is closed.
    #[expect(dead_code, reason = "held for its drop")]
    Event(OwnedFd),
    /// A link of one site.
    #[expect(dead_code, reason = "held for its drop")]
    Single(UProbeLink),
}

/// Removes probes. The kernel waits tens of milliseconds for each link that is closed, so they are
/// all closed at the same time. Pinned links go a moment later.
fn remove(links: Vec<Held>, pins: Option<&Pins>) {
    let mut closing = Vec::new();
    for link in links {
        if let (Held::Pinned(pinned), Some(pins)) = (&link, pins) {
            // What stays goes with the file system, when this process ends.
            let _ = pins.remove(pinned);
            continue;
        }
        closing.extend(close_aside(link));
    }
    for process in closing {
        while waitpid(process, None) == Err(Errno::EINTR) {}
    }
}

/// Closes a link in a separate process that shares this one's descriptors and nothing else, and
/// returns its pid; if none can be created, the link is closed here. A thread would take locks that
/// a guard must not take.
fn close_aside(link: Held) -> Option<Pid> {
    let shares_descriptors = libc::CLONE_FILES | libc::SIGCHLD;
    // SAFETY: without a stack it is a fork. This process has one thread, so the child finds no lock
    // taken, and it ends below without running anything else of this program.
    match unsafe { libc::syscall(libc::SYS_clone, shares_descriptors, 0, 0, 0, 0) } {
        0 => {
            drop(link);
            // SAFETY: ends at once.
            unsafe { libc::_exit(0) }
        }
        number if number > 0 => {
            // The other closes the descriptor.
            mem::forget(link);
            Some(Pid::from_raw(number as i32))
        }
        _ => None,
    }
}

/// A number for probes that the guard holds. They stay until [`Links::remove`], or until the guard
/// ends.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) struct Link(u32);

/// fragscope's side of the guard. Dropping it removes all links.
pub(super) struct Links {
    guard: Guard,
    /// Whether it failed to answer a request: whatever it said after that would be taken for the
    /// answer to another request.
    is_silent: bool,
}

impl Links {
    /// Whether the guard is still there, not ended by somebody.
    pub(super) fn is_held(&self) -> bool {
        self.guard.is_alive()
    }

    /// Starts the guard, which inherits the programs.
    pub(super) fn start(programs: &mut Programs) -> io::Result<Self> {
        let descriptors = programs.descriptors().map_err(io::Error::other)?;
        let guard = Guard::start(GUARD_NAME, &descriptors, |channel, needed| {
            // What fails ends the guard, which fragscope sees.
            let _ = serve(channel, programs, needed);
        })?;
        Ok(Self {
            guard,
            is_silent: false,
        })
    }

    /// Attaches a program in process `pid` at all of `points`, offsets in the file at `path` with
    /// their cookies, or at none of them. Where a link has one site, there must be exactly one
    /// point.
    pub(super) fn attach(
        &mut self,
        program: BpfProgram,
        path: &Path,
        pid: NonZeroU32,
        points: &[(u64, u64)],
    ) -> io::Result<Link> {
        let path = path.as_os_str().as_bytes();
        let request = Request {
            what: ATTACH,
            program: program as u32,
            pid: pid.get(),
            path_bytes: path.len() as u32,
            words: 2 * points.len() as u64,
        };
        let points: Vec<u64> = points.iter().flat_map(|point| [point.0, point.1]).collect();
        self.ask(&request, path, &points).map(Link)
    }

    /// Removes probes, which are gone from the target within tens of milliseconds.
    pub(super) fn remove(&mut self, links: &[Link]) -> io::Result<()> {
        if links.is_empty() {
            return Ok(());
        }
        let request = Request {
            what: REMOVE,
            words: links.len() as u64,
            ..Request::default()
        };
        let links: Vec<u64> = links.iter().map(|link| link.0.into()).collect();
        self.ask(&request, &[], &links).map(drop)
    }

    /// Fails with [`guard_was_ended`] or [`guard_is_silent`] if the guard does not answer. A silent
    /// guard that holds only pinned links is then ended: the kernel removes its probes.
    fn ask(&mut self, request: &Request, path: &[u8], words: &[u64]) -> io::Result<u32> {
        if self.is_silent {
            return Err(self.trouble(Duration::ZERO));
        }
        let mut whole = request.as_bytes().to_vec();
        whole.extend(path);
        whole.extend(words.as_bytes());
        let mut answer = Answer::default();
        let mut asked = || -> io::Result<String> {
            let channel = self.guard.channel();
            channel.set_read_timeout(Some(ANSWERED_WITHIN))?;
            channel.set_write_timeout(Some(ANSWERED_WITHIN))?;
            channel.write_all(&whole)?;
            read_answer(&mut self.guard, answer.as_mut_bytes())?;
            let channel = self.guard.channel();
            let mut message = vec![0; answer.message_bytes as usize];
            channel.read_exact(&mut message)?;
            Ok(String::from_utf8_lossy(&message).into_owned())
        };
        let message = match asked() {
            Ok(message) => message,
            Err(error) => {
                self.is_silent = true;
                if error.kind() == io::ErrorKind::WouldBlock {
                    self.guard.kill();
                }
                return Err(self.trouble(ENDS_WITHIN));
            }
        };
        match answer.failed {
            0 => Ok(answer.link),
            failed => {
                let error = match failed {
                    FAILED_OTHERWISE => io::Error::other(message),
                    number => io::Error::from_raw_os_error(number),
                };
                Err(match answer.is_not_loaded {
                    0 => error,
                    _ => NotLoaded::error(error),
                })
            }
        }
    }

    /// What has become of a guard that did not answer: its channel ends a moment before it does.
    fn trouble(&self, limit: Duration) -> io::Error {
        match self.guard.ends_within(limit) {
            true => io::ErrorKind::BrokenPipe.into(),
            false => io::ErrorKind::TimedOut.into(),
        }
    }
}

/// The kernel takes tenths of a second for a link, and seconds for many of one site each.
const ANSWERED_WITHIN: Duration = Duration::from_secs(10);
/// How long a guard takes to end after its channel has ended: it removes its links first.
const ENDS_WITHIN: Duration = Duration::from_secs(1);

/// Waits for an answer. A guard that somebody suspended is resumed: what it holds costs the target.
fn read_answer(guard: &mut Guard, answer: &mut [u8]) -> io::Result<()> {
    match guard.channel().read_exact(answer) {
        // It is not in the middle of one: an answer is written whole, at once.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            guard.wake();
            guard.channel().read_exact(answer)
        }
        read => read,
    }
}

/// [`Request::what`]: set probes.
const ATTACH: u32 = 1;
/// [`Request::what`]: remove them.
const REMOVE: u32 = 2;

/// A request to the guard.
#[derive(Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Request {
    /// [`ATTACH`] or [`REMOVE`].
    what: u32,
    /// The program's index.
    program: u32,
    /// The process to probe.
    pid: u32,
    /// This many bytes of the file's path follow.
    path_bytes: u32,
    /// Then this many words: alternating offsets and cookies, or links.
    words: u64,
}

/// [`Answer::failed`]: the message explains it.
const FAILED_OTHERWISE: i32 = -1;

/// The result of a request.
#[derive(Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Answer {
    /// The kernel's error, or [`FAILED_OTHERWISE`]; 0 on success.
    failed: i32,
    /// The link.
    link: u32,
    /// 1 if the kernel rejected a program, else 0.
    is_not_loaded: u32,
    /// This many bytes of a message follow.
    message_bytes: u32,
}

/// The guard's main loop: it holds links until fragscope is gone.
fn serve(mut channel: UnixStream, programs: &mut Programs, needed: &Needed) -> io::Result<()> {
    let mut held: HashMap<u32, Held> = HashMap::new();
    // Without the right to make one, links are closed by this process.
    let mut pins = Pins::new().ok();
    let mut lease = Lease(Deadline::new()?);
    let served = serve_all(
        &mut channel,
        programs,
        needed,
        &mut held,
        &mut pins,
        &mut lease,
    );
    remove(held.into_values().collect(), pins.as_ref());
    needed.set(false);
    // Somebody may suspend it up to its last moment, and then the kernel ends it.
    mem::forget(lease);
    served
}

/// How long probes stay when their guard does not run because somebody suspended or froze it.
const LEASE: Duration = Duration::from_secs(10);
/// How often a running guard renews that: on a busy host it may not run for seconds.
const RENEWED_EVERY: Duration = Duration::from_secs(2);

/// How long the guard may hold probes without renewing the lease: then the kernel ends it, and
/// removes what it has pinned. What is not pinned would then stay for good, so it has no lease.
struct Lease(Deadline);

impl Lease {
    /// Renews the lease if all of these are pinned.
    fn renew(&mut self, held: &HashMap<u32, Held>) -> io::Result<()> {
        let mut links = held.values();
        match !held.is_empty() && links.all(|link| matches!(link, Held::Pinned(_))) {
            true => self.0.set(LEASE),
            false => self.0.unset(),
        }
    }

    /// Waits for a request, or for fragscope's end.
    fn wait(&mut self, channel: &UnixStream, held: &HashMap<u32, Held>) -> io::Result<()> {
        let every = PollTimeout::try_from(RENEWED_EVERY).unwrap_or(PollTimeout::MAX);
        loop {
            self.renew(held)?;
            match poll(
                &mut [PollFd::new(channel.as_fd(), PollFlags::POLLIN)],
                every,
            ) {
                Ok(0) | Err(Errno::EINTR) => {}
                ready => return ready.map(drop).map_err(io::Error::from),
            }
        }
    }
}

fn serve_all(
    channel: &mut UnixStream,
    programs: &mut Programs,
    needed: &Needed,
    held: &mut HashMap<u32, Held>,
    pins: &mut Option<Pins>,
    lease: &mut Lease,
) -> io::Result<()> {
    let mut request = Request::new_zeroed();
    let mut last = 0;
    loop {
        lease.wait(channel, held)?;
        if channel.read_exact(request.as_mut_bytes()).is_err() {
            // The channel's end is fragscope's end.
            return Ok(());
        }
        let mut path = vec![0; request.path_bytes as usize];
        channel.read_exact(&mut path)?;
        let mut words = vec![0u64; request.words as usize];
        channel.read_exact(words.as_mut_slice().as_mut_bytes())?;
        let mut answer = Answer::default();
        let mut message = String::new();
        if request.what == REMOVE {
            let all = words.iter().filter_map(|&link| held.remove(&(link as u32)));
            remove(all.collect(), pins.as_ref());
        } else {
            // Until it is pinned, a death in the middle would leave breakpoints.
            lease.0.unset()?;
            needed.set(true);
            let attached = attach(&request, &path, &words, programs);
            match attached {
                Ok(link) => {
                    last += 1;
                    held.insert(last, pinned(link, pins));
                    answer.link = last;
                }
                Err(error) => {
                    answer.failed = os_error(&error).unwrap_or(FAILED_OTHERWISE);
                    answer.is_not_loaded = NotLoaded::is_in(&error).into();
                    message = deepest(&error);
                }
            }
        }
        needed.set(held.values().any(|link| !matches!(link, Held::Pinned(_))));
        answer.message_bytes = message.len() as u32;
        channel.write_all(answer.as_bytes())?;
        channel.write_all(message.as_bytes())?;
    }
}

fn attach(
    request: &Request,
    path: &[u8],
    words: &[u64],
    programs: &mut Programs,
) -> Result<Held, ProgramError> {
    let program = BpfProgram::ALL.get(request.program as usize);
    let points: Vec<_> = words.chunks_exact(2).map(|two| (two[0], two[1])).collect();
    programs.attach(
        *program.ok_or_else(invalid)?,
        Path::new(OsStr::from_bytes(path)),
        NonZeroU32::new(request.pid).ok_or_else(invalid)?,
        &points,
    )
}

fn pinned(link: Held, pins: &mut Option<Pins>) -> Held {
    match (link, pins) {
        (Held::Multi(link), Some(pins)) => pins.pin(link).map_or_else(Held::Multi, Held::Pinned),
        (link, _) => link,
    }
}

fn invalid() -> ProgramError {
    ProgramError::IOError(io::ErrorKind::InvalidInput.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_closed_for_this_process_by_others() {
        let (mut reader, writer) = io::pipe().expect("a pipe");
        let second = writer.try_clone().expect("a descriptor");
        let links = [writer, second].map(|link| Held::Multi(link.into()));
        remove(links.into(), None);
        // It ends when nobody has it open any more.
        assert_eq!(reader.read(&mut [0]).expect("a pipe"), 0);
    }
}
