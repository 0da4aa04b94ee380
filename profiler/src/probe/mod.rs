//! Probing: where to probe, and the probes themselves.

mod budget;
mod calibrate;
mod decode;
mod error;
mod loaded;
mod meter;
mod multi;
mod object;
pub mod plan;
mod planner;
mod session;
mod sites;
pub mod support;
mod traps;
mod worker;

pub use budget::Budget;
pub use error::ProbeError;
pub use object::Inputs;
pub use session::ProbeSession;
