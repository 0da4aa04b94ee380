//! `--tree`: a master and the processes that descend from it, each walked once, as one thing.

use std::io;
use std::sync::atomic::Ordering;

use profiler_core::host::TreeView;
use profiler_core::report::FragReport;
use profiler_core::sample::Sample;
use profiler_core::view::View;
use profiler_sampling::{HostOptions, NotWalked, Sampler, SamplingOptions};
use profiler_target::{Gone, OpenError, Target};

use super::once::{WALKS_FOR, take};
use super::watcher::WatchedHost;
use crate::session::predictor::predict_now;
use crate::session::{SessionError, interrupt};

/// What is looked at.
#[derive(Copy, Clone, Debug)]
pub struct TreeOptions {
    /// The number of the master.
    pub master: i32,
    /// How each process is walked.
    pub sampling: SamplingOptions,
    /// Whether the worst of them is explained…
    pub explained: bool,
    /// … and its heap played into other allocators.
    pub predict: bool,
}

/// What was seen.
#[derive(Debug)]
pub struct TreeSeen {
    /// The tree.
    pub view: TreeView,
    /// The process with the most fragmentation, where it is to be explained.
    pub worst: Option<View>,
    /// Whether a signal ended the predictions.
    pub interrupted: bool,
}

/// Walks a process and all that descend from it, one after the other.
///
/// # Errors
/// When there is no such process, or it cannot be looked into.
pub fn tree(options: &TreeOptions) -> Result<TreeSeen, SessionError> {
    // What is wrong with the number is said as by the other commands.
    drop(Target::open(options.master)?);
    let options = *options;
    let flag = interrupt::flag()?;
    let looked = interrupt::unless_interrupted("tree", &flag, move |interrupted| {
        let options_of_host = HostOptions {
            all: true,
            tree_of: Some(options.master),
            interval: WALKS_FOR,
            budget: None,
            sampling: options.sampling,
        };
        let mut host = WatchedHost::new(options_of_host, None);
        let processes = take(&mut host, Some(WALKS_FOR), interrupted)?;
        let mut view = TreeView {
            master: options.master,
            processes,
        };
        let worst = match options.explained {
            true => walk_worst(&mut view, options.sampling),
            false => None,
        };
        Ok::<_, io::Error>((view, worst))
    });
    let (view, worst) = looked?;
    if view.processes.rows.is_empty() {
        return Err(OpenError::Gone(Gone::Exited(options.master)).into());
    }
    let worst = worst.map(|sample| {
        let report = FragReport::from_sample(&sample);
        let report = match options.predict {
            true => {
                let root = Target::open(sample.target.pid).ok();
                let root = root.and_then(|target| target.foreign_root());
                report.with_predictions(predict_now(&sample, root.as_deref(), &flag))
            }
            false => report,
        };
        View::of_one_look(report, Vec::new(), Vec::new())
    });
    Ok(TreeSeen {
        view,
        worst,
        interrupted: flag.load(Ordering::Relaxed),
    })
}

/// A walk of the process that is worst now. Those that went meanwhile are not shown.
fn walk_worst(view: &mut TreeView, sampling: SamplingOptions) -> Option<Sample> {
    while let Some(id) = view.worst().map(|row| row.process.id) {
        let walk = || -> Result<Sample, NotWalked> {
            let sampler = Sampler::open(id.pid)?;
            match sampler.target().began_ticks()? == id.began_ticks {
                true => Ok(sampler.take(sampling)?),
                false => Err(NotWalked::Unknown),
            }
        };
        match walk() {
            Ok(sample) => return Some(sample),
            Err(why) if why.is_gone() => view.processes.rows.retain(|row| row.process.id != id),
            Err(why) => {
                let why = format!("process {} is not explained: {why}", id.pid);
                view.processes.notices.push(why);
                return None;
            }
        }
    }
    None
}
