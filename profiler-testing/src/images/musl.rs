//! musl 1.2.3's mallocng.

use profiler_core::addr::RemoteAddr;
use profiler_core::heap::HeapSnapshot;
use profiler_core::musl::{self, Context, NotWalked, Roots};
use profiler_core::residency::MappingKind;

use super::Specimen;
use crate::image::{HeapImage, Values, WeakPoints, Words};

const LIBC: u64 = 0x7f00_0000_0000;
const CONTEXT: u64 = LIBC + 0x340;
const AREA: u64 = 0x5555_0000_2000;
const GROUPS: u64 = 0x7f10_0000_0000;
/// The address of the block with its own mapping.
pub const LARGE: u64 = 0x7f20_0000_0000;
/// The address of the kernel's random bytes.
pub const STACK: u64 = 0x7ffd_0000_0000;
const SECRET: u64 = 0x1234_5678_9abc_def1;

/// A group of two slots of 2032 bytes: the first contains a group of three slots of 48 bytes, of
/// which one is live, the second one is free. A group of three slots of 4080 bytes: one live, one
/// free, one never used. And a block with its own mapping.
pub fn sound() -> HeapImage {
    let mut image = HeapImage::default();
    image.map(AREA, 4096, MappingKind::Brk);
    image.map(
        LIBC,
        4096,
        MappingKind::File("/lib/ld-musl-x86_64.so.1".into()),
    );
    image.map(GROUPS, 8 * 4096, MappingKind::Anonymous);
    image.map(LARGE, 64 * 4096, MappingKind::Anonymous);
    image.map(STACK, 4096, MappingKind::Stack);
    image.put(STACK + 8, SECRET);
    image.put(CONTEXT, SECRET);
    image.put(CONTEXT + 8, 1);
    image.put(CONTEXT + 32, 101 - 4);
    image.put(CONTEXT + 56, AREA);
    image.put(CONTEXT + 64, AREA);
    for (class, slots) in [(2, 3), (23, 2), (27, 3)] {
        image.put(CONTEXT + 464 + 8 * class, slots);
    }
    image.put(AREA, SECRET);
    image.put(AREA + 16, 101);
    let inner = GROUPS + 16;
    group(&mut image, 0, GROUPS, 0b10, (1, 23, 1), 1);
    group(&mut image, 1, inner, 0b110, (2, 2, 0), 2);
    group(&mut image, 2, GROUPS + 0x1000, 0b110, (2, 27, 4), 1);
    group(&mut image, 3, LARGE, 0, (0, 63, 64), 0);
    header(&mut image, inner, 6 << 5);
    header(&mut image, inner + 16, 3 << 5); // 3 bytes reserved of 44
    header(&mut image, GROUPS + 0x1010, 5 << 5);
    add(&mut image, GROUPS + 0x1010 + 4080 - 8, 76);
    header(&mut image, LARGE + 16, 0);
    image
}

/// Slots free by `freed`; the last slot, class and pages.
fn group(image: &mut HeapImage, meta: u64, mem: u64, freed: u64, of: (u64, u64, u64), active: u64) {
    let at = AREA + 24 + 40 * meta;
    add(image, at + 16, mem);
    add(image, at + 24, freed << 32);
    add(image, at + 32, of.0 | 1 << 5 | of.1 << 6 | of.2 << 12);
    add(image, mem, at);
    add(image, mem + 8, active);
}

fn header(image: &mut HeapImage, block: u64, info: u8) {
    add(image, block - 8, u64::from(info) << 40);
}

/// Sets bits: words share headers with what is before them.
fn add(image: &mut HeapImage, addr: u64, bits: u64) {
    let word = image.get(addr);
    image.put(addr, word | bits);
}

/// The walk of such an image.
///
/// # Errors
/// Those of the walker.
///
/// # Panics
/// If a walk from known roots returns another heap.
pub fn walk(image: &HeapImage) -> Result<HeapSnapshot, NotWalked> {
    let context = Context {
        at_random: Some(RemoteAddr::new(STACK)),
        version: "1.2.3".into(),
    };
    image.walk(|memory, residency| {
        let walked = musl::walk(memory, residency, &context);
        // From the place where it was found, the result is the same.
        let mut roots = Roots::default();
        for _ in 0..2 {
            let again = musl::walk_from(memory, residency, &context, &mut roots);
            assert_eq!(again, walked);
        }
        walked
    })
}

/// For damage.
pub fn specimen() -> Specimen {
    Specimen {
        image: sound(),
        weak: WeakPoints {
            words: vec![
                Words::of(AREA, 40 * 8),
                Words::of(CONTEXT, 116 * 8),
                Words::of(GROUPS, 40 * 8),
            ],
            values: vec![
                Values::Addresses(AREA, 0x1200, 8),
                Values::Addresses(GROUPS, 0x1200, 8),
                Values::Addresses(LARGE, 0x1200, 8),
                Values::Fields(&[(0, 32), (6, 64), (12, 70)], 1 << 5),
            ],
        },
        walk: |image| walk(image).into_iter().collect(),
    }
}
