//! The lab: measures what a recorded program would need under other allocators and settings, by
//! replaying its allocations with them.
//!
//! [`replay::replay`] replays a recording under a set of candidates, each in a player of its own: a
//! confined process that uses the candidate's allocator and runs in the recording's time. The
//! players' memory is sampled like any target's, calibrated against the memory of the recorded
//! program, and reported as a [`report::Report`]. Shadows ([`shadow::Shadows`]) are players that
//! follow a live stream. The player and some allocators are embedded. Nothing is printed here:
//! progress goes to the caller, and results are in the report.

pub mod ablation;
pub mod allocators;
pub mod calibrate;
pub mod candidate_set;
pub mod candidates;
pub mod failure;
pub mod figures;
pub mod input;
mod loader;
mod object_arenas;
pub mod open;
pub mod outcome;
pub mod play;
pub mod predict;
pub mod recorded;
pub mod replay;
pub mod report;
pub mod seed;
pub mod shadow;
pub mod verdict;
