//! `check`: whether a process, or a saved session, is within the user's limits.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use profiler_core::report::FragReport;
use profiler_core::thresholds::{Checked, Thresholds, check as compare, growth};
use profiler_core::trend::RssGrowth;
use profiler_core::view::Point;
use profiler_sampling::{Sampler, SamplingOptions, now_ns};
use profiler_trace::limits::Incomplete;

use super::SessionError;
use super::interrupt;
use super::saved::{self, SavedOptions};

/// What to check.
#[derive(Clone, Debug)]
pub enum Checkable {
    /// A process, now.
    Process {
        /// Its pid.
        pid: i32,
        /// How it is walked.
        sampling: SamplingOptions,
        /// How long its growth is observed; `None` if not requested.
        over: Option<Duration>,
    },
    /// A walk of a saved session.
    Saved(SavedOptions),
}

/// What to check, and the limits.
#[derive(Clone, Debug)]
pub struct CheckOptions {
    /// The process.
    pub subject: Checkable,
    /// The limits.
    pub thresholds: Thresholds,
}

/// The result of a check.
#[derive(Clone, Debug)]
pub struct CheckOutcome {
    /// What was read.
    pub report: FragReport,
    /// Each limit with the measured value.
    pub checked: Vec<Checked>,
    /// Why not all of the file could be read.
    pub trouble: Option<Incomplete>,
}

/// Compares.
///
/// # Errors
/// When the process or the file cannot be read, or a signal came before there was anything to show.
pub fn check(options: &CheckOptions) -> Result<CheckOutcome, SessionError> {
    let (report, growth, trouble) = match &options.subject {
        Checkable::Process {
            pid,
            sampling,
            over,
        } => {
            let flag = interrupt::flag()?;
            let (pid, sampling, over) = (*pid, *sampling, *over);
            let look = move |flag: &AtomicBool| observe(pid, sampling, over, flag);
            let (report, growth) = interrupt::unless_interrupted("check", &flag, look)?;
            (report, growth, None)
        }
        Checkable::Saved(file) => {
            let saved = saved::load(file)?;
            let points = &saved.view.history;
            // A walk and its own counts are too close in time.
            let seen = |at: &Point| (at.time_ns, at.rss_bytes);
            let ends = points.first().zip(points.last());
            let growth = ends.and_then(|(from, to)| RssGrowth::between(seen(from), seen(to)));
            let growth = growth.map(|growth| growth.bytes_per_second);
            ((*saved.view.report).clone(), growth, saved.trouble)
        }
    };
    Ok(CheckOutcome {
        checked: compare(&report, growth, &options.thresholds),
        report,
        trouble,
    })
}

/// A walk of the process and, if requested, how fast its RSS grew before it.
fn observe(
    pid: i32,
    sampling: SamplingOptions,
    over: Option<Duration>,
    interrupted: &AtomicBool,
) -> Result<(FragReport, Option<f64>), SessionError> {
    let sampler = Sampler::open(pid)?;
    let before = match over {
        Some(time) => {
            let before = rss(&sampler)?;
            if !interrupt::wait(
                time,
                "RSS was read; to see whether it grows, again",
                interrupted,
                || true,
            ) {
                return Err(SessionError::Interrupted);
            }
            Some((before, rss(&sampler)?))
        }
        None => None,
    };
    let report = FragReport::from_sample(&sampler.take(sampling)?);
    Ok((report, before.and_then(|(from, to)| growth(&from, &to))))
}

/// RSS by the kernel's whole account, now.
fn rss(sampler: &Sampler) -> Result<Point, SessionError> {
    let count = sampler.target().kernel_count()?;
    Ok(Point {
        time_ns: now_ns(),
        rss_bytes: count.rss_bytes,
        swap_bytes: count.swap_bytes,
        live_bytes: None,
        heap_bytes: None,
        live_resident_bytes: None,
        threads: None,
    })
}
