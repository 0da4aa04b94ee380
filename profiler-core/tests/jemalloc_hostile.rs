//! The jemalloc walker on images: one that is sound, and any damage to it.

use profiler_core::addr::{AddrRange, RemoteAddr};
use profiler_core::allocator::{AllocatorIdentity, Role};
use profiler_core::completeness::Confidence;
use profiler_core::heap::Allocator;
use profiler_core::jemalloc::{NotWalked, walk};
use profiler_core::memory::{MemoryImage, ResidentMemory};
use profiler_core::object::AllocatorObject;
use profiler_core::residency::{Mapping, MappingKind, PageRun, PageState, ResidencyMap};
use profiler_core::span::SpanState;
use proptest::prelude::*;

const DATA: u64 = 0x7f00_0000_0000;
const ROOT: u64 = DATA + 0x1000;
const ARENAS: u64 = DATA + 0x42000;
const META: u64 = 0x7f10_0000_0000;
const META_BYTES: u64 = 0x20000;
const BASE: u64 = META + 0x100;
const ARENA: u64 = META + 0x1040;
const EXTENTS: u64 = META + 0x10000;
const DESCRIPTOR: u64 = META + 0x18000;
const BINS: u64 = META + 0x18100;
const LARGE_BINS: u64 = META + 0x19000;
const STACK: u64 = META + 0x1a000;
const NODE: u64 = 0x7f11_0000_0000;
const LEAF: u64 = 0x7f12_0000_0000;
const HEAP: u64 = 0x7f20_0000_0000;
const HEAP_BYTES: u64 = 0x20000;

/// A small jemalloc 5.1.0 heap, configured on a machine with 57 bits of virtual addresses, by the
/// numbers of that release and nothing of the walker's.
struct Image {
    pieces: Vec<(u64, Vec<u8>)>,
}

/// Bits of `e_bits`: whether a slab, the state, the class, the free regions.
fn bits(slab: u64, state: u64, class: u64, nfree: u64) -> u64 {
    slab << 12 | state << 16 | class << 18 | nfree << 26
}

impl Image {
    fn sound() -> Self {
        let piece = |addr, len| (addr, vec![0; len]);
        let mut image = Self {
            pieces: vec![
                piece(DATA, 0x50000),
                piece(META, META_BYTES as usize),
                piece(NODE, 8 << 15),
                piece(LEAF, 16 << 15),
            ],
        };
        image.set(ARENAS, ARENA);
        image.set(ROOT + 8 * (HEAP >> 42), NODE);
        image.set(NODE + 8 * (HEAP >> 27 & 0x7fff), LEAF);

        // The base and its one block.
        image.set(META, META_BYTES);
        image.set(BASE + 0x88, META);
        image.set(BASE + 0x7d0, 0x19000);
        image.set(BASE + 0x7e0, META_BYTES);
        image.set(ARENA + 0x64f8, BASE);

        // A slab of 256 regions of 16 bytes, the first 100 free; a full one of 32 of 128 bytes; a
        // large block; dirty, muzzy and retained pages.
        let extents = [
            (0x1000, bits(1, 0, 1, 100), 0),
            (0x1000, bits(1, 0, 8, 0), 0),
            (0x5000, bits(0, 0, 36, 0), 0x40),
            (0x3000, bits(0, 1, 232, 0), 0),
            (0x1000, bits(0, 2, 232, 0), 0),
            (0x10000, bits(0, 3, 232, 0), 0),
        ];
        let mut at = HEAP;
        for (i, (size, bits, offset)) in extents.into_iter().enumerate() {
            let extent = EXTENTS + 128 * i as u64;
            image.set(extent, bits);
            image.set(extent + 8, at + offset);
            image.set(extent + 16, size);
            for page in [at, at + size - 0x1000] {
                image.set(LEAF + 16 * (page >> 12 & 0x7fff), extent);
            }
            at += size;
        }
        image.set(EXTENTS + 0x40, u64::MAX);
        image.set(EXTENTS + 0x48, (1 << 36) - 1);

        // What the arena says of itself.
        image.set(ARENA + 0x10, 0xb000); // mapped
        image.set(ARENA + 0x2d8, 5); // lstats[0].nmalloc
        image.set(ARENA + 0x2e0, 4); // ndalloc
        image.set(ARENA + 0x1b68, DESCRIPTOR);
        image.set(ARENA + 0x1c00, 7); // nactive
        image.set(ARENA + 0x2348, 3); // extents_dirty.npages
        image.set(ARENA + 0x2a28, 1);
        image.set(ARENA + 0x3108, 16);
        image.set(ARENA + 0x3188, 10_000);
        for (bin, slab, regions) in [(1, 0, 156), (8, 1, 32)] {
            let bin = ARENA + 0x3fd8 + 0x108 * bin;
            image.set(bin + 0x68, EXTENTS + 128 * slab);
            image.set(bin + 0x98, regions);
            image.set(bin + 0xc0, 1);
        }

        // A thread cache with three regions of the first slab, the only one in the ring.
        image.set(DESCRIPTOR, DESCRIPTOR);
        image.set(DESCRIPTOR + 16, BINS);
        image.set(DESCRIPTOR + 24, LARGE_BINS);
        image.set(BINS + 24, 3 << 32);
        image.set(BINS + 24 + 16, STACK + 24);
        for i in 0..3 {
            image.set(STACK + 8 * i, HEAP + 16 * (200 + i));
        }
        image
    }

