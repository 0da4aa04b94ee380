//! The ledger: where memory is, in classes that do not overlap.

/// A class of the ledger. The classes do not overlap; together they are all of RSS and swap.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub enum LedgerClass {
    /// Bytes of blocks in the program's hands, from malloc.
    Live,
    /// Bytes in live blocks known not to have been asked for.
    InternalSlop,
    /// In the allocator's caches.
    Cached,
    /// Free whole pages that a trim would return.
    FreeTrimmable,
    /// Free whole pages that no trim returns.
    FreeStuck,
    /// Free bytes on pages that something not free keeps.
    FreePinned,
    /// The top.
    Top,
    /// Headers, arena states, pool headers.
    AllocatorMetadata,
    /// Blocks in the program's hands, from pymalloc.
    PymallocLive,
    /// Free blocks in used pools, free pools, never-used tails.
    PymallocFree,
    /// Blocks with a mapping of their own.
    LargeMapped,
    /// Heaps that a library has for itself, live and free.
    PrivateHeap,
    /// Thread stacks.
    Stacks,
    /// Files: code, libraries, page cache mapped.
    File,
    /// Memory that processes may share: shared anonymous, System V, memfd, files of a tmpfs.
    SharedMemory,
    /// Anonymous memory that no walked allocator claims.
    OtherAnonymous,
    /// Memory that no other class explains.
    Unknown,
}

impl LedgerClass {
    /// All classes in the order they are shown.
    pub const ALL: [Self; 17] = [
        Self::Live,
        Self::InternalSlop,
        Self::Cached,
        Self::FreeTrimmable,
        Self::FreeStuck,
        Self::FreePinned,
        Self::Top,
        Self::AllocatorMetadata,
        Self::PymallocLive,
        Self::PymallocFree,
        Self::LargeMapped,
        Self::PrivateHeap,
        Self::Stacks,
        Self::File,
        Self::SharedMemory,
        Self::OtherAnonymous,
        Self::Unknown,
    ];

    /// The name in JSON, CSV and on screen.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::InternalSlop => "internal_slop",
            Self::Cached => "cached",
            Self::FreeTrimmable => "free_trimmable",
            Self::FreeStuck => "free_stuck",
            Self::FreePinned => "free_pinned",
            Self::Top => "top",
            Self::AllocatorMetadata => "allocator_metadata",
            Self::PymallocLive => "pymalloc_live",
            Self::PymallocFree => "pymalloc_free",
            Self::LargeMapped => "large_mapped",
            Self::PrivateHeap => "private_heap",
            Self::Stacks => "stacks",
            Self::File => "file",
            Self::SharedMemory => "shared_memory",
            Self::OtherAnonymous => "other_anonymous",
            Self::Unknown => "unknown",
        }
    }

    /// Its name in a sentence that says that it grows.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Live | Self::PymallocLive | Self::InternalSlop => "memory in live blocks",
            Self::LargeMapped => "memory in blocks with a mapping of their own",
            Self::Cached
            | Self::FreeTrimmable
            | Self::FreeStuck
            | Self::FreePinned
            | Self::Top
            | Self::PymallocFree => "free memory in the heaps",
            Self::AllocatorMetadata => "the allocator's own data",
            Self::PrivateHeap => "memory in heaps that libraries have for themselves",
            Self::Stacks => "memory in stacks of threads",
            Self::File => "memory in mapped files",
            Self::SharedMemory => "shared memory",
            Self::OtherAnonymous => "anonymous memory outside of the heaps",
            Self::Unknown => "memory that is not known",
        }
    }

    /// The part of the ledger that the class belongs to.
    pub const fn part(self) -> LedgerPart {
        match self {
            Self::Live | Self::InternalSlop | Self::PymallocLive | Self::LargeMapped => {
                LedgerPart::InUse
            }
            Self::Cached
            | Self::FreeTrimmable
            | Self::FreeStuck
            | Self::FreePinned
            | Self::Top
            | Self::PymallocFree => LedgerPart::Fragmentation,
            Self::PrivateHeap => LedgerPart::Libraries,
            Self::AllocatorMetadata
            | Self::Stacks
            | Self::File
            | Self::SharedMemory
            | Self::OtherAnonymous
            | Self::Unknown => LedgerPart::Rest,
        }
    }

    /// One line of help about the bytes.
    pub const fn help(self) -> &'static str {
        match self {
            Self::Live => "blocks that the program holds from malloc",
            Self::InternalSlop => {
                "usable bytes in live blocks beyond the requested size (a walk cannot know)"
            }
            Self::Cached => "freed blocks that the allocator's caches keep ready",
            Self::FreeTrimmable => "free whole pages that a trim or purge would return",
            Self::FreeStuck => "free whole pages that no trim returns",
            Self::FreePinned => "free bytes on pages that a live block keeps resident",
            Self::Top => "the unused end of each arena",
            Self::AllocatorMetadata => "block headers, arena states, pool headers",
            Self::PymallocLive => "small Python objects in use (up to 512 bytes each)",
            Self::PymallocFree => "free room for small Python objects, not returned to the kernel",
            Self::LargeMapped => "large blocks, each with a mapping of its own",
            Self::PrivateHeap => "heaps that a library has for itself, live and free",
            Self::Stacks => "thread stacks",
            Self::File => "code, libraries and other mapped files",
            Self::SharedMemory => "shared memory: anonymous, System V, memfd, files in /dev/shm",
            Self::OtherAnonymous => "anonymous memory that no walked allocator claims",
            Self::Unknown => "bytes that belong to none of the classes above",
        }
    }
}

/// A part of the ledger: classes that have the same meaning for a reader.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum LedgerPart {
    /// In the program's hands.
    InUse,
    /// Free, and held by an allocator.
    Fragmentation,
    /// Heaps that libraries have for themselves.
    Libraries,
    /// None of these.
    Rest,
}

impl LedgerPart {
    /// All parts.
    pub const ALL: [Self; 4] = [
        Self::InUse,
        Self::Fragmentation,
        Self::Libraries,
        Self::Rest,
    ];

    /// Its name in a sentence, after an amount.
    pub const fn words(self) -> &'static str {
        match self {
            Self::InUse => "in use",
            Self::Fragmentation => "fragmentation",
            Self::Libraries => "in heaps of libraries",
            Self::Rest => "outside the heaps",
        }
    }
}

/// One row of the ledger, in bytes.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct LedgerRow {
    /// Which class.
    pub class: LedgerClass,
    /// In memory.
    pub resident_bytes: u64,
    /// Of those, still shared with another process.
    pub shared_bytes: u64,
    /// In swap.
    pub swapped_bytes: u64,
}

impl LedgerRow {
    /// A class that holds nothing.
    pub const fn empty(class: LedgerClass) -> Self {
        Self {
            class,
            resident_bytes: 0,
            shared_bytes: 0,
            swapped_bytes: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::LedgerClass;

    #[test]
    fn the_document_has_every_class_and_no_other() {
        let document = include_str!("../../../docs/metrics.md");
        let (_, chapter) = document.split_once("## The ledger").expect("a chapter");
        let (chapter, _) = chapter.split_once("## Figures").expect("the next one");
        let rows = chapter.lines().filter_map(|line| line.strip_prefix("| `"));
        let documented: Vec<_> = rows.filter_map(|row| row.split('`').next()).collect();
        let declared = LedgerClass::ALL.map(LedgerClass::name);
        let set = |names: &[&'static str]| names.iter().copied().collect::<BTreeSet<_>>();
        assert_eq!(set(&documented), set(&declared));
        assert_eq!(documented.len(), declared.len(), "each once");
    }
}
