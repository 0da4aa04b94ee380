//! Stops all threads of the target with ptrace for a moment.
//!
//! A guard, a separate process, does the tracing ([`held`]). So the target is resumed after a panic
//! or a `kill -9` of fragscope, at once when fragscope is suspended, and when a stop has reached
//! its time limit, whether or not fragscope runs then. Where a guard may not trace (Yama lets a
//! plain user trace only descendants), a thread of fragscope does, and the kernel ends that thread
//! together with fragscope.

mod error;
mod held;
mod reaper;
mod tracer;

use std::ffi::CStr;
use std::mem;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use profiler_core::completeness::EndedEarly;
use profiler_core::threads::Thread;
use zerocopy::FromZeros;

pub use self::error::StopError;
pub(super) use self::error::already_traced;
use self::error::gone;
use self::held::StopGuard;
use self::tracer::Tracer;
use super::cgroup::is_frozen;
use super::forked::is_over;
use super::guard::Shared;
use super::proc_dir::{ProcDir, field};

/// How long the target may take to stop. A running thread needs microseconds; one that waits for a
/// processor on a busy host needs longer.
pub const STOP_DEADLINE: Duration = Duration::from_secs(1);

/// How long a stop lasts at most, unless the caller says otherwise.
pub const LONGEST_STOP: Duration = Duration::from_secs(5);

/// After a stop has reached its time limit, the guard has this long to end it; then the kernel ends
/// the guard, and with it the stop.
const GRACE: Duration = Duration::from_millis(300);

/// How long the guard may take, on a very busy host, for work of microseconds. All attempts of one
/// stop share it.
const GUARD_TIMEOUT: Duration = Duration::from_secs(2);

/// The part of it that is left for a second guard if the first was lost.
const SECOND_GUARD_TIMEOUT: Duration = Duration::from_secs(1);

/// The process name of stop guards: a name that does not match when somebody kills or suspends
/// fragscope by name.
const GUARD_NAME: &CStr = c"stop-guard";
/// The interval of checks of a target that another fragscope holds.
const BETWEEN_LOOKS: Duration = Duration::from_millis(5);

/// How a stop goes, written by the tracer.
#[derive(Debug, FromZeros)]
struct Progress {
    /// Why it ended early, as [`EndedEarly`] plus 1; 0 while it has not.
    ended: AtomicU32,
    /// How long the target was stopped in total, in ns, once it runs.
    held_ns: AtomicU64,
}

impl Progress {
    fn begin(&self) {
        self.ended.store(0, Ordering::SeqCst);
        self.held_ns.store(0, Ordering::SeqCst);
    }

    /// The target is about to be resumed without a request.
    fn end_early(&self, why: EndedEarly) {
        self.ended.store(why as u32 + 1, Ordering::SeqCst);
    }

    fn ended_early(&self) -> Option<EndedEarly> {
        match self.ended.load(Ordering::SeqCst) {
            0 => None,
            1 => Some(EndedEarly::Overdue),
            2 => Some(EndedEarly::Suspended),
            _ => Some(EndedEarly::Lost),
        }
    }

    /// Whether the tracer resumed it.
    fn has_resumed(&self) -> bool {
        self.held_ns.load(Ordering::SeqCst) != 0
    }

    /// The target runs; it was stopped for this long.
    fn resumed(&self, held: Duration) {
        self.held_ns.store(held.as_nanos() as u64, Ordering::SeqCst);
    }
}

/// Whether a stop is over, for readers of the target's memory.
#[derive(Clone, Debug)]
pub(super) struct StopState {
    progress: Arc<Shared<Progress>>,
    /// The kernel has ended it by then.
    until: Instant,
}

impl StopState {
    /// Whether the target may run.
    pub(super) fn is_over(&self) -> bool {
        self.progress.ended_early().is_some() || Instant::now() >= self.until
    }
}

/// The stopped target. It is resumed when this is dropped.
#[derive(Debug)]
pub struct Stopped {
    threads: Vec<Thread>,
    since: Instant,
    state: StopState,
    /// `None` once it was released.
    holder: Option<Holder>,
    /// Where the guard is returned to.
    guards: Arc<StopGuards>,
}

/// The tracer.
#[derive(Debug)]
enum Holder {
    Guard(StopGuard),
    Thread(StopThread),
}

/// The outcome of a stop, once the target runs again.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct StopOutcome {
    /// How long it was stopped.
    pub held: Duration,
    /// Why it was resumed early, if it was.
    pub ended_early: Option<EndedEarly>,
}

