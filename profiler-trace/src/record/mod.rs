//! Turns recorded data into a trace: one event type for all sources, one normaliser, one recorder.
//!
//! ```text
//! probes, preloaded recorder -> SourceEvent -> Recorder { Normaliser, LargeBlocks } -> TraceSink
//! recordings of other tools  -> SourceEvent -> Normaliser -> items, as read from a trace
//! ```
//!
//! A source identifies processes and threads by its own numbers and only knows the call that it
//! saw. The [`Normaliser`] turns that into [`Event`](crate::trace::Event)s, and the [`Recorder`]
//! adds data from samples of the processes. Nothing here does I/O: a [`TraceSink`] does.

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
