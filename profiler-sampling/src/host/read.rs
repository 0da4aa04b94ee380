//! What is read of one process, on the thread that may be left behind ([`answers`](super::answers)).

use std::io;
use std::time::Instant;

use profiler_core::host::ProcessId;
use profiler_core::sample::Sample;
use profiler_target::{ErrorKind, OpenError, Process, Target};

use super::super::options::SamplingOptions;
use super::super::sampler::Sampler;
use super::NotWalked;
use super::watched::{Deferred, Kind};

/// What a process is, by the one rule that says what Python is, and whether it maps files for which the kernel does not
/// answer itself. Unless `may_wait`, one that maps such files is not looked into.
pub(super) fn examine(pid: i32, may_wait: bool) -> (Kind, bool) {
    let now = Instant::now();
    let target = match Target::open(pid) {
        Ok(target) => target,
        Err(error @ OpenError::NotPermitted { .. }) => {
            return (Kind::Closed(error.to_string()), false);
        }
        Err(error @ OpenError::Io { .. }) if !matches!(error.kind(), ErrorKind::TargetGone) => {
            let why = error.to_string();
            return (Kind::Failed { why, looked: now }, false);
        }
        // It has ended, or is of a kind that cannot be looked into: no Python that could be walked.
        Err(_) => return (Kind::Other { looked: now }, false),
    };
    target.waits_once();
    let failed = |error: io::Error| match target.check() {
        Err(_) => Kind::Other { looked: now },
        Ok(()) => Kind::Failed {
            why: format!("process {pid}: {error}"),
            looked: now,
        },
    };
    let is_served = match target.maps_served_files() {
        Ok(is_served) => is_served,
        Err(error) => return (failed(error), false),
    };
    if is_served && !may_wait {
        return (Kind::Deferred(Deferred::MapsServedFiles), is_served);
    }
    let kind = match target.python() {
        Ok(Some(python)) => Kind::Python(format!("CPython {}", python.full_version)),
        Ok(None) => Kind::Other { looked: now },
        Err(error) => failed(error),
    };
    (kind, is_served)
}

/// What a walk gave.
pub(super) struct Walk {
    /// For the next walk; `None` when this one failed, or found no heap or no Python.
    pub(super) sampler: Option<Sampler>,
    pub(super) sample: Result<Sample, NotWalked>,
    /// Whether it maps files for which the kernel does not answer itself; `None` where that cannot be read, as of one that
    /// has ended.
    pub(super) is_served: Option<bool>,
}

/// Walks a process, which is opened unless it is held.
pub(super) fn walk(held: Option<Sampler>, id: ProcessId, sampling: SamplingOptions) -> Walk {
    match opened(held, id) {
        Ok(sampler) => {
            let sample = sampler.take(sampling).map_err(NotWalked::from);
            let is_served = sampler.target().maps_served_files().ok();
            // What its files say is kept with it, also that they did not answer at the time.
            let is_known = sample
                .as_ref()
                .is_ok_and(|sample| !sample.heaps.is_empty() && sample.target.python.is_some());
            Walk {
                sampler: is_known.then_some(sampler),
                sample,
                is_served,
            }
        }
        Err(error) => Walk {
            sampler: None,
            sample: Err(error),
            is_served: None,
        },
    }
}

fn opened(held: Option<Sampler>, id: ProcessId) -> Result<Sampler, NotWalked> {
    let sampler = match held {
        Some(sampler) => sampler,
        None => {
            let sampler = Sampler::open(id.pid)?;
            sampler.target().waits_once();
            sampler
        }
    };
    // The number may have been given anew between listing and opening.
    match sampler.target().began_ticks()? == id.began_ticks {
        true => Ok(sampler),
        false => Err(NotWalked::Unknown),
    }
}
