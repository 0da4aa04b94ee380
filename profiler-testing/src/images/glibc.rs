//! glibc 2.36: a main arena with a tcache and fastbins, a thread arena, and an mmapped chunk.

use profiler_core::addr::RemoteAddr;
use profiler_core::glibc::{Context, Roots, find_roots, walk, walk_from};
use profiler_core::residency::MappingKind;
use profiler_core::threads::Thread;

use super::Specimen;
use crate::image::{HeapImage, Values, WeakPoints, Words, range};

/// The address of libc's data.
pub const LIBC: u64 = 0x7f00_0000_0000;
const LIBC_BYTES: u64 = 0x2000;
/// The address of `mp_`.
pub const MP: u64 = LIBC + 0x340;
/// The address of the main arena.
pub const MAIN_ARENA: u64 = LIBC + 0xc60;
const HEAP: u64 = 0x5555_0000_0000;
const THREAD_HEAP: u64 = 0x7f10_0000_0000;
const THREAD_HEAP_BYTES: u64 = 0x21000;
const THREAD_ARENA: u64 = THREAD_HEAP + 0x30;
const MMAPPED: u64 = 0x7f20_0000_0000;
const TLS: u64 = 0x7f30_0000_0000;
const THREAD_POINTER: u64 = TLS + 0x800;
const TCACHE: u64 = HEAP + 0x10;
const KEY: u64 = 0x1234_5678_9abc_def0;

/// Bytes of the mmapped chunk.
pub const MMAPPED_BYTES: u64 = 0x41000;

/// The one thread.
pub const THREADS: [Thread; 1] = [Thread {
    tid: 1,
    stack_pointer: RemoteAddr::new(0),
    program_counter: RemoteAddr::new(0),
    thread_pointer: RemoteAddr::new(THREAD_POINTER),
}];

/// The intended kind of a chunk.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Chunk {
    /// Handed out.
    Live,
    /// In a bin.
    Free,
    /// In a fastbin.
    Fastbin,
    /// In the thread's cache.
    Tcache,
}

/// A main arena with these chunks after its tcache, sizes being multiples of 16. Two free chunks must
/// not be neighbours.
pub fn with_chunks(chunks: &[(u64, Chunk)]) -> HeapImage {
    let used: u64 = 0x290 + chunks.iter().map(|(size, _)| size).sum::<u64>();
    let len = (used + 0x21000).next_multiple_of(4096);
    let mut image = HeapImage::default();
    image.map(HEAP, len, MappingKind::Brk);
    image.map(LIBC, LIBC_BYTES, MappingKind::File("/lib/libc.so.6".into()));
    image.map(THREAD_HEAP, THREAD_HEAP_BYTES, MappingKind::Anonymous);
    image.map(MMAPPED, MMAPPED_BYTES, MappingKind::Anonymous);
    image.map(TLS, 0x1000, MappingKind::Anonymous);

    image.put(HEAP + 8, 0x291);
    let mut at = HEAP + 0x290;
    let mut before_is_free = false;
    for &(size, chunk) in chunks {
        image.put(at + 8, size | u64::from(!before_is_free));
        match chunk {
            Chunk::Live => {}
            Chunk::Free => image.put(at + size, size),
            Chunk::Fastbin => {
                let head = MAIN_ARENA + 0x10 + (size - 32) / 2;
                link(&mut image, head, at + 16);
                image.put(head, at);
            }
            Chunk::Tcache => {
                let bin = (size - 32) / 16;
                let head = TCACHE + 0x80 + 8 * bin;
                link(&mut image, head, at + 16);
                image.put(at + 24, KEY);
                image.put(head, at + 16);
                image.bytes_mut(TCACHE + 2 * bin)[0] += 1;
            }
        }
        before_is_free = chunk == Chunk::Free;
        at += size;
    }
    image.put(at + 8, (HEAP + len - at) | u64::from(!before_is_free));
    arena(&mut image, MAIN_ARENA, THREAD_ARENA, at, len);
    for (offset, value) in [
        (0x00, 128 << 10),
        (0x08, 128 << 10),
        (0x10, 128 << 10),
        (0x18, 8),
        (0x38, 1 << 32),         // hp_flags, n_mmaps
        (0x40, 1 << 32 | 65536), // n_mmaps_max, max_n_mmaps
        (0x50, MMAPPED_BYTES),
        (0x58, MMAPPED_BYTES),
        (0x60, HEAP),
        (0x68, 64),
        (0x70, 1032),
        (0x78, 7),
    ] {
        image.put(MP + offset, value);
    }

    image.put(THREAD_HEAP, THREAD_ARENA);
    image.put(THREAD_HEAP + 0x10, THREAD_HEAP_BYTES);
    let first = THREAD_HEAP + 0x8d0;
    let top = first + 0x500;
    image.put(first + 8, 0x505);
    image.put(top + 8, (THREAD_HEAP + THREAD_HEAP_BYTES - top) | 1);
    arena(&mut image, THREAD_ARENA, MAIN_ARENA, top, THREAD_HEAP_BYTES);

    image.put(MMAPPED + 8, MMAPPED_BYTES | 2);
    image.put(THREAD_POINTER - 0x40, TCACHE);
    image.put(THREAD_POINTER - 0x30, MAIN_ARENA);
    image
}