impl Stopped {
    /// Its threads, by id.
    pub fn threads(&self) -> &[Thread] {
        &self.threads
    }

    /// Why the target is already running again, if it is.
    pub fn ended_early(&self) -> Option<EndedEarly> {
        let early = self.state.progress.ended_early();
        early.or_else(|| (Instant::now() >= self.state.until).then_some(EndedEarly::Overdue))
    }

    pub(super) fn state(&self) -> StopState {
        self.state.clone()
    }

    /// When the first thread was asked to stop.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// Lets the target run on.
    pub fn resume(mut self) -> StopOutcome {
        self.release();
        let ended_early = self.ended_early();
        let held = match self.state.progress.held_ns.load(Ordering::SeqCst) {
            // The tracer has ended without measuring it.
            0 => self.since.elapsed().min(self.state.until - self.since),
            ns => Duration::from_nanos(ns),
        };
        StopOutcome { held, ended_early }
    }

    fn release(&mut self) {
        match self.holder.take() {
            Some(Holder::Guard(mut guard)) => match guard.release() {
                Ok(()) => self.guards.put_back(guard),
                // It ended with the stop, as it does if a thread died meanwhile.
                Err(_) if self.state.progress.has_resumed() => {}
                Err(_) => self.state.progress.end_early(EndedEarly::Lost),
            },
            Some(Holder::Thread(thread)) => thread.release(),
            None => {}
        }
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        self.release();
    }
}

/// The guard that stops targets, kept between stops. A simultaneous second stop has its own.
#[derive(Debug, Default)]
pub(super) struct StopGuards(Mutex<Option<StopGuard>>);

impl StopGuards {
    /// The guards for all targets, as long as there are targets.
    pub(super) fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<StopGuards>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let new = Arc::default();
            *shared = Arc::downgrade(&new);
            new
        })
    }

    fn take(&self) -> Option<StopGuard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn put_back(&self, guard: StopGuard) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let other = kept.replace(guard);
        drop(kept);
        // Its end is waited for.
        drop(other);
    }
}

/// Stops all threads within `limit`, for at most `longest`. It takes at most `limit`, [`GRACE`] and
/// [`GUARD_TIMEOUT`] together, whatever happens to guards; a killed guard that does not end, for
/// example because it is frozen, is waited for one second more.
pub(super) fn stop(
    dir: &Arc<ProcDir>,
    guards: &Arc<StopGuards>,
    limit: Duration,
    longest: Duration,
) -> Result<Stopped, StopError> {
    if dir.pid() == std::process::id() as i32 {
        return Err(StopError::Itself);
    }
    let began = Instant::now();
    let all = limit + GRACE + GUARD_TIMEOUT;
    let mut has_lost_one = false;
    loop {
        let kept_back = match has_lost_one {
            true => Duration::ZERO,
            false => SECOND_GUARD_TIMEOUT,
        };
        let patience = all.saturating_sub(began.elapsed() + kept_back);
        match stop_once(dir, guards, limit, longest, patience) {
            // Somebody killed it, or keeps it from running: the next one is a new guard.
            Err(StopError::GuardLost) if !mem::replace(&mut has_lost_one, true) => {}
            // Another session's stop is short, and that of a killed session is just ending.
            Err(StopError::AlreadyTraced {
                tracer,
                guarded: Some(tid),
                ..
            }) if began.elapsed() < limit => wait_for_guard(dir, tracer, tid, began + limit),
            Err(StopError::TimedOut { .. }) if is_frozen(dir) => {
                return Err(StopError::Frozen);
            }
            done => return done,
        }
    }
}

/// Waits until the stop guard of another fragscope releases this thread, or until the deadline.
/// Meanwhile the target is left alone.
fn wait_for_guard(dir: &ProcDir, guard: u64, tid: i32, deadline: Instant) {
    let is_held = || {
        let status = dir.text(&format!("task/{tid}/status")).unwrap_or_default();
        field(&status, "TracerPid") == Some(guard)
    };
    loop {
        thread::sleep(BETWEEN_LOOKS);
        if Instant::now() >= deadline || !is_held() {
            return;
        }
    }
}

