//! Flags of the commands that sample once: `snapshot`, `explain` and `diff`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{ArgGroup, Args};

use super::SamplingArgs;
use super::files::LimitArgs;
use super::values::{duration, output};
use crate::session::diff::{After, DiffOptions};
use crate::session::options::{ReadObjects, SnapshotOptions, Subject};
use crate::session::saved::SavedOptions;
use crate::session::top::TreeOptions;

/// What is inspected: exactly one of these.
fn subject(args: &[&'static str]) -> ArgGroup {
    ArgGroup::new("subject").args(args).required(true)
}

#[derive(Debug, Args)]
pub(in crate::cli) struct SnapshotSourceArgs {
    /// The process to profile
    #[arg(short, long, value_name = "PID", allow_negative_numbers = true,
        value_parser = clap::value_parser!(i32).range(1..))]
    pub(in crate::cli) pid: Option<i32>,
    /// Read this core file, of the kernel or of gcore, instead of a process
    #[arg(long, value_name = "FILE", conflicts_with_all = ["pid", "no_stop", "swap_in"])]
    core: Option<PathBuf>,
    /// The program that ran, when its file is no longer at its path
    #[arg(long, value_name = "FILE", requires = "core")]
    exe: Option<PathBuf>,
    /// Take the process and all its descendants together: pages that they share are counted once
    ///
    /// Each that runs Python is walked once, within 30 s in all. Python's objects are read of the master and of up to
    /// 12 of the others, those that are worst, the largest or growing fastest.
    #[arg(long, requires = "pid")]
    tree: bool,
    #[command(flatten)]
    sampling: SamplingArgs,
}

impl SnapshotSourceArgs {
    /// The tree, if --tree was given.
    fn tree(&self) -> Option<TreeOptions> {
        let master = self.pid.filter(|_| self.tree)?;
        Some(TreeOptions {
            master,
            sampling: self.sampling.options(),
            objects: None,
            explained: false,
            predict: false,
        })
    }

    /// Whether it is a core file.
    pub(in crate::cli) fn is_core(&self) -> bool {
        self.core.is_some()
    }

    /// The files that are read.
    pub(in crate::cli) fn inputs(&self) -> Vec<PathBuf> {
        let options = self.options();
        let files = options.subject.files().into_iter();
        files.map(Path::to_owned).collect()
    }

    pub(in crate::cli) fn options(&self) -> SnapshotOptions {
        let subject = match &self.core {
            Some(file) => Subject::Core {
                file: file.clone(),
                exe: self.exe.clone(),
                max_walk: self.sampling.max_walk,
            },
            None => Subject::Process {
                // Required unless there is a core.
                pid: self.pid.unwrap_or_default(),
                sampling: self.sampling.options(),
            },
        };
        SnapshotOptions {
            subject,
            predict: false,
            objects: None,
            outputs: Vec::new(),
        }
    }
}

#[derive(Debug, Args)]
#[command(group(subject(&["pid", "core"])))]
#[command(mut_arg("tree", |tree| tree.conflicts_with_all(["predict", "stop_for_objects", "outputs"])))]
pub(in crate::cli) struct SnapshotArgs {
    #[command(flatten)]
    pub(in crate::cli) source: SnapshotSourceArgs,
    /// Print JSON (schema fragscope.snapshot/1) instead of text
    #[arg(long)]
    pub(in crate::cli) json: bool,
    /// Predict what other allocators would need, by replaying its heap in them
    #[arg(long)]
    predict: bool,
    /// List Python's objects by type, and which names hold them; types, names and lengths are read,
    /// never values
    #[arg(long)]
    objects: bool,
    /// As --objects, but exact: the target is stopped while they are read, about 1 s for each 300 MiB
    /// of objects and at most --max-stop
    #[arg(long, conflicts_with_all = ["core", "no_stop", "slices"])]
    stop_for_objects: bool,
    /// As --objects, read twice, TIME apart (e.g. 10s), to show which types and which holders grow
    #[arg(long, value_name = "TIME", value_parser = duration, conflicts_with = "core")]
    growth: Option<Duration>,
    /// File to write as well; its extension chooses the format: .fragsnap, .html, .json, .csv or .hlog; may be
    /// given several times
    #[arg(short, long = "output", value_name = "FILE", value_parser = output())]
    outputs: Vec<PathBuf>,
}

impl SnapshotArgs {
    /// The tree, if --tree was given.
    pub(in crate::cli) fn tree(&self) -> Option<TreeOptions> {
        let tree = self.source.tree()?;
        Some(TreeOptions {
            objects: self.read_objects(),
            ..tree
        })
    }

    fn read_objects(&self) -> Option<ReadObjects> {
        let wanted = self.objects || self.stop_for_objects || self.growth.is_some();
        wanted.then_some(ReadObjects {
            in_stop: self.stop_for_objects,
            twice: self.growth,
        })
    }

