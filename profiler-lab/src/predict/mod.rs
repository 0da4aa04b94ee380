//! Predictions from one walk: several programs that may have produced the heap are replayed in the
//! real allocators.

mod band;
mod candidate_set;
mod candidates;

use std::io;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use profiler_common::program::Op;
use profiler_core::prediction::Predictions;
use profiler_core::sample::Sample;
use profiler_core::units::bytes;
use profiler_target::host;
use profiler_trace::compile::Summary;
use profiler_trace::limits::{Limits, Meter, Stopped};

use self::band::{Walked, scaled};
use self::candidate_set::HeapCandidateSet;
use self::candidates::candidates;
use super::play::{ReplayProgram, cores};
use super::seed::{
    Fill, FillThreads, LargeGaps, MOST_OF_IDLE, Overlap, SeedOptions, WalkedHeap, Written,
    measured_bytes, write,
};

/// Of the memory that is available, players may take this share together.
const MEMORY_SHARE: f64 = 0.5;
/// Memory that a player is expected to need: this multiple of the heap's peak…
const HEADROOM: f64 = 1.3;
/// …plus this many bytes for the player itself and its allocator's state.
const OWN_BYTES: u64 = 64 << 20;
/// How much more than the heap an allocator may need, as a factor, before its player is ended.
const MAX_TIMES: u64 = 4;
/// A heap with more operations is not replayed: it would take minutes, and its program 512 MiB.
const MAX_OPERATIONS: u64 = 1 << 25;

/// The possible histories of a heap. The first two are its middle; all of them are its band.
const HISTORIES: [SeedOptions; 4] = [
    SeedOptions {
        fill: Fill::Neighbours,
        large: LargeGaps::ByShare,
        slack: 8,
        overlap: Overlap::Together,
        ..SeedOptions::DEFAULT
    },
    SeedOptions {
        fill: Fill::Exact,
        large: LargeGaps::ByShare,
        slack: 0,
        overlap: Overlap::OneByOne,
        ..SeedOptions::DEFAULT
    },
    SeedOptions {
        fill: Fill::Exact,
        large: LargeGaps::LargeBlocks,
        slack: 8,
        overlap: Overlap::OneByOne,
        ..SeedOptions::DEFAULT
    },
    SeedOptions {
        fill: Fill::Neighbours,
        large: LargeGaps::AsOthers,
        slack: 0,
        overlap: Overlap::Together,
        ..SeedOptions::DEFAULT
    },
];
/// How many of them are the middle.
const MIDDLE: usize = 2;
/// The places of those in which all arenas have their blocks at the same time.
const TOGETHER: [usize; 2] = [0, 3];
/// Of a larger heap, only these are replayed: otherwise it would take too long.
const LARGE_HEAP: u64 = 1 << 30;
/// A smaller heap is not worth it.
const LEAST_HEAP: u64 = 4 << 20;

/// The first history, of a program that does nothing any more once the fill was freed.
const IDLE: SeedOptions = SeedOptions {
    goes_on: false,
    ..HISTORIES[0]
};

/// The first history, of a program in which every thread had blocks once, and all threads but one
/// are idle.
const IDLE_THREADS: SeedOptions = SeedOptions {
    threads: FillThreads::EachAndIdle,
    ..HISTORIES[0]
};

