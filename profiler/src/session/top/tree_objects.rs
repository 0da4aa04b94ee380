//! Python objects of a tree's processes, read one process after another, once or twice: as
//! `explain` reads those of one process.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use profiler_core::host::{ProcessId, ReadProcess, TreeObjects, TreeView};
use profiler_core::objects::Census;
use profiler_core::report::FragReport;
use profiler_core::sample::Sample;
use profiler_core::trend::Point;
use profiler_core::view::View;
use profiler_sampling::{NotWalked, Sampler, SamplingOptions, now_ns};

use super::once::WALKS_FOR;
use crate::say;
use crate::session::interrupt;
use crate::session::options::ReadObjects;
use crate::session::snapshot::{CountedBetween, walk_and_read};

/// The most children that are read, besides their master: each is stopped for a walk each time.
const MOST_READ: usize = 12;
/// Between two looks whether the kernel's counts are due.
const COUNTS_STEP: Duration = Duration::from_millis(50);

/// What is requested of a tree's objects.
#[derive(Copy, Clone, Debug)]
pub(super) struct Wanted {
    pub(super) sampling: SamplingOptions,
    pub(super) objects: ReadObjects,
    /// The process whose sample is kept, to be replayed in other allocators.
    pub(super) kept: Option<ProcessId>,
}

/// What was read.
#[derive(Default)]
pub(super) struct Found {
    pub(super) objects: TreeObjects,
    /// What `explain` would show of each.
    pub(super) views: Vec<(ProcessId, View)>,
    /// The last walk of the process whose sample is kept.
    pub(super) kept: Option<Sample>,
}

/// A process that was read once.
struct Once {
    id: ProcessId,
    sampler: Sampler,
    report: FragReport,
    census: Arc<Census>,
    /// What was counted from its walk on.
    counts: Mutex<CountedBetween>,
}

impl Once {
    fn counts(&self) -> std::sync::MutexGuard<'_, CountedBetween> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the worst processes of a tree. No reading begins later than [`WALKS_FOR`] after the first;
/// processes that were read once are read again.
pub(super) fn read(view: &TreeView, wanted: Wanted, interrupted: &AtomicBool) -> Found {
    let mut found = Found::default();
    let read = read_once(view, wanted, interrupted, &mut found);
    let again = match wanted.objects.twice {
        Some(apart) => read_again(&read, apart, wanted, interrupted, &mut found),
        None => Vec::new(),
    };
    let mut again: Vec<Option<(FragReport, Arc<Census>)>> = again;
    again.resize_with(read.len(), || None);
    for (once, again) in read.into_iter().zip(again) {
        let counts = std::mem::take(&mut once.counts().points);
        let report = match again {
            Some((report, census)) => report
                .with_objects(census, Some(once.census))
                .since(&once.report),
            None => once.report,
        };
        let walked = Point::of(&report);
        let mut history = counts;
        history.retain(|point| point.time_ns < walked.time_ns);
        history.push(walked);
        let view = View::of_one_look(report, history, Vec::new());
        found.objects.read.push(ReadProcess {
            id: once.id,
            report: Arc::clone(&view.report),
        });
        found.views.push((once.id, view));
    }
    found
}

fn read_once(
    view: &TreeView,
    wanted: Wanted,
    interrupted: &AtomicBool,
    found: &mut Found,
) -> Vec<Once> {
    let (began, mut read) = (Instant::now(), Vec::new());
    for id in view.to_read(MOST_READ) {
        if interrupted.load(Ordering::Relaxed) {
            break;
        }
        if began.elapsed() >= WALKS_FOR {
            let why = "the time for reading objects was over";
            found.objects.not_read.push((id.pid, why.to_owned()));
            continue;
        }
        progress(read.len(), "read");
        let one = open(id).and_then(|sampler| {
            let taken = walk_and_read(&sampler, wanted.sampling, wanted.objects.in_stop)?;
            Ok((sampler, taken))
        });
        match one {
            Ok((sampler, (sample, Ok(census)))) => {
                let census = Arc::new(census);
                let report = FragReport::from_sample(&sample);
                let counts = Mutex::new(CountedBetween::since(&report, &census));
                if wanted.kept == Some(id) {
                    found.kept = Some(sample);
                }
                read.push(Once {
                    id,
                    sampler,
                    report: report.with_objects(Arc::clone(&census), None),
                    census,
                    counts,
                });
            }
            Ok((_, (_, Err(why)))) => found.objects.not_read.push((id.pid, why.to_string())),
            // A process that ended meanwhile is not reported as missing.
            Err(why) if why.is_gone() => {}
            Err(why) => found.objects.not_read.push((id.pid, why.to_string())),
        }
    }
    if say::is_watched() {
        say::clear_progress();
    }
    read
}

/// Reads them once more, each at least `apart` after its first reading. A process that cannot be
/// read again gets no second reading.
fn read_again(
    read: &[Once],
    apart: Duration,
    wanted: Wanted,
    interrupted: &AtomicBool,
    found: &mut Found,
) -> Vec<Option<(FragReport, Arc<Census>)>> {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        // Counts made while others are read show whether memory grew all the time.
        let counting = thread::Builder::new().name("counts".into());
        let counting = counting.spawn_scoped(scope, || {
            while !is_over.load(Ordering::Relaxed) {
                for once in read {
                    once.counts().count(&once.sampler, &once.report);
                }
                thread::sleep(COUNTS_STEP);
            }
        });
        if let Err(why) = &counting {
            say::line(format_args!(
                "fragscope: memory is not counted meanwhile: {why}"
            ));
        }
        let mut all = Vec::new();
        for once in read {
            let due_ns = once.report.taken_at_ns + apart.as_nanos() as u64;
            let rest = Duration::from_nanos(due_ns.saturating_sub(now_ns()));
            let what = "objects were read once; to see what grows, again";
            if !interrupt::wait(rest, what, interrupted, || true) {
                break;
            }
            progress(all.len(), "read again");
            let taken = walk_and_read(&once.sampler, wanted.sampling, wanted.objects.in_stop);
            all.push(match taken {
                Ok((sample, Ok(mut census))) => {
                    once.counts().lengths.give_courses(&mut census);
                    let report = FragReport::from_sample(&sample);
                    if wanted.kept == Some(once.id) {
                        found.kept = Some(sample);
                    }
                    Some((report, Arc::new(census)))
                }
                // The first reading is worth more than a walk without objects, and for a process
                // that has ended it is all there is.
                Ok((_, Err(_))) | Err(_) => None,
            });
        }
        if say::is_watched() {
            say::clear_progress();
        }
        is_over.store(true, Ordering::Relaxed);
        all
    })
}

fn progress(count: usize, what: &str) {
    if say::is_watched() {
        say::progress(format_args!("Python's objects of {count} processes {what}"));
    }
}

/// The process with this pid, if it is still the same one.
pub(super) fn open(id: ProcessId) -> Result<Sampler, NotWalked> {
    let sampler = Sampler::open(id.pid)?;
    match sampler.target().began_ticks()? == id.began_ticks {
        true => Ok(sampler),
        false => Err(NotWalked::Unknown),
    }
}
