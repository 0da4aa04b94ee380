//! The walker of mimalloc against a program that knows all its blocks: equal, not near.

mod blocks;
mod child;

use std::process::Command;

use blocks::{Blocks, assert_exact, live};
use fragscope::process::Target;
use profiler_core::completeness::Confidence;
use profiler_core::heap::{Allocator, HeapSnapshot};
use profiler_core::memory::ResidentMemory;
use profiler_core::mimalloc::{self, Context, NotWalked};

/// Debian's, of the package `libmimalloc2.0`.
const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/libmimalloc.so.2.0";

fn look(pid: i32) -> Result<Vec<HeapSnapshot>, NotWalked> {
    let target = Target::open(pid).expect("the target opens");
    let stopped = target.stop().expect("it stops");
    let mappings = target.mappings().expect("maps");
    let residency = target.residency(&mappings).expect("pagemap");
    let memory = target.memory();
    let context = Context {
        python: target.python_version(),
        ..Context::default()
    };
    let memory = ResidentMemory::new(memory, &residency);
    let heaps = mimalloc::walk(&memory, &residency, &context);
    drop(stopped);
    heaps
}

fn assert_sound(heap: &HeapSnapshot) {
    let what = format!(
        "{:#?}\n{:#?}\n{:#?}",
        heap.arenas, heap.checks, heap.defects
    );
    assert_eq!(heap.check(), Vec::<String>::new(), "{what}");
    assert_eq!(heap.defects, [], "{what}");
    assert!(heap.checks.iter().all(|check| check.holds()), "{what}");
    assert_eq!(heap.confidence, Confidence::High, "{what}");
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
    let before = match look(blocks.pid()).map(only) {
        Err(NotWalked::NoSegments) => HeapSnapshot::new(Allocator::Mimalloc, ""),
        Ok(before) => {
            assert_sound(&before);
            before
        }
    };
    let told = blocks.run();
    let heap = look(blocks.pid()).map(only).expect("a heap");
    assert_sound(&heap);
    assert_exact(&heap, &told, &live(&before));
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
    for heap in preloaded(LIBRARY) {
        assert_eq!(heap.version, "2.0.9");
        assert!(heap.large_mapped().0 > 0);
        let settings: Vec<_> = heap
            .settings
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        assert!(settings.contains(&"large_os_pages"), "{settings:?}");
    }
}

/// On another release: `FRAGSCOPE_MIMALLOC=/path/to/libmimalloc.so cargo test --test mimalloc_walk
/// -- --ignored`.
#[test]
#[ignore = "needs another mimalloc in FRAGSCOPE_MIMALLOC"]
fn every_block_on_another_release() {
    let library = std::env::var("FRAGSCOPE_MIMALLOC").expect("FRAGSCOPE_MIMALLOC names a library");
    for heap in preloaded(&library) {
        eprintln!("verified on mimalloc {}: {:?}", heap.version, heap.settings);
    }
}
