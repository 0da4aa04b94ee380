//! Probing: where to probe, and the probes themselves.

mod object;
pub mod plan;
mod planner;
mod sites;

pub use object::Inputs;
