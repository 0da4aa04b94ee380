//! The pure domain of fragscope: addresses, memory images, allocator walkers, residency, samples,
//! metrics and explanations.
//!
//! Nothing here does I/O, reads a clock, or knows about BPF, terminals or file formats. Target
//! memory is reached only through [`memory::TargetMemory`], and all of it is treated as hostile.
#![forbid(unsafe_code)]

pub mod activity;
pub mod addr;
pub mod allocator;
pub mod arena;
pub mod candidate;
pub mod claims;
pub mod columns;
pub mod completeness;
mod data;
pub mod difference;
pub mod event;
pub mod evidence;
pub mod explain;
pub mod fork;
mod from_sample;
pub mod glibc;
pub mod group_account;
pub mod heap;
pub mod host;
pub mod jemalloc;
pub mod live;
pub mod machine;
pub mod mechanism;
pub mod memory;
pub mod memory_growth;
pub mod metrics;
pub mod mimalloc;
pub mod musl;
pub mod object;
pub mod objects;
pub mod over_time;
pub mod parallel;
pub mod prediction;
pub mod pymalloc;
pub mod remedy;
pub mod report;
pub mod residency;
pub mod sample;
pub mod sites;
pub mod size_class;
pub mod span;
pub mod tables;
pub mod tcmalloc;
pub mod text;
pub mod threads;
pub mod thresholds;
pub mod trend;
pub mod tuning;
pub mod units;
pub mod view;
pub mod worth;
