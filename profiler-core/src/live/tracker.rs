//! Accumulates events: counts, rates, sizes, lifetimes.

use hdrhistogram::Histogram;

use crate::activity::{Activity, ClassActivity, ProbeCost, ProbeStatus};
use crate::event::{AllocEvent, AllocEventKind};
use crate::live::heap::{LiveBlock, LiveHeap};
use crate::size_class::SizeClass;

/// 2^47 ns are 39 hours, 2^47 bytes all of a target's address space; more counts as that much.
const HIGHEST: u64 = 1 << 47;
/// Steps of 0.1 % for all blocks, of 1 % for a class: 0.3 MB, and 24 KB for each class seen.
const DIGITS: u8 = 3;
const CLASS_DIGITS: u8 = 2;

/// Accumulates the events of all windows in which the probes were armed.
///
/// While the probes are not armed, blocks are freed unseen. So the tracked blocks are dropped when
/// a window closes, and a lifetime is known only if allocation and free are in one window.
///
/// When a thread ends, glibc (2.26 and later) returns the blocks of its cache by calling `free` on
/// each, up to seven per size. Those blocks were freed before, so these calls count as frees of
/// older blocks.
///
/// Events arrive in the order in which they happened, but their times may be slightly out of order:
/// a free that seems to come before its allocation counts as a lifetime of 0 ns.
pub struct Tracker {
    attached_at_ns: u64,
    opened_at_ns: Option<u64>,
    closed_windows_ns: u64,
    heap: LiveHeap,
    totals: Totals,
    lifetimes: Histogram<u64>,
    sizes: Histogram<u64>,
    classes: Vec<Option<Box<Class>>>,
    interval: Interval,
}

#[derive(Copy, Clone, Default)]
struct Totals {
    allocs: u64,
    alloc_bytes: u64,
    frees: u64,
    frees_of_older: u64,
}

/// The shortest interval over which a rate is computed, in ns: two reads closer together return the
/// same rates.
const LEAST_INTERVAL_NS: u64 = 500_000_000;

/// The state at the last call, and the rates up to it.
#[derive(Default)]
struct Interval {
    /// When they were made.
    at_ns: u64,
    totals: Totals,
    armed_ns: u64,
    alloc_rate: f64,
    free_rate: f64,
    alloc_byte_rate: f64,
}

struct Class {
    allocs: u64,
    frees: u64,
    alloc_bytes: u64,
    lifetimes: Histogram<u32>,
}

impl Tracker {
    /// A tracker for probes attached at `attached_at_ns` (monotonic clock), which tracks at most
    /// `max_blocks` live blocks at a time. No window is open yet.
    pub fn new(attached_at_ns: u64, max_blocks: u64) -> Self {
        Self {
            attached_at_ns,
            opened_at_ns: None,
            closed_windows_ns: 0,
            heap: LiveHeap::new(max_blocks),
            totals: Totals::default(),
            lifetimes: histogram(DIGITS),
            sizes: histogram(DIGITS),
            classes: (0..SizeClass::COUNT).map(|_| None).collect(),
            interval: Interval::default(),
        }
    }

    /// From `time_ns` on all probes are armed.
    pub fn window_opened(&mut self, time_ns: u64) {
        self.window_closed(time_ns);
        self.opened_at_ns = Some(time_ns);
    }

    /// From `time_ns` on not all probes are armed. Push the window's events before the call: of
    /// later ones, allocations and frees are counted, but no block is tracked.
    pub fn window_closed(&mut self, time_ns: u64) {
        if let Some(opened) = self.opened_at_ns.take() {
            self.closed_windows_ns += time_ns.saturating_sub(opened);
        }
        self.heap.clear();
    }

    /// Time with all probes armed until `now_ns`, in ns, and the bytes allocated during it.
    pub fn seen(&self, now_ns: u64) -> (u64, u64) {
        let open = self
            .opened_at_ns
            .map_or(0, |opened| now_ns.saturating_sub(opened));
        (self.closed_windows_ns + open, self.totals.alloc_bytes)
    }

    /// Adds one event. Null pointers (a failed allocation, `free(NULL)`) are ignored.
    pub fn push(&mut self, event: &AllocEvent) {
        if event.addr.get() == 0 {
            return;
        }
        match event.kind {
            AllocEventKind::Alloc { bytes, .. } => self.allocated(event, bytes),
            AllocEventKind::Free => self.freed(event),
        }
    }

