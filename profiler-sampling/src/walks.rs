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
/// The same of what there is few of.
const NEAR_NUMBER: u64 = 16;

/// Walks all heaps there are, side by side; the result has outer allocators before inner ones. What
/// could not be walked and was to be expected, and what the walkers say of themselves, goes into
/// `completeness`.
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
                    // What was not read is not there, and what the walker makes of that is no reason.
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

/// A heap that was walked while the target ran now and then is not damaged where it contradicts itself, or nobody
/// knows it; and that it agrees with the allocator's own account says less. Gives the bytes that contradict.
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

/// Whether a walk of several moments agrees with the account of one of them, as far as it can.
fn nearly_holds(check: &CrossCheck) -> bool {
    let off = check.expected.abs_diff(check.found);
    off <= check.expected.max(check.found) / NEAR_PART || off <= NEAR_NUMBER
}

/// Sums up what the walkers said of themselves.
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
