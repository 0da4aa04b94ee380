//! Processes that share the memory of a stopped process and keep running.
//!
//! Asking all processes of a host takes some microseconds for each. So they are asked before the
//! target is stopped, and in the stop only those that may have been created since. A process gets
//! the memory of another one when it is created (`clone`, `CLONE_VM`) and never later; so whoever
//! did not have it before the stop does not have it in the stop. Those created since are found by
//! their numbers, which the kernel gives in turn ([`numbers`]).

mod left_behind;
mod numbers;

use std::fs;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use self::left_behind::LeftBehind;
use self::numbers::{Given, Number};
use super::proc_dir::{ProcDir, all_pids, have_same_memory, is_of_kernel};
use super::stop::Stopped;

/// Processes that share the memory of a stopped process and are not stopped with it: with
/// `clone(2)`, `CLONE_VM` and without `CLONE_THREAD` a process can share its memory with others.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum RunsOn {
    /// None: nothing changes.
    Nobody,
    /// The process with this number, and maybe others.
    Process(i32),
    /// The kernel does not say. Such a target is read like a running one.
    Unknown,
}

/// The time limit for asking while the target is stopped. A process blocked in `execve` on a file
/// that does not answer blocks whoever asks about it (`kcmp_lock` in `kernel/kcmp.c`).
const ASKED_IN_STOP: Duration = Duration::from_millis(20);
/// The same while the target runs: enough for tens of thousands of processes.
const ASKED_BEFORE: Duration = Duration::from_millis(500);
/// Of more numbers than this, only those of existing processes are asked about.
const MAX_ASKED_DIRECTLY: i32 = 1024;
/// Where there are more processes, not all of them are asked in a stop: it would be longer than the
/// time limit.
const MAX_ASKED_IN_STOP: usize = 1500;
/// After so many processes it is checked how far the kernel's numbers have come.
const CHECKED_AFTER: usize = 256;

/// The threads that wait for such a process.
static LEFT_BEHIND: LeftBehind = LeftBehind::none();

/// Finds those that share the memory of one process.
#[derive(Debug)]
pub(super) struct Sharers {
    dir: Arc<ProcDir>,
    /// `None` if all have to be asked.
    seen: Mutex<Option<Seen>>,
}

/// What is known since all processes were asked.
#[derive(Clone, Debug)]
struct Seen {
    /// The numbers given since, whose processes were not asked yet.
    given: Given,
    /// Those that shared the memory.
    sharers: Vec<i32>,
}

impl Sharers {
    pub(super) fn of(dir: &Arc<ProcDir>) -> Self {
        Self {
            dir: Arc::clone(dir),
            seen: Mutex::default(),
        }
    }

    fn seen(&self) -> MutexGuard<'_, Option<Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Prepares for a stop: asks all processes, unless that was done so recently that those created
    /// since are known by their numbers.
    pub(super) fn look(&self) {
        self.keep_up();
        if self.seen().is_some() {
            return;
        }
        let (dir, began) = (Arc::clone(&self.dir), Instant::now());
        // Where there is no processor for it, the numbers are lost on the way.
        let question = move || {
            std::iter::from_fn(|| {
                let now = Instant::now();
                (now < began + ASKED_BEFORE / 2).then(|| Seen::by_asking_all(&dir))
            })
            .find_map(|seen| seen)
        };
        let seen = LEFT_BEHIND.ask(ASKED_BEFORE, question).flatten();
        *self.seen() = seen;
    }

    /// Sleeps, and follows the kernel's numbers meanwhile, so that not all have to be asked again.
    pub(super) fn sleep(&self, time: Duration) {
        let began = Instant::now();
        while let Some(left) = time.checked_sub(began.elapsed()) {
            let step = self.seen().as_ref().map(|seen| seen.given.step());
            // A sleep of no time would be none.
            let step = step.unwrap_or(left).max(Duration::from_millis(1));
            thread::sleep(left.min(step));
            self.keep_up();
        }
    }

    /// Follows the kernel's numbers if that was not done for a while.
    fn keep_up(&self) {
        let mut seen = self.seen();
        let known = seen.take();
        *seen = known.and_then(|mut known| {
            let is_known = known.given.is_recent()
                || Number::new().is_some_and(|number| known.given.follow(number));
            is_known.then_some(known)
        });
    }

    /// The sharers, while the process is stopped.
    pub(super) fn with(&self, stopped: &Stopped) -> RunsOn {
        let threads = stopped.threads().iter();
        let mut threads = threads.map(|thread| thread.tid.cast_signed());
        let Some(thread) = threads.next() else {
            return RunsOn::Unknown;
        };
        let (dir, seen) = (Arc::clone(&self.dir), self.seen().take());
        let began = Instant::now();
        let question = move || Seen::in_stop(&dir, thread, seen, began);
        let Some((sharer, seen)) = LEFT_BEHIND.ask(ASKED_IN_STOP, question).flatten() else {
            return RunsOn::Unknown;
        };
        *self.seen() = seen;
        sharer.map_or(RunsOn::Nobody, RunsOn::Process)
    }
}

