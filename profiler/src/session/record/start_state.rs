//! The state of a running process when its recording begins: its heap and its threads.

use std::io;

use profiler_core::completeness::{Released, StandStill};
use profiler_core::glibc;
use profiler_core::heap::{Allocator, HeapSnapshot};
use profiler_core::memory::ResidentMemory;
use profiler_core::sample::Sample;
use profiler_core::units::nanoseconds;
use profiler_probe::EventStream;
use profiler_probe::plan::ProbePlan;
use profiler_sampling::SamplingOptions;
use profiler_target::Target;

use super::seed;
use crate::export::sentences;

/// The threads, in the order of the arenas from which they allocate, if known; and a sentence if
/// that should have been known and is not.
pub(super) fn threads(
    target: &Target,
    sample: &Sample,
    heap: Option<&HeapSnapshot>,
    sampling: SamplingOptions,
) -> io::Result<(Vec<Option<u64>>, Option<String>)> {
    let main = target.pid();
    let others = target.tids()?.into_iter().filter(|tid| *tid != main);
    let tids: Vec<u32> = std::iter::once(main)
        .chain(others)
        .map(i32::cast_unsigned)
        .collect();
    let glibc = heap.filter(|heap| heap.allocator == Allocator::Glibc && sampling.stop);
    // Threads hardly ever change their arena, so a separate stop is sufficient.
    let Some(heap) = glibc else {
        return Ok((seed::thread_order(&[], 0, &tids), None));
    };
    let stopped = match target.stop_for(sampling.max_stop) {
        Ok(stopped) => stopped,
        Err(error) => {
            let why = format!(
                "which thread allocates from which arena is not known, so that replays assume it: {error}"
            );
            return Ok((seed::thread_order(&[], 0, &tids), Some(why)));
        }
    };
    let memory = ResidentMemory::new(target.memory(), &sample.residency);
    let users = glibc::thread_arenas(&memory, &sample.residency, &heap.arenas, stopped.threads());
    let order = seed::thread_order(&users, heap.arenas.len() as u32, &tids);
    Ok((order, None))
}

/// The heap that serves malloc.
pub(super) fn malloc_heap<'s>(sample: &'s Sample, plan: &ProbePlan) -> Option<&'s HeapSnapshot> {
    let serves = plan.object.identity.kind?;
    let mut heaps = sample.heaps.iter().filter(|heap| heap.serves_malloc());
    heaps.find(|heap| heap.allocator == serves)
}

/// What the recording lacks, in sentences.
pub(super) fn missing(
    stream: &EventStream,
    plan: &ProbePlan,
    sample: &Sample,
    heap: Option<&HeapSnapshot>,
) -> Vec<String> {
    let failed = stream.failed().iter();
    let mut all: Vec<_> = failed
        .map(|(function, why)| format!("calls of {function} are not recorded: {why}"))
        .collect();
    if let Some(why) = stream.blind() {
        all.push(format!("ends of threads are not recorded: {why}"));
    }
    if heap.is_none() {
        all.push(format!(
            "the heap of {} could not be walked: blocks from before are not in the trace",
            plan.object.identity.title()
        ));
    }
    let how = match sample.completeness.stand_still {
        StandStill::Throughout => return all,
        StandStill::Never => "was not stopped for the walk".to_owned(),
        StandStill::InSlices(slices) => format!("was {}", slices.described()),
        StandStill::Released(Released { why, after_ns }) => format!(
            "ran on after {} of the walk, {}",
            nanoseconds(after_ns),
            sentences::ended_early(why)
        ),
    };
    all.push(format!(
        "the target {how}: blocks from before may be missing or wrong"
    ));
    all
}
