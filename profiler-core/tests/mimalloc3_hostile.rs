//! The walker of mimalloc 3.x on images: one that is sound, and any damage to it.

use profiler_core::addr::{AddrRange, RemoteAddr};
use profiler_core::allocator::{AllocatorIdentity, Role};
use profiler_core::arena::ArenaFigure;
use profiler_core::completeness::Confidence;
use profiler_core::heap::{Allocator, HeapSnapshot};
use profiler_core::memory::{MemoryImage, ResidentMemory};
use profiler_core::mimalloc::{Context, NotWalked, walk};
use profiler_core::object::AllocatorObject;
use profiler_core::residency::{Mapping, MappingKind, PageRun, PageState, ResidencyMap};
use proptest::prelude::*;

const SLICE: u64 = 64 << 10;
/// The arena: its own slice, a page of mimalloc's own data, two pages with blocks, free slices.
const ARENA: u64 = 0x4000_0000;
const SLICES: u64 = 512;
const OWN: u64 = ARENA + SLICE;
const PAGE: u64 = ARENA + 2 * SLICE;
const SECOND: u64 = ARENA + 3 * SLICE;
/// The arena's bitmap of pages.
const BITMAP: u64 = ARENA + 0x1000;
const MAP: u64 = 0x7f00_0000_0000;
const PART: u64 = 0x7f10_0000_0000;
const DATA: u64 = 0x7f20_0000_0000;
const BLOCK: u64 = 80;

/// Any of it may be damaged before use.
struct Image {
    pieces: [(u64, Vec<u8>); 4],
}

impl Image {
    fn sound() -> Self {
        let piece = |start: u64, len: u64| (start, vec![0; len as usize]);
        let mut image = Self {
            pieces: [
                piece(ARENA, 5 * SLICE),
                piece(MAP, 4096),
                piece(PART, SLICE),
                piece(DATA, 4096),
            ],
        };
        image.put(DATA + 0x100, MAP);
        image.put(MAP + 8 * (ARENA >> 29), PART);
        let entry = |addr: u64| PART + 8 * (addr >> 16 & 0x1fff);
        image.put(entry(PAGE), PAGE);
        image.put(entry(SECOND), SECOND);
        image.put(ARENA + 32, SLICES);
        image.put(ARENA + 40, 1); // info_slices
        image.put(ARENA + 96, BITMAP);
        image.put(BITMAP, 1);
        image.put(BITMAP + 128, 0b1100);
        image.memid(OWN + 8, 1);
        let block = |i: u64| PAGE + 128 + BLOCK * i;
        // used, capacity, reserved
        image.page(PAGE, 2, 36 | 40 << 16 | 800 << 32);
        image.put(PAGE + 8, block(3)); // free
        image.put(PAGE + 24, block(9)); // local_free
        image.put(PAGE + 32, block(20) | 1); // xthread_free
        image.put(block(3), block(5));
        image.put(block(5), block(39));
        image.put(block(20), block(21));
        image.page(SECOND, 3, 10 | 10 << 16 | 800 << 32);
        image
    }

    fn page(&mut self, page: u64, slice: u64, counts: u64) {
        self.put(page + 16, counts);
        self.put(page + 40, BLOCK);
        self.put(page + 48, page + 128);
        self.memid(page + 96, slice);
    }

    fn memid(&mut self, at: u64, slice: u64) {
        self.put(at, ARENA);
        self.put(at + 8, slice | 1 << 32);
        self.put(at + 16, 7);
    }

    fn put(&mut self, addr: u64, word: u64) {
        let within = |(start, bytes): &&mut (u64, Vec<u8>)| {
            (*start..*start + bytes.len() as u64).contains(&addr)
        };
        let (start, bytes) = self.pieces.iter_mut().find(within).expect("of the image");
        let at = (addr - *start) as usize;
        bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
    }

