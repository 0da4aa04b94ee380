//! The walker of tcmalloc against a program that knows all its blocks, and against the totals that
//! tcmalloc tells: equal, not near.

mod blocks;
mod child;

use std::process::Command;

use blocks::{Blocks, assert_exact, live};
use child::Child;
use profiler_core::completeness::Confidence;
use profiler_core::heap::{Allocator, HeapSnapshot};
use profiler_core::memory::ResidentMemory;
use profiler_core::tcmalloc;
use profiler_target::Target;

/// Debian's, of the package `libtcmalloc-minimal4`.
const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4";

fn look(pid: i32) -> HeapSnapshot {
    let target = Target::open(pid).expect("the target opens");
    let stopped = child::stop(&target);
    let mappings = target.mappings().expect("maps");
    let residency = target.residency(&mappings).expect("pagemap");
    let memory = target.memory();
    let memory = ResidentMemory::new(memory, &residency);
    let objects = target.allocator_objects();
    let mut objects = objects.iter();
    let object = objects.find(|object| object.identity.is(Allocator::Tcmalloc));
    let heap = tcmalloc::walk(&memory, &residency, object.expect("tcmalloc"));
    drop(stopped);
    heap.expect("a heap")
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

fn figure(heap: &HeapSnapshot, name: &str) -> u64 {
    let mut figures = heap.arenas[0].figures.iter();
    let found = figures.find(|(figure, _)| figure.name() == name);
    found.unwrap_or_else(|| panic!("no figure {name}")).1
}

#[test]
fn every_block_of_a_program_with_debians_tcmalloc() {
    assert!(std::path::Path::new(LIBRARY).exists(), "{LIBRARY}");
    let folder = blocks::compiled("cc", &[]);
    let mut transfer = 0;
    for (threads, seed) in [("1", "1"), ("4", "2"), ("9", "3")] {
        let mut command = Command::new(folder.path().join("blocks"));
        command.env("LD_PRELOAD", LIBRARY);
        command.args([threads, "6000", seed]);
        let mut blocks = Blocks::start(command);
        let before = look(blocks.pid());
        assert_sound(&before);
        let told = blocks.run();
        let heap = look(blocks.pid());
        assert_sound(&heap);
        assert_eq!(heap.version, "2.10");
        assert_exact(&heap, &told, &live(&before));
        assert!(heap.arenas[0].cached_blocks > 0 && !heap.trimmable.is_empty());
        transfer += figure(&heap, "transfer_cache_free_bytes");
    }
    assert!(transfer > 0);
}

/// The numbers are read twice, so that reading them is known to change nothing.
const TOTALS: &str = "
import ctypes, os, sys
names = [b'generic.current_allocated_bytes', b'generic.heap_size', b'tcmalloc.pageheap_free_bytes',
    b'tcmalloc.pageheap_unmapped_bytes', b'tcmalloc.central_cache_free_bytes',
    b'tcmalloc.transfer_cache_free_bytes', b'tcmalloc.current_total_thread_cache_bytes']
tc = ctypes.CDLL('libtcmalloc_minimal.so.4')
ask = tc.MallocExtension_GetNumericProperty
values = [ctypes.c_size_t() for _ in names]
kept = [bytes(n * 37 % 90000 + 1000) for n in range(4000)]
large = [bytearray(9 << 20) for _ in range(6)]
kept = kept[::3]
del large[::2]
tc.MallocExtension_ReleaseFreeMemory()
del large[:]
def told():
    for name, value in zip(names, values):
        assert ask(name, ctypes.byref(value))
    return ' '.join(str(value.value) for value in values)
while told() != told():
    pass
line = (told() + '\\n').encode()
os.write(1, line)
os.read(0, 1)
";

#[test]
fn totals_are_those_that_tcmalloc_tells() {
    let mut command = Command::new("python3");
    command
        .env("LD_PRELOAD", LIBRARY)
        .args(["-S", "-c", TOTALS]);
    let child = Child::run(command);
    let told: Vec<u64> = child
        .said()
        .split_whitespace()
        .map(|number| number.parse().expect("a number"))
        .collect();
    let heap = look(child.pid());
    assert_sound(&heap);
    let found = [
        heap.arenas[0].live_bytes,
        heap.extents.iter().map(|extent| extent.range.len()).sum(),
        figure(&heap, "pageheap_free_bytes"),
        figure(&heap, "pageheap_unmapped_bytes"),
        figure(&heap, "central_cache_free_bytes"),
        figure(&heap, "transfer_cache_free_bytes"),
        figure(&heap, "current_total_thread_cache_bytes"),
    ];
    assert_eq!(told, found);
    assert!(found.iter().all(|bytes| *bytes > 0), "{found:?}");
}
