//! The walker of musl's mallocng against a program that knows all its blocks: equal, not near.

mod blocks;
mod child;

use std::path::Path;
use std::process::Command;

use blocks::{Blocks, assert_exact, live};
use profiler_core::addr::RemoteAddr;
use profiler_core::completeness::Confidence;
use profiler_core::heap::{Allocator, HeapSnapshot};
use profiler_core::memory::ResidentMemory;
use profiler_core::musl::{self, Context, NotWalked};
use profiler_target::Target;

/// `AT_RANDOM`, by the public reader of the auxiliary vector.
fn at_random(target: &Target) -> Option<RemoteAddr> {
    let auxv = target.auxv().expect("its auxv");
    let (words, _) = auxv.as_chunks::<8>();
    let words: Vec<u64> = words.iter().map(|w| u64::from_le_bytes(*w)).collect();
    let pair = words.chunks(2).find(|pair| pair[0] == 25)?;
    Some(RemoteAddr::new(pair[1]))
}

fn look(pid: i32) -> Result<HeapSnapshot, NotWalked> {
    let target = Target::open(pid).expect("the target opens");
    let stopped = child::stop(&target);
    let mappings = target.mappings().expect("maps");
    let residency = target.residency(&mappings).expect("pagemap");
    let memory = target.memory();
    let version = target.libc().map(|libc| libc.version.clone());
    let heap = musl::walk(
        &ResidentMemory::new(memory, &residency),
        &residency,
        &Context {
            at_random: at_random(&target),
            version: version.unwrap_or_default(),
        },
    );
    drop(stopped);
    heap
}

fn figure(heap: &HeapSnapshot, name: &str) -> u64 {
    let figures = heap.arenas.iter().flat_map(|arena| &arena.figures);
    let of_name = figures.filter(|(n, _)| n.name() == name);
    of_name.map(|(_, value)| value).sum()
}

fn assert_sound(heap: &HeapSnapshot) {
    let what = format!(
        "{:#?}\n{:#?}\n{:#?}",
        heap.arenas, heap.checks, heap.defects
    );
    assert_eq!(heap.check(), Vec::<String>::new(), "{what}");
    assert_eq!(heap.defects, [], "{what}");
    assert!(heap.checks.iter().all(|check| check.holds()), "{what}");
    assert_eq!(figure(heap, "blocks_of_unknown_request"), 0, "{what}");
}

/// Runs the program, and compares the heap with its list: blocks, and the bytes asked for.
fn compare(command: Command) -> (Blocks, HeapSnapshot) {
    let mut blocks = Blocks::start(command);
    // A static program that has allocated nothing has no heap yet.
    let before = match look(blocks.pid()) {
        Err(NotWalked::NoContext) => HeapSnapshot::new(Allocator::Musl, ""),
        before => before.expect("a heap"),
    };
    assert_sound(&before);
    let told = blocks.run();
    let heap = look(blocks.pid()).expect("a heap");
    assert_sound(&heap);
    assert_eq!(heap.confidence, Confidence::High);
    assert_exact(&heap, &told, &live(&before));
    let requested =
        |heap| figure(heap, "requested_bytes") + figure(heap, "mapped_large_requested_bytes");
    let asked: u64 = told.values().sum();
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
        assert!(figure(&heap, "nested_groups") > 0);
        assert!(heap.large_mapped().0 > 0);
        let target = Target::open(blocks.pid()).expect("there");
        assert_eq!(heap.version, target.libc().expect("musl").version);
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
