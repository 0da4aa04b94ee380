//! Probing: where to probe, and the probes themselves.

mod armed;
mod budget;
mod calibrate;
mod decode;
mod error;
pub mod leftover;
mod links;
mod loaded;
mod meter;
mod multi;
mod object;
mod pins;
pub mod plan;
mod planner;
mod session;
mod sites;
mod stream;
pub mod support;
mod traps;
mod worker;

pub use budget::Budget;
pub use error::ProbeError;
pub use object::Inputs;
pub use session::ProbeSession;
pub use stream::{EventStream, StreamCost};
