//! The mimalloc walker on images: one that is sound, and any damage to it.

use profiler_core::addr::{AddrRange, RemoteAddr};
use profiler_core::allocator::{AllocatorIdentity, Role};
use profiler_core::completeness::Confidence;
use profiler_core::heap::{Allocator, HeapSnapshot};
use profiler_core::memory::{MemoryImage, ResidentMemory};
use profiler_core::mimalloc::{Context, NotWalked, walk};
use profiler_core::object::AllocatorObject;
use profiler_core::residency::{Mapping, MappingKind, PageRun, PageState, ResidencyMap};
use proptest::prelude::*;

const SEGMENT: u64 = 0x2000_0000_0000;
const SLICE: u64 = 64 << 10;
const HEAP: u64 = 0x7f10_0000_0000;
const DATA: u64 = 0x7f00_0000_0000;
/// Of a size by which the releases put a page's first block at different places.
const BLOCK: u64 = 80;
const SECRET: u64 = 0x1234_5678_9abc_def1;
/// The block that lies in the heap's list of those freed by other threads.
const DELAYED: u64 = SEGMENT + SLICE + 384 + 30 * BLOCK;

/// A segment of mimalloc 2.0.9 with one page of 80-byte blocks, its heap, and the data of its
/// object. Any of it may be damaged before use.
struct Image {
    pieces: [(u64, Vec<u8>); 4],
}

impl Image {
    fn sound() -> Self {
        let piece = |start: u64, len: u64| (start, vec![0; len as usize]);
        let mut image = Self {
            pieces: [
                piece(SEGMENT, SLICE),
                piece(SEGMENT + SLICE, SLICE),
                piece(HEAP, 4096),
                piece(DATA, 4096),
            ],
        };
        image.put(DATA + 0x100, SECRET);
        image.put(SEGMENT + 208, 1); // used
        image.put(SEGMENT + 216, SEGMENT ^ SECRET); // cookie
        image.put(SEGMENT + 224, 512); // segment_slices
        image.put(SEGMENT + 232, 1); // segment_info_slices
        image.put(SEGMENT + 248, 512); // slice_entries
        image.put(SEGMENT + 256, 0x7f20_0000_0000); // thread_id
        let page = SEGMENT + 264 + 80;
        let block = |i: u64| SEGMENT + SLICE + 384 + BLOCK * i;
        image.put(page, 1); // slice_count
        image.put(page + 8, 40 << 16 | 814 << 32); // capacity, reserved
        image.put(page + 16, block(3)); // free
        image.put(page + 24, 36 | BLOCK << 32); // used, xblock_size
        image.put(page + 32, block(9)); // local_free
        image.put(page + 40, block(20) | 2); // xthread_free
        image.put(page + 48, HEAP); // xheap
        image.put(block(3), block(5));
        image.put(block(5), block(39));
        image.put(block(20), block(21));
        image.put(HEAP + 2840, DELAYED);
        image.put(page + 80, 510); // the rest of the segment
        image
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
            mapping(SEGMENT, 512 * SLICE, MappingKind::Anonymous),
            mapping(
                DATA,
                4096,
                MappingKind::File("/lib/libmimalloc.so.2.0".into()),
            ),
            mapping(HEAP, 4096, MappingKind::Anonymous),
        ]);
        for range in [
            range(SEGMENT, 2 * SLICE),
            range(DATA, 4096),
            range(HEAP, 4096),
        ] {
            residency.push_run(PageRun {
                range,
                state: PageState::PRESENT,
            });
        }
        let context = Context {
            objects: &[AllocatorObject {
                identity: AllocatorIdentity {
                    kind: Some(Allocator::Mimalloc),
                    version: Some("2.0.9".into()),
                    object: "/lib/libmimalloc.so.2.0".into(),
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
    assert_eq!(heap.version, "2.0.9");
    let arena = &heap.arenas[0];
    // Of 40 blocks 3 and 1 are free, 2 were freed by other threads, 1 lies in the heap's list.
    assert_eq!((arena.live_blocks, arena.live_bytes), (33, 33 * BLOCK));
    assert_eq!((arena.free_blocks, arena.free_bytes), (7, 7 * BLOCK));
    assert_eq!(arena.top_bytes, (814 - 40) * BLOCK);
    assert_eq!(arena.system_bytes, 512 * SLICE);
}

#[test]
fn memory_without_a_segment_is_refused() {
    let mut image = Image::sound();
    image.put(SEGMENT + 232, 0);
    assert_eq!(image.walk(), Err(NotWalked::NothingFound));
}

/// Values that break walks: ends, near misses, and addresses of the image itself.
fn value() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0),
        Just(1),
        Just(u64::MAX),
        0u64..0x5000,
        any::<u64>(),
        (0u64..0x30000).prop_map(|at| SEGMENT + (at & !7)),
        (0u64..1100).prop_map(|block| SEGMENT + SLICE + 384 + BLOCK * block),
        (any::<u16>(), any::<u16>()).prop_map(|(a, b)| u64::from(a) << 16 | u64::from(b) << 32),
    ]
}

/// Where words matter: the segment's header, its first pages, blocks, the heap's list.
fn place() -> impl Strategy<Value = u64> {
    prop_oneof![
        (26u64..34).prop_map(|word| SEGMENT + 8 * word),
        (43u64..70).prop_map(|word| SEGMENT + 8 * word),
        (0u64..45).prop_map(|block| SEGMENT + SLICE + 384 + BLOCK * block),
        Just(HEAP + 2840),
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
