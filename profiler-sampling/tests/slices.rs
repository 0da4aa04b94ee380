//! Walks in slices, of targets that change all the time.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use profiler_core::completeness::{Confidence, Slices, StandStill};
use profiler_core::heap::{Allocator, HeapSnapshot};
use profiler_core::sample::Sample;
use profiler_sampling::{LONGEST_SLICE, Sampler, SamplingOptions};
use profiler_target::{Gone, RUNS_BETWEEN};
use profiler_testing::child::{Child, compiled};
use profiler_testing::wait::eventually;

const ONE_STOP: SamplingOptions = SamplingOptions {
    stop: true,
    swap_in: false,
    max_stop: Duration::from_secs(60),
    slices: false,
    max_walk: None,
};

const SLICES: SamplingOptions = SamplingOptions {
    max_stop: LONGEST_SLICE,
    slices: true,
    ..ONE_STOP
};

/// Python that makes and drops objects all the time.
const OBJECTS: &str = "
import random, threading
class Item:
    __slots__ = ('number', 'text')
    def __init__(self, number): self.number, self.text = number * 1000003, str(number)
kept = [Item(number) for number in range(700_000)]
def churn():
    while True:
        for _ in range(100):
            number = random.randrange(len(kept))
            kept[number] = Item(number)
threading.Thread(target=churn, daemon=True).start()
print('READY', flush=True)
input()
";

/// The program that allocates and frees all the time, with these environment variables.
fn churning(environment: &[(&str, &str)]) -> Child {
    let folder = compiled("churning");
    let mut command = Command::new(folder.path().join("churning"));
    command.envs(environment.iter().copied());
    Child::run(command).keep(folder)
}

/// The program's own account: blocks, bytes, and the longest time it did not run.
fn own_account(child: &mut Child) -> (u64, u64, Duration) {
    let answer = child.ask("");
    let mut numbers = answer
        .split(' ')
        .map(|number| number.parse().expect(number));
    let mut next = || numbers.next().expect("three numbers");
    (next(), next(), Duration::from_nanos(next()))
}

fn heap(sample: &Sample, kind: Allocator) -> &HeapSnapshot {
    let heap = sample.heaps.iter().find(|heap| heap.allocator == kind);
    let heap = heap.unwrap_or_else(|| panic!("{kind}: {:?}", sample.completeness));
    assert_eq!(heap.check(), Vec::<String>::new());
    heap
}

fn live(heap: &HeapSnapshot) -> u64 {
    heap.total(|arena| arena.live_bytes)
}

/// A walk in slices, on a host quiet enough to stop the target for it.
fn in_slices(sampler: &Sampler) -> Sample {
    eventually("a walk in slices", || {
        let sample = sampler.take(SLICES).expect("alive");
        let stand_still = sample.completeness.stand_still;
        let is_held = !matches!(stand_still, StandStill::Released(_) | StandStill::Never);
        is_held.then_some(sample)
    })
}

/// How a walk in slices went, which must have had several and no damage.
fn assert_in_slices(sample: &Sample) -> Slices {
    let seen = &sample.completeness;
    let StandStill::InSlices(slices) = seen.stand_still else {
        panic!("{seen:?}");
    };
    assert!(slices.number >= 1, "{slices:?}");
    assert!(seen.defects.is_empty(), "{:?}", seen.defects);
    assert!(seen.layout_confidence == Confidence::Medium, "{seen:?}");
    slices
}

fn assert_near(what: &str, found: u64, expected: u64) {
    let off = found.abs_diff(expected);
    assert!(off <= expected / 50, "{what}: {found} of {expected}");
}

/// Walks a churning program in slices and in one stop, and compares both with the program's own count.
fn compare(child: &mut Child, kind: Allocator, header: u64) {
    let sampler = Sampler::open(child.pid()).expect("our own child");
    for _ in 0..2 {
        let whole = sampler.take(ONE_STOP).expect("alive");
        let sliced = in_slices(&sampler);
        let (blocks, bytes, _) = own_account(child);
        let expected = bytes + blocks * header;
        let slices = assert_in_slices(&sliced);
        println!("{kind}: {}", slices.described());
        for sample in [&whole, &sliced] {
            let heap = heap(sample, kind);
            assert_near("live bytes", live(heap), expected);
        }
        let changed = slices.changed_bytes;
        assert!(changed <= expected / 50, "{changed} of {expected}");
    }
}

#[test]
fn a_heap_that_changes_all_the_time_is_walked_in_slices_as_in_one_stop() {
    let mut child = churning(&[]);
    // The arenas count the two words of a chunk's header that its block does not overlap.
    compare(&mut child, Allocator::Glibc, 8);
}

