//! What the user requested, independent of the command line's syntax.

use std::path::{Path, PathBuf};
use std::time::Duration;

use profiler_sampling::SamplingOptions;

use super::black_box::BlackBoxOptions;
use super::outputs::files_among;
use super::push::PushOptions;
use super::what_if::WhatIfOptions;

/// What probing and stopping may take from the target.
#[derive(Copy, Clone, Debug, PartialEq)]
pub enum Budget {
    /// At most this share of wall time of one core, above 0 and at most 1.
    Share(f64),
    /// No limit: the probes stay armed.
    Unlimited,
}

/// What is requested of call sites besides Python functions that allocate.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct SiteOptions {
    /// Which functions get memory from the kernel.
    pub growth: bool,
    /// Native functions as well.
    pub native: bool,
}

/// What `attach` does.
#[derive(Clone, Debug, PartialEq)]
pub struct AttachOptions {
    /// The target.
    pub pid: i32,
    /// Print a line an interval instead of drawing a screen.
    pub headless: bool,
    /// Print NDJSON instead of aligned lines; implies headless.
    pub json: bool,
    /// Time between two looks.
    pub interval: Duration,
    /// End after this long; `None` means until the user ends it or the target is gone.
    pub duration: Option<Duration>,
    /// Its cost limit for the target.
    pub budget: Budget,
    /// Whether to probe malloc and free.
    pub probes: bool,
    /// What is requested of call sites besides Python functions that allocate.
    pub sites: SiteOptions,
    /// Whether to predict what other allocators and settings would need.
    pub predict: bool,
    /// Whether to read Python objects, to show which types and names hold the memory.
    pub objects: bool,
    /// The allocators to compare it with while it runs.
    pub what_if: Option<WhatIfOptions>,
    /// How the target is sampled.
    pub sampling: SamplingOptions,
    /// Where the last walks are kept.
    pub black_box: Option<BlackBoxOptions>,
    /// Where profiles are pushed to.
    pub push: Option<PushOptions>,
    /// Files to write at the end, the format by the ending.
    pub outputs: Vec<PathBuf>,
}

impl AttachOptions {
    /// The files that are read.
    pub(crate) fn inputs(&self) -> Vec<&Path> {
        let what_if = self.what_if.as_ref();
        what_if.map_or_else(Vec::new, |what_if| files_among(&what_if.allocators))
    }
}

/// What to inspect once.
#[derive(Clone, Debug, PartialEq)]
pub enum Subject {
    /// A live process.
    Process {
        /// Its pid.
        pid: i32,
        /// How it is sampled.
        sampling: SamplingOptions,
    },
    /// A core file.
    Core {
        /// The file.
        file: PathBuf,
        /// The program that ran, if it is no longer at its path.
        exe: Option<PathBuf>,
        /// The time limit for reading it.
        max_walk: Option<Duration>,
    },
}

impl Subject {
    /// The files read for it.
    pub(crate) fn files(&self) -> Vec<&Path> {
        match self {
            Self::Process { .. } => Vec::new(),
            Self::Core { file, exe, .. } => {
                let exe = exe.as_deref().into_iter();
                exe.chain([file.as_path()]).collect()
            }
        }
    }
}

/// When the objects of a process are read.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct ReadObjects {
    /// During the walk's stop, which takes longer for it, instead of after it.
    pub in_stop: bool,
    /// Twice, at walks this far apart, which gives growth.
    pub twice: Option<Duration>,
}

/// What `snapshot` and `explain` do.
#[derive(Clone, Debug, PartialEq)]
pub struct SnapshotOptions {
    /// The target.
    pub subject: Subject,
    /// Whether to predict what other allocators and settings would need.
    pub predict: bool,
    /// Whether and when its objects are read.
    pub objects: Option<ReadObjects>,
    /// Files to write, the format by the ending.
    pub outputs: Vec<PathBuf>,
}
