//! Call sites of allocations, as part of a snapshot.

use profiler_core::sites::{self, Frame, Sites, end_name};
use serde::Serialize;

/// Sites at the most.
const MAX_SITES: usize = 2000;

#[derive(Serialize)]
pub(super) struct Site<'a> {
    /// The innermost function first.
    stack: Vec<StackFrame<'a>>,
    /// Why the stack is not whole, if it is not.
    stack_end: Option<&'static str>,
    samples: u64,
    allocated_bytes: u64,
    allocated_bytes_error: u64,
    allocations: u64,
    allocations_error: u64,
    /// Of blocks that were not seen being freed.
    live_bytes: u64,
    live_bytes_error: u64,
    live_blocks: u64,
}

#[derive(Serialize)]
struct StackFrame<'a> {
    function: &'a str,
    file: &'a str,
    line: Option<u32>,
    kind: &'static str,
}

/// What holds for all sites.
#[derive(Serialize)]
pub(super) struct SiteSampling<'a> {
    samples: u64,
    samples_lost: u64,
    mean_bytes: u64,
    sampling_ns: u64,
    armed_ns: u64,
    allocated_bytes: u64,
    allocated_bytes_error: u64,
    counted_bytes: u64,
    /// Whether what was not seen being freed lives: else some of it was freed unseen.
    frees_complete: bool,
    stacks_left_out: u64,
    sites_left_out: usize,
    no_stacks: Option<&'a str>,
}

pub(super) fn rows(sites: &Sites) -> Vec<Site<'_>> {
    let shown = sites.sites.iter().take(MAX_SITES);
    shown.map(|site| row(sites, site)).collect()
}

fn row<'a>(sites: &'a Sites, site: &'a sites::Site) -> Site<'a> {
    let error = |estimate: &sites::Estimate| estimate.error().round() as u64;
    Site {
        stack: sites.stack(site).map(frame).collect(),
        stack_end: end_name(site.end),
        samples: site.samples,
        allocated_bytes: site.bytes.rounded(),
        allocated_bytes_error: error(&site.bytes),
        allocations: site.allocations.rounded(),
        allocations_error: error(&site.allocations),
        live_bytes: site.live_bytes.rounded(),
        live_bytes_error: error(&site.live_bytes),
        live_blocks: site.live_blocks.rounded(),
    }
}

fn frame(frame: &Frame) -> StackFrame<'_> {
    StackFrame {
        function: &frame.function,
        file: &frame.file,
        line: frame.line,
        kind: frame.language.name(),
    }
}

impl<'a> SiteSampling<'a> {
    pub(super) fn of(sites: &'a Sites) -> Self {
        let bytes = sites.bytes();
        Self {
            samples: sites.samples,
            samples_lost: sites.samples_lost,
            mean_bytes: sites.mean_bytes,
            sampling_ns: sites.sampling_ns,
            armed_ns: sites.armed_ns,
            allocated_bytes: bytes.rounded(),
            allocated_bytes_error: bytes.error().round() as u64,
            counted_bytes: sites.counted_bytes,
            frees_complete: sites.frees_complete,
            stacks_left_out: sites.stacks_left_out,
            sites_left_out: sites.sites.len().saturating_sub(MAX_SITES),
            no_stacks: sites.no_stacks.as_deref(),
        }
    }
}
