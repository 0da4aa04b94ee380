//! The live blocks of malloc packed into jemalloc's size classes and slabs: a lower bound.
//!
//! Rules of jemalloc 5.3 with its defaults on x86-64 (`include/jemalloc/internal/sc.h`,
//! `src/sc.c`: quantum 16, four classes a doubling, 4 KiB pages): small classes lie in slabs of the
//! least number of pages that regions fill exactly; larger blocks are extents of whole pages, of
//! which only those count that were ever touched.

use std::collections::BTreeMap;

use crate::addr::{AddrRange, PAGE_SIZE};
use crate::report::{PackedClass, Packing};
use crate::residency::ResidencyMap;
use crate::sample::Sample;
use crate::span::SpanState;

const QUANTUM: u64 = 16;
const SMALLEST: u64 = 8;

/// The size class that jemalloc serves a request of `bytes` from.
pub(crate) fn class_of(bytes: u64) -> u64 {
    match bytes {
        0..=SMALLEST => SMALLEST,
        9..=64 => bytes.next_multiple_of(QUANTUM),
        _ => {
            let top = 63 - (bytes - 1).leading_zeros();
            let step = 1u64 << (top - 2);
            bytes.checked_next_multiple_of(step).unwrap_or(bytes)
        }
    }
}

/// Bytes of one slab of a small class: the least common multiple of class and page.
pub(crate) fn slab_bytes(class: u64) -> u64 {
    let gcd = 1u64 << class.trailing_zeros().min(PAGE_SIZE.trailing_zeros());
    class / gcd * PAGE_SIZE
}

/// Packs the live blocks of every walked malloc. `present_bytes` is what its pages take now.
/// `None` when none was walked.
pub(crate) fn pack(sample: &Sample, present_bytes: u64) -> Option<Packing> {
    let mallocs: Vec<_> = sample
        .heaps
        .iter()
        .filter(|heap| heap.serves_malloc())
        .collect();
    if mallocs.is_empty() {
        return None;
    }
    let mut packing = Packing {
        present_bytes,
        ..Packing::default()
    };
    // Blocks of up to a page by their size, because there are millions.
    let mut small = [0u64; (PAGE_SIZE / GRANULE) as usize + 1];
    let mut large = Vec::new();
    for heap in mallocs {
        for extent in &heap.extents {
            for span in extent.spans.iter(extent.range.start()) {
                if span.state != SpanState::Live {
                    continue;
                }
                let bytes = span.range.len().saturating_sub(extent.block_header_bytes);
                if span.range.len() > PAGE_SIZE {
                    large.push((bytes, touched(&sample.residency, span.range)));
                } else {
                    small[(bytes / GRANULE) as usize] += 1;
                }
            }
        }
    }
    let mut classes: BTreeMap<u64, PackedClass> = BTreeMap::new();
    let mut rounding = 0u64;
    for (bytes, &blocks) in (0..).step_by(GRANULE as usize).zip(&small) {
        if blocks > 0 {
            let class = class_entry(&mut classes, bytes, blocks);
            let slab = slab_bytes(class.size);
            class.bytes = class.blocks.div_ceil(slab / class.size) * slab;
            rounding += blocks * (class.size - bytes);
            packing.blocks += blocks;
            packing.live_bytes += blocks * bytes;
        }
    }
    // What was never touched takes no page anywhere, nor does the tail of a large extent.
    for &(bytes, touched) in &large {
        let pages = touched.min(bytes.next_multiple_of(PAGE_SIZE));
        let class = class_entry(&mut classes, bytes, 1);
        class.bytes = class.bytes.saturating_add(pages);
        rounding = rounding.saturating_add(pages.saturating_sub(bytes));
        packing.blocks += 1;
        packing.live_bytes = packing.live_bytes.saturating_add(bytes);
    }
    packing.rounding_bytes = rounding;
    packing.classes = classes.into_values().collect();
    packing.packed_bytes = packing.classes.iter().map(|class| class.bytes).sum();
    Some(packing)
}

/// The class of blocks of `bytes`, with so many more blocks in it.
fn class_entry(
    classes: &mut BTreeMap<u64, PackedClass>,
    bytes: u64,
    blocks: u64,
) -> &mut PackedClass {
    let size = class_of(bytes);
    let class = classes.entry(size).or_insert(PackedClass {
        size,
        blocks: 0,
        bytes: 0,
    });
    class.blocks += blocks;
    class
}

/// Bytes of the pages of a block that were ever touched: resident, or in swap.
fn touched(residency: &ResidencyMap, range: AddrRange) -> u64 {
    residency.data_bytes(range).next_multiple_of(PAGE_SIZE)
}

/// Spans are multiples of 8 bytes long.
const GRANULE: u64 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_and_slabs_are_those_of_jemalloc() {
        // From the bin table that jemalloc 5.3 prints (`opt.stats_print`): size, slab size.
        let table = [
            (8, 4096),
            (16, 4096),
            (48, 12288),
            (80, 20480),
            (96, 12288),
            (112, 28672),
            (160, 20480),
            (320, 20480),
            (448, 28672),
            (1024, 4096),
            (1280, 20480),
            (3584, 28672),
            (4096, 4096),
            (5120, 20480),
            (14336, 28672),
        ];
        for (size, slab) in table {
            assert_eq!(class_of(size), size);
            assert_eq!(slab_bytes(size), slab, "{size}");
        }
        assert_eq!(class_of(65), 80);
        assert_eq!(class_of(129), 160);
        assert_eq!(class_of(14_337), 16_384);
        assert_eq!(class_of(20_481), 24_576);
    }
}
