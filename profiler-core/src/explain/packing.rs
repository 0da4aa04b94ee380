//! The live blocks of malloc packed into jemalloc's size classes and slabs: a lower bound.
//!
//! Rules of jemalloc 5.3 with its defaults on x86-64 (`include/jemalloc/internal/sc.h`,
//! `src/sc.c`: quantum 16, four classes a doubling, 4 KiB pages): small classes up to 14 KiB lie in
//! slabs of the least number of pages that regions fill exactly; larger ones are extents of whole
//! pages.

use std::collections::BTreeMap;

use crate::addr::PAGE_SIZE;
use crate::heap::{Allocator, ExtentKind};
use crate::metrics::pages::GLIBC_HEADER;
use crate::report::{PackedClass, Packing};
use crate::sample::Sample;
use crate::span::SpanState;

const QUANTUM: u64 = 16;
const SMALLEST: u64 = 8;
/// The largest small class (`SC_SMALL_MAXCLASS`).
const SMALL_MAX: u64 = 14 * 1024;
/// Header of a glibc chunk with a mapping of its own: both words are its own.
const MAPPED_HEADER: u64 = 16;

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
        .filter(|heap| heap.allocator != Allocator::Pymalloc)
        .collect();
    if mallocs.is_empty() {
        return None;
    }
    let mut packing = Packing {
        present_bytes,
        ..Packing::default()
    };
    let mut sizes = Sizes::default();
    for heap in mallocs {
        let header = |kind| match (heap.allocator, kind) {
            (Allocator::Glibc, ExtentKind::LargeMapped) => MAPPED_HEADER - GLIBC_HEADER,
            (Allocator::Glibc, _) => GLIBC_HEADER,
            _ => 0,
        };
        for extent in &heap.extents {
            let header = header(extent.kind);
            for span in extent.spans.iter(extent.range.start()) {
                if span.state == SpanState::Live {
                    sizes.add(span.range.len().saturating_sub(header));
                }
            }
        }
    }
    let mut classes: BTreeMap<u64, PackedClass> = BTreeMap::new();
    for (bytes, blocks) in sizes.all() {
        let size = class_of(bytes);
        let class = classes.entry(size).or_insert(PackedClass {
            size,
            blocks: 0,
            bytes: 0,
        });
        // The tail of a large extent beyond what the program may use is never touched.
        let touched = if size <= SMALL_MAX {
            size
        } else {
            bytes.next_multiple_of(PAGE_SIZE)
        };
        class.blocks += blocks;
        class.bytes = class.bytes.saturating_add(blocks.saturating_mul(touched));
        packing.blocks += blocks;
        packing.live_bytes = packing
            .live_bytes
            .saturating_add(blocks.saturating_mul(bytes));
        let rounding = blocks.saturating_mul(touched - bytes);
        packing.rounding_bytes = packing.rounding_bytes.saturating_add(rounding);
    }
    for class in classes.values_mut().filter(|class| class.size <= SMALL_MAX) {
        let slab = slab_bytes(class.size);
        class.bytes = class.blocks.div_ceil(slab / class.size) * slab;
    }
    packing.classes = classes.into_values().collect();
    packing.packed_bytes = packing.classes.iter().map(|class| class.bytes).sum();
    Some(packing)
}

/// Spans are multiples of 8 bytes long.
const GRANULE: u64 = 8;

/// How many blocks there are of each size: the common small ones in a table, because there are
/// millions of blocks.
struct Sizes {
    small: Vec<u64>,
    large: BTreeMap<u64, u64>,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            small: vec![0; (SMALL_MAX / GRANULE) as usize + 1],
            large: BTreeMap::new(),
        }
    }
}

impl Sizes {
    fn add(&mut self, bytes: u64) {
        match self.small.get_mut((bytes / GRANULE) as usize) {
            Some(blocks) => *blocks += 1,
            None => *self.large.entry(bytes).or_default() += 1,
        }
    }

    /// Each size with its blocks, ascending.
    fn all(&self) -> impl Iterator<Item = (u64, u64)> {
        let small = (0..)
            .zip(&self.small)
            .map(|(i, &blocks)| (i * GRANULE, blocks));
        let large = self.large.iter().map(|(&bytes, &blocks)| (bytes, blocks));
        small.filter(|&(_, blocks)| blocks > 0).chain(large)
    }
}

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
