//! A guard that stops the target, holds it, and resumes it.
//!
//! The two ends of its channel exchange records of fixed size: a [`Request`]; an [`Answer`]
//! followed by the number of [`Held`] threads that it gives; then a byte to resume the target, and
//! a byte when that is done.

use std::fs::File;
use std::io::{self, Read, Write};
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use profiler_core::addr::RemoteAddr;
use profiler_core::completeness::EndedEarly;
use profiler_core::threads::Thread;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use super::tracer::Tracer;
use super::{GRACE, GUARD_NAME, GUARD_TIMEOUT, Progress, StopError, already_traced, gone};
use crate::guard::{Deadline, Guard, Shared, is_suspended};
use crate::proc_dir::{PidFd, ProcDir};

/// How often the guard looks whether fragscope is suspended while the target is stopped.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// A byte that means go on, or done.
const DONE: u8 = b'.';

/// A request to a guard.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Request {
    /// The pid of the process to stop, which it keeps as long as it lives.
    pid: u64,
    /// Its start time in clock ticks, which distinguishes it from a later process with the same
    /// pid.
    began_ticks: u64,
    /// All threads must have stopped within this many ns.
    limit_ns: u64,
    /// The target is resumed after this many ns at the latest.
    longest_ns: u64,
}

/// The outcome.
#[derive(Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Answer {
    /// One of [`outcome`].
    outcome: u32,
    /// A thread, or the kernel's error.
    number: i32,
    /// Whether the guard, holding nothing after an error, continues; otherwise it ends.
    goes_on: u64,
    /// A thread's state, as a character.
    state: u64,
    /// The tracer, or a time in ns.
    value: u64,
    /// How many threads follow.
    threads: u64,
}

mod outcome {
    pub(super) const STOPPED: u32 = 1;
    pub(super) const ALREADY_TRACED: u32 = 2;
    pub(super) const NOT_PERMITTED: u32 = 3;
    pub(super) const TIMED_OUT: u32 = 4;
    pub(super) const GONE: u32 = 5;
    pub(super) const FAILED: u32 = 6;
}

/// A stopped thread.
#[derive(Copy, Clone, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Held {
    tid: u64,
    stack_pointer: u64,
    program_counter: u64,
    thread_pointer: u64,
}

/// A guard that stops one target at a time.
#[derive(Debug)]
pub(super) struct StopGuard {
    guard: Guard,
    progress: Arc<Shared<Progress>>,
    holds_nothing: bool,
}

impl StopGuard {
    /// Starts one.
    pub(super) fn start() -> io::Result<Self> {
        // Without a timer it would end and could not say why.
        drop(Deadline::new()?);
        let progress = Arc::new(Shared::zeroed()?);
        let own_state = File::open("/proc/self/stat")?;
        let for_guard = Arc::clone(&progress);
        // It is never needed: its death resumes the target.
        let guard = Guard::start(GUARD_NAME, &[own_state.as_raw_fd()], |channel, _| {
            // What fails ends the guard, which fragscope sees.
            let _ = serve(channel, &for_guard, &own_state);
        })?;
        Ok(Self {
            guard,
            progress,
            holds_nothing: true,
        })
    }

    /// Whether it holds nothing, as it said after the last stop, which failed.
    pub(super) fn holds_nothing(&self) -> bool {
        self.holds_nothing
    }

    /// Whether it is still running, i.e. nobody has killed it.
    pub(super) fn is_alive(&self) -> bool {
        self.guard.is_alive()
    }

    /// Kills it at once, releasing what it may hold: nothing waits for it to end by itself.
    pub(super) fn kill(&mut self) {
        self.guard.kill();
    }

    /// How the stop goes.
    pub(super) fn progress(&self) -> Arc<Shared<Progress>> {
        Arc::clone(&self.progress)
    }

    /// Stops the process behind `dir`. After an error the guard [holds
    /// nothing](Self::holds_nothing), or it ends and releases what it may hold. The error is
    /// [`StopError::GuardLost`] if somebody killed it, or it did not answer within `patience`.
    pub(super) fn stop(
        &mut self,
        dir: &ProcDir,
        limit: Duration,
        longest: Duration,
        patience: Duration,
    ) -> Result<Vec<Thread>, StopError> {
        let request = Request {
            pid: dir.pid().unsigned_abs().into(),
            began_ticks: dir.stat().map_err(gone)?.starttime,
            limit_ns: limit.as_nanos() as u64,
            longest_ns: longest.as_nanos() as u64,
        };
        self.holds_nothing = false;
        // Between two stops no timer ends a guard that somebody suspended.
        self.guard.wake();
        // If it is suspended again, it holds nothing yet, or the kernel ends it.
        let channel = self.guard.channel();
        channel.set_read_timeout(Some(patience))?;
        channel.write_all(request.as_bytes()).map_err(lost)?;
        let mut answer = Answer::default();
        if let Err(error) = channel.read_exact(answer.as_mut_bytes()) {
            self.guard.kill();
            return Err(lost(error));
        }
        self.holds_nothing = answer.goes_on != 0;
        match answer.outcome {
            outcome::STOPPED => {}
            outcome::ALREADY_TRACED => return Err(already_traced(answer.value, answer.number)),
            outcome::NOT_PERMITTED => return Err(StopError::NotPermitted),
            outcome::GONE => return Err(StopError::Gone),
            outcome::TIMED_OUT => {
                return Err(StopError::TimedOut {
                    tid: answer.number,
                    state: char::from(answer.state as u8),
                    limit: Duration::from_nanos(answer.value),
                });
            }
            _ => {
                let error = io::Error::from_raw_os_error(answer.number);
                return Err(StopError::Io(error));
            }
        }
        let mut threads = vec![Held::new_zeroed(); answer.threads as usize];
        channel
            .read_exact(threads.as_mut_slice().as_mut_bytes())
            .map_err(lost)?;
        Ok(threads.iter().map(thread_of).collect())
    }