    fn set(&mut self, addr: u64, value: u64) {
        let (start, bytes) = self
            .pieces
            .iter_mut()
            .rev()
            .find(|(start, _)| *start <= addr)
            .expect("a piece");
        let at = (addr - *start) as usize;
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }

    fn object(&self, version: Option<&str>) -> AllocatorObject {
        let data = AddrRange::with_len(RemoteAddr::new(DATA), 0x50000);
        AllocatorObject {
            identity: AllocatorIdentity {
                kind: Some(Allocator::Jemalloc),
                version: version.map(str::to_owned),
                object: "/usr/lib/libjemalloc.so.2".to_owned(),
                role: Role::ServesMalloc,
            },
            options: Vec::new(),
            data: vec![data.expect("it fits")],
        }
    }

    fn finish(&self) -> (MemoryImage, ResidencyMap) {
        let mut memory = MemoryImage::default();
        let range = |addr, len| AddrRange::with_len(RemoteAddr::new(addr), len).expect("it fits");
        let mut ranges = Vec::new();
        for (addr, bytes) in &self.pieces {
            ranges.push(range(*addr, bytes.len() as u64));
            memory.insert(RemoteAddr::new(*addr), bytes.clone());
        }
        let mapping = |range: &AddrRange| Mapping {
            range: *range,
            kind: MappingKind::Anonymous,
            read: true,
            write: true,
            execute: false,
            shared: false,
            offset: 0,
            inode: 0,
        };
        let mut mappings: Vec<_> = ranges.iter().map(mapping).collect();
        mappings.push(mapping(&range(HEAP, HEAP_BYTES)));
        let mut residency = ResidencyMap::new(mappings);
        for range in ranges {
            residency.push_run(PageRun {
                range,
                state: PageState::PRESENT,
            });
        }
        (memory, residency)
    }
}

