//! The BPF cookie: what each attached site passes to its BPF program.

/// Where a function's arguments are and what its result means.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Arguments {
    /// `f(size)`
    Size = 1,
    /// `f(count, size)`
    CountSize = 2,
    /// `f(old, size)`
    OldSize = 3,
    /// `f(old, count, size)`
    OldCountSize = 4,
    /// `f(alignment, size)`
    AlignmentSize = 5,
    /// `f(result, alignment, size)`, where the block is stored at `*result` and 0 returned
    ResultAlignmentSize = 6,
}

/// The BPF cookie of one site, as one number.
///
/// Bits 0 to 15: the site's index in the map `HITS`. Bits 16 to 31: the probe's number, the same
/// for all sites of one function. Bits 32 to 39: [`Arguments`]. Bit 40: a size word stands before
/// each block. Bit 41: the entry of this function is probed as well. Bit 42: it is a leaf.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Cookie(pub u64);

impl Cookie {
    const CHUNK_HEADER: u64 = 1 << 40;
    const ENTRY_PROBED: u64 = 1 << 41;
    const LEAF: u64 = 1 << 42;

    /// The cookie of site number `site` of probe number `probe`.
    pub const fn new(site: u16, probe: u16, arguments: Arguments) -> Self {
        Self(site as u64 | (probe as u64) << 16 | (arguments as u64) << 32)
    }

    /// Whether the word before a block contains its chunk's size and three flag bits (glibc).
    pub const fn with_chunk_header(self, yes: bool) -> Self {
        Self(self.0 | if yes { Self::CHUNK_HEADER } else { 0 })
    }

    /// Whether the entry is probed as well: then a result without a known entry is not counted.
    pub const fn with_entry_probed(self, yes: bool) -> Self {
        Self(self.0 | if yes { Self::ENTRY_PROBED } else { 0 })
    }

    /// Whether the function calls no other probed function: a thread that enters one has then left
    /// this one, even if it passed none of its result sites.
    pub const fn with_leaf(self, yes: bool) -> Self {
        Self(self.0 | if yes { Self::LEAF } else { 0 })
    }

    /// The site's index in the map `HITS`.
    pub const fn site(self) -> u32 {
        self.0 as u32 & 0xffff
    }

    /// The probe's number.
    pub const fn probe(self) -> u32 {
        (self.0 >> 16) as u32 & 0xffff
    }

    /// Whether the arguments are laid out like this.
    pub const fn has(self, arguments: Arguments) -> bool {
        self.0 >> 32 & 0xff == arguments as u64
    }

    /// Whether the word before a block contains its chunk's size.
    pub const fn chunk_header(self) -> bool {
        self.0 & Self::CHUNK_HEADER != 0
    }

    /// Whether the function's entry is probed as well.
    pub const fn entry_probed(self) -> bool {
        self.0 & Self::ENTRY_PROBED != 0
    }

    /// Whether the function calls no other probed one.
    pub const fn leaf(self) -> bool {
        self.0 & Self::LEAF != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_comes_back() {
        let cookie = Cookie::new(255, 8, Arguments::OldCountSize).with_chunk_header(true);
        assert_eq!((cookie.site(), cookie.probe()), (255, 8));
        assert!(cookie.has(Arguments::OldCountSize) && !cookie.has(Arguments::Size));
        assert!(cookie.chunk_header() && !cookie.entry_probed());
        assert!(cookie.with_entry_probed(true).entry_probed());
        assert!(cookie.with_leaf(true).leaf() && !cookie.leaf());
    }
}