    /// Lets the target run on; an error when the guard is gone, and the target runs.
    pub(super) fn release(&mut self) -> io::Result<()> {
        // A guard that somebody suspended would hold the target until the kernel ends it.
        self.guard.wake();
        let channel = self.guard.channel();
        channel.set_read_timeout(Some(GUARD_TIMEOUT))?;
        let released = channel
            .write_all(&[DONE])
            .and_then(|()| channel.read_exact(&mut [0]));
        released.inspect_err(|_| {
            self.guard.kill();
        })
    }
}

fn thread_of(held: &Held) -> Thread {
    Thread {
        tid: held.tid as u32,
        stack_pointer: RemoteAddr::new(held.stack_pointer),
        program_counter: RemoteAddr::new(held.program_counter),
        thread_pointer: RemoteAddr::new(held.thread_pointer),
    }
}

fn lost(_: io::Error) -> StopError {
    StopError::GuardLost
}

/// The guard's life: one stop after the other.
fn serve(
    mut channel: UnixStream,
    progress: &Progress,
    state_of_fragscope: &File,
) -> io::Result<()> {
    // Only the end of this process deletes the timer, and that releases all threads: whatever
    // happens on the way there, including suspension, they are not held for longer.
    let mut deadline = ManuallyDrop::new(Deadline::new()?);
    let mut request = Request::new_zeroed();
    // The channel ends when fragscope does.
    while channel.read_exact(request.as_mut_bytes()).is_ok() {
        let longest = Duration::from_nanos(request.longest_ns);
        let limit = Duration::from_nanos(request.limit_ns).min(longest);
        let since = Instant::now();
        let watch = Watch {
            deadline: since + longest,
            state_of_fragscope,
        };
        progress.begin();
        deadline.set(longest + GRACE)?;
        let mut tracer = match named(&request) {
            Ok(dir) => Tracer::new(Arc::new(dir), limit),
            Err(error) => {
                answer(&mut channel, Err(error), true, &watch)?;
                deadline.unset()?;
                continue;
            }
        };
        let threads = match tracer.stop_all() {
            Ok(threads) => threads,
            Err(error) => {
                let goes_on = tracer.detach_all();
                answer(&mut channel, Err(error), goes_on, &watch)?;
                // Threads that are about to stop are let go by the end of this process alone.
                if !goes_on {
                    return Ok(());
                }
                deadline.unset()?;
                continue;
            }
        };
        answer(&mut channel, Ok(threads), true, &watch)?;
        let asked_for = hold(&mut channel, &watch, progress);
        let is_clean = tracer.detach_all();
        progress.resumed(since.elapsed());
        if !is_clean {
            // The end of the channel is an answer, too, and the next stop has another guard.
            return Ok(());
        }
        deadline.unset()?;
        if !asked_for {
            // It was resumed before fragscope requested that; the request is still to come.
            channel.read_exact(&mut [0])?;
        }
        channel.write_all(&[DONE])?;
    }
    Ok(())
}

/// The process to stop.
fn named(request: &Request) -> Result<ProcDir, StopError> {
    let pid = i32::try_from(request.pid).map_err(|_| StopError::Gone)?;
    let pidfd = PidFd::open(pid).map_err(gone)?;
    let dir = ProcDir::of(pid, pidfd).map_err(gone)?;
    let began_ticks = dir.stat().map_err(gone)?.starttime;
    match began_ticks == request.began_ticks {
        true => Ok(dir),
        false => Err(StopError::Gone),
    }
}