    fn allocated(&mut self, event: &AllocEvent, bytes: u64) {
        self.totals.allocs += 1;
        self.totals.alloc_bytes = self.totals.alloc_bytes.saturating_add(bytes);
        self.sizes.saturating_record(bytes);
        let class = self.classes[SizeClass::of(bytes).0 as usize].get_or_insert_with(Box::default);
        class.allocs += 1;
        class.alloc_bytes = class.alloc_bytes.saturating_add(bytes);
        if self.opened_at_ns.is_some() {
            let block = LiveBlock {
                bytes,
                time_ns: event.time_ns,
                tid: event.tid,
            };
            // The block believed to live there was freed unseen at an unknown time, so it counts
            // neither as a free nor as a lifetime.
            self.heap.insert(event.addr, block);
        }
    }

    fn freed(&mut self, event: &AllocEvent) {
        self.totals.frees += 1;
        let Some(block) = self.heap.remove(event.addr) else {
            self.totals.frees_of_older += 1;
            return;
        };
        let lifetime = event.time_ns.saturating_sub(block.time_ns);
        self.lifetimes.saturating_record(lifetime);
        let class =
            self.classes[SizeClass::of(block.bytes).0 as usize].get_or_insert_with(Box::default);
        class.frees += 1;
        class.lifetimes.saturating_record(lifetime);
    }

    /// The totals at `now_ns`. Rates are since they were last computed, at least half a second ago,
    /// over the armed time in between; without armed time, the last known rates stay. `ended` is
    /// why the probes ended by themselves, if they did.
    ///
    /// Frees of blocks that were not tracked, because of the cap, count as frees of older blocks.
    pub fn activity(
        &mut self,
        now_ns: u64,
        events_lost: u64,
        probes: Vec<ProbeStatus>,
        cost: ProbeCost,
        ended: Option<String>,
    ) -> Activity {
        let (armed_ns, _) = self.seen(now_ns);
        self.interval.advance(self.totals, armed_ns, now_ns);
        Activity {
            elapsed_ns: now_ns.saturating_sub(self.attached_at_ns),
            armed_ns,
            allocs: self.totals.allocs,
            alloc_bytes: self.totals.alloc_bytes,
            frees: self.totals.frees,
            frees_of_older: self.totals.frees_of_older,
            events_lost,
            alloc_rate: self.interval.alloc_rate,
            free_rate: self.interval.free_rate,
            alloc_byte_rate: self.interval.alloc_byte_rate,
            tracked_blocks: self.heap.blocks(),
            tracked_bytes: self.heap.bytes(),
            untracked_blocks: self.heap.untracked(),
            lifetimes: self.lifetimes.clone(),
            sizes: self.sizes.clone(),
            classes: self.class_activity(),
            probes,
            cost,
            ended,
        }
    }

    fn class_activity(&self) -> Vec<ClassActivity> {
        let seen = self.classes.iter().enumerate();
        seen.filter_map(|(index, class)| {
            let class = class.as_ref()?;
            Some(ClassActivity {
                class: SizeClass(index as u16),
                allocs: class.allocs,
                frees: class.frees,
                alloc_bytes: class.alloc_bytes,
                lifetime_p50_ns: class.lifetimes.value_at_quantile(0.5),
                lifetime_p90_ns: class.lifetimes.value_at_quantile(0.9),
                lifetime_p99_ns: class.lifetimes.value_at_quantile(0.99),
            })
        })
        .collect()
    }
}

impl Interval {
    fn advance(&mut self, totals: Totals, armed_ns: u64, now_ns: u64) {
        if now_ns < self.at_ns.saturating_add(LEAST_INTERVAL_NS) {
            return;
        }
        let seconds = armed_ns.saturating_sub(self.armed_ns) as f64 / 1e9;
        if seconds > 0.0 {
            let rate = |now: u64, then: u64| (now - then) as f64 / seconds;
            self.alloc_rate = rate(totals.allocs, self.totals.allocs);
            self.free_rate = rate(totals.frees, self.totals.frees);
            self.alloc_byte_rate = rate(totals.alloc_bytes, self.totals.alloc_bytes);
            self.armed_ns = armed_ns;
            self.totals = totals;
            self.at_ns = now_ns;
        }
    }
}

impl Default for Class {
    fn default() -> Self {
        Self {
            allocs: 0,
            frees: 0,
            alloc_bytes: 0,
            lifetimes: histogram(CLASS_DIGITS),
        }
    }
}

fn histogram<C: hdrhistogram::Counter>(digits: u8) -> Histogram<C> {
    Histogram::new_with_bounds(1, HIGHEST, digits)
        .expect("the bounds are constants that hdrhistogram accepts")
}

#[cfg(test)]
mod tests;
