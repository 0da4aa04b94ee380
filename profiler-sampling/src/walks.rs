//! Walks every heap of a target, all walkers in parallel.

use std::thread;

use profiler_core::completeness::{Completeness, Confidence, Defect};
use profiler_core::heap::{CrossCheck, HeapSnapshot};
use profiler_core::memory::TargetMemory;
use profiler_core::parallel::SideThread;

use super::walkers::{Input, Walker};

/// A total of a running program may differ from its own count by 1/N of the larger one, as it
/// changes during the walk.
const NEAR_PART: u64 = 50;
/// The same for small totals, as a number.
const NEAR_NUMBER: u64 = 16;

/// Walks all heaps in parallel; the result has outer allocators before inner ones. Walks that
/// should have worked and failed, and the walkers' own notes, are added to `completeness`.
pub(crate) fn heaps<M: TargetMemory + Sync>(
    input: &Input<'_, M>,
    completeness: &mut Completeness,
) -> Vec<HeapSnapshot> {
    let mut heaps: Vec<HeapSnapshot> = Vec::new();
    thread::scope(|scope| {
        let walkers = Walker::<M>::ALL.into_iter();
        let planned = walkers.flat_map(|walker| walker.plan(input.facts));
        let running: Vec<_> = planned
            .map(|planned| {
                let (kind, expected) = (planned.kind, planned.expected);
                let walking = SideThread::begin(scope, move || planned.walk(input));
                (kind, expected, walking)
            })
            .collect();
        for (kind, expected, walking) in running {
            match walking.end() {
                Ok(found) => heaps.extend(found),
                Err(reason) if expected => {
                    // After the time limit, reads fail, and what the walker concludes from that is
                    // not the reason.
                    let what = match input.memory.is_out_of_time() {
                        true => format!("{kind} was not walked: the time for the walk was over"),
                        false => format!("{kind} was not walked: {reason}"),
                    };
                    completeness.defects.push(Defect::of_all(what));
                }
                Err(_) => {}
            }
        }
    });
    if input.memory.epoch() > 0 {
        let changed = heaps.iter_mut().map(of_several_moments).sum();
        input.memory.note_changed(changed);
    }
    judge(completeness, &heaps);
    heaps
}

/// A heap that was walked while the target sometimes ran is not damaged where it is inconsistent,
/// or it is unknown whether it is; and agreement with the allocator's own account is weaker
/// evidence. Returns the inconsistent bytes.
fn of_several_moments(heap: &mut HeapSnapshot) -> u64 {
    let has_changed = |defect: &Defect| defect.addr.is_some() && !defect.unreadable;
    let changed = heap.defects.iter().filter(|defect| has_changed(defect));
    let bytes = changed.map(|defect| defect.bytes).sum();
    heap.defects.retain(|defect| !has_changed(defect));
    heap.confidence = match heap.confidence {
        Confidence::None => Confidence::None,
        _ if heap.checks.iter().all(nearly_holds) => Confidence::Medium,
        _ => Confidence::Low,
    };
    bytes
}

/// Whether a walk of several moments agrees with the account of one moment as well as possible.
fn nearly_holds(check: &CrossCheck) -> bool {
    let off = check.expected.abs_diff(check.found);
    off <= check.expected.max(check.found) / NEAR_PART || off <= NEAR_NUMBER
}

/// Summarises the walkers' own notes.
fn judge(completeness: &mut Completeness, heaps: &[HeapSnapshot]) {
    // A library's own heap says nothing of how sure malloc's is.
    let shared = heaps.iter().filter(|heap| heap.library.is_none());
    completeness.layout_confidence = shared
        .map(|heap| heap.confidence)
        .min()
        .unwrap_or(Confidence::None);
    for heap in heaps {
        completeness.threads_in_allocator += heap.threads_inside;
        completeness.unreadable_bytes += heap.unreadable_bytes;
        completeness.defects.extend(heap.defects.iter().cloned());
    }
}
