//! What is read during a stop, and how targets that change at that moment are handled.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use profiler_core::completeness::{Defect, StandStill};
use profiler_core::heap::{Allocator, CrossCheck, HeapSnapshot};
use profiler_core::sample::Sample;
use profiler_sampling::{InStops, Sampler, SamplingOptions};
use profiler_target::Gone;
use profiler_testing::child::{Child, SHARING, libraries, state_of};
use profiler_testing::pythons::pythons;
use profiler_testing::wait::eventually;
use tempfile::TempDir;

const OPTIONS: SamplingOptions = SamplingOptions {
    stop: true,
    swap_in: false,
    max_stop: Duration::from_secs(60),
    slices: false,
    max_walk: None,
};

/// Loads libraries on request.
const LOADER: &str = "
import ctypes, sys
print('READY', flush=True)
for line in sys.stdin:
    loaded = [ctypes.CDLL(path) for path in line.split()]
    print(len(loaded), flush=True)
";

/// A folder of libraries that look to be Python's own, whose data are searched the first.
fn python_libraries(count: usize) -> (TempDir, Vec<PathBuf>) {
    let folder = tempfile::Builder::new().prefix("python3").tempdir();
    let folder = folder.expect("a temporary folder");
    let paths = libraries(&folder, count);
    (folder, paths)
}

fn line(paths: &[PathBuf]) -> String {
    let paths = paths.iter().map(|path| path.to_str().expect("UTF-8"));
    paths.collect::<Vec<_>>().join(" ")
}

/// What a second walk reads in its stop.
fn second_walk(sampler: &Sampler) -> (Sample, InStops) {
    sampler.take(OPTIONS).expect("alive");
    let before = sampler.read_in_stops();
    let sample = sampler.take(OPTIONS).expect("alive");
    let after = sampler.read_in_stops();
    let read = InStops {
        stops: after.stops - before.stops,
        memory_reads: after.memory_reads - before.memory_reads,
        memory_bytes: after.memory_bytes - before.memory_bytes,
        files: after.files - before.files,
    };
    (sample, read)
}

fn assert_whole(sample: &Sample) {
    assert_eq!(sample.completeness.stand_still, StandStill::Throughout);
    for kind in [Allocator::Glibc, Allocator::Pymalloc] {
        let heap = sample.heaps.iter().find(|heap| heap.allocator == kind);
        let heap = heap.unwrap_or_else(|| panic!("{kind}: {:?}", sample.completeness));
        assert_eq!(heap.check(), Vec::<String>::new());
    }
}

#[test]
fn mappings_of_files_add_no_reads_to_a_stop() {
    const LIBRARIES: usize = 150;
    let (_folder, paths) = python_libraries(LIBRARIES);
    let mut child = Child::python(LOADER);
    let sampler = Sampler::open(child.pid()).expect("our own child");
    let (few, of_few) = second_walk(&sampler);
    assert_eq!(child.ask(&line(&paths)), LIBRARIES.to_string());
    let (many, of_many) = second_walk(&sampler);
    for sample in [&few, &many] {
        assert_whole(sample);
        let checks = sample.heaps.iter().flat_map(|heap| &heap.checks);
        assert!(checks.clone().all(CrossCheck::holds), "{:?}", sample.heaps);
    }
    let mappings = |sample: &Sample| sample.residency.mappings().len();
    assert!(mappings(&many) >= mappings(&few) + 4 * LIBRARIES);
    assert_eq!((of_few.files, of_many.files), (0, 0));
    let more = of_many.memory_reads.saturating_sub(of_few.memory_reads) as usize;
    // The heaps contain the loader's data about each library: some pages in total.
    assert!(more <= LIBRARIES / 3, "{of_few:?} {of_many:?}");
    assert!(of_few.memory_reads <= 1000, "{of_few:?}");
}