#[test]
fn heaps_of_other_allocators_are_walked_in_slices_as_in_one_stop() {
    let allocators = [
        ("libjemalloc.so.2", Allocator::Jemalloc),
        ("libmimalloc.so.2", Allocator::Mimalloc),
    ];
    for (library, kind) in allocators {
        let mut child = churning(&[("LD_PRELOAD", library), ("CHURNING_MIB", "600")]);
        let sampler = Sampler::open(child.pid()).expect("our own child");
        for _ in 0..2 {
            let sliced = in_slices(&sampler);
            let (_, bytes, _) = own_account(&mut child);
            let seen = &sliced.completeness;
            // Their metadata may be read within one slice.
            println!("{kind}: {:?}", seen.stand_still);
            assert!(seen.defects.is_empty(), "{seen:?}");
            assert_near("live bytes", live(heap(&sliced, kind)), bytes);
        }
    }
}

#[test]
fn objects_that_change_all_the_time_are_walked_in_slices_as_in_one_stop() {
    let child = Child::python(OBJECTS);
    let sampler = Sampler::open(child.pid()).expect("our own child");
    for _ in 0..2 {
        let whole = sampler.take(ONE_STOP).expect("alive");
        let sliced = in_slices(&sampler);
        let slices = assert_in_slices(&sliced);
        println!("{}", slices.described());
        for kind in [Allocator::Pymalloc, Allocator::Glibc] {
            let [whole, sliced] = [&whole, &sliced].map(|sample| live(heap(sample, kind)));
            assert_near("live bytes", sliced, whole);
        }
    }
}

#[test]
fn a_target_stands_for_no_longer_than_a_slice_and_runs_in_between() {
    let mut child = churning(&[("CHURNING_MIB", "150")]);
    let sampler = Sampler::open(child.pid()).expect("our own child");
    sampler.take(SLICES).expect("alive");
    let mut pauses = Vec::new();
    for _ in 0..3 {
        own_account(&mut child);
        let began = Instant::now();
        let sample = in_slices(&sampler);
        let took = began.elapsed();
        let (_, _, pause) = own_account(&mut child);
        // What a thread waits for on this host without fragscope.
        thread::sleep(took);
        let (_, _, undisturbed) = own_account(&mut child);
        let slices = assert_in_slices(&sample);
        let stood = Duration::from_nanos(sample.completeness.stop_ns);
        let longest = Duration::from_nanos(slices.longest_ns);
        println!("{pause:?}, {undisturbed:?} without; stood {stood:?} of {took:?}: {slices:?}");
        // Nothing is waited for behind the last slice.
        let ran = (stood - longest.min(stood)) * RUNS_BETWEEN;
        assert!(took >= stood + ran, "{took:?} for {stood:?}");
        pauses.push((pause, longest, undisturbed));
    }
    // The host may delay any of them, but does not always. A thread that waited for the end of a
    // stop then waits for the processor.
    let slack = pauses.iter().map(|(.., undisturbed)| *undisturbed).max();
    let limit = LONGEST_SLICE + 2 * slack.unwrap_or_default() + Duration::from_millis(5);
    let least = pauses.iter().map(|(pause, ..)| *pause).min();
    assert!(least <= Some(limit), "{pauses:?}");
    let least = pauses.iter().map(|(_, longest, _)| *longest).min();
    assert!(least <= Some(limit), "{pauses:?}");
}

#[test]
fn a_target_that_forks_between_slices_is_walked_and_its_children_share_its_pages() {
    let mut child = churning(&[("CHURNING_FORKS", "1"), ("CHURNING_MIB", "150")]);
    compare(&mut child, Allocator::Glibc, 8);
}

#[test]
fn a_target_that_ends_between_slices_is_gone() {
    let mut gone = 0;
    for after_ms in [5, 25, 45, 65, 85, 105] {
        let mut child = churning(&[]);
        let sampler = Sampler::open(child.pid()).expect("our own child");
        let taken = thread::scope(|scope| {
            let taking = scope.spawn(|| sampler.take(SLICES));
            thread::sleep(Duration::from_millis(after_ms));
            child.kill();
            taking.join().expect("no panic")
        });
        match taken {
            Ok(sample) => assert!(!sample.heaps.is_empty()),
            Err(error) => {
                assert!(Gone::of(&error).is_some(), "{error}");
                gone += 1;
            }
        }
    }
    assert!(gone > 0);
}

#[test]
fn a_small_target_is_one_slice_and_exact() {
    let child = Child::python("print('READY', flush=True); input()");
    let sampler = Sampler::open(child.pid()).expect("our own child");
    // A busy host may not read it in time.
    eventually("a walk in one slice", || {
        let sample = sampler.take(SLICES).expect("alive");
        let seen = &sample.completeness;
        (seen.stand_still == StandStill::Throughout).then(|| {
            assert_eq!(seen.layout_confidence, Confidence::High, "{sample:?}");
            assert_eq!(sample.residency.resident_bytes(), sample.kernel.rss_bytes);
        })
    });
}
