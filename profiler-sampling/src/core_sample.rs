//! Samples a core file: the same walks over memory that does not change.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use profiler_core::completeness::{Completeness, Defect, StandStill};
use profiler_core::memory::ResidentMemory;
use profiler_core::objects::{Census, Context, NoCensus};
use profiler_core::sample::{Host, KernelCount, Sample};
use profiler_core::units::bytes;
use profiler_target::{CoreError, CoreFile, Process, UnreadFiles};

use super::facts::Facts;
use super::objects::{census, unreadable};
use super::options::core_time;
use super::roots::Roots;
use super::sampler::out_of_time;
use super::walkers::Input;
use super::walks;

/// At most this many missing files are named.
const NAMED_FILES: usize = 3;

/// Why a core file could not be sampled.
#[derive(Debug, thiserror::Error)]
pub enum CoreSampleError {
    /// It is not a readable core.
    #[error(transparent)]
    Open(#[from] CoreError),
    /// Reading it failed later.
    #[error(transparent)]
    Read(#[from] io::Error),
}

/// The sample of a core file, and how whole the file is.
#[derive(Debug)]
pub struct CoreSample {
    /// The sample.
    pub sample: Sample,
    /// Bytes missing at the end of the core.
    pub missing_bytes: u64,
    max_walk: Option<Duration>,
    core: CoreFile,
}

impl CoreSample {
    /// Takes the census of the objects in it.
    ///
    /// # Errors
    /// When there is nothing to examine.
    pub fn census(&self) -> Result<Census, NoCensus> {
        let sample = &self.sample;
        let time = core_time(self.max_walk, sample.residency.resident_bytes());
        let memory = ResidentMemory::new(self.core.memory().in_time(&time), &sample.residency);
        let python = self.core.python_version().map_err(unreadable)?;
        let context = Context {
            python,
            serves: sample.target.python_malloc.unwrap_or_default(),
            stopped: true,
            copied: &[],
        };
        let mut census = census(&memory, &sample.residency, &sample.heaps, context, &time)?;
        census.taken_at_ns = sample.taken_at_ns;
        Ok(census)
    }
}

/// Reads the core at `path` for at most `max_walk`, with the program `exe` if that is no longer at
/// its old path; then, if requested, its objects for at most the same time.
///
/// # Errors
/// The errors of [`CoreFile::open`], and later read errors.
pub fn sample_of_core(
    path: &Path,
    exe: Option<&Path>,
    max_walk: Option<Duration>,
) -> Result<CoreSample, CoreSampleError> {
    let core = CoreFile::open(path, exe)?;
    Ok(CoreSample {
        sample: sample_of(&core, max_walk)?,
        max_walk,
        missing_bytes: core.missing_bytes(),
        core,
    })
}

fn sample_of(core: &CoreFile, max_walk: Option<Duration>) -> Result<Sample, CoreSampleError> {
    let began = Instant::now();
    let pages = core.pages()?;
    let mut residency = pages.residency;
    for thread in core.threads() {
        residency.mark_stack(thread.stack_pointer);
    }
    let unread = core.unread_files();
    let mut completeness = Completeness {
        stand_still: StandStill::Throughout,
        files_over_limit: unread.as_ref().is_some_and(|unread| unread.is_over_limit),
        defects: limits(core, pages.zero_bytes, unread),
        ..Completeness::default()
    };
    let time = core_time(max_walk, residency.resident_bytes());
    let memory = ResidentMemory::new(core.memory().in_time(&time), &residency);
    let (mut facts, roots) = (Facts::of(core, residency.mappings())?, Roots::default());
    facts.read_python_tables(&memory, &residency, &roots);
    let input = Input {
        memory: &memory,
        residency: &residency,
        facts: &facts,
        roots: &roots,
        threads: core.threads(),
    };
    let heaps = walks::heaps(&input, &mut completeness);
    let mut target = core.describe()?;
    target.python_malloc = facts.python_malloc(&heaps);
    if time.was_met() {
        out_of_time(time.longest(), &mut completeness);
    }
    completeness.walk_ns = began.elapsed().as_nanos() as u64;
    Ok(Sample {
        taken_at_ns: core.taken_at_ns(),
        host: Host {
            page_size: residency.page_size(),
            ..Host::default()
        },
        target,
        kernel: KernelCount::of_core(residency.resident_bytes()),
        residency,
        heaps,
        completeness,
        ..Sample::default()
    })
}

/// What cannot be learned from this core.
fn limits(core: &CoreFile, zero_bytes: u64, unread: Option<UnreadFiles>) -> Vec<Defect> {
    let mut limits = Vec::new();
    let mut add = |what, bytes| {
        limits.push(Defect {
            addr: None,
            what,
            bytes,
            unreadable: true,
        });
    };
    let missing = core.missing_bytes();
    if missing > 0 {
        let what = format!(
            "the core is cut off: {} of it are missing, because a limit on its size (`ulimit -c`, \
             systemd-coredump's ExternalSizeMax=) or the disk was too small",
            bytes(missing)
        );
        add(what, missing);
    }
    if zero_bytes > 0 {
        let what = format!(
            "{} of the core are pages of zeros, which gcore writes for pages that were never \
             touched, too: they count as present",
            bytes(zero_bytes)
        );
        add(what, 0);
    }
    if let Some(unread) = unread {
        add(unread.what, 0);
    }
    let files = core.missing_files();
    if let Some(first) = files.first() {
        let more = files.len().saturating_sub(NAMED_FILES);
        let mut names = files[..files.len() - more].join(", ");
        if more > 0 {
            names = format!("{names} and {more} more");
        }
        let remedy =
            if core.libc().is_ok_and(|libc| libc.is_none()) || core.program() == Some(first) {
                ": name the program's own file, or read the core where the process ran"
            } else {
                ""
            };
        let what = format!(
            "files that were mapped are not here, or are not those that ran: {names}{remedy}"
        );
        add(what, 0);
    }
    limits
}
