//! The processes that the kernel kills when out of memory, reported as it chooses them.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use profiler_core::host::ProcessEnd;
use profiler_probe::OomVictims;
use profiler_target::{Listed, MemoryKills, resident_bytes};

use crate::say;

/// Processes that are remembered until they are asked for.
const MOST: usize = 256;
/// The interval of checks whether to end.
const LOOK: Duration = Duration::from_millis(500);
/// How long to wait for a victim's report when the kernel's counter has already changed: a number
/// of steps of this length.
const LATE: (u32, Duration) = (10, Duration::from_millis(20));

/// A process that the kernel chose.
#[derive(Copy, Clone, Debug)]
pub(super) struct Victim {
    pid: i32,
    /// Its start time; `None` if it was gone when it was examined.
    began_ticks: Option<u64>,
    /// The bytes that were resident, at least.
    pub(super) rss_bytes: Option<u64>,
}

#[derive(Debug, Default)]
struct ReportedVictims {
    victims: Mutex<VecDeque<Victim>>,
    is_over: AtomicBool,
}

/// Records them on a separate thread.
#[derive(Debug)]
pub(crate) struct VictimWatch(Arc<ReportedVictims>);

impl VictimWatch {
    /// Starts it, or reports why that is impossible: then only the counters of control groups show
    /// that the kernel killed a process.
    pub(super) fn start() -> Option<Self> {
        let started = OomVictims::watch().map_err(|error| error.to_string());
        let started = started.and_then(|mut victims| {
            let reported = Arc::new(ReportedVictims::default());
            let for_thread = Arc::clone(&reported);
            let run = move || {
                while !for_thread.is_over.load(Ordering::Relaxed) {
                    match victims.wait(LOOK) {
                        Ok(chosen) => chosen.into_iter().for_each(|pid| for_thread.add(pid)),
                        Err(error) => {
                            let what = "the OOM killer's choices are not reported any more";
                            say::line(format_args!("{what}: {error}"));
                            return;
                        }
                    }
                }
            };
            let thread = profiler_target::start_thread("oom victims", run);
            thread
                .map_err(|error| error.to_string())
                .map(|_| Self(reported))
        });
        match started {
            Ok(watch) => Some(watch),
            Err(why) => {
                say::line(format_args!(
                    "which process the OOM killer chooses is not reported, only that its control group counts one: {why}"
                ));
                None
            }
        }
    }

    /// The process with this start time, if it was chosen. `is_counted` says that the group's
    /// counter shows a kill.
    pub(super) fn take(&self, pid: i32, began_ticks: u64, is_counted: bool) -> Option<Victim> {
        for _ in 0..LATE.0 {
            let mut victims = self.0.victims();
            let is_it = |of: &Victim| {
                of.pid == pid && of.began_ticks.is_none_or(|began| began == began_ticks)
            };
            if let Some(found) = victims.iter().position(is_it) {
                return victims.remove(found);
            }
            drop(victims);
            if !is_counted {
                break;
            }
            std::thread::sleep(LATE.1);
        }
        None
    }
}

impl ReportedVictims {
    fn victims(&self) -> MutexGuard<'_, VecDeque<Victim>> {
        self.victims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, pid: i32) {
        // What disappears soonest is read first.
        let rss_bytes = resident_bytes(pid.cast_unsigned()).filter(|bytes| *bytes > 0);
        let victim = Victim {
            pid,
            began_ticks: Listed::of(pid).map(|listed| listed.id.began_ticks),
            rss_bytes,
        };
        let mut victims = self.victims();
        if victims.len() >= MOST {
            victims.pop_front();
        }
        victims.push_back(victim);
    }
}

impl Drop for VictimWatch {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::Relaxed);
    }
}

/// How a process ended, from the reported victims and the counters of its group.
pub(crate) fn end(
    watch: Option<&VictimWatch>,
    kills: &MemoryKills,
    (pid, began_ticks): (i32, u64),
) -> ProcessEnd {
    let counted = kills.group();
    let victim = watch.and_then(|watch| watch.take(pid, began_ticks, counted.is_some()));
    match (victim, counted) {
        (Some(victim), counted) => ProcessEnd::OutOfMemory {
            group: counted.map(|(group, _)| group).or_else(|| kills.known()),
            rss_bytes: victim.rss_bytes,
        },
        (None, Some((group, kills))) => ProcessEnd::WhenOthersWere { group, kills },
        (None, None) => ProcessEnd::Exited,
    }
}