/// Predicts what the heap that serves malloc in a sample would need elsewhere. `progress` is called
/// with the results so far whenever a candidate is done. Players yield to everything that wants a
/// processor. `root` is the root directory of the process, if it differs from ours: what its loader
/// finds there is listed.
pub fn predict(
    sample: &Sample,
    root: Option<&Path>,
    interrupted: &Arc<AtomicBool>,
    progress: &(dyn Fn(&Predictions) + Sync),
) -> Predictions {
    let none = |why: &str| Predictions::none(sample.taken_at_ns, why);
    if sample.completeness.out_of_time_ns.is_some() {
        return none("the time for the walk was over before all blocks were known");
    }
    let (Some(heap), Some(measured)) = (WalkedHeap::of(sample), measured_bytes(sample)) else {
        return none("malloc's heap was not walked");
    };
    if measured < LEAST_HEAP {
        let measured = bytes(measured);
        let purged = match heap.unpurged_bytes() {
            0 => "",
            _ => " once it has purged",
        };
        return none(&format!(
            "malloc's heap takes {measured}{purged}, too little for it to matter"
        ));
    }
    let available = host::available_bytes();
    let mut programs = match programs(&heap, measured, available, interrupted) {
        Ok(programs) => programs,
        Err(error) if matches!(Stopped::of(&error), Some(Stopped::Limit { .. })) => {
            return none("the heap has too many blocks to be played");
        }
        Err(error) => return none(&format!("the heap cannot be played: {error}")),
    };
    let peaks = programs.iter().map(|p| p.summary().peak_live_bytes);
    // In a player too, huge pages may make untouched memory resident.
    let peak = peaks.max().unwrap_or(0).saturating_add(heap.blank_bytes());
    let room = (available as f64 * MEMORY_SHARE) as u64;
    let each = scaled(peak, HEADROOM).saturating_add(OWN_BYTES);
    let players = cores().min((room / each) as usize);
    if players == 0 {
        return none(&format!(
            "too little memory is available to fragscope to play a heap of {}: {}",
            bytes(measured),
            bytes(available)
        ));
    }
    let room = room / players as u64;
    let limit = peak.saturating_mul(MAX_TIMES).saturating_add(OWN_BYTES);
    let idle_threads = match heap.has_several_threads() {
        true => programs.pop(),
        false => None,
    };
    let idle = programs.pop();
    let set = HeapCandidateSet {
        idle,
        idle_threads,
        candidates: candidates(&heap, measured, sample.is_forked(), root),
        programs,
        walk_ns: sample.taken_at_ns,
        walked: Walked::of(sample, &heap, measured),
        environment_unknown: candidates::defaults_assumed(&heap),
        cpus: sample.host.cpus,
        limit: limit.min(room),
        idle_limit: limit.saturating_add(idle_bytes(&heap)).min(room),
        interrupted,
        is_pressed: AtomicBool::new(false),
        progress,
        state: Mutex::default(),
    };
    set.run(players)
}

/// What all threads may keep when they are idle: an allocator takes some more than that for each.
fn idle_bytes(heap: &WalkedHeap<'_>) -> u64 {
    let threads = heap.arenas().into_iter();
    let threads = threads.map(|arena| u64::from(heap.threads_of(arena)));
    threads
        .fold(0, u64::saturating_add)
        .saturating_mul(MAX_TIMES * MOST_OF_IDLE)
}

/// The heap as players fill it, for each of its possible histories; then for a program that does
/// nothing more, and if it has threads, for one in which they are idle.
fn programs(
    heap: &WalkedHeap<'_>,
    measured: u64,
    available: u64,
    interrupted: &Arc<AtomicBool>,
) -> io::Result<Vec<Arc<ReplayProgram>>> {
    let histories = match measured {
        LARGE_HEAP.. => MIDDLE,
        _ => HISTORIES.len(),
    };
    let idle_threads = heap.has_several_threads().then_some(&IDLE_THREADS);
    let histories = HISTORIES[..histories].iter().chain([&IDLE]);
    let histories = histories.chain(idle_threads);
    histories
        .map(|history| program(heap, history, available, interrupted))
        .collect()
}

fn program(
    heap: &WalkedHeap<'_>,
    history: &SeedOptions,
    available: u64,
    interrupted: &Arc<AtomicBool>,
) -> io::Result<Arc<ReplayProgram>> {
    let most = MAX_OPERATIONS * size_of::<Op>() as u64;
    let limits = Limits::new(Some(most), None, available);
    let meter = Meter::new(limits, Arc::clone(interrupted));
    ReplayProgram::of_operations(meter, |sink| {
        let Written {
            threads,
            slots,
            peak_bytes,
            ..
        } = write(heap, history, sink)?;
        Ok(Summary {
            threads,
            slots: slots.into(),
            peak_live_bytes: peak_bytes,
            ..Summary::default()
        })
    })
}
