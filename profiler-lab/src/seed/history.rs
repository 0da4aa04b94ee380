//! A possible history of a heap: what its gaps once held, and how that was freed.

/// Which blocks fill a gap.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub enum Fill {
    /// None: only live blocks are allocated. The least that an allocator could need.
    Dense,
    /// Blocks of the sizes of the live ones just before the gap.
    #[default]
    Neighbours,
    /// The same if these can fill it exactly, else one block.
    Exact,
    /// One block, or few.
    Whole,
}

/// Whether the fill of several arenas was there at once.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub enum Overlap {
    /// All of it.
    #[default]
    Together,
    /// Each arena's is freed before the next has any.
    OneByOne,
}

/// Which threads had the fill.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub enum FillThreads {
    /// One per arena, which continues afterwards.
    #[default]
    OfArenas,
    /// Each thread that uses an arena also had blocks of many sizes, one thread after the other,
    /// and does nothing more: what its cache has of them stays there.
    EachAndIdle,
}

/// How to treat gaps as large as glibc's grown mmap threshold: a block of that size was freed once,
/// but not necessarily here.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub enum LargeGaps {
    /// As large blocks, if most of the heap is such gaps; else like all gaps.
    #[default]
    ByShare,
    /// Large blocks, and smaller gaps down to the threshold that glibc begins with as well.
    LargeBlocks,
    /// As all gaps.
    AsOthers,
}

/// The order in which the fill is freed.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub enum FreeOrder {
    /// At random.
    #[default]
    Random,
    /// By address: first allocated, first freed.
    Address,
    /// The last allocated first.
    Reverse,
}
