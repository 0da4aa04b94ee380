//! See docs/architecture.md.

pub mod doctor;
pub mod options;
