//! How the target's memory grows and shrinks, by its requests to the kernel.

use crate::sampling::SamplingCounter;

/// What happened to the bytes: [`RawEvent::kind`](crate::RawEvent::kind) of a
/// [`RawStack`](crate::sampling::RawStack) that is not an allocation.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Hash)]
#[repr(u16)]
pub enum GrowthKind {
    /// Memory that may be written to was got: `mmap` of private anonymous memory, `brk` upwards, `mprotect`, `mremap`.
    Grown = 101,
    /// Memory was given back: `munmap`, `madvise`, `brk` downwards, `mremap`.
    Returned = 102,
    /// A page was written to that was not there: a page fault.
    Touched = 103,
}

impl GrowthKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Grown, Self::Returned, Self::Touched];

    /// The kind with this number.
    pub fn of(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u16 == number)
    }

    /// Where its bytes are counted.
    #[inline(always)]
    pub const fn counter(self) -> SamplingCounter {
        match self {
            Self::Grown => SamplingCounter::GrownBytes,
            Self::Returned => SamplingCounter::ReturnedBytes,
            Self::Touched => SamplingCounter::TouchedBytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RecordKind;
    use crate::sampling::{RawNative, RawStack};

    #[test]
    fn nobody_takes_growth_for_an_event_or_for_an_allocation() {
        for kind in GrowthKind::ALL {
            assert_eq!(GrowthKind::of(kind as u16), Some(kind));
            assert_eq!(RecordKind::of(kind as u64), None);
        }
        for kind in [RawStack::KIND, RawNative::KIND] {
            assert_eq!(GrowthKind::of(kind), None);
            assert_eq!(RecordKind::of(kind.into()), None);
        }
        assert_ne!(RawStack::KIND, RawNative::KIND);
    }
}
