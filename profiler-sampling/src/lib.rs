//! Turns a target into a [`Sample`](profiler_core::sample::Sample): its memory as observed at one
//! moment.
//!
//! A [`Sampler`] stops a live process, reads the state of its pages and the kernel's counts, runs
//! the walkers in parallel and resumes the process. A thread that is stopped inside malloc is given
//! time to leave it. [`sample_of_core`] does the same for a core file. A [`WalkSchedule`] decides
//! when the next sample may be taken, so that stops stay within their budget. This is the only
//! crate that knows all walkers.

#![forbid(unsafe_code)]

mod blank_pages;
mod copy;
mod core_sample;
mod facts;
mod file_pages;
mod holding;
mod host;
mod in_stops;
mod known;
mod objects;
mod observer;
mod options;
mod roots;
mod sampler;
mod schedule;
mod walkers;
mod walks;

pub use copy::{CopiedMemory, CopySpace};
pub use core_sample::{CoreSample, CoreSampleError, sample_of_core};
pub use host::{HostOptions, HostSampler, NotWalked};
pub use in_stops::InStops;
pub use objects::WalkedTarget;
pub use options::{LONGEST_SLICE, LONGEST_WHOLE_STOP, SamplingOptions};
pub use sampler::{Sampler, now_ns};
pub use schedule::{STOP_PART_OF_BUDGET, WalkSchedule};
