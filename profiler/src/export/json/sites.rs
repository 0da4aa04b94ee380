//! Call sites of allocations, as part of a snapshot.

use profiler_core::sites::{
    self, AGES, Frame, GrowthSampling, MmapThreshold, NativeSampling, SiteRow, Sites, SitesWalk,
    end_name,
};
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use crate::export::names::rfc3339;

/// The most sites.
const MAX_SITES: usize = 2000;

#[derive(Serialize)]
pub(super) struct Site<'a> {
    /// The innermost function first.
    stack: Vec<StackFrame<'a>>,
    /// Why the stack is incomplete, if it is.
    stack_end: Option<&'static str>,
    #[serde(flatten)]
    figures: Figures,
    /// Bytes found live by the last walk, by age; null if no walk was matched.
    walk_live_ages: Option<Vec<Age>>,
}

/// The figures of a site.
struct Figures(SiteRow);

impl Serialize for Figures {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for column in &SiteRow::COLUMNS {
            map.serialize_entry(column.key, &column.amount(&self.0))?;
        }
        map.end()
    }
}

/// Bytes of blocks up to an age and older than the previous one; null means any age.
#[derive(Serialize)]
struct Age {
    up_to_seconds: Option<u64>,
    bytes: u64,
}

#[derive(Serialize)]
struct StackFrame<'a> {
    function: &'a str,
    file: &'a str,
    line: Option<u32>,
    kind: &'static str,
}

/// Data that applies to all sites.
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
    /// Whether everything not seen being freed is live; otherwise some frees were not seen.
    frees_complete: bool,
    stacks_left_out: u64,
    sites_left_out: usize,
    no_stacks: Option<&'a str>,
    /// The walk in which the sampled blocks were looked up.
    walk: Option<Walk>,
    /// glibc's mmap threshold, if it has adapted.
    mmap_threshold: Option<Threshold<'a>>,
    /// Growth of the target's memory, watched since the probes were first armed.
    growth: Option<Growth<'a>>,
    /// Native functions; null if stacks have none.
    native: Option<Native<'a>>,
}

#[derive(Serialize)]
struct Native<'a> {
    copied: u64,
    not_copied: u64,
    /// fragscope's own processor time.
    unwinding_ns: u64,
    /// Files without their functions, and why.
    unread_files: &'a [String],
}

impl<'a> Native<'a> {
    fn of(native: &'a NativeSampling) -> Self {
        Self {
            copied: native.copied,
            not_copied: native.not_copied,
            unwinding_ns: native.unwinding_ns,
            unread_files: &native.unread_files,
        }
    }
}

/// Bytes are counted rather than estimated.
#[derive(Serialize)]
struct Growth<'a> {
    watched_ns: u64,
    mean_bytes: u64,
    grown_bytes: u64,
    returned_bytes: u64,
    touched_bytes: u64,
    /// What could not be watched, and why.
    missing: &'a [String],
    /// Whether a larger budget would have allowed watching some of it.
    is_over_budget: bool,
}

impl<'a> Growth<'a> {
    fn of(growth: &'a GrowthSampling) -> Self {
        Self {
            watched_ns: growth.watched_ns,
            mean_bytes: growth.mean_bytes,
            grown_bytes: growth.grown_bytes,
            returned_bytes: growth.returned_bytes,
            touched_bytes: growth.touched_bytes,
            missing: &growth.missing,
            is_over_budget: growth.is_over_budget,
        }
    }
}

#[derive(Serialize)]
struct Threshold<'a> {
    bytes: u64,
    /// The stack, the innermost function first; null if no block was seen raising it.
    raised_by: Option<Vec<StackFrame<'a>>>,
}

impl<'a> Threshold<'a> {
    fn of(sites: &'a Sites, threshold: &'a MmapThreshold) -> Self {
        let stack = threshold.raised_by.as_ref().map(|(stack, _)| stack);
        Self {
            bytes: threshold.bytes,
            raised_by: stack.map(|stack| sites.frames_of(stack).map(frame).collect()),
        }
    }
}

#[derive(Serialize)]
struct Walk {
    taken_at: String,
    looked_up: u64,
    found: u64,
    unreadable: u64,
    live_bytes: u64,
    live_bytes_error: u64,
    pinned_free_bytes: u64,
    pinned_free_bytes_error: u64,
}

impl Walk {
    fn of(sites: &Sites, walk: SitesWalk) -> Self {
        let found = sites.total().at_walk;
        Self {
            taken_at: rfc3339(walk.taken_at_ns),
            looked_up: walk.looked_up,
            found: walk.found,
            unreadable: walk.unreadable,
            live_bytes: found.bytes.rounded(),
            live_bytes_error: found.bytes.rounded_error(),
            pinned_free_bytes: found.pinned_free_bytes.rounded(),
            pinned_free_bytes_error: found.pinned_free_bytes.rounded_error(),
        }
    }
}

pub(super) fn rows(sites: &Sites) -> Vec<Site<'_>> {
    let shown = sites.all_rows().take(MAX_SITES);
    shown
        .map(|(site, figures)| row(sites, site, figures))
        .collect()
}

fn row<'a>(sites: &'a Sites, site: &'a sites::Site, figures: SiteRow) -> Site<'a> {
    let limits = AGES.into_iter().map(Some).chain([None]);
    let ages = limits.zip(site.figures.at_walk.by_age);
    let ages = ages.map(|(up_to_seconds, bytes)| Age {
        up_to_seconds,
        bytes: bytes.round() as u64,
    });
    Site {
        stack: sites.stack(site).map(frame).collect(),
        stack_end: end_name(site.end),
        walk_live_ages: figures.is_known_of_walk().then(|| ages.collect()),
        figures: Figures(figures),
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
            allocated_bytes_error: bytes.rounded_error(),
            counted_bytes: sites.counted_bytes,
            frees_complete: sites.frees_complete,
            stacks_left_out: sites.stacks_left_out,
            sites_left_out: sites.sites.len().saturating_sub(MAX_SITES),
            no_stacks: sites.no_stacks.as_deref(),
            walk: sites.walk.map(|walk| Walk::of(sites, walk)),
            mmap_threshold: (sites.mmap_threshold.as_ref()).map(|of| Threshold::of(sites, of)),
            growth: sites.growth.as_ref().map(Growth::of),
            native: sites.native.as_ref().map(Native::of),
        }
    }
}