fn stop_once(
    dir: &Arc<ProcDir>,
    guards: &Arc<StopGuards>,
    limit: Duration,
    longest: Duration,
    patience: Duration,
) -> Result<Stopped, StopError> {
    // The answer takes a moment, too.
    let limit = limit.min(patience.saturating_sub(GRACE));
    if limit.is_zero() {
        return Err(StopError::GuardLost);
    }
    let kept = guards.take().filter(StopGuard::is_alive);
    let mut guard = match kept {
        Some(guard) => guard,
        None => StopGuard::start().map_err(StopError::NoGuard)?,
    };
    let since = Instant::now();
    let stopped = |threads, progress, holder| Stopped {
        threads,
        since,
        state: StopState {
            progress,
            until: since + longest + GRACE,
        },
        holder: Some(holder),
        guards: Arc::clone(guards),
    };
    match guard.stop(dir, limit, longest, patience) {
        Ok(threads) => {
            let progress = guard.progress();
            return Ok(stopped(threads, progress, Holder::Guard(guard)));
        }
        Err(error) => {
            match guard.holds_nothing() {
                true => guards.put_back(guard),
                // It ends by itself, but waiting for one that somebody suspended would block.
                false => guard.kill(),
            }
            // The guard is not an ancestor of the target, which Yama may require; this process may
            // be.
            if !matches!(error, StopError::NotPermitted) || is_over() {
                return Err(error);
            }
        }
    }
    let progress = Arc::new(Shared::zeroed()?);
    let (thread, threads) = StopThread::start(dir, &progress, limit, longest)?;
    Ok(stopped(threads, progress, Holder::Thread(thread)))
}

/// A thread of fragscope's own that traces.
#[derive(Debug)]
struct StopThread {
    release: mpsc::Sender<()>,
    thread: JoinHandle<()>,
}

impl StopThread {
    fn start(
        dir: &Arc<ProcDir>,
        progress: &Arc<Shared<Progress>>,
        limit: Duration,
        longest: Duration,
    ) -> Result<(Self, Vec<Thread>), StopError> {
        let (release, released) = mpsc::channel::<()>();
        let (report, reported) = mpsc::channel();
        let (of_thread, progress) = (Arc::clone(dir), Arc::clone(progress));
        let thread = crate::start_thread("fragscope-stop", move || {
            let since = Instant::now();
            let mut tracer = Tracer::new(of_thread, limit);
            let outcome = tracer.stop_all();
            let stopped = outcome.is_ok();
            if report.send(outcome).is_ok() && stopped {
                let left = longest.saturating_sub(since.elapsed());
                if released.recv_timeout(left) == Err(RecvTimeoutError::Timeout) {
                    progress.end_early(EndedEarly::Overdue);
                }
            }
            tracer.detach_all();
            progress.resumed(since.elapsed());
        })?;
        let thread = Self { release, thread };
        match reported.recv_timeout(limit + GRACE) {
            Ok(Ok(threads)) => Ok((thread, threads)),
            // It is blocked in the kernel by an `execve` in progress, and waiting for it would
            // block too. Its signal resumes the target, and it ends when the `execve` is over.
            Err(RecvTimeoutError::Timeout) => Err(StopError::TimedOut {
                tid: dir.pid(),
                state: dir.stat().map_or('?', |stat| stat.state),
                limit,
            }),
            outcome => {
                let error = match outcome {
                    Ok(Err(error)) => error,
                    _ => StopError::Gone,
                };
                // Everything runs on once the thread has ended.
                thread.release();
                Err(error)
            }
        }
    }

    fn release(self) {
        drop(self.release);
        // Only its end matters: the kernel detaches what a panic left.
        let _ = self.thread.join();
    }
}

#[cfg(test)]
mod tests {
    use super::super::open;
    use super::*;

    #[test]
    fn a_thread_stops_the_target_where_a_guard_may_not() {
        let mut child = std::process::Command::new("sleep")
            .arg("1000")
            .spawn()
            .expect("a child");
        let (dir, _) = open::open(child.id() as i32).expect("our own child");
        let (dir, progress) = (Arc::new(dir), Arc::new(Shared::zeroed().expect("memory")));
        let second = Duration::from_secs(20);
        let (thread, threads) =
            StopThread::start(&dir, &progress, second, second).expect("it stops");
        assert_eq!(threads.len(), 1);
        thread.release();
        assert_eq!(progress.ended_early(), None);
        let moment = Duration::from_millis(1);
        let (thread, _) = StopThread::start(&dir, &progress, second, moment).expect("it stops");
        while progress.held_ns.load(Ordering::SeqCst) == 0 || progress.ended_early().is_none() {
            thread::yield_now();
        }
        thread.release();
        assert_eq!(progress.ended_early(), Some(EndedEarly::Overdue));
        child.kill().expect("ours");
        child.wait().expect("ours");
    }
}