fn arena(image: &mut HeapImage, arena: u64, next: u64, top: u64, system: u64) {
    for bin in 0..127 {
        let at = arena + 0x70 + 16 * bin;
        image.put(at, at - 16);
        image.put(at + 8, at - 16);
    }
    image.put(arena + 0x60, top);
    image.put(arena + 0x870, next);
    image.put(arena + 0x880, 1);
    image.put(arena + 0x888, system);
    image.put(arena + 0x890, system);
}

/// Puts `at` before the list that begins at `head`, as the caches do.
fn link(image: &mut HeapImage, head: u64, at: u64) {
    let next = image.get(head);
    image.put(at, next ^ (at >> 12));
}

/// 42 live chunks, 40 free ones, 40 in a fastbin and 8 in the thread's cache.
pub fn sound() -> HeapImage {
    let mut chunks = vec![];
    for i in 0..40 {
        chunks.push((0x20 + 0x10 * (i % 9), Chunk::Live));
        chunks.push((0x30, Chunk::Fastbin));
        chunks.push((0x400 + 0x40 * i, Chunk::Free));
    }
    chunks.push((0x40, Chunk::Live));
    chunks.extend([(0x50, Chunk::Tcache); 7]);
    chunks.extend([(0x410, Chunk::Tcache), (0x3000, Chunk::Live)]);
    with_chunks(&chunks)
}

/// What else a walk must know.
pub fn context() -> Context<'static> {
    Context {
        environment: Ok(&[]),
        version: Some((2, 36)),
        threads: &THREADS,
        libc_data: vec![range(LIBC, LIBC_BYTES)],
    }
}

/// For damage.
pub fn specimen() -> Specimen {
    let image = sound();
    let mut words = Vec::new();
    for (resident, _) in image.resident() {
        // The beginning of each piece matters most.
        let start = resident.start().get();
        words.extend([Words::of(start, 0x1000), Words::of(start, resident.len())]);
    }
    Specimen {
        weak: WeakPoints {
            words,
            values: vec![
                Values::Addresses(HEAP, 0x30000, 1),
                Values::Addresses(THREAD_HEAP, 0x30000, 1),
                Values::Addresses(LIBC, 0x400, 8),
            ],
        },
        image,
        walk: |image| {
            let mut roots = Roots::default();
            sound().walk(|memory, residency| find_roots(memory, residency, &context(), &mut roots));
            let walks = image.walk(|memory, residency| {
                let from_roots = walk_from(memory, residency, &context(), &mut roots);
                [walk(memory, residency, &context()), from_roots]
            });
            walks.into_iter().flatten().collect()
        },
    }
}
