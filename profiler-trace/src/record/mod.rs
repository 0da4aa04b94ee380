//! From what was recorded to a trace: one event type for all sources, one normaliser, one recorder.
//!
//! ```text
//! probes, preloaded recorder -> SourceEvent -> Recorder { Normaliser, LargeBlocks } -> TraceSink
//! recordings of other tools  -> SourceEvent -> Normaliser -> items, as read from a trace
//! ```
//!
//! A source names processes and threads by its own numbers and knows no more than the call that it saw.
//! The [`Normaliser`] makes [`Event`](crate::trace::Event)s of that, and the [`Recorder`] adds what
//! samples of the processes show. Nothing here does IO: a [`TraceSink`] does.

mod blocks;
mod clock;
mod foreign;
mod forks;
mod large;
mod normaliser;
mod numbers;
mod recorder;
mod source;

pub use clock::Clock;
pub(crate) use foreign::{EventSource, Normalised, SourceItem};
pub use normaliser::{LeftOut, Normaliser};
pub use numbers::{MAX_PROCESSES, MAX_THREADS, RecordedProcess};
pub use recorder::{Recorder, TraceSink};
pub use source::{SourceEvent, SourceKind};
