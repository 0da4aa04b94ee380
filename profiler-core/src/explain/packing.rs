//! A lower bound: malloc's live blocks packed into jemalloc's size classes and slabs.
//!
//! A slab of a small class has the smallest number of pages that its regions fill exactly. Larger
//! blocks are extents of whole pages, of which only pages ever touched count.

use std::collections::BTreeMap;

use crate::addr::{AddrRange, PAGE_SIZE};
use crate::allocator::jemalloc_classes::{class_of, slab_bytes};
use crate::residency::ResidencyMap;
use crate::sample::Sample;
use crate::span::{GRANULE, SpanState};
use crate::tables::{PackedClass, Packing};

/// Packs the live blocks of every walked malloc. `present_bytes` is the present size of its pages.
/// `None` if none was walked.
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
    // Memory that was never touched takes no page in any allocator, nor does the tail of a large
    // extent.
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

/// The entry for blocks of `bytes`, with `blocks` added to its count.
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