    pub(in crate::cli) fn options(&self) -> SnapshotOptions {
        SnapshotOptions {
            predict: self.predict,
            objects: self.read_objects(),
            outputs: self.outputs.clone(),
            ..self.source.options()
        }
    }
}

#[derive(Debug, Args)]
#[command(group(subject(&["pid", "core", "saved"])))]
pub(in crate::cli) struct ExplainArgs {
    /// A saved session; its last walk is explained
    #[arg(id = "saved", value_name = "FILE", conflicts_with_all = ["no_stop", "slices", "one_stop", "swap_in"])]
    file: Option<PathBuf>,
    /// Explain walk N instead of the last; the first is 1
    #[arg(long, value_name = "N", conflicts_with_all = ["pid", "core"],
        value_parser = clap::value_parser!(u64).range(1..))]
    at: Option<u64>,
    /// Show which objects grew since this earlier saved session of the same process
    #[arg(long, value_name = "EARLIER", requires = "saved", conflicts_with_all = ["pid", "core"])]
    since: Option<PathBuf>,
    /// Do not predict what other allocators would need by replaying its heap in them
    #[arg(long)]
    pub(in crate::cli) no_predict: bool,
    /// Read Python's objects twice, TIME apart, to show which types and which holders grow
    ///
    /// `explain` takes that long, and the time to read the objects: about 1 s for each 300 MiB of them.
    /// 0s reads them once, without growth.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration,
        conflicts_with_all = ["core", "saved"])]
    growth: Duration,
    /// Do not read Python's objects
    #[arg(long, conflicts_with = "saved")]
    no_objects: bool,
    /// Read Python's objects while the target is stopped: exact even where they change fast. About 1 s
    /// for each 300 MiB of them, and at most --max-stop
    #[arg(long, conflicts_with_all = ["core", "saved", "no_stop", "slices", "no_objects", "tree"])]
    stop_for_objects: bool,
    #[command(flatten)]
    pub(in crate::cli) source: SnapshotSourceArgs,
    #[command(flatten)]
    limits: LimitArgs,
}

impl ExplainArgs {
    /// The tree, if --tree was given.
    pub(in crate::cli) fn tree(&self) -> Option<TreeOptions> {
        let tree = self.source.tree()?;
        Some(TreeOptions {
            explained: true,
            predict: !self.no_predict,
            objects: self.read_objects(),
            ..tree
        })
    }

    fn read_objects(&self) -> Option<ReadObjects> {
        (!self.no_objects).then_some(ReadObjects {
            in_stop: self.stop_for_objects,
            twice: Some(self.growth).filter(|apart| !apart.is_zero()),
        })
    }

    /// The files that are read.
    pub(in crate::cli) fn inputs(&self) -> Vec<PathBuf> {
        let mut files = self.source.inputs();
        files.extend(self.file.iter().chain(&self.since).cloned());
        files
    }

    /// What to explain: a saved session, or else a process or a core.
    pub(in crate::cli) fn options(&self) -> Result<SavedOptions, SnapshotOptions> {
        match &self.file {
            Some(file) => Ok(SavedOptions {
                since: self.since.clone(),
                ..self.limits.saved(file, self.at)
            }),
            None => Err(SnapshotOptions {
                predict: !self.no_predict,
                objects: self.read_objects(),
                ..self.source.options()
            }),
        }
    }
}

#[derive(Debug, Args)]
#[command(group(subject(&["pid", "after"])))]
pub(in crate::cli) struct DiffArgs {
    /// The earlier saved session
    #[arg(value_name = "BEFORE")]
    before: PathBuf,
    /// The later saved session
    #[arg(value_name = "AFTER")]
    after: Option<PathBuf>,
    /// Compare with this process, as it is now
    #[arg(short, long, value_name = "PID", allow_negative_numbers = true,
        value_parser = clap::value_parser!(i32).range(1..))]
    pub(in crate::cli) pid: Option<i32>,
    /// Compare walk N of BEFORE instead of the last; the first is 1
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    before_at: Option<u64>,
    /// Compare walk N of AFTER instead of the last
    #[arg(long, value_name = "N", conflicts_with = "pid",
        value_parser = clap::value_parser!(u64).range(1..))]
    at: Option<u64>,
    /// Print JSON (schema fragscope.diff/1) instead of text
    #[arg(long)]
    pub(in crate::cli) json: bool,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    limits: LimitArgs,
}

impl DiffArgs {
    /// The files that are read.
    pub(in crate::cli) fn inputs(&self) -> Vec<PathBuf> {
        let before = std::iter::once(&self.before);
        before.chain(&self.after).cloned().collect()
    }

    pub(in crate::cli) fn options(&self) -> DiffOptions {
        DiffOptions {
            before: self.limits.saved(&self.before, self.before_at),
            after: match (&self.after, self.pid) {
                (Some(file), _) => After::Saved(self.limits.saved(file, self.at)),
                (None, pid) => After::Process {
                    // One of the two is required.
                    pid: pid.unwrap_or(0),
                    sampling: self.sampling.options(),
                },
            },
        }
    }
}