impl Seen {
    /// Asks all processes while the target runs.
    fn by_asking_all(dir: &ProcDir) -> Option<Self> {
        let mut given = Given::since(Number::new()?);
        // A thread that has ended has no memory (the first one stays, without it).
        let has_memory = |tid: &i32| !is_of_kernel(*tid);
        let thread = dir.tids().ok()?.into_iter().find(has_memory)?;
        if !can_be_asked(thread) {
            return None;
        }
        let mut sharers = Vec::new();
        for (asked, pid) in all_pids().ok()?.enumerate() {
            if asked % CHECKED_AFTER == 0 && !given.is_recent() && !given.follow(Number::new()?) {
                return None;
            }
            sharers.extend(sharer_in(thread, pid, dir));
        }
        // It had memory throughout, then.
        has_memory(&thread).then_some(Self { given, sharers })
    }

    /// Asks in a stop, on a thread that was started in it after `began`: those that shared the
    /// memory, and those created since then; all if that is unknown. Returns one that has the
    /// memory, and what is known then; `None` if it cannot be determined.
    fn in_stop(
        dir: &ProcDir,
        thread: i32,
        seen: Option<Self>,
        began: Instant,
    ) -> Option<(Option<i32>, Option<Self>)> {
        if !can_be_asked(thread) {
            return None;
        }
        let number = Number::of_this_thread(began);
        let seen = seen.and_then(|mut seen| seen.given.follow(number).then_some(seen));
        let shares = |other: &i32| shares_memory(thread, *other) && !dir.has_thread(*other);
        let sharer = match seen {
            Some(Self { given, sharers }) => match given.all(MAX_ASKED_DIRECTLY) {
                Some(mut numbers) => sharers.into_iter().find(shares).or(numbers.find(shares)),
                None => {
                    let created = all_pids().ok()?.filter(|pid| given.includes(*pid));
                    let mut found = created.filter_map(|pid| sharer_in(thread, pid, dir));
                    sharers.into_iter().find(shares).or_else(|| found.next())
                }
            },
            None => {
                let all: Vec<i32> = all_pids().ok()?.take(MAX_ASKED_IN_STOP + 1).collect();
                if all.len() > MAX_ASKED_IN_STOP {
                    return None;
                }
                let mut found = all
                    .into_iter()
                    .filter_map(|pid| sharer_in(thread, pid, dir));
                found.next()
            }
        };
        // Nobody has it: only the target itself can give it to another one.
        let given = Given::since(number);
        let seen = sharer.is_none().then(|| Self {
            given,
            sharers: Vec::new(),
        });
        Some((sharer, seen))
    }
}

/// Whether the kernel answers at all.
fn can_be_asked(thread: i32) -> bool {
    matches!(have_same_memory(thread, thread), Ok(true))
}

/// Whether this process or thread has the memory of `thread`.
fn shares_memory(thread: i32, other: i32) -> bool {
    matches!(have_same_memory(thread, other), Ok(true)) && !is_of_kernel(other)
}

/// The thread by which process `pid` has the memory of `thread`, unless it is the target itself:
/// its first one, or if that has ended, which leaves it without memory, another one.
fn sharer_in(thread: i32, pid: i32, target: &ProcDir) -> Option<i32> {
    if pid == target.pid() {
        return None;
    }
    if shares_memory(thread, pid) {
        return Some(pid);
    }
    if !is_of_kernel(pid) {
        return None;
    }
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let mut tids = tasks.filter_map(|task| task.ok()?.file_name().to_str()?.parse().ok());
    tids.find(|tid| *tid != pid && shares_memory(thread, *tid))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::open;

    #[test]
    fn those_that_were_asked_are_not_asked_again_soon() {
        let mut other = Command::new("sleep").arg("600").spawn().expect("it starts");
        let (dir, _memory) = open::open(other.id().cast_signed()).expect("opened");
        let sharers = Sharers::of(&Arc::new(dir));
        let since = || {
            sharers.look();
            let seen = sharers.seen();
            seen.as_ref().map(|seen| seen.given.so_far())
        };
        // On a host that has no processor for it nothing is known.
        let twice = || {
            let first = since()?;
            sharers.sleep(Duration::from_millis(100));
            Some((first, since()?))
        };
        let (first, second) = (0..100).find_map(|_| twice()).expect("known");
        assert_eq!(first.0, second.0);
        // Threads that follow the numbers have some of them.
        assert!(first.1 < second.1, "{first:?} {second:?}");
        other.kill().expect("killed");
        other.wait().expect("reaped");
    }
}