#[test]
fn a_sound_image_is_told_whole() {
    let image = Image::sound();
    let (memory, residency) = image.finish();
    // A version that the object does not tell is told by the shape.
    for version in [Some("5.1.0"), None] {
        let heap = walk(&memory, &residency, &image.object(version)).expect("a heap");
        assert_eq!(heap.check(), Vec::<String>::new());
        assert_eq!(heap.defects, []);
        assert_eq!(heap.confidence, Confidence::High, "{:#?}", heap.checks);
        let [arena] = heap.arenas.as_slice() else {
            panic!("one arena: {:?}", heap.arenas);
        };
        assert_eq!(arena.live_blocks, 153 + 32 + 1);
        assert_eq!(arena.live_bytes, 153 * 16 + 0x1000 + 0x4000);
        assert_eq!((arena.free_blocks, arena.free_bytes), (100, 1600));
        assert_eq!((arena.cached_blocks, arena.cached_bytes), (3, 48));
        assert_eq!(arena.system_bytes, 0xb000 + META_BYTES);
        // The metadata's block; all else is one run.
        assert_eq!(heap.extents.len(), 2);
        let run = &heap.extents[1];
        let cached: Vec<_> = run
            .spans
            .iter(run.range.start())
            .filter(|span| span.state == SpanState::Cached)
            .map(|span| span.range.start().get())
            .collect();
        assert_eq!(cached, [200, 201, 202].map(|i| HEAP + 16 * i));
        assert_eq!(heap.trimmable.len(), 2);
        assert!(
            heap.settings
                .contains(&("dirty_decay_ms".to_owned(), "10000".to_owned()))
        );
    }
}

#[test]
fn what_is_not_known_is_refused_by_name() {
    let image = Image::sound();
    let (memory, residency) = image.finish();
    let refused = walk(&memory, &residency, &image.object(Some("3.6.0")));
    assert_eq!(refused, Err(NotWalked::UnknownVersion("3.6.0".to_owned())));
    // Another layout than the image's.
    let refused = walk(&memory, &residency, &image.object(Some("5.3.0")));
    assert_eq!(refused, Err(NotWalked::NoArenas("5.3.0".to_owned())));
    let mut image = image;
    image.set(ROOT + 8 * (HEAP >> 42), 0);
    let (memory, residency) = image.finish();
    let refused = walk(&memory, &residency, &image.object(Some("5.1.0")));
    assert_eq!(refused, Err(NotWalked::NoTree("5.1.0".to_owned())));
}

#[test]
fn a_count_that_differs_is_told() {
    let mut image = Image::sound();
    image.set(ARENA + 0x1c00, 8);
    let (memory, residency) = image.finish();
    let heap = walk(&memory, &residency, &image.object(Some("5.1.0"))).expect("a heap");
    let off: Vec<_> = heap.checks.iter().filter(|c| !c.holds()).collect();
    assert_eq!(off.len(), 1, "{off:?}");
    assert_eq!(off[0].name, "arena 0 nactive");
    assert_eq!(heap.confidence, Confidence::Low);
}

/// Values that break walks: ends, flags, near misses, and addresses of the image itself.
fn value() -> impl Strategy<Value = u64> {
    let meta = (0u64..0x20000).prop_map(|at| META + at);
    let heap = (0u64..0x40000).prop_map(|at| HEAP + at);
    let node = (0u64..0x40000).prop_map(|at| NODE + (at & !63));
    prop_oneof![
        Just(0),
        Just(u64::MAX),
        0u64..0x5000,
        any::<u64>(),
        meta,
        heap,
        node
    ]
}

/// Words that matter, and any other of the metadata.
fn place() -> impl Strategy<Value = u64> {
    let words = |start: u64, bytes: u64| (0..bytes / 8).prop_map(move |i| start + 8 * i);
    prop_oneof![
        words(BASE, 0x100),
        words(ARENA, 0x6508),
        words(EXTENTS, 6 * 128),
        words(DESCRIPTOR, 0x200),
        words(STACK, 0x20),
        words(META, META_BYTES - 8),
        words(LEAF, 0x400),
        Just(ROOT + 8 * (HEAP >> 42)),
        Just(ARENAS + 8),
        Just(NODE + 8 * (HEAP >> 27 & 0x7fff)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(500)
    })]
    #[test]
    fn damage_never_panics_always_ends_and_keeps_the_laws(
        damage in prop::collection::vec((place(), value()), 1..20),
    ) {
        let mut image = Image::sound();
        for (place, value) in damage {
            image.set(place, value);
        }
        let (memory, residency) = image.finish();
        let memory = ResidentMemory::new(memory, &residency);
        if let Ok(heap) = walk(&memory, &residency, &image.object(Some("5.1.0"))) {
            prop_assert_eq!(heap.check(), Vec::<String>::new());
        }
    }
}
