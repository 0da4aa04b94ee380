//! The lab: what a recorded program would need under other allocators and settings, measured by
//! playing its stream into them.

pub mod allocators;
pub mod play;
pub(crate) mod shadow;
