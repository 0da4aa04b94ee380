//! When checkpoints are taken, and what each contains: figures from a sample of the recorded
//! process.

use std::time::Duration;

use profiler_core::heap::{Arena, ExtentKind};
use profiler_core::metrics::{malloc_resident, malloc_resident_but};
use profiler_core::report::FragReport;
use profiler_core::residency::{Mapping, MappingKind, ResidencyMap};
use profiler_core::sample::Sample;
use profiler_trace::trace::Figures;

/// Share of the time for which checkpoints may stop a process.
pub(super) const STOP_SHARE: f64 = 0.03;
/// The part of it for regular checkpoints; the rest is for those after changes of memory.
pub(super) const REGULAR_STOP_SHARE: f64 = 0.02;
/// The time of the first checkpoint; the intervals grow with the recording.
pub(super) const FIRST_INTERVAL: Duration = Duration::from_millis(50);
/// A recording gets about this many checkpoints each time its length doubles.
const CHECKPOINTS_PER_DOUBLING: u32 = 50;
/// Time between two checkpoints at most.
pub(super) const LONGEST_INTERVAL: Duration = Duration::from_secs(10);

/// The time to the next checkpoint of a recording of this age.
pub(super) fn interval(age: Duration, longest_interval: Duration) -> Duration {
    (age / CHECKPOINTS_PER_DOUBLING).clamp(FIRST_INTERVAL, longest_interval)
}

/// Why a checkpoint is taken.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) enum CheckpointReason {
    /// It was due.
    Due,
    /// The user requested it by SIGUSR1.
    Requested,
    /// The recording of the process ends, or the process itself does.
    Final,
}

/// Leaves out the pages of the event ring that a recorded program has mapped, the file with this
/// inode: the kernel counts what the program has written there as the program's, but it belongs to
/// fragscope.
pub(super) fn leave_out_ring(sample: &mut Sample, file_number: u64) {
    let is_ring = |mapping: &Mapping| {
        let is_memfd = |name: &str| name.starts_with("/memfd:");
        mapping.inode == file_number
            && matches!(&mapping.kind, MappingKind::SharedAnonymous(name) if is_memfd(name))
    };
    let all = &sample.residency;
    let mut rest = ResidencyMap::new(all.mappings().to_vec()).of_account(all.account());
    let mut ring_bytes = 0;
    for mapping in all.mappings() {
        for run in all.runs_in(mapping.range) {
            match is_ring(mapping) {
                true if run.state.is_resident() => ring_bytes += run.range.len(),
                true => {}
                false => rest.push_run(run),
            }
        }
    }
    sample.residency = rest;
    sample.kernel.rss_bytes = sample.kernel.rss_bytes.saturating_sub(ring_bytes);
}

/// The figures of a checkpoint.
pub(crate) fn figures(sample: &Sample, reason: CheckpointReason) -> Figures {
    let resident = malloc_resident(&sample.residency, &sample.heaps);
    let malloc = sample.heaps.iter();
    let malloc: Vec<_> = malloc.filter(|heap| heap.serves_malloc()).collect();
    let live = (!malloc.is_empty()).then(|| {
        let sum = |figure: fn(&Arena) -> u64| -> u64 {
            malloc.iter().map(|heap| heap.total(figure)).sum()
        };
        let large = malloc.iter().map(|heap| heap.large_mapped());
        let (blocks, bytes) = large.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        let live_bytes = sum(|arena| arena.live_bytes) + bytes;
        (live_bytes, sum(|arena| arena.live_blocks) + blocks)
    });
    let ledger = FragReport::from_sample(sample).ledger;
    Figures {
        malloc_resident_bytes: Some(resident.resident_bytes),
        malloc_swapped_bytes: Some(resident.swapped_bytes),
        pymalloc_bytes: Some(pymalloc_bytes(sample)),
        rss_bytes: Some(sample.kernel.rss_bytes),
        swap_bytes: Some(sample.kernel.swap_bytes),
        stopped: Some(sample.completeness.stand_still.is_throughout()),
        stop_ns: Some(sample.completeness.stop_ns),
        live_bytes: live.map(|live| live.0),
        live_blocks: live.map(|live| live.1),
        ledger: ledger
            .iter()
            .map(|row| (row.class, row.resident_bytes))
            .collect(),
        on_request: reason == CheckpointReason::Requested,
        is_final: reason == CheckpointReason::Final,
        other: Vec::new(),
    }
}

/// Resident and swapped bytes of pymalloc's arenas.
fn pymalloc_bytes(sample: &Sample) -> u64 {
    let heaps = sample.heaps.iter();
    let extents = heaps.flat_map(|heap| heap.extents.iter());
    let arenas = extents.filter(|extent| extent.kind == ExtentKind::PoolArena);
    let arenas: Vec<_> = arenas.map(|extent| extent.range).collect();
    let [all, others] = [&[][..], &arenas].map(|left_out| {
        let sum = malloc_resident_but(&sample.residency, left_out);
        sum.resident_bytes.saturating_add(sum.swapped_bytes)
    });
    all.saturating_sub(others)
}
