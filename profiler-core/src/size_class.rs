//! The size classes of histograms, the same for every allocator.

/// Number of classes up to [`LINEAR_LIMIT`].
const LINEAR: usize = (LINEAR_LIMIT / STEP) as usize;
const STEP: u64 = 16;
/// Up to here classes are 16 bytes apart, which is exactly pymalloc's (`Objects/obmalloc.c`,
/// `ALIGNMENT` 16) and glibc's spacing.
pub const LINEAR_LIMIT: u64 = 512;
/// Above, each doubling has four classes, which is jemalloc's spacing (`SC_LG_NGROUP` 2).
const PER_DOUBLING: u32 = 4;

/// Index of a class in a histogram: 0 holds sizes of 1 to 16 bytes.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub struct SizeClass(pub u16);

impl SizeClass {
    /// The number of classes: enough for 2^48 bytes; the largest class also includes everything
    /// above.
    pub const COUNT: usize = LINEAR + (48 - 9) * PER_DOUBLING as usize;

    /// The class that holds blocks of `bytes`. 0 counts as 1.
    pub fn of(bytes: u64) -> Self {
        let bytes = bytes.max(1);
        if bytes <= LINEAR_LIMIT {
            return Self(((bytes - 1) / STEP) as u16);
        }
        let top = 63 - (bytes - 1).leading_zeros(); // 2^top < bytes <= 2^(top+1), roughly
        let quarter = ((bytes - 1) >> (top - 2)) & 3;
        let index = LINEAR + (top as usize - 9) * PER_DOUBLING as usize + quarter as usize;
        Self(index.min(Self::COUNT - 1) as u16)
    }

    /// The largest size in the class, in bytes.
    pub fn upper_bytes(self) -> u64 {
        let index = self.0 as usize;
        if index < LINEAR {
            return (index as u64 + 1) * STEP;
        }
        let above = index - LINEAR;
        let top = 9 + (above / PER_DOUBLING as usize) as u32;
        let quarter = (above % PER_DOUBLING as usize) as u64;
        (4 + quarter + 1) << (top - 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_lies_in_its_class_and_above_the_one_below() {
        for bytes in (1..70_000).chain((17..47).flat_map(|s| [(1 << s) - 1, 1 << s, (1 << s) + 1]))
        {
            let class = SizeClass::of(bytes);
            assert!(bytes <= class.upper_bytes(), "{bytes}");
            if class.0 > 0 {
                assert!(bytes > SizeClass(class.0 - 1).upper_bytes(), "{bytes}");
            }
        }
    }
}
