//! CPython's own account of its heap (`sys._debugmallocstats`), and a walk's account of the same.

use std::collections::BTreeMap;

use profiler_core::arena::ArenaFigure;
use profiler_core::heap::HeapSnapshot;
use profiler_core::span::SpanState;

/// A heap of many sizes, of which four in five objects go again.
pub(crate) const HEAP: &str = "
import random
rng = random.Random(7)
kept = [[str(i), i * 1.5, {i: [i]}, 'x' * rng.randrange(480)] for i in range(60000)]
kept = [o for o in kept if rng.randrange(100) < 20]
";

/// Prints its account on stderr, says so, and waits for ever; nothing after the account makes or
/// frees an object.
pub(crate) const ACCOUNT: &str = "
import gc, os, sys, threading
gc.collect()
lock = threading.Lock()
lock.acquire()
wait, account, write = lock.acquire, sys._debugmallocstats, os.write
write(1, b'account\\n')
account()
write(1, b'ready\\n')
wait()
";

/// The same for a debug build of Python 2, whose account is to be had from C alone: as a handler of
/// a signal it makes no object.
pub(crate) const ACCOUNT_2: &str = "
import ctypes, gc, os, signal, threading
libc = ctypes.CDLL(None)
libc.signal(int(signal.SIGUSR1), ctypes.cast(ctypes.pythonapi._PyObject_DebugMallocStats, ctypes.c_void_p))
lock = threading.Lock()
lock.acquire()
wait, kill, write, pid, usr1 = lock.acquire, os.kill, os.write, os.getpid(), int(signal.SIGUSR1)
gc.collect()
write(1, b'account\\n')
kill(pid, usr1)
write(1, b'ready\\n')
wait()
";

/// What CPython says of itself: by block size the pools, blocks in use and blocks available; and
/// the sums by name.
#[derive(Debug, Default)]
pub(crate) struct Account {
    pub(crate) classes: BTreeMap<u64, [u64; 3]>,
    pub(crate) sums: BTreeMap<String, u64>,
}

pub(crate) fn parse(text: &str) -> Account {
    let mut account = Account::default();
    for line in text.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        let numbers: Vec<u64> = words.iter().filter_map(|w| w.parse().ok()).collect();
        if let ([_, size, pools, used, free], 5) = (numbers.as_slice(), words.len()) {
            account.classes.insert(*size, [*pools, *used, *free]);
        } else if let Some((name, value)) = line.split_once('=') {
            let value = value.trim().replace(',', "");
            let name = name.trim().trim_start_matches("# ");
            // `17 unused pools * 4096 bytes`: the product is what counts.
            let name = name.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ');
            let name = name.split_once(" * ").map_or(name, |(name, _)| name);
            // Another line with `=` is the threshold's, a sentence.
            if let Ok(value) = value.parse() {
                account.sums.insert(name.to_owned(), value);
            }
        }
    }
    assert!(
        account.classes.len() > 10 && account.sums.len() > 8,
        "{text}"
    );
    account
}

/// Blocks in use and free by size, from the spans.
pub(crate) fn blocks(heap: &HeapSnapshot, arena: u32) -> BTreeMap<u64, [u64; 2]> {
    let mut classes: BTreeMap<u64, [u64; 2]> = BTreeMap::new();
    for extent in heap.extents.iter().filter(|e| e.arena == arena) {
        for span in extent.spans.iter(extent.range.start()) {
            let size = span.range.len();
            match span.state {
                SpanState::Live => classes.entry(size).or_default()[0] += 1,
                SpanState::Free if size <= 512 => classes.entry(size).or_default()[1] += 1,
                _ => {}
            }
        }
    }
    classes
}

/// Compares each line of an interpreter's account with the walk of its arenas.
pub(crate) fn assert_equal(account: &Account, heap: &HeapSnapshot, arena: usize, what: &str) {
    let classes = account.classes.iter();
    let expected: BTreeMap<_, _> = classes
        .map(|(&size, &[_, used, free])| (size, [used, free]))
        .collect();
    assert_eq!(blocks(heap, arena as u32), expected, "{what}");
    let arena = &heap.arenas[arena];
    let pools: u64 = account.classes.values().map(|[pools, ..]| pools).sum();
    assert_eq!(arena.figure(ArenaFigure::PoolsUsed), Some(pools), "{what}");
    for (ours, theirs) in [
        (ArenaFigure::ArenasAllocated, "arenas allocated current"),
        (ArenaFigure::FreeBlockBytes, "bytes in available blocks"),
        (ArenaFigure::FreePoolBytes, "unused pools"),
        (ArenaFigure::PoolHeaderBytes, "bytes lost to pool headers"),
        (ArenaFigure::QuantizationBytes, "bytes lost to quantization"),
        (
            ArenaFigure::ArenaAlignmentBytes,
            "bytes lost to arena alignment",
        ),
        (ArenaFigure::ArenasAllocatedTotal, "arenas allocated total"),
        (ArenaFigure::ArenasReclaimed, "arenas reclaimed"),
        (ArenaFigure::ArenasHighwater, "arenas highwater mark"),
    ] {
        let theirs = account.sums.get(theirs).copied();
        assert_eq!(arena.figure(ours), theirs, "{} {what}", ours.name());
    }
    let live = account.sums.get("bytes in allocated blocks");
    assert_eq!(Some(&arena.live_bytes), live, "{what}");
    let all = account.sums.get("arenas"); // times their size
    assert_eq!(Some(&arena.system_bytes), all, "{what}");
}