    fn walk(&self) -> Result<Vec<HeapSnapshot>, NotWalked> {
        let mut memory = MemoryImage::default();
        for (start, bytes) in &self.pieces {
            memory.insert(RemoteAddr::new(*start), bytes.clone());
        }
        let mapping = |start, len, kind| Mapping {
            range: range(start, len),
            kind,
            read: true,
            write: true,
            execute: false,
            shared: false,
            offset: 0,
            inode: 0,
        };
        let mut residency = ResidencyMap::new(vec![
            mapping(ARENA, SLICES * SLICE, MappingKind::Anonymous),
            mapping(MAP, 4 << 20, MappingKind::Anonymous),
            mapping(PART, SLICE, MappingKind::Anonymous),
            mapping(
                DATA,
                4096,
                MappingKind::File("/lib/libmimalloc.so.3".into()),
            ),
        ]);
        for (start, bytes) in &self.pieces {
            residency.push_run(PageRun {
                range: range(*start, bytes.len() as u64),
                state: PageState::PRESENT,
            });
        }
        let context = Context {
            objects: &[AllocatorObject {
                identity: AllocatorIdentity {
                    kind: Some(Allocator::Mimalloc),
                    version: Some("3.0.1".into()),
                    object: "/lib/libmimalloc.so.3".into(),
                    role: Role::ServesMalloc,
                },
                options: Vec::new(),
                data: vec![range(DATA, 4096)],
            }],
            python: None,
        };
        walk(
            &ResidentMemory::new(memory, &residency),
            &residency,
            &context,
        )
    }
}

fn range(start: u64, len: u64) -> AddrRange {
    AddrRange::with_len(RemoteAddr::new(start), len).expect("a range")
}

#[test]
fn a_sound_image_is_told_whole() {
    let heaps = Image::sound().walk().expect("a heap");
    let [heap] = heaps.as_slice() else {
        panic!("{heaps:?}")
    };
    assert_eq!(heap.check(), Vec::<String>::new());
    assert_eq!(heap.defects, []);
    assert_eq!(heap.confidence, Confidence::High, "{:?}", heap.checks);
    let arena = &heap.arenas[0];
    // Of the first page's 40 blocks 4 are in its lists and 2 in that of other threads.
    assert_eq!(arena.live_blocks, 34 + 10);
    assert_eq!((arena.free_blocks, arena.free_bytes), (6, 6 * BLOCK));
    assert_eq!(arena.top_bytes, (760 + 790) * BLOCK);
    assert_eq!(arena.system_bytes, SLICES * SLICE);
    let retained = arena.figure(ArenaFigure::RetainedBytes);
    assert_eq!(retained, Some((SLICES - 4) * SLICE));
}

#[test]
fn a_freed_page_that_the_map_still_has_is_left_out() {
    let mut image = Image::sound();
    image.put(BITMAP + 128, 0b0100);
    let heaps = image.walk().expect("a heap");
    assert_eq!(heaps[0].arenas[0].live_blocks, 34);
    assert_eq!(heaps[0].confidence, Confidence::High);
}

/// Values that break walks: ends, near misses, and addresses of the image itself.
fn value() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0),
        Just(1),
        Just(u64::MAX),
        0u64..0x5000,
        any::<u64>(),
        (0u64..0x60000).prop_map(|at| ARENA + (at & !7)),
        (0u64..0x20000).prop_map(|at| PART + (at & !7)),
        (0u64..900).prop_map(|block| PAGE + 128 + BLOCK * block),
        (0u64..600, 0u64..600).prop_map(|(slice, count)| slice | count << 32),
    ]
}

/// Where words matter: pages' descriptions, the arena's, the map, its part, blocks.
fn place() -> impl Strategy<Value = u64> {
    prop_oneof![
        (0u64..17).prop_map(|word| PAGE + 8 * word),
        (0u64..17).prop_map(|word| SECOND + 8 * word),
        (0u64..14).prop_map(|word| ARENA + 8 * word),
        (0u64..20).prop_map(|word| BITMAP + 8 * word),
        (0u64..4).prop_map(|word| OWN + 8 * word),
        (0u64..4).prop_map(|word| MAP + 8 * word),
        (0u64..16).prop_map(|word| PART + 8 * word),
        (0u64..45).prop_map(|block| PAGE + 128 + BLOCK * block),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(500)
    })]
    #[test]
    fn damage_never_panics_always_ends_and_keeps_the_laws(
        damage in prop::collection::vec((place(), value()), 1..8),
    ) {
        let mut image = Image::sound();
        for (at, value) in damage {
            image.put(at, value);
        }
        for heap in image.walk().unwrap_or_default() {
            prop_assert_eq!(heap.check(), Vec::<String>::new());
        }
    }
}
