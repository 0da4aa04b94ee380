//! The only owner of bytes on disk: whole-or-not-at-all files, where they may lie, HdrHistogram logs, and
//! traces.
#![forbid(unsafe_code)]

pub mod compile;
pub mod hlog;
pub mod interchange;
pub mod limits;
pub mod trace;
pub mod whole_file;
