//! Saved sessions: written while a target is watched, and read back as the same views.

mod browse;
mod read;
mod saver;

use std::io;
use std::path::{Path, PathBuf};

use profiler_core::text::visible;
use profiler_core::view::View;
use profiler_trace::limits::{Incomplete, Limits};
use profiler_trace::snapshot::ReadError;
use profiler_trace::whole_file::WriteError;

pub use browse::view;
pub use read::{export, load, load_predicted};
pub(crate) use saver::{SessionSaver, write_whole};

use super::kinds;
use crate::export::Format;
use crate::tui::NoScreen;
use profiler_target::{ErrorKind, host};

/// Which walk of which file to read, and the limits.
#[derive(Clone, Debug)]
pub struct SavedOptions {
    /// The saved session.
    pub file: PathBuf,
    /// The number of a walk, from 1 on; `None` is the last.
    pub at: Option<u64>,
    /// An earlier session: growth is measured since the objects of its last walk. `None` means
    /// since the session's own previous census.
    pub since: Option<PathBuf>,
    /// The size limit of the session, in bytes; `None` is the default.
    pub max_size: Option<u64>,
    /// The memory limit for its tables, in bytes; `None` is the default.
    pub max_memory: Option<u64>,
}

impl SavedOptions {
    /// The last walk of another file, within the same limits.
    fn of(&self, file: &Path) -> Self {
        Self {
            file: file.to_owned(),
            at: None,
            since: None,
            ..self.clone()
        }
    }

    fn limits(&self) -> Limits {
        Limits::new(self.max_size, self.max_memory, host::available_bytes())
    }
}

/// An export of a saved session.
#[derive(Clone, Debug)]
pub struct SavedExport {
    /// The session and the walk.
    pub saved: SavedOptions,
    /// The format to write.
    pub format: Format,
    /// Whether predictions are made if the session has none of that walk.
    pub is_predicted: bool,
    /// The file to write; `None` prints.
    pub output: Option<PathBuf>,
}

/// One walk of a saved session, as it was observed.
#[derive(Debug)]
pub struct Saved {
    /// The view at that time.
    pub view: View,
    /// Why not all of the file could be read.
    pub trouble: Option<Incomplete>,
}

/// Why nothing of a saved session can be shown.
#[derive(Debug, thiserror::Error)]
pub enum SavedError {
    /// The file cannot be read.
    #[error("cannot read {}: {}", visible(path.display()), visible(why))]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        why: ReadError,
    },
    /// It has no readable walk.
    #[error(
        "{} has no walk that can be read{}",
        visible(path.display()),
        trouble.as_ref().map_or(String::new(), |trouble| format!(": {}", visible(&trouble.why)))
    )]
    NoWalk {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        trouble: Option<Incomplete>,
    },
    /// It has no walk with that number.
    #[error("{} has no walk {at} that can be read; its last one is {last}", visible(path.display()))]
    NoSuchWalk {
        /// The file.
        path: PathBuf,
        /// The number that was requested.
        at: u64,
        /// The number of its last walk.
        last: u64,
    },
    /// No objects were read of the earlier session.
    #[error(
        "{} has no objects to compare with{}",
        visible(path.display()),
        trouble.as_ref().map_or(String::new(), |trouble| format!("; of it {}", visible(&trouble.why)))
    )]
    NoObjects {
        /// The file.
        path: PathBuf,
        /// Why it could not be read completely.
        trouble: Option<Incomplete>,
    },
    /// The earlier session is another process's.
    #[error(
        "{} is of process {earlier}, and the objects to compare are of process {later}{}",
        visible(path.display()),
        if earlier == later { " with that number, another one" } else { "" }
    )]
    OtherProcess {
        /// The earlier session.
        path: PathBuf,
        /// Its process.
        earlier: i32,
        /// The process that is explained.
        later: i32,
    },
    /// The session given for growth is not earlier.
    #[error(
        "{} is not an earlier session: its objects were read at or after the walk that is explained",
        visible(.0.display())
    )]
    NotEarlier(PathBuf),
    /// There is no screen to draw on.
    #[error(transparent)]
    Screen(#[from] NoScreen),
    /// The output cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The view cannot be put into the format.
    #[error("cannot export the session: {0}")]
    Format(String),
    /// The terminal, what prints, or the wait for signals failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl SavedError {
    /// The kind of the error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Read { why, .. } => kinds::of_session(why),
            Self::NoWalk {
                trouble: Some(incomplete),
                ..
            } => kinds::of_incomplete(incomplete),
            Self::NoObjects { .. } => ErrorKind::NoObjects,
            Self::Screen(_) => ErrorKind::NoScreen,
            Self::Write(error) => kinds::of_write(error),
            Self::Io(error) => ErrorKind::of_io(error),
            Self::NoWalk { trouble: None, .. }
            | Self::NoSuchWalk { .. }
            | Self::OtherProcess { .. }
            | Self::NotEarlier(_)
            | Self::Format(_) => ErrorKind::Other,
        }
    }
}
