//! jemalloc's size classes with its defaults on x86-64 (`include/jemalloc/internal/sc.h`, `src/sc.c`;
//! `size_classes.sh` before 5.2): a quantum of 16 bytes, four classes to each doubling, 4 KiB pages.

use crate::addr::PAGE_SIZE;

/// Small size classes (`NBINS`).
pub(crate) const BINS: usize = 36;
/// All size classes (`NSIZES`).
pub(crate) const SIZES: usize = 232;

/// The size class, in bytes, that serves a block of `wanted` bytes. A size beyond the largest class
/// is returned unchanged.
pub(crate) fn class_of(wanted: u64) -> u64 {
    let (mut below, mut end) = (0, SIZES);
    while below < end {
        let middle = usize::midpoint(below, end);
        match bytes(middle) {
            Some(class) if class < wanted => below = middle + 1,
            _ => end = middle,
        }
    }
    bytes(below).unwrap_or(wanted)
}

/// Bytes of one slab of a small class: the smallest number of pages that its regions fill exactly.
pub(crate) fn slab_bytes(class: u64) -> u64 {
    let gcd = 1u64 << class.trailing_zeros().min(PAGE_SIZE.trailing_zeros());
    class / gcd * PAGE_SIZE
}

/// The bytes of a block of the class with this index; `None` for no class.
pub(crate) fn bytes(index: usize) -> Option<u64> {
    match index {
        // The tiny class, then the multiples of the quantum.
        0 => Some(8),
        1..=4 => Some(16 * index as u64),
        _ if index < SIZES => {
            let group = (index - 5) / 4;
            let step = (index - 5) % 4 + 1;
            let base = 64_u64 << group;
            Some(base + (base / 4) * step as u64)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_mallctl_lists_them() {
        let first: Vec<_> = (0..14).filter_map(bytes).collect();
        assert_eq!(
            first,
            [8, 16, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320]
        );
        assert_eq!(bytes(BINS - 1), Some(14336));
        assert_eq!(bytes(BINS), Some(16384));
        assert_eq!(bytes(SIZES - 1), Some(0x7000_0000_0000_0000));
        assert_eq!(bytes(SIZES), None);
    }

    #[test]
    fn a_block_is_served_from_the_least_class_that_holds_it() {
        for index in 0..SIZES {
            let class = bytes(index).expect("a class");
            assert_eq!(class_of(class), class);
            assert_eq!(class_of(class - 1), class);
            assert_eq!(class_of(class + 1), bytes(index + 1).unwrap_or(class + 1));
        }
        assert_eq!(class_of(0), 8);
    }

    #[test]
    fn slabs_are_those_of_jemalloc() {
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
