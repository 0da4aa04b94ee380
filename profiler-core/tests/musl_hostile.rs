//! The musl walker on images: one that is sound, and any damage to it.

use profiler_core::addr::{AddrRange, RemoteAddr};
use profiler_core::completeness::Confidence;
use profiler_core::heap::{ExtentKind, HeapSnapshot};
use profiler_core::memory::{MemoryImage, ResidentMemory};
use profiler_core::musl::{Context, NotWalked, walk};
use profiler_core::residency::{Mapping, MappingKind, PageRun, PageState, ResidencyMap};
use profiler_core::span::SpanState;
use proptest::prelude::*;

const LIBC: u64 = 0x7f00_0000_0000;
const CONTEXT: u64 = LIBC + 0x340;
const AREA: u64 = 0x5555_0000_2000;
const GROUPS: u64 = 0x7f10_0000_0000;
const LARGE: u64 = 0x7f20_0000_0000;
const STACK: u64 = 0x7ffd_0000_0000;
const SECRET: u64 = 0x1234_5678_9abc_def1;

/// The pieces of the image, ascending by address; they may be damaged before use.
struct Image {
    pieces: [(u64, Vec<u8>); 5],
}

impl Image {
    /// A group of two slots of 2032 bytes: in the first lies a group of three slots of 48 bytes, of
    /// which one is live, the second one is free. A group of three slots of 4080 bytes: one live,
    /// one free, one never used. And a block with a mapping of its own.
    fn sound() -> Self {
        let page = |start: u64, pages: usize| (start, vec![0; pages * 4096]);
        let mut image = Self {
            pieces: [
                page(AREA, 1),
                page(LIBC, 1),
                page(GROUPS, 8),
                page(LARGE, 64),
                page(STACK, 1),
            ],
        };
        image.put(STACK + 8, SECRET);
        image.put(CONTEXT, SECRET);
        image.put(CONTEXT + 8, 1);
        image.put(CONTEXT + 32, 101 - 4);
        image.put(CONTEXT + 56, AREA);
        image.put(CONTEXT + 64, AREA);
        image.put(CONTEXT + 464 + 8 * 2, 3);
        image.put(CONTEXT + 464 + 8 * 23, 2);
        image.put(CONTEXT + 464 + 8 * 27, 3);
        image.put(AREA, SECRET);
        image.put(AREA + 16, 101);
        let inner = GROUPS + 16;
        image.group(0, GROUPS, 0b10, (1, 23, 1), 1);
        image.group(1, inner, 0b110, (2, 2, 0), 2);
        image.group(2, GROUPS + 0x1000, 0b110, (2, 27, 4), 1);
        image.group(3, LARGE, 0, (0, 63, 64), 0);
        image.header(inner, 6 << 5);
        image.header(inner + 16, 3 << 5); // 3 bytes reserved of 44
        image.header(GROUPS + 0x1010, 5 << 5);
        image.put(GROUPS + 0x1010 + 4080 - 8, 76);
        image.header(LARGE + 16, 0);
        image
    }

    /// Slots free by `freed`; the last slot, class and pages.
    fn group(&mut self, meta: u64, mem: u64, freed: u64, of: (u64, u64, u64), active: u64) {
        let at = AREA + 24 + 40 * meta;
        self.put(at + 16, mem);
        self.put(at + 24, freed << 32);
        self.put(at + 32, of.0 | 1 << 5 | of.1 << 6 | of.2 << 12);
        self.put(mem, at);
        self.put(mem + 8, active);
    }

    fn header(&mut self, block: u64, info: u8) {
        self.put(block - 8, u64::from(info) << 40);
    }

    fn put(&mut self, addr: u64, word: u64) {
        let (start, bytes) = self
            .pieces
            .iter_mut()
            .find(|(start, bytes)| (*start..*start + bytes.len() as u64).contains(&addr))
            .expect("an address of the image");
        let at = (addr - *start) as usize;
        let old = u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        bytes[at..at + 8].copy_from_slice(&(old | word).to_le_bytes());
    }

