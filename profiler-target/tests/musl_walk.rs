//! Compares the walker of musl's mallocng with a program that knows all its blocks: equal, not
//! near.

use std::path::Path;
use std::process::Command;

use profiler_core::arena::ArenaFigure;
use profiler_core::completeness::Confidence;
use profiler_core::heap::{Allocator, HeapSnapshot};
use profiler_core::musl::{self, Context, NotWalked};
use profiler_target::{Process, Target};
use profiler_testing::blocks::{self, Blocks, assert_exact, live};
use profiler_testing::child::while_stopped;
use profiler_testing::heap::{self, figure};

fn walk(pid: i32) -> Result<HeapSnapshot, NotWalked> {
    let target = Target::open(pid).expect("the target opens");
    let version = target
        .libc()
        .expect("it runs")
        .map(|libc| libc.version.clone());
    let context = Context {
        at_random: target.at_random().expect("it runs"),
        version: version.unwrap_or_default(),
    };
    while_stopped(&target, |memory, residency, _| {
        musl::walk(memory, residency, &context)
    })
}

fn assert_sound(heap: &HeapSnapshot) {
    heap::assert_sound(heap);
    assert_eq!(figure(heap, ArenaFigure::BlocksOfUnknownRequest), 0);
}

/// Runs the program, and compares the heap with its list: blocks, and the bytes requested.
fn compare(command: Command) -> (Blocks, HeapSnapshot) {
    let mut blocks = Blocks::start(command);
    // A static program that has allocated nothing has no heap yet.
    let before = match walk(blocks.pid()) {
        Err(NotWalked::NoContext) => HeapSnapshot::new(Allocator::Musl, ""),
        before => before.expect("a heap"),
    };
    assert_sound(&before);
    let taken = blocks.run();
    let heap = walk(blocks.pid()).expect("a heap");
    assert_sound(&heap);
    assert_eq!(heap.confidence, Confidence::High);
    assert_exact(&heap, &taken, &live(&before));
    let requested = |heap| {
        figure(heap, ArenaFigure::RequestedBytes)
            + figure(heap, ArenaFigure::MappedLargeRequestedBytes)
    };
    let asked: u64 = taken.values().sum();
    assert_eq!(requested(&heap), requested(&before) + asked);
    (blocks, heap)
}

fn with_arguments(mut command: Command, threads: u32, seed: u32) -> Command {
    let threads = threads.to_string();
    command.args([threads.as_str(), "20000", &seed.to_string()]);
    command
}

#[test]
fn every_block_of_a_dynamic_program() {
    let folder = blocks::compiled("musl-gcc", &[]);
    let program = folder.path().join("blocks");
    for (threads, seed) in [(1, 1), (4, 2), (9, 3)] {
        let (blocks, heap) = compare(with_arguments(Command::new(&program), threads, seed));
        assert!(figure(&heap, ArenaFigure::NestedGroups) > 0);
        assert!(heap.large_mapped().0 > 0);
        let target = Target::open(blocks.pid()).expect("there");
        assert_eq!(
            heap.version,
            target.libc().expect("it runs").expect("musl").version
        );
    }
}

#[test]
fn every_block_of_a_static_program() {
    let folder = blocks::compiled("musl-gcc", &["-static"]);
    let program = folder.path().join("blocks");
    let (_blocks, heap) = compare(with_arguments(Command::new(program), 4, 4));
    assert_eq!(heap.version, "");
}

/// On another release: `FRAGSCOPE_MUSL=/path/to/ld-musl-x86_64.so.1 cargo test --test musl_walk --
/// --ignored`.
#[test]
#[ignore = "needs another musl in FRAGSCOPE_MUSL"]
fn every_block_on_another_release() {
    let loader = std::env::var_os("FRAGSCOPE_MUSL").expect("FRAGSCOPE_MUSL names a musl loader");
    let folder = blocks::compiled("musl-gcc", &[]);
    let mut command = Command::new(Path::new(&loader));
    command.arg(folder.path().join("blocks"));
    let (_blocks, heap) = compare(with_arguments(command, 4, 5));
    eprintln!("verified on musl {}", heap.version);
}
