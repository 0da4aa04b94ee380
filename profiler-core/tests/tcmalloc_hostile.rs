//! The tcmalloc walker on images: one that is sound, and any damage to it.

use profiler_core::addr::{AddrRange, RemoteAddr};
use profiler_core::allocator::{AllocatorIdentity, Role};
use profiler_core::completeness::Confidence;
use profiler_core::heap::{Allocator, HeapSnapshot};
use profiler_core::memory::{MemoryImage, ResidentMemory};
use profiler_core::object::AllocatorObject;
use profiler_core::residency::{Mapping, MappingKind, PageRun, PageState, ResidencyMap};
use profiler_core::tcmalloc::{NotWalked, walk};
use proptest::prelude::*;

const META: u64 = 0x5555_0000_0000;
const THREAD_CACHE: u64 = META + 0x1000;
const LEAF: u64 = 0x5556_0000_0000;
const HEAP: u64 = 0x7f10_0000_0000;
const DATA: u64 = 0x7f20_0000_0000;
const ROOT: u64 = DATA + 0x8_0000 + (HEAP >> 31) * 8;
const FREE_LISTS: u64 = DATA + 0x18_0068;
const STATS: u64 = FREE_LISTS + 256 * 48;
const CENTRAL: u64 = DATA + 0x18_4008;
const SIZES: u64 = DATA + 0x1a_b200;
const POINTER: u64 = DATA + 0x1a_c000;

/// The pieces of the image, ascending by address; they may be damaged before use.
struct Image {
    pieces: [(u64, Vec<u8>); 4],
}

impl Image {
    /// A span of eight blocks of 1024 bytes: three live, two in the span's list, one in a thread's
    /// cache, two in a transfer cache. A live span of three pages; two free pages; two returned.
    fn sound() -> Self {
        let page = |start: u64, pages: usize| (start, vec![0; pages * 4096]);
        let mut image = Self {
            pieces: [
                page(META, 4),
                page(LEAF, 1),
                page(HEAP, 16),
                page(DATA, 0x1ad),
            ],
        };
        image.put(ROOT, LEAF);
        for list in 0..256 {
            let head = FREE_LISTS + 48 * list;
            image.put(head + 16, head);
            image.put(head + 24, head);
        }
        image.put(STATS, 8 * 8192);
        image.put(STATS + 8, 2 * 8192);
        image.put(STATS + 16, 2 * 8192);
        let classes = [(0, 0, 0), (8, 1, 2), (1024, 1, 2), (256 << 10, 32, 2)];
        for (class, (size, pages, batch)) in (0..).zip(classes) {
            image.put_half(SIZES + 4 * class, size);
            image.put_half(SIZES - 512 + 4 * class, batch);
            image.put(SIZES + 512 + 8 * class, pages);
            image.put(CENTRAL + 1216 * class, class);
            image.put_half(THREAD_CACHE + 32 * class + 24, size);
        }
        image.put(SIZES + 512 + 8 * 128, 4);
        let block = |number: u64| HEAP + 1024 * number;
        let central = CENTRAL + 1216 * 2;
        image.put(central + 104, 1);
        image.put(central + 112, 2);
        image.put(central + 120, block(6));
        image.put_half(central + 1144, 1);
        image.put(block(6), block(7));
        image.put(block(3), block(5));
        image.put(POINTER, THREAD_CACHE);
        image.put(THREAD_CACHE + 64, block(1));
        image.put_half(THREAD_CACHE + 64 + 8, 1);
        image.put_half(THREAD_CACHE + 4096, 1024);
        image.span(0, (0, 1), block(3), 6 | 2 << 16);
        image.span(1, (1, 3), 0, 0);
        image.span(2, (4, 2), 0, 1 << 24);
        image.span(3, (6, 2), 0, 2 << 24);
        image
    }

    fn span(&mut self, number: u64, (page, pages): (u64, u64), objects: u64, bits: u64) {
        let at = META + 48 * number;
        for (word, value) in (0..).zip([HEAP / 8192 + page, pages, 0, 0, objects, bits]) {
            self.put(at + 8 * word, value);
        }
        for page in page..page + pages {
            self.put(LEAF + 8 * page, at);
        }
    }

    fn bytes(&mut self, addr: u64) -> &mut [u8] {
        let holds = |(start, bytes): &&mut (u64, Vec<u8>)| {
            (*start..*start + bytes.len() as u64).contains(&addr)
        };
        let piece = self.pieces.iter_mut().find(holds);
        let (start, bytes) = piece.expect("an address of the image");
        &mut bytes[(addr - *start) as usize..]
    }

    fn put(&mut self, addr: u64, word: u64) {
        self.bytes(addr)[..8].copy_from_slice(&word.to_le_bytes());
    }

    fn put_half(&mut self, addr: u64, half: u32) {
        self.bytes(addr)[..4].copy_from_slice(&half.to_le_bytes());
    }

