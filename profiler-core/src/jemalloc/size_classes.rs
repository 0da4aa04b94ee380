//! jemalloc's size classes (`sc.h`, `size_classes.sh` before 5.2): four to each doubling.

use super::layout::SIZES;

/// The bytes of a block of the class with this index; `None` for no class.
pub(super) fn bytes(index: usize) -> Option<u64> {
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
    use crate::jemalloc::layout::BINS;

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
}