#[test]
fn a_target_that_maps_and_unmaps_all_the_time_is_walked_as_it_stands() {
    const PROGRAM: &str = "
import ctypes, _ctypes, mmap, sys
print('READY', flush=True)
paths = sys.stdin.readline().split()
print('BUSY', flush=True)
while True:
    for path in paths:
        handle = _ctypes.dlopen(path, 2)
        area = mmap.mmap(-1, 65536, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        area[:8] = b'anything'
        _ctypes.dlclose(handle)
        area.close()
";
    let (_folder, paths) = python_libraries(20);
    let mut child = Child::python(PROGRAM);
    let sampler = Sampler::open(child.pid()).expect("our own child");
    assert_eq!(child.ask(&line(&paths)), "BUSY");
    for _ in 0..20 {
        let sample = sampler.take(OPTIONS).expect("alive");
        assert_whole(&sample);
        // Both are from the single moment of the stop.
        assert_eq!(sample.residency.resident_bytes(), sample.kernel.rss_bytes);
    }
}

#[test]
fn a_target_that_executes_itself_all_the_time_is_walked_whole_or_gone() {
    const PROGRAM: &str = "
import os, sys
if len(sys.argv) == 1:
    print('READY', flush=True)
os.execv(sys.executable, [sys.executable, '-S', '-c', os.environ['PROGRAM'], 'again'])
";
    let mut command = Command::new("python3");
    command.args(["-S", "-c", PROGRAM]).env("PROGRAM", PROGRAM);
    let child = Child::run(command);
    let in_slices = SamplingOptions {
        max_stop: Duration::from_millis(2),
        slices: true,
        ..OPTIONS
    };
    for options in [OPTIONS, in_slices] {
        let mut gone = 0;
        eventually("it to be met between two programs", || {
            // While it executes, it cannot be opened.
            let sampler = Sampler::open(child.pid()).ok()?;
            match sampler.take(options) {
                Ok(sample) => assert_eq!(sample.target.pid, child.pid()),
                Err(error) => {
                    assert!(Gone::of(&error).is_some(), "{error}");
                    gone += 1;
                }
            }
            (gone >= 3).then_some(())
        });
    }
}

#[test]
fn an_interpreter_that_began_since_the_last_walk_is_walked_too() {
    const PROGRAM: &str = "
import sys
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
print('READY', flush=True)
sys.stdin.readline()
other = interpreters.create()
interpreters.run_string(other, 'kept = [str(n) for n in range(50000)]')
print('BEGUN', flush=True)
sys.stdin.readline()
interpreters.destroy(other)
print('ENDED', flush=True)
sys.stdin.readline()
";
    let heaps_of = |sample: &Sample| {
        assert_whole(sample);
        let mut heaps = sample.heaps.iter();
        let heap = heaps.find(|heap| heap.allocator == Allocator::Pymalloc);
        let heap = heap.expect("it is whole");
        assert!(heap.checks.iter().all(CrossCheck::holds), "{heap:?}");
        heap.arenas.len()
    };
    for python in pythons() {
        // Before 3.12 interpreters share one heap; free-threaded builds have no arenas.
        if python.version < (3, 12) || python.free_threaded {
            continue;
        }
        let mut child = python.run(PROGRAM, None, None);
        assert_eq!(child.first_line(), "READY");
        let sampler = Sampler::open(child.pid()).expect("our own child");
        let mut take = |line: &str| {
            let is_first = line.is_empty();
            assert!(is_first || child.ask("") == line, "{python:?}");
            heaps_of(&sampler.take(OPTIONS).expect("alive"))
        };
        let interpreters = [take(""), take("BEGUN"), take("ENDED")];
        assert_eq!(interpreters, [1, 2, 1], "{python:?}");
        println!("{python:?}: noticed");
    }
}

#[test]
fn a_target_that_cannot_be_stopped_is_asked_to_once_a_walk() {
    let mut child = Child::c("kept");
    let tasks = std::fs::read_dir(format!("/proc/{}/task", child.pid())).expect("its threads");
    let tids: Vec<i32> = tasks
        .filter_map(|task| task.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    assert_eq!(tids.len(), 3);
    eventually("a thread that waits uninterruptibly", || {
        tids.iter().any(|tid| state_of(*tid) == 'D').then_some(())
    });
    let sampler = Sampler::open(child.pid()).expect("our own child");
    let sample = sampler.take(OPTIONS).expect("alive");
    assert_eq!(sample.completeness.stand_still, StandStill::Never);
    let defects = &sample.completeness.defects;
    let is_said = |defect: &&Defect| defect.what.contains("(state D) did not stop");
    assert_eq!(defects.iter().filter(is_said).count(), 1, "{defects:?}");
    // Whatever the reason for which it is walked again.
    let damaged = |heap: &HeapSnapshot| !heap.defects.is_empty();
    assert!(sample.heaps.iter().any(damaged), "{:?}", sample.heaps);
    assert_eq!(child.ask("how often was it interrupted?"), "1");
}

#[test]
fn a_target_whose_memory_another_process_has_is_not_walked_before_that_has_ended() {
    let mut child = Child::python(SHARING);
    let other = child.first_line();
    let sampler = Sampler::open(child.pid()).expect("our own child");
    let error = sampler.take(OPTIONS).expect_err("it runs on").to_string();
    assert!(
        error.contains(&format!("process {other} has the same memory")),
        "{error}"
    );
    assert_eq!(child.ask("end"), "alone");
    assert_whole(&sampler.take(OPTIONS).expect("alive"));
}
