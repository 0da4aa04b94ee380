//! `--tree`: a master and its descendants, each walked once, as one unit.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use profiler_core::host::{Arrangement, ProcessId, TreeView};
use profiler_core::report::FragReport;
use profiler_core::sample::Sample;
use profiler_core::view::View;
use profiler_sampling::{HostOptions, NotWalked, SamplingOptions};
use profiler_target::{Gone, OpenError, Target};

use super::once::{WALKS_FOR, take};
use super::tree_objects::{self, Found, Wanted, open};
use super::watcher::WatchedHost;
use crate::session::options::ReadObjects;
use crate::session::predictor::predict_now;
use crate::session::{SessionError, interrupt};

/// What is inspected.
#[derive(Copy, Clone, Debug)]
pub struct TreeOptions {
    /// The number of the master.
    pub master: i32,
    /// How each process is walked.
    pub sampling: SamplingOptions,
    /// Whether and how Python's objects of the worst are read.
    pub objects: Option<ReadObjects>,
    /// Whether the worst of them is explained…
    pub explained: bool,
    /// … and its heap replayed in other allocators.
    pub predict: bool,
}

/// What was observed.
#[derive(Debug)]
pub struct TreeSeen {
    /// The tree.
    pub view: TreeView,
    /// The process with the most fragmentation, if it is to be explained.
    pub worst: Option<View>,
    /// Whether a signal ended the predictions.
    pub interrupted: bool,
}

/// Walks a process and all its descendants, one after another.
///
/// # Errors
/// When there is no such process, or it cannot be inspected.
pub fn tree(options: &TreeOptions) -> Result<TreeSeen, SessionError> {
    // An invalid pid gives the same errors as in other commands.
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
        let processes = take(
            &mut host,
            &Arrangement::default(),
            Some(WALKS_FOR),
            interrupted,
        )?;
        let mut view = TreeView {
            master: options.master,
            processes,
            objects: None,
        };
        let found = read_objects(&mut view, options, interrupted);
        let worst = match options.explained {
            true => worst(&mut view, found, options),
            false => None,
        };
        Ok::<_, io::Error>((view, worst))
    });
    let (view, worst) = looked?;
    if view.processes.rows.is_empty() {
        return Err(OpenError::Gone(Gone::Exited(options.master)).into());
    }
    let worst = worst.map(|(view, sample)| match (options.predict, sample) {
        (true, Some(sample)) => {
            let root = Target::open(sample.target.pid).ok();
            let root = root.and_then(|target| target.foreign_root());
            let report = view
                .report
                .with_predictions(predict_now(&sample, root.as_deref(), &flag));
            View {
                report: Arc::new(report),
                ..view
            }
        }
        _ => view,
    });
    Ok(TreeSeen {
        view,
        worst,
        interrupted: flag.load(Ordering::Relaxed),
    })
}

/// Reads the objects of the worst processes, if requested.
fn read_objects(view: &mut TreeView, options: TreeOptions, interrupted: &AtomicBool) -> Found {
    let Some(objects) = options.objects else {
        return Found::default();
    };
    let wanted = Wanted {
        sampling: options.sampling,
        objects,
        kept: view.worst().map(|row| row.process.id),
    };
    let mut found = tree_objects::read(view, wanted, interrupted);
    view.objects = Some(std::mem::take(&mut found.objects));
    found
}

/// The process that is worst now, as its objects were read, and a walk of it to be replayed in
/// other allocators. Processes that ended meanwhile are not shown.
fn worst(
    view: &mut TreeView,
    found: Found,
    options: TreeOptions,
) -> Option<(View, Option<Sample>)> {
    let mut views = found.views;
    while let Some(id) = view.worst().map(|row| row.process.id) {
        let read = views.iter().position(|(read, _)| *read == id);
        if let Some(read) = read.map(|at| views.swap_remove(at).1) {
            let is_it = |sample: &Sample| sample.target.pid == id.pid;
            let sample = found.kept.filter(is_it);
            // It may be the worst only by its growth.
            let sample = sample.or_else(|| options.predict.then(|| walk(id, options).ok())?);
            return Some((read, sample));
        }
        match walk(id, options) {
            Ok(sample) => {
                let report = FragReport::from_sample(&sample);
                let of_one = View::of_one_look(report, Vec::new(), Vec::new());
                return Some((of_one, Some(sample)));
            }
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

fn walk(id: ProcessId, options: TreeOptions) -> Result<Sample, NotWalked> {
    Ok(open(id)?.take(options.sampling)?)
}
