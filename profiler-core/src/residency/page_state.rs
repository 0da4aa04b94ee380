//! What the kernel says of one page, and whether it was ever written to.

/// The kernel's state of a page, as bits.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, Hash)]
pub struct PageState(u8);

impl PageState {
    /// Never touched, or given back.
    pub const ABSENT: Self = Self(0);
    /// In memory (`/proc/PID/pagemap` bit 63).
    pub const PRESENT: Self = Self(1);
    /// In swap (bit 62).
    pub const SWAPPED: Self = Self(2);
    /// The kernel's shared zero page, small or huge: present in the page table, not counted in RSS.
    /// With [`Self::SHARED`] it is either that or a page shared with a relative: the kernel did not
    /// show which.
    pub const ZERO: Self = Self(4);
    /// Part of a transparent or explicit huge page.
    pub const HUGE: Self = Self(8);
    /// Page cache or shared memory (bit 61).
    pub const FILE: Self = Self(16);
    /// Mapped by another process too (bit 56 clear): after a fork, not yet copied; or of a file.
    pub const SHARED: Self = Self(32);
    /// In memory and yet no part of RSS: explicit huge pages (hugetlb) and memory of devices.
    pub const UNCOUNTED: Self = Self(64);
    /// Part of a huge page, in memory, and all zeros: most likely the program never wrote it, and
    /// it is resident because the huge page is. Only pages of live blocks are checked.
    pub const BLANK: Self = Self(128);

    /// Both sets of bits.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The bits, as [`Self::from_bits`] takes them.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// The state with these bits; unknown bits are dropped.
    pub const fn from_bits(bits: u8) -> Self {
        let known = Self::PRESENT.0
            | Self::SWAPPED.0
            | Self::ZERO.0
            | Self::HUGE.0
            | Self::FILE.0
            | Self::SHARED.0
            | Self::UNCOUNTED.0
            | Self::BLANK.0;
        Self(bits & known)
    }

    const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// In memory, the zero page included.
    pub const fn is_present(self) -> bool {
        self.has(Self::PRESENT)
    }

    /// Counted in RSS: in memory, not the zero page, and not [`Self::UNCOUNTED`].
    pub const fn is_resident(self) -> bool {
        self.is_present() && !self.is_zero() && !self.has(Self::UNCOUNTED)
    }

    /// In swap.
    pub const fn is_swapped(self) -> bool {
        self.has(Self::SWAPPED)
    }

    /// Whether it contains data of the process: it is resident, or in swap.
    pub const fn has_data(self) -> bool {
        self.is_resident() || self.is_swapped()
    }

    /// The zero page.
    pub const fn is_zero(self) -> bool {
        self.has(Self::ZERO)
    }

    /// Part of a huge page.
    pub const fn is_huge(self) -> bool {
        self.has(Self::HUGE)
    }

    /// Page cache or shared memory.
    pub const fn is_file(self) -> bool {
        self.has(Self::FILE)
    }

    /// In memory and no part of RSS.
    pub const fn is_uncounted(self) -> bool {
        self.has(Self::UNCOUNTED)
    }

    /// Nothing but zeros, in a huge page.
    pub const fn is_blank(self) -> bool {
        self.has(Self::BLANK)
    }

    /// Also mapped by another process.
    pub const fn is_shared(self) -> bool {
        self.has(Self::SHARED)
    }
}

/// Whether a program has written to a page since it was mapped, or since the program last returned
/// it.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Written {
    /// There is memory or swap for it.
    Yes,
    /// No: it takes neither memory nor swap.
    Never,
    /// Not known.
    Unknown,
}

/// The source of page states.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub enum PageAccount {
    /// The page tables of a process.
    #[default]
    PageTables,
    /// A core file, which has no page tables. A hole in it may have been a page of zeros, and a
    /// page of zeros in it may never have been touched.
    Core,
}

impl PageAccount {
    /// Whether a page in this state was ever written to.
    pub const fn written(self, state: PageState) -> Written {
        match self {
            Self::Core => Written::Unknown,
            Self::PageTables if state.has_data() => Written::Yes,
            // An explicit huge page takes memory from the first access, though it is not part of
            // RSS.
            Self::PageTables if state.is_uncounted() && state.is_huge() => Written::Yes,
            // A device's page, or a page whose kind the kernel did not show.
            Self::PageTables if state.is_uncounted() => Written::Unknown,
            Self::PageTables if state.is_zero() && state.is_shared() => Written::Unknown,
            Self::PageTables => Written::Never,
        }
    }
}

/// Bytes that were never written to, added up page by page.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct NeverWritten {
    /// Bytes known never to have been written to.
    pub bytes: u64,
    /// Bytes for which it is unknown.
    pub unknown_bytes: u64,
}

impl NeverWritten {
    /// Adds bytes of a page.
    pub const fn add(&mut self, written: Written, bytes: u64) {
        match written {
            Written::Yes => {}
            Written::Never => self.bytes = self.bytes.saturating_add(bytes),
            Written::Unknown => self.unknown_bytes = self.unknown_bytes.saturating_add(bytes),
        }
    }

    /// Adds another sum.
    pub const fn merge(&mut self, other: Self) {
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.unknown_bytes = self.unknown_bytes.saturating_add(other.unknown_bytes);
    }

    /// Limits each of the two counts to `most` bytes.
    #[must_use]
    pub fn within(self, most: u64) -> Self {
        Self {
            bytes: self.bytes.min(most),
            unknown_bytes: self.unknown_bytes.min(most),
        }
    }

    /// The bytes; `None` if any are unknown.
    pub fn known(self) -> Option<u64> {
        (self.unknown_bytes == 0).then_some(self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_was_read_was_never_written_to_and_of_others_it_is_not_known() {
        let (present, uncounted) = (PageState::PRESENT, PageState::UNCOUNTED);
        let zero = present.with(PageState::ZERO);
        let cases = [
            (present, Written::Yes),
            (present.with(PageState::SHARED), Written::Yes),
            (PageState::SWAPPED, Written::Yes),
            (PageState::ABSENT, Written::Never),
            (zero, Written::Never),
            (zero.with(PageState::HUGE), Written::Never),
            (zero.with(PageState::SHARED), Written::Unknown),
            (present.with(uncounted), Written::Unknown),
            (present.with(uncounted).with(PageState::HUGE), Written::Yes),
        ];
        for (state, written) in cases {
            assert_eq!(PageAccount::PageTables.written(state), written, "{state:?}");
            assert_eq!(PageAccount::Core.written(state), Written::Unknown);
        }
        let mut sum = NeverWritten::default();
        cases
            .iter()
            .take(5)
            .for_each(|(_, written)| sum.add(*written, 10));
        assert_eq!(sum.known(), Some(20));
        sum.add(Written::Unknown, 1);
        assert_eq!((sum.bytes, sum.known()), (20, None));
    }
}
