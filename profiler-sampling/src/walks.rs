//! Walking every heap of a target, all walkers side by side.

use std::thread;

use profiler_core::completeness::{Completeness, Confidence, Defect};
use profiler_core::heap::HeapSnapshot;
use profiler_core::memory::TargetMemory;
use profiler_core::parallel::SideThread;

use super::walkers::{Input, Walker};

/// Walks all heaps there are, side by side; the result has outer allocators before inner ones. What
/// could not be walked and was to be expected, and what the walkers say of themselves, goes into
/// `completeness`.
pub(crate) fn heaps<M: TargetMemory + Sync>(
    input: &Input<'_, M>,
    completeness: &mut Completeness,
) -> Vec<HeapSnapshot> {
    let mut heaps = Vec::new();
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
                    let what = format!("{kind} was not walked: {reason}");
                    completeness.defects.push(Defect::of_all(what));
                }
                Err(_) => {}
            }
        }
    });
    judge(completeness, &heaps);
    heaps
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
