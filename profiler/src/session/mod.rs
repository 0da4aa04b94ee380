//! Sessions: the one module that sees both the target and what is shown of it.

mod aside;
mod attach;
pub(crate) mod black_box;
pub mod check;
mod children;
pub mod convert;
pub mod demo;
pub mod diff;
pub mod doctor;
mod front;
mod history;
mod interrupt;
pub(crate) mod kinds;
mod live;
mod objects;
pub mod options;
pub(crate) mod outputs;
mod predictor;
mod probes;
mod progress;
pub mod push;
mod reader;
pub mod record;
pub mod replay;
pub mod saved;
mod screen;
pub mod serve;
pub mod settings;
mod signals;
mod snapshot;
pub mod top;
pub mod what_if;
mod worker;

pub use attach::attach;
pub use demo::run as demo;
pub use snapshot::snapshot;

use std::io;

use profiler_core::objects::NoCensus;
use profiler_lab::failure::Failure;
use profiler_sampling::CoreSampleError;
use profiler_target::{CoreError, ErrorKind, OpenError};
use profiler_trace::whole_file::WriteError;
use tokio::runtime::Runtime;

use self::outputs::Unwritten;
use self::saved::SavedError;
use self::serve::ListenError;
use self::settings::SettingsError;
use self::signals::Signals;
use crate::export::ExportError;
use crate::tui::NoScreen;

/// The event loop of a session and the signals that it waits for, starting now: call it before
/// anything is attached, started or drawn, so that no signal has its default action.
///
/// # Errors
/// When the kernel rejects one of them.
fn event_loop() -> io::Result<(Runtime, Signals)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let signals = {
        let _entered = runtime.enter();
        Signals::new()?
    };
    Ok((runtime, signals))
}

/// How a session ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Ending {
    /// As asked: the duration is over, or the user quit.
    Done,
    /// By this signal or key; everything was saved.
    Interrupted(&'static str),
    /// The target exited or executed another program; its last sample was saved.
    TargetGone(String),
}

/// Why a session failed.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The target cannot be inspected.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The core file cannot be inspected.
    #[error(transparent)]
    Core(#[from] CoreError),
    /// Some outputs could not be written.
    #[error(transparent)]
    Outputs(#[from] Unwritten),
    /// There is no screen to draw on.
    #[error(transparent)]
    Screen(#[from] NoScreen),
    /// An allocator to compare with is not available, or nothing can be compared.
    #[error("cannot compare with {}", .0.why)]
    WhatIf(Failure),
    /// The worker cannot be followed for `--what-if`.
    #[error("other allocators are compared by what the probes record: {0}")]
    Shadows(#[source] record::RecordError),
    /// A signal came before there was anything to show.
    #[error("interrupted: nothing was printed")]
    Interrupted,
    /// Objects were read, and could not be read once more.
    #[error("what grows is not known, as objects could not be read again: {0}")]
    NoGrowth(NoCensus),
    /// None of the allocators of `--what-if` could be played.
    #[error("nothing was compared: {0}")]
    NothingCompared(String),
    /// The demo's worker did not start.
    #[error("{0}")]
    Demo(String),
    /// The address cannot be used for serving.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The settings for pushing are not usable.
    #[error("profiles cannot be pushed: settings {0}")]
    Push(#[from] SettingsError),
    /// The black box cannot be had.
    #[error("no black box: {0}")]
    BlackBox(WriteError),
    /// A saved session that is compared with.
    #[error(transparent)]
    Saved(#[from] SavedError),
    /// The target or the terminal failed while in use.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl SessionError {
    /// The kind of the error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Open(open) => open.kind(),
            Self::Core(core) => core.kind(),
            Self::Shadows(record) => record.kind(),
            Self::Outputs(unwritten) => kinds::of_unwritten(unwritten),
            Self::Io(error) => ErrorKind::of_io(error),
            Self::Screen(_) => ErrorKind::NoScreen,
            Self::WhatIf(failure) => failure.kind.clone(),
            Self::BlackBox(error) => kinds::of_write(error),
            Self::Saved(error) => error.kind(),
            Self::Listen(error) => error.kind(),
            Self::Push(_) => ErrorKind::PushSettings,
            Self::Interrupted => ErrorKind::Interrupted,
            Self::NothingCompared(_) | Self::NoGrowth(_) | Self::Demo(_) => ErrorKind::Other,
        }
    }
}

impl From<ExportError> for SessionError {
    fn from(error: ExportError) -> Self {
        Self::Outputs(error.into())
    }
}

impl From<CoreSampleError> for SessionError {
    fn from(error: CoreSampleError) -> Self {
        match error {
            CoreSampleError::Open(error) => Self::Core(error),
            CoreSampleError::Read(error) => Self::Io(error),
        }
    }
}