    fn walk(&self) -> Result<HeapSnapshot, NotWalked> {
        let mut memory = MemoryImage::default();
        let mut mappings = Vec::new();
        for (start, bytes) in &self.pieces {
            memory.insert(RemoteAddr::new(*start), bytes.clone());
            mappings.push(Mapping {
                range: range(*start, bytes.len() as u64),
                kind: match *start {
                    LIBC => MappingKind::File("/lib/ld-musl-x86_64.so.1".into()),
                    AREA => MappingKind::Brk,
                    STACK => MappingKind::Stack,
                    _ => MappingKind::Anonymous,
                },
                read: true,
                write: true,
                execute: false,
                shared: false,
                offset: 0,
                inode: 0,
            });
        }
        mappings.sort_by_key(|m| m.range.start());
        let ranges: Vec<_> = mappings.iter().map(|m| m.range).collect();
        let mut residency = ResidencyMap::new(mappings);
        for range in ranges {
            residency.push_run(PageRun {
                range,
                state: PageState::PRESENT,
            });
        }
        let context = Context {
            at_random: Some(RemoteAddr::new(STACK)),
            version: "1.2.3".into(),
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

fn figure(heap: &HeapSnapshot, name: &str) -> u64 {
    let mut figures = heap.arenas[0].figures.iter();
    figures
        .find(|(n, _)| n.name() == name)
        .map_or(0, |(_, v)| *v)
}

#[test]
fn a_sound_image_is_told_whole() {
    let heap = Image::sound().walk().expect("a heap");
    assert_eq!(heap.check(), Vec::<String>::new());
    assert_eq!(heap.defects, []);
    assert_eq!(heap.confidence, Confidence::High, "{:?}", heap.checks);
    let arena = &heap.arenas[0];
    assert_eq!((arena.live_blocks, arena.live_bytes), (2, 48 + 4080));
    assert_eq!(
        (arena.free_blocks, arena.free_bytes),
        (4, 2 * 48 + 2032 + 4080)
    );
    assert_eq!(arena.top_bytes, 4080);
    assert_eq!(heap.large_mapped(), (1, 64 * 4096));
    assert_eq!(figure(&heap, "requested_bytes"), 44 - 3 + 4076 - 76);
    assert_eq!(
        figure(&heap, "mapped_large_requested_bytes"),
        64 * 4096 - 20
    );
    assert_eq!(figure(&heap, "nested_groups"), 1);
    let large = heap
        .extents
        .iter()
        .find(|e| e.kind == ExtentKind::LargeMapped);
    let spans: Vec<_> = large
        .expect("one")
        .spans
        .iter(RemoteAddr::new(LARGE))
        .collect();
    assert_eq!(spans[1].state, SpanState::Live);
}

#[test]
fn what_cannot_be_walked_says_why() {
    let mut image = Image::sound();
    image.pieces[4].1[8] ^= 1;
    assert_eq!(image.walk(), Err(NotWalked::NoContext));
    let nothing = ResidencyMap::default();
    let walk = |at_random, version: &str| {
        let version = version.to_owned();
        walk(
            &MemoryImage::default(),
            &nothing,
            &Context { at_random, version },
        )
    };
    assert_eq!(walk(None, "1.2.5"), Err(NotWalked::NoSecret));
    let old = Err(NotWalked::OldMalloc("1.1.24".into()));
    assert_eq!(walk(Some(RemoteAddr::new(STACK)), "1.1.24"), old);
}

/// Values that break walks: ends, flags, near misses, and addresses of the image itself.
fn value() -> impl Strategy<Value = u64> {
    let near = |base: u64| (0u64..0x9000).prop_map(move |at| base + (at & !7));
    prop_oneof![
        Just(0),
        Just(u64::MAX),
        0u64..0x5000,
        any::<u64>(),
        near(AREA),
        near(GROUPS),
        near(LARGE),
        (any::<u32>(), 0u64..64, 0u64..70).prop_map(|(last, class, pages)| {
            u64::from(last % 32) | 1 << 5 | class << 6 | pages << 12
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(500)
    })]
    #[test]
    fn damage_never_panics_always_ends_and_keeps_the_laws(
        damage in prop::collection::vec(((0usize..3, 0usize..0x200), value()), 1..20),
    ) {
        let mut image = Image::sound();
        for ((piece, word), value) in damage {
            // What a walk reads first lies in the first words of each piece.
            let at = if piece == 1 { 0x340 + word % 116 * 8 } else { word % 40 * 8 };
            image.pieces[piece].1[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        if let Ok(heap) = image.walk() {
            prop_assert_eq!(heap.check(), Vec::<String>::new());
        }
    }
}
