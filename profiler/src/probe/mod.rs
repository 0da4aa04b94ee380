//! Probing: where to probe, and the probes themselves.

mod object;
pub mod plan;
mod planner;
mod sites;
pub mod support;

pub use object::Inputs;
