//! The lab: what a recorded program would need under other allocators and settings, measured by
//! playing its stream into them.

pub mod ablation;
pub mod allocators;
pub mod calibrate;
pub mod candidates;
pub mod environment;
pub mod field;
pub mod figures;
pub(crate) mod input;
mod loader;
pub mod open;
pub mod play;
pub mod progress;
pub mod recorded;
pub mod replay;
pub mod report;
pub(crate) mod shadow;
pub mod verdict;
