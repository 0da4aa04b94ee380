//! Probing: where to probe, and the probes themselves.

pub mod plan;