/// Reports the outcome of the stop, and whether this guard continues.
fn answer(
    channel: &mut UnixStream,
    stopped: Result<Vec<Thread>, StopError>,
    goes_on: bool,
    watch: &Watch<'_>,
) -> io::Result<()> {
    let mut answer = Answer {
        goes_on: goes_on.into(),
        ..Answer::default()
    };
    let mut held = Vec::new();
    match stopped {
        Ok(threads) => {
            answer.outcome = outcome::STOPPED;
            held.extend(threads.iter().map(|thread| Held {
                tid: thread.tid.into(),
                stack_pointer: thread.stack_pointer.get(),
                program_counter: thread.program_counter.get(),
                thread_pointer: thread.thread_pointer.get(),
            }));
        }
        Err(StopError::AlreadyTraced {
            tracer, guarded, ..
        }) => {
            answer.outcome = outcome::ALREADY_TRACED;
            (answer.value, answer.number) = (tracer, guarded.unwrap_or_default());
        }
        Err(StopError::NotPermitted) => answer.outcome = outcome::NOT_PERMITTED,
        Err(StopError::Gone | StopError::Itself) => answer.outcome = outcome::GONE,
        Err(StopError::TimedOut { tid, state, limit }) => {
            answer.outcome = outcome::TIMED_OUT;
            (answer.number, answer.state) = (tid, state.into());
            answer.value = limit.as_nanos() as u64;
        }
        Err(StopError::Io(error) | StopError::NoGuard(error)) => {
            answer.outcome = outcome::FAILED;
            answer.number = error.raw_os_error().unwrap_or(libc::EIO);
        }
        // A guard has no guard itself, and does not check control groups.
        Err(StopError::GuardLost | StopError::Frozen) => answer.outcome = outcome::FAILED,
    }
    answer.threads = held.len() as u64;
    watch.write(channel, answer.as_bytes())?;
    watch.write(channel, held.as_slice().as_bytes())
}

/// Holds the target until fragscope requests its release, is gone or suspended, or until the
/// deadline; returns whether it was requested.
fn hold(channel: &mut UnixStream, watch: &Watch<'_>, progress: &Progress) -> bool {
    match watch.wait(channel, PollFlags::POLLIN) {
        // The end of the channel resumes it, too.
        Ok(()) => channel.read_exact(&mut [0]).is_ok(),
        Err(why) => {
            progress.end_early(why);
            false
        }
    }
}

/// What ends a stop without a request by fragscope.
struct Watch<'a> {
    deadline: Instant,
    state_of_fragscope: &'a File,
}

impl Watch<'_> {
    /// Waits until `channel` is ready for this, or has ended; or why the stop is to end instead.
    fn wait(&self, channel: &UnixStream, ready: PollFlags) -> Result<(), EndedEarly> {
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(EndedEarly::Overdue);
            }
            let wait = PollTimeout::try_from(left.min(POLL_INTERVAL)).unwrap_or(PollTimeout::ZERO);
            match poll(&mut [PollFd::new(channel.as_fd(), ready)], wait) {
                Ok(0) | Err(Errno::EINTR) => {}
                _ => return Ok(()),
            }
            if is_suspended(self.state_of_fragscope.as_raw_fd()) {
                return Err(EndedEarly::Suspended);
            }
        }
    }

    /// Writes all of `bytes`: ten thousand threads are more than the channel holds, and a suspended
    /// fragscope does not read them.
    fn write(&self, channel: &mut UnixStream, mut bytes: &[u8]) -> io::Result<()> {
        channel.set_nonblocking(true)?;
        while !bytes.is_empty() {
            match channel.write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let ready = self.wait(channel, PollFlags::POLLOUT);
                    // fragscope then has no answer, and stops the target again when it runs.
                    ready.map_err(|_| io::ErrorKind::TimedOut)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        channel.set_nonblocking(false)
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use nix::sys::signal::{Signal, kill};
    use nix::sys::wait::{WaitPidFlag, waitpid};
    use nix::unistd::Pid;

    use super::*;

    #[test]
    fn a_list_of_threads_that_nobody_reads_is_given_up_when_fragscope_is_suspended() {
        let mut other = Command::new("sleep").arg("1000").spawn().expect("a child");
        let pid = Pid::from_raw(other.id().cast_signed());
        let state = File::open(format!("/proc/{pid}/stat")).expect("it runs");
        kill(pid, Signal::SIGSTOP).expect("our own child");
        waitpid(pid, Some(WaitPidFlag::WUNTRACED)).expect("it stops");
        let (mut channel, _other_end) = UnixStream::pair().expect("a channel");
        let watch = Watch {
            deadline: Instant::now() + Duration::from_secs(600),
            state_of_fragscope: &state,
        };
        let thread = Thread {
            tid: 1,
            stack_pointer: RemoteAddr::new(2),
            program_counter: RemoteAddr::new(3),
            thread_pointer: RemoteAddr::new(4),
        };
        let answered = answer(&mut channel, Ok(vec![thread; 100_000]), true, &watch);
        other.kill().expect("ours");
        other.wait().expect("it ends");
        let error = answered.expect_err("nobody reads it");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(Instant::now() < watch.deadline);
    }
}
