//! The declaration of every mechanism: what it is called in files and to people, when it is found, and what
//! follows in a sentence.

/// What is declared of a mechanism.
struct Declaration {
    key: &'static str,
    label: &'static str,
    help: &'static str,
    cause: &'static str,
    short: &'static str,
}

/// Declares [`Mechanism`], one row for each: its variant, key, label, when it is found, the cause as a
/// sentence has it after an amount, and the verdict in three words.
macro_rules! mechanisms {
    ($($id:ident, $key:literal, $label:literal, $help:literal, $cause:literal, $short:literal;)*) => {
        /// A kind of fragmentation or growth that a finding is about.
        #[derive(Copy, Clone, Debug, Eq, PartialEq, Hash)]
        pub enum Mechanism {
            $(#[doc = $help] $id,)*
        }

        impl Mechanism {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$id,)*];

            const fn declaration(self) -> &'static Declaration {
                match self {
                    $(Self::$id => &Declaration {
                        key: $key,
                        label: $label,
                        help: $help,
                        cause: $cause,
                        short: $short,
                    },)*
                }
            }
        }
    };
}

mechanisms! {
    PinnedPages, "pinned_pages", "pinned pages",
        "free bytes on pages that live blocks keep",
        "free memory is pinned by live blocks", "fragmented: pinned";
    Untrimmed, "untrimmed", "untrimmed pages",
        "whole free pages that a trim, or the allocator's own purge, returns",
        "free pages are not returned", "not trimmed";
    PinnedTop, "pinned_top", "pinned top",
        "free pages below a few blocks at the end of the heap",
        "a block at the end of the heap pins free memory", "fragmented: top";
    Caches, "caches", "caches",
        "freed blocks in the allocator's caches",
        "freed blocks are kept in malloc's caches", "fragmented: caches";
    ArenaSprawl, "arena_sprawl", "many arenas",
        "free memory in thread arenas; once predicted, only where sharing them helps",
        "thread arenas hold free memory", "fragmented: arenas";
    SparsePools, "sparse_pools", "sparse pools",
        "room in Python's own pools and arenas",
        "Python's own pools are sparse", "fragmented: pymalloc";
    DynamicMmapThreshold, "dynamic_mmap_threshold", "grown mmap threshold",
        "free chunks above 128 KiB, where the mmap threshold has grown by itself",
        "large blocks stay in the heap", "fragmented: large";
    KeptTop, "kept_top", "grown trim threshold",
        "the ends of arenas, where the trim threshold has grown by itself",
        "the ends of arenas stay since the trim threshold has grown", "fragmented: kept top";
    StuckPages, "stuck_pages", "stuck pages",
        "whole free pages that no trim or purge returns",
        "whole pages are free, and nothing is known to return them", "fragmented: stuck";
    HugePages, "huge_pages", "huge pages",
        "more than half of RSS is heap in transparent huge pages, which are resident whole",
        "huge pages are resident whole, written or not", "huge pages";
    LazilyFreed, "lazily_freed", "lazily freed pages",
        "given back with `MADV_FREE`, and counted until the kernel needs memory",
        "pages were given back, and count until the kernel needs memory", "freed lazily";
    PrivateHeap, "private_heap", "a library's own heap",
        "free memory in a heap that a library has for itself",
        "a library keeps free memory in a heap of its own", "fragmented: library";
    Unexplained, "unexplained", "unexplained free memory",
        "more than a fifth of RSS is free but resident, and nothing above says why",
        "free memory stays resident for no known reason", "fragmented: unknown";
    MostlyLive, "mostly_live", "in use",
        "most of RSS is live: no allocator changes that",
        "the memory is in use", "in use";
    NotTheHeap, "not_the_heap", "not the heap",
        "most of RSS is not malloc's at all",
        "the memory is not in the heap", "not the heap";
    NotSure, "not_sure", "no verdict",
        "malloc's heap could not be walked",
        "not enough was read for a verdict", "no verdict";
}

impl Mechanism {
    /// Those whose remedies are played.
    pub const PREDICTED: [Self; 6] = [
        Self::DynamicMmapThreshold,
        Self::ArenaSprawl,
        Self::Caches,
        Self::PinnedPages,
        Self::Untrimmed,
        Self::KeptTop,
    ];

    /// Those of whose remedies nobody knows what they return until they were played: what is free may not be what
    /// they free, and they can cost memory.
    pub const ASSUMED: [Self; 4] = [
        Self::DynamicMmapThreshold,
        Self::ArenaSprawl,
        Self::Caches,
        Self::KeptTop,
    ];

    /// The name in JSON.
    pub const fn name(self) -> &'static str {
        self.declaration().key
    }

    /// What people call it.
    pub const fn label(self) -> &'static str {
        self.declaration().label
    }

    /// When it is found.
    pub const fn help(self) -> &'static str {
        self.declaration().help
    }

    /// The cause, as a sentence has it after an amount.
    pub(crate) const fn cause(self) -> &'static str {
        self.declaration().cause
    }

    /// The verdict in three words.
    pub(crate) const fn short(self) -> &'static str {
        self.declaration().short
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_has_each_as_it_is_declared() {
        let document = include_str!("../../docs/metrics.md");
        for mechanism in Mechanism::ALL {
            let row = format!("| `{}` | {} |", mechanism.name(), mechanism.help());
            assert!(document.contains(&row), "{row}");
        }
        let (_, chapter) = document.split_once("## Mechanisms").expect("a chapter");
        let rows = chapter.lines().filter(|line| line.starts_with("| `"));
        assert_eq!(rows.count(), Mechanism::ALL.len(), "and no other");
    }
}