    fn walk(&self, version: &str) -> Result<HeapSnapshot, NotWalked> {
        let mut memory = MemoryImage::default();
        let mut mappings = Vec::new();
        for (start, bytes) in &self.pieces {
            memory.insert(RemoteAddr::new(*start), bytes.clone());
            mappings.push(Mapping {
                range: range(*start, bytes.len() as u64),
                kind: MappingKind::Anonymous,
                read: true,
                write: true,
                execute: false,
                shared: false,
                offset: 0,
                inode: 0,
            });
        }
        let ranges: Vec<_> = mappings.iter().map(|m| m.range).collect();
        let mut residency = ResidencyMap::new(mappings);
        for range in ranges {
            residency.push_run(PageRun {
                range,
                state: PageState::PRESENT,
            });
        }
        let object = AllocatorObject {
            identity: AllocatorIdentity {
                kind: Some(Allocator::Tcmalloc),
                version: Some(version.into()),
                object: "/lib/libtcmalloc_minimal.so.4".into(),
                role: Role::ServesMalloc,
            },
            options: Vec::new(),
            data: vec![range(DATA, 0x1000), range(DATA + 0x1000, 0x1a_c000)],
        };
        let memory = ResidentMemory::new(memory, &residency);
        walk(&memory, &residency, &object)
    }
}

fn range(start: u64, len: u64) -> AddrRange {
    AddrRange::with_len(RemoteAddr::new(start), len).expect("a range")
}

fn assert_whole(heap: &HeapSnapshot) {
    assert_eq!(heap.check(), Vec::<String>::new());
    assert_eq!(heap.defects, []);
    assert_eq!(heap.confidence, Confidence::High, "{:?}", heap.checks);
    let arena = &heap.arenas[0];
    assert_eq!(
        (arena.live_blocks, arena.live_bytes),
        (4, 3 * 1024 + 3 * 8192)
    );
    assert_eq!(
        (arena.free_blocks, arena.free_bytes),
        (3, 2 * 1024 + 2 * 8192)
    );
    assert_eq!((arena.cached_blocks, arena.cached_bytes), (3, 3 * 1024));
    assert_eq!(heap.extents.len(), 1);
    assert_eq!(heap.extents[0].spans.bytes(), 8 * 8192);
    assert_eq!(heap.trimmable, [range(HEAP + 4 * 8192, 2 * 8192)]);
}

#[test]
fn a_sound_image_is_told_whole() {
    assert_whole(&Image::sound().walk("2.10").expect("a heap"));
}

/// The sets of large free spans lie before the list heads and have their shape unless empty.
#[test]
fn large_free_spans_do_not_hide_the_page_heap() {
    let mut image = Image::sound();
    for set in [FREE_LISTS - 48, FREE_LISTS - 96] {
        for word in 2..5 {
            image.put(set + 8 * word, META + 0x3000);
        }
        image.put(set + 40, 1);
    }
    assert_whole(&image.walk("2.10").expect("a heap"));
}

#[test]
fn what_cannot_be_walked_says_why() {
    let unknown = Err(NotWalked::UnknownVersion("2.99".into()));
    assert_eq!(Image::sound().walk("2.99"), unknown);
    let mut image = Image::sound();
    image.put(FREE_LISTS + 16, 0);
    let missing = NotWalked::NoPageHeap("/lib/libtcmalloc_minimal.so.4".into());
    assert_eq!(image.walk("2.10"), Err(missing));
}

/// Values that break walks: ends, flags, near misses, and addresses of the image itself.
fn value() -> impl Strategy<Value = u64> {
    let near = |base: u64| (0u64..0x2000).prop_map(move |at| base + (at & !7));
    prop_oneof![
        Just(0),
        Just(u64::MAX),
        0u64..0x5000,
        any::<u64>(),
        near(META),
        near(LEAF),
        near(HEAP),
        (0u64..9, 0u64..5, 0u64..4)
            .prop_map(|(count, class, location)| { count | class << 16 | location << 24 }),
        (0u64..12).prop_map(|page| HEAP / 8192 + page),
    ]
}

/// The words that a walk reads.
fn place() -> impl Strategy<Value = u64> {
    let words = |base: u64, count: u64| (0..count).prop_map(move |word| base + 8 * word);
    prop_oneof![
        4 => words(META, 24),
        2 => words(LEAF, 16),
        2 => words(HEAP, 1024),
        2 => words(THREAD_CACHE, 16),
        1 => words(THREAD_CACHE + 4096, 8),
        1 => words(ROOT - 16, 5),
        1 => words(STATS, 4),
        1 => words(CENTRAL + 2 * 1216, 150),
        1 => words(SIZES + 512, 4),
        1 => words(POINTER, 2),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(150)
    })]
    #[test]
    fn damage_never_panics_always_ends_and_keeps_the_laws(
        damage in prop::collection::vec((place(), value()), 1..12),
    ) {
        let mut image = Image::sound();
        for (place, value) in damage {
            image.put(place, value);
        }
        if let Ok(heap) = image.walk("2.10") {
            prop_assert_eq!(heap.check(), Vec::<String>::new());
        }
    }
}
