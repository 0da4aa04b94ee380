//! gperftools' tcmalloc 2.10.

use profiler_core::allocator::Allocator;
use profiler_core::heap::HeapSnapshot;
use profiler_core::residency::MappingKind;
use profiler_core::tcmalloc::NotWalked;

use super::{Specimen, object};
use crate::image::{HeapImage, Values, WeakPoints, Words, range};

/// The address of the descriptions of spans and thread caches.
pub const META: u64 = 0x5555_0000_0000;
const THREAD_CACHE: u64 = META + 0x1000;
const LEAF: u64 = 0x5556_0000_0000;
/// The address of the spans.
pub const HEAP: u64 = 0x7f10_0000_0000;
/// Bytes of a page of tcmalloc's.
pub const PAGE: u64 = 8192;
const DATA: u64 = 0x7f20_0000_0000;
const ROOT: u64 = DATA + 0x8_0000 + (HEAP >> 31) * 8;
/// The heads of the page heap's lists.
pub const FREE_LISTS: u64 = DATA + 0x18_0068;
const STATS: u64 = FREE_LISTS + 256 * 48;
const CENTRAL: u64 = DATA + 0x18_4008;
const SIZES: u64 = DATA + 0x1a_b200;
const POINTER: u64 = DATA + 0x1a_c000;
/// The library's file.
pub const PATH: &str = "/lib/libtcmalloc_minimal.so.4";

/// A span of eight blocks of 1024 bytes: three live, two in the span's list, one in a thread's cache,
/// two in a transfer cache. A live span of three pages; two free pages; two returned.
pub fn sound() -> HeapImage {
    let mut image = HeapImage::default();
    for (start, pages) in [(META, 4), (LEAF, 1), (HEAP, 16), (DATA, 0x1ad)] {
        image.map(start, pages * 4096, MappingKind::Anonymous);
    }
    image.put(ROOT, LEAF);
    for list in 0..256 {
        let head = FREE_LISTS + 48 * list;
        image.put(head + 16, head);
        image.put(head + 24, head);
    }
    image.put(STATS, 8 * PAGE);
    image.put(STATS + 8, 2 * PAGE);
    image.put(STATS + 16, 2 * PAGE);
    let classes = [(0, 0, 0), (8, 1, 2), (1024, 1, 2), (256 << 10, 32, 2)];
    for (class, (size, pages, batch)) in (0..).zip(classes) {
        image.put_u32(SIZES + 4 * class, size);
        image.put_u32(SIZES - 512 + 4 * class, batch);
        image.put(SIZES + 512 + 8 * class, pages);
        image.put(CENTRAL + 1216 * class, class);
        image.put_u32(THREAD_CACHE + 32 * class + 24, size);
    }
    image.put(SIZES + 512 + 8 * 128, 4);
    let block = |number: u64| HEAP + 1024 * number;
    let central = CENTRAL + 1216 * 2;
    image.put(central + 104, 1);
    image.put(central + 112, 2);
    image.put(central + 120, block(6));
    image.put_u32(central + 1144, 1);
    image.put(block(6), block(7));
    image.put(block(3), block(5));
    image.put(POINTER, THREAD_CACHE);
    image.put(THREAD_CACHE + 64, block(1));
    image.put_u32(THREAD_CACHE + 64 + 8, 1);
    image.put_u32(THREAD_CACHE + 4096, 1024);
    span(&mut image, 0, (0, 1), block(3), 6 | 2 << 16);
    span(&mut image, 1, (1, 3), 0, 0);
    span(&mut image, 2, (4, 2), 0, 1 << 24);
    span(&mut image, 3, (6, 2), 0, 2 << 24);
    image
}

fn span(image: &mut HeapImage, number: u64, (page, pages): (u64, u64), objects: u64, bits: u64) {
    let at = META + 48 * number;
    for (word, value) in (0..).zip([HEAP / PAGE + page, pages, 0, 0, objects, bits]) {
        image.put(at + 8 * word, value);
    }
    for page in page..page + pages {
        image.put(LEAF + 8 * page, at);
    }
}

/// The walk of such an image, with a library of this version.
///
/// # Errors
/// Those of the walker.
pub fn walk(image: &HeapImage, version: &str) -> Result<HeapSnapshot, NotWalked> {
    let data = vec![range(DATA, 0x1000), range(DATA + 0x1000, 0x1a_c000)];
    let library = object(Allocator::Tcmalloc, Some(version), PATH, data);
    image.walk(|memory, residency| profiler_core::tcmalloc::walk(memory, residency, &library))
}

/// For damage.
pub fn specimen() -> Specimen {
    let spans = Words::of(META, 24 * 8);
    let often = [
        Words::of(LEAF, 16 * 8),
        Words::of(HEAP, 8192),
        Words::of(THREAD_CACHE, 16 * 8),
    ];
    let mut words = vec![
        spans,
        spans,
        Words::of(THREAD_CACHE + 4096, 8 * 8),
        Words::of(ROOT - 16, 5 * 8),
        Words::of(STATS, 4 * 8),
        Words::of(CENTRAL + 2 * 1216, 150 * 8),
        Words::of(SIZES + 512, 4 * 8),
        Words::of(POINTER, 2 * 8),
    ];
    for _ in 0..2 {
        words.push(spans);
        words.extend(often);
    }
    Specimen {
        image: sound(),
        weak: WeakPoints {
            words,
            values: vec![
                Values::Addresses(META, 0x400, 8),
                Values::Addresses(LEAF, 0x400, 8),
                Values::Addresses(HEAP, 0x400, 8),
                Values::Fields(&[(0, 9), (16, 5), (24, 4)], 0),
                Values::Addresses(HEAP / PAGE, 12, 1),
            ],
        },
        walk: |image| walk(image, "2.10").into_iter().collect(),
    }
}
