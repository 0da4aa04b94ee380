//! CPython 3.11's pymalloc: 16 KiB pools in 1 MiB arenas that begin on an odd page.

use profiler_core::pymalloc::{Context, Roots, walk, walk_from};
use profiler_core::residency::MappingKind;
use profiler_core::sample::PythonMalloc;

use super::Specimen;
use crate::image::{HeapImage, Values, WeakPoints, Words};

/// The address of Python's data.
const PYTHON: u64 = 0x40_0000;
/// The lists of pools in Python's data.
const STATE: u64 = PYTHON + 0x608;
/// The word with the address of the array of arenas: the 0x240 bytes from here contain it, and the
/// counts.
pub const ARENAS_POINTER: u64 = STATE + 512;
/// pymalloc's count of its arenas.
pub const ARENAS_COUNT: u64 = ARENAS_POINTER + 552;
/// The address of the brk heap, which begins with the array of arenas.
pub const HEAP: u64 = 0x5555_0000_0000;
/// The array of arena objects (`struct arena_object`, 48 bytes each).
pub const ARENA_OBJECTS: u64 = HEAP + 0x2a0;
/// The arenas, one after the other.
pub const ARENAS: u64 = 0x7f10_0000_1000;
/// Bytes of an arena.
pub const ARENA: u64 = 1 << 20;
/// Bytes of a pool.
pub const POOL: u64 = 16 << 10;
/// The first pool.
pub const FIRST_POOL: u64 = ARENAS.next_multiple_of(POOL);
/// Pools in an arena: one is lost to the alignment.
pub const POOLS: u64 = 63;

/// What else a walk must know.
pub const CONTEXT: Context = Context {
    python: Some((3, 11)),
    serves: PythonMalloc::Pymalloc,
};

/// The true figures of the heap, by construction.
#[derive(Copy, Clone, Debug, Default)]
pub struct Truth {
    /// Blocks in use.
    pub live_blocks: u64,
    /// Their bytes.
    pub live_bytes: u64,
    /// Pools with a block in use.
    pub pools_used: u64,
}

/// `arenas` arenas, of whose pools the last ten were never used and each eighth is free.
pub fn with_arenas(arenas: u64) -> (HeapImage, Truth) {
    let maxarenas = arenas.next_power_of_two().max(16);
    let heap_bytes = (ARENA_OBJECTS - HEAP + 48 * maxarenas).next_multiple_of(4096);
    let mut image = HeapImage::default();
    image.map(
        PYTHON,
        0x2000,
        MappingKind::File("/usr/bin/python3.11".into()),
    );
    image.map(HEAP, heap_bytes, MappingKind::Brk);
    image.map(ARENAS, arenas * ARENA, MappingKind::Anonymous);
    let mut truth = Truth::default();
    for index in 0..arenas {
        let address = ARENAS + index * ARENA;
        let first = address.next_multiple_of(POOL);
        let mut used = 0;
        for nth in 0..POOLS - 10 {
            let (class, free) = ((nth * 5 + index) % 32, nth % 8 == 3);
            let live = pool(&mut image, first + nth * POOL, index, class, free);
            truth.live_blocks += live;
            truth.live_bytes += live * (class + 1) * 16;
            used += u64::from(live > 0);
        }
        truth.pools_used += used;
        let entry = ARENA_OBJECTS + index * 48;
        image.put(entry, address);
        image.put(entry + 8, first + (POOLS - 10) * POOL);
        image.put(entry + 16, pair(POOLS - used, POOLS));
    }
    // The pointer to the array, `maxarenas`, and behind `nfp2lasta` the counts.
    image.put(ARENAS_POINTER, ARENA_OBJECTS);
    image.put(ARENAS_POINTER + 8, maxarenas);
    for (count, value) in (0..).zip([arenas, arenas + 7, arenas + 2]) {
        image.put(ARENAS_COUNT + 8 * count, value);
    }
    (image, truth)
}

fn pair(low: u64, high: u64) -> u64 {
    low | high << 32
}

/// A pool of a class, with four in five blocks carved and every third of those freed. Returns the
/// number of its live blocks.
fn pool(image: &mut HeapImage, addr: u64, arena: u64, class: u64, free: bool) -> u64 {
    let block = (class + 1) * 16;
    let carved = ((POOL - 48) / block * 4 / 5).max(1);
    let mut freed = 0;
    let mut first_free = 0;
    for index in 0..carved {
        if free || index % 3 == 1 {
            let at = addr + 48 + index * block;
            image.put(at, first_free);
            first_free = at;
            freed += 1;
        }
    }
    image.put(addr, carved - freed);
    image.put(addr + 8, first_free);
    let head = STATE + 16 * class - 16;
    image.put(addr + 16, head);
    image.put(addr + 24, head);
    image.put(addr + 32, pair(arena, class));
    image.put(addr + 40, pair(48 + carved * block, POOL - block));
    carved - freed
}

/// The roots that a walk of an image finds.
pub fn roots_of(image: &HeapImage) -> Roots {
    let mut roots = Roots::default();
    let walked = image.walk(|memory, residency| walk_from(memory, residency, &CONTEXT, &mut roots));
    walked.map_or_else(|_| Roots::default(), |_| roots)
}

/// For damage.
pub fn specimen() -> Specimen {
    let (image, _) = with_arenas(3);
    Specimen {
        image,
        weak: WeakPoints {
            words: vec![
                Words::of(ARENAS_POINTER, 0x240),
                Words::of(PYTHON, 0x2000),
                Words::of(ARENA_OBJECTS, 8 * 48),
                Words::of_each(FIRST_POOL, 128, 128, POOL),
                Words::of(ARENAS, 3 * ARENA),
            ],
            values: vec![
                Values::Addresses(HEAP, 0x2000, 1),
                Values::Addresses(ARENAS, 0x30_0000, 1),
                Values::Addresses(ARENAS & !0xffff, 0x300, 4096),
                Values::Fields(&[(0, 0x4100), (32, 0x4100)], 0),
            ],
        },
        walk: |image| {
            let mut roots = roots_of(&with_arenas(3).0);
            let walks = image.walk(|memory, residency| {
                let from_roots = walk_from(memory, residency, &CONTEXT, &mut roots);
                [walk(memory, residency, &CONTEXT), from_roots]
            });
            walks.into_iter().flatten().collect()
        },
    }
}
