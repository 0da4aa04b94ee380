//! See docs/architecture.md.

pub mod doctor;
