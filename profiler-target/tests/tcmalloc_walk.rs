//! Compares the tcmalloc walker with a program that knows all its blocks, and with the totals that
//! tcmalloc reports: equal, not near.

use std::process::Command;

use profiler_core::arena::ArenaFigure;
use profiler_core::heap::{Allocator, HeapSnapshot};
use profiler_core::tcmalloc;
use profiler_target::{Process, Target};
use profiler_testing::blocks::{self, Blocks, assert_exact, live};
use profiler_testing::child::{Child, while_stopped};
use profiler_testing::heap::{assert_verified, figure};

/// Debian's, of the package `libtcmalloc-minimal4`.
const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4";

fn walk(pid: i32) -> HeapSnapshot {
    let target = Target::open(pid).expect("the target opens");
    let objects = target.allocator_objects().expect("it runs");
    let mut objects = objects.iter();
    let object = objects.find(|object| object.identity.is(Allocator::Tcmalloc));
    let object = object.expect("tcmalloc");
    let heap = while_stopped(&target, |memory, residency, _| {
        tcmalloc::walk(memory, residency, object)
    });
    heap.expect("a heap")
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
        let before = walk(blocks.pid());
        assert_verified(&before);
        let taken = blocks.run();
        let heap = walk(blocks.pid());
        assert_verified(&heap);
        assert_eq!(heap.version, "2.10");
        assert_exact(&heap, &taken, &live(&before));
        assert!(heap.arenas[0].cached_blocks > 0 && !heap.trimmable.is_empty());
        transfer += figure(&heap, ArenaFigure::TransferCacheFreeBytes);
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
def totals():
    for name, value in zip(names, values):
        assert ask(name, ctypes.byref(value))
    return ' '.join(str(value.value) for value in values)
while totals() != totals():
    pass
line = (totals() + '\\n').encode()
os.write(1, line)
os.read(0, 1)
";

#[test]
fn totals_are_those_that_tcmalloc_reports() {
    let mut command = Command::new("python3");
    command
        .env("LD_PRELOAD", LIBRARY)
        .args(["-S", "-c", TOTALS]);
    let child = Child::run(command);
    let reported: Vec<u64> = child
        .first_line()
        .split_whitespace()
        .map(|number| number.parse().expect("a number"))
        .collect();
    let heap = walk(child.pid());
    assert_verified(&heap);
    let found = [
        heap.arenas[0].live_bytes,
        heap.extents.iter().map(|extent| extent.range.len()).sum(),
        figure(&heap, ArenaFigure::PageheapFreeBytes),
        figure(&heap, ArenaFigure::PageheapUnmappedBytes),
        figure(&heap, ArenaFigure::CentralCacheFreeBytes),
        figure(&heap, ArenaFigure::TransferCacheFreeBytes),
        figure(&heap, ArenaFigure::CurrentTotalThreadCacheBytes),
    ];
    assert_eq!(reported, found);
    assert!(found.iter().all(|bytes| *bytes > 0), "{found:?}");
}
