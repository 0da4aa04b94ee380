//! The lab: what a recorded program would need under other allocators and settings, measured by
//! playing its stream into them.
//!
//! [`replay::replay`] plays a recording under a set of candidates, each in a player of its own: a
//! confined process that has the candidate's allocator and lives in the recording's time. What the
//! players need is measured by the same samples as any target's memory, calibrated against what the
//! recorded program itself needed, and becomes a [`report::Report`]. Shadows ([`shadow::Shadows`]) are
//! players that follow a live stream. The player and some allocators are carried inside. Nothing is
//! printed here: progress goes to the caller, and what there is to say is in the report.

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
