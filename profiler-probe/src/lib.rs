//! eBPF probes on the functions that serve a live process's malloc and free, within a budget.
//!
//! A [`plan::ProbePlan`] says which mapped object serves malloc and at which instructions of it every
//! call passes; a [`ProbeSession`] sets the probes there, keeps what their traps cost the target
//! within a [`Budget`], and counts; an [`EventStream`] keeps every event, for a recording. The links
//! are held by a guard, which removes them whatever becomes of this process; [`leftover`] finds and
//! removes what other ends left. This is the only crate that knows aya, and it carries the BPF object.

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
