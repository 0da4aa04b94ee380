//! `diff`: compares two saved sessions, or one with a process.

use profiler_core::difference::Difference;
use profiler_sampling::SamplingOptions;
use profiler_target::as_caller;
use profiler_trace::limits::Incomplete;

use super::SessionError;
use super::options::{ReadObjects, SnapshotOptions, Subject};
use super::saved::{self, Saved, SavedError, SavedOptions};
use super::snapshot::snapshot;

/// What to compare.
#[derive(Clone, Debug)]
pub struct DiffOptions {
    /// The walk of before.
    pub before: SavedOptions,
    /// What to compare with it.
    pub after: After,
}

/// The later side of a comparison.
#[derive(Clone, Debug)]
pub enum After {
    /// A walk of a saved session.
    Saved(SavedOptions),
    /// A process, now.
    Process {
        /// Its pid.
        pid: i32,
        /// How it is walked.
        sampling: SamplingOptions,
    },
}

/// Two walks, and what changed from one to the other.
#[derive(Debug)]
pub struct Compared {
    /// The earlier one.
    pub before: Saved,
    /// The later one.
    pub after: Saved,
    /// What changed.
    pub difference: Difference,
}

impl Compared {
    /// Why not all of the two files could be read.
    pub fn trouble(self) -> Option<Incomplete> {
        match (self.before.trouble, self.after.trouble) {
            (Some(before), Some(after)) => Some(before.and_of(&after)),
            (before, after) => before.or(after),
        }
    }
}

/// Compares two walks. Objects of a process are read when the earlier session has some.
///
/// # Errors
/// When one of them cannot be had.
pub fn diff(options: &DiffOptions) -> Result<Compared, SessionError> {
    let before = load(&options.before)?;
    let after = match &options.after {
        After::Saved(after) => load(after)?,
        After::Process { pid, sampling } => {
            let has_objects = before.view.report.objects.is_some();
            let taken = snapshot(&SnapshotOptions {
                subject: Subject::Process {
                    pid: *pid,
                    sampling: *sampling,
                },
                predict: false,
                objects: has_objects.then_some(ReadObjects {
                    in_stop: false,
                    twice: None,
                }),
                outputs: Vec::new(),
            })?;
            Saved {
                view: taken.view,
                trouble: None,
            }
        }
    };
    let difference = Difference::between(&before.view.report, &after.view.report);
    Ok(Compared {
        before,
        after,
        difference,
    })
}

/// One of two files; messages about what it lacks include its name.
fn load(options: &SavedOptions) -> Result<Saved, SessionError> {
    // It may be compared with a process, for which privileges are kept.
    let mut saved = as_caller(|| saved::load(options)).map_err(SavedError::from)??;
    saved.trouble = (saved.trouble.take()).map(|trouble| trouble.of_file(&options.file));
    Ok(saved)
}
