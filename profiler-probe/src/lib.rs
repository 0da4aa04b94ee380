//! eBPF probes on the malloc and free functions of a live process, within a budget.
//!
//! A [`plan::ProbePlan`] says which mapped object serves malloc and which of its instructions every
//! call passes. A [`ProbeSession`] attaches the probes there, keeps the cost of their traps to the
//! target within a [`Budget`], and counts. An [`EventStream`] keeps every event, for a recording. A
//! guard holds the links and removes them whatever happens to this process; [`leftover`] finds and
//! removes what other tools left behind. This is the only crate that uses aya, and the BPF object
//! is embedded in it.

mod armed;
mod budget;
mod by_site;
mod calibrate;
#[cfg(test)]
mod damaged;
mod decode;
mod error;
mod growth;
mod kernel_types;
pub mod leftover;
mod links;
mod loaded;
mod meter;
mod multi;
mod native;
mod object;
mod pins;
pub mod plan;
mod planner;
mod program;
mod session;
mod shared;
mod sites;
mod stacks;
mod stream;
pub mod support;
mod traps;
mod victims;
mod worker;

pub use budget::Budget;
pub use error::ProbeError;
pub use object::Inputs;
pub use session::ProbeSession;
pub use stream::{EventStream, StreamCost};
pub use victims::OomVictims;

/// Now, on the clock of the events (`CLOCK_MONOTONIC`), in ns.
pub fn clock_ns() -> u64 {
    worker::now_ns()
}
