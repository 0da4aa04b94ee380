//! From a target to a [`Sample`](profiler_core::sample::Sample): what was observed of its memory at one
//! moment.
//!
//! A [`Sampler`] stops a live process, reads the state of its pages and the kernel's count, runs the
//! walkers side by side and lets it go on; a thread that stands inside malloc is given time to leave.
//! [`sample_of_core`] does the same for a core file, which stands still for good. A [`WalkSchedule`]
//! decides when the next sample may be taken, so that stops cost no more than they are allowed to.
//! This is the one place that knows all walkers.

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
