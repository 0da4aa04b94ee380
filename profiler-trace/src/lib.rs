//! The only owner of bytes on disk: whole-or-not-at-all files and HdrHistogram logs.
#![forbid(unsafe_code)]

pub mod hlog;
pub mod whole_file;
