//! Compares the mimalloc walker with a program that knows all its blocks: equal, not near.

use std::process::Command;

use profiler_core::arena::ArenaFigure;
use profiler_core::heap::{Allocator, HeapSnapshot};
use profiler_core::mimalloc::{self, Context, NotWalked};
use profiler_target::{Process, Target};
use profiler_testing::blocks::{self, Blocks, assert_exact, live};
use profiler_testing::child::while_stopped;
use profiler_testing::heap::assert_verified;

/// Debian's, of the package `libmimalloc2.0`.
const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/libmimalloc.so.2.0";

fn walk(pid: i32) -> Result<Vec<HeapSnapshot>, NotWalked> {
    let target = Target::open(pid).expect("the target opens");
    let context = Context {
        objects: &target.allocator_objects().expect("it runs"),
        python: target.python_version().expect("it runs"),
    };
    while_stopped(&target, |memory, residency, _| {
        mimalloc::walk(memory, residency, &context)
    })
}

fn only(heaps: Vec<HeapSnapshot>) -> HeapSnapshot {
    let mut heaps = heaps.into_iter();
    let heap = heaps.next().expect("a heap");
    assert!(heaps.next().is_none());
    heap
}

fn compare(mut command: Command, threads: u32, seed: u32) -> HeapSnapshot {
    let threads = threads.to_string();
    command.args([threads.as_str(), "6000", &seed.to_string()]);
    let mut blocks = Blocks::start(command);
    // What the C library took before; it may have taken nothing.
    let before = match walk(blocks.pid()).map(only) {
        Err(NotWalked::NothingFound) => HeapSnapshot::new(Allocator::Mimalloc, ""),
        Ok(before) => {
            assert_verified(&before);
            before
        }
    };
    let taken = blocks.run();
    let heap = walk(blocks.pid()).map(only).expect("a heap");
    assert_verified(&heap);
    assert_exact(&heap, &taken, &live(&before));
    heap
}

fn preloaded(library: &str) -> Vec<HeapSnapshot> {
    assert!(std::path::Path::new(library).exists(), "{library}");
    let folder = blocks::compiled("cc", &[]);
    let runs = [(1, 1), (4, 2), (9, 3)];
    let run = |(threads, seed)| {
        let mut command = Command::new(folder.path().join("blocks"));
        command.env("LD_PRELOAD", library);
        compare(command, threads, seed)
    };
    runs.into_iter().map(run).collect()
}

#[test]
fn every_block_of_a_program_with_debians_mimalloc() {
    let heaps = preloaded(LIBRARY);
    assert!(heaps.iter().any(|heap| heap.large_mapped().0 > 0));
    let thread_freed = heaps
        .iter()
        .filter_map(|heap| heap.arenas[0].figure(ArenaFigure::ThreadFreedBlocks));
    assert!(thread_freed.sum::<u64>() > 0);
    for heap in heaps {
        assert_eq!(heap.version, "2.0.9");
        let settings: Vec<_> = heap
            .settings
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        assert!(settings.contains(&"large_os_pages"), "{settings:?}");
    }
}

/// Python objects, by `id`: each lies in a live block of at least its size. `FRAGSCOPE_PYTHON` is a
/// CPython from 3.13 on, without the GIL or with `PYTHONMALLOC=mimalloc`.
#[test]
#[ignore = "needs a CPython from 3.13 on in FRAGSCOPE_PYTHON"]
fn every_object_of_a_python_that_has_mimalloc_in_it() {
    let mut command = Command::new(std::env::var("FRAGSCOPE_PYTHON").expect("FRAGSCOPE_PYTHON"));
    command.env("PYTHONMALLOC", "mimalloc").args([
        "-S",
        "-c",
        "
import random, sys
random.seed(7)
kept = [('x' * random.randrange(2, 3000)).encode() for _ in range(30000)]
kept = [block for block in kept if random.random() < 0.3]
print('ready', flush=True)
sys.stdin.readline()
print(' '.join(f'{id(block):x}:{sys.getsizeof(block):x}' for block in kept), flush=True)
sys.stdin.readline()
",
    ]);
    let mut blocks = Blocks::start(command);
    let taken = blocks.run();
    let heap = walk(blocks.pid()).map(only).expect("a heap");
    assert_verified(&heap);
    let spans = live(&heap);
    for (&object, &size) in &taken {
        let span = spans.range(..=object).next_back();
        let (_, end) = span.unwrap_or_else(|| panic!("{object:#x} lies in no live span"));
        assert!(object + size <= *end, "{object:#x} of {size} bytes");
    }
    eprintln!(
        "verified on mimalloc {}, {} objects",
        heap.version,
        taken.len()
    );
}

/// On another release: `FRAGSCOPE_MIMALLOC=/path/to/libmimalloc.so cargo test --test mimalloc_walk
/// -- --ignored`.
#[test]
#[ignore = "needs another mimalloc in FRAGSCOPE_MIMALLOC"]
fn every_block_on_another_release() {
    let library = std::env::var("FRAGSCOPE_MIMALLOC").expect("FRAGSCOPE_MIMALLOC names a library");
    for heap in preloaded(&library) {
        let settings = heap.settings.len();
        eprintln!("verified on mimalloc {}, {settings} settings", heap.version);
    }
}
