//! The only crate that writes files: files that are complete or absent, where they may be written,
//! HdrHistogram logs, traces, and saved sessions.
#![forbid(unsafe_code)]

pub mod black_box;
mod block;
pub mod compile;
pub mod hlog;
pub mod interchange;
pub mod limits;
pub mod record;
pub mod snapshot;
pub mod trace;
mod varint;
pub mod whole_file;
