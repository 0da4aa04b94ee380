//! The declaration of every mechanism: its names in files and for people, when it is found, the
//! sentence about it, and what is known of its bytes.

/// The kind of memory that a finding's bytes are.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) enum FindingBytes {
    /// Heap memory that holds nothing live: the finding explains a part of that.
    FreeHeap,
    /// Other wasted memory.
    OtherWaste,
    /// Nothing that is wasted.
    NoWaste,
}

/// How the effect of a mechanism's remedy is known.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
enum Returned {
    /// By the walk, if at all: none of its remedies is replayed.
    Walked,
    /// By the walk, and replaying the remedy may refute it.
    Refutable,
    /// Only by replaying the remedy: what is free may not be what it frees, and it can cost memory.
    Played,
}

/// The declaration of a mechanism.
struct Declaration {
    code: u8,
    subject: FindingBytes,
    returned: Returned,
    key: &'static str,
    label: &'static str,
    help: &'static str,
    cause: &'static str,
    short: &'static str,
}

/// Declares [`Mechanism`], one row for each: its variant, its number in saved sessions (which never
/// changes; a new one gets the next), the kind of its bytes, how the effect of its remedy is known,
/// its key, its label, when it is found, the cause as it follows an amount in a sentence, and the
/// verdict in at most three words.
macro_rules! mechanisms {
    ($(
        $id:ident = $code:literal, $subject:ident, $returned:ident,
        $key:literal, $label:literal, $help:literal, $cause:literal, $short:literal;
    )*) => {
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
                        code: $code,
                        subject: FindingBytes::$subject,
                        returned: Returned::$returned,
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
    PinnedPages = 3, FreeHeap, Refutable,
        "pinned_pages", "pinned pages",
        "free bytes on pages that live blocks keep",
        "free memory is pinned by live blocks", "fragmented: pinned";
    Untrimmed = 4, FreeHeap, Refutable,
        "untrimmed", "untrimmed pages",
        "whole free pages that a trim, or the allocator's own purge, returns",
        "free pages are not returned", "not trimmed";
    PinnedTop = 6, FreeHeap, Walked,
        "pinned_top", "pinned top",
        "free pages below a few blocks at the end of the heap",
        "a block at the end of the heap pins free memory", "fragmented: top";
    Caches = 2, FreeHeap, Played,
        "caches", "caches",
        "freed blocks in the allocator's caches",
        "freed blocks are kept in malloc's caches", "fragmented: caches";
    ArenaSprawl = 1, FreeHeap, Played,
        "arena_sprawl", "many arenas",
        "free memory in thread arenas; once predicted, only where sharing them helps",
        "thread arenas hold free memory", "fragmented: arenas";
    SparsePools = 7, FreeHeap, Walked,
        "sparse_pools", "sparse pools",
        "room in Python's own pools and arenas",
        "Python's own pools are sparse", "fragmented: pymalloc";
    DynamicMmapThreshold = 0, FreeHeap, Played,
        "dynamic_mmap_threshold", "grown mmap threshold",
        "free chunks above 128 KiB, where the mmap threshold has grown by itself",
        "large blocks stay in the heap", "fragmented: large";
    KeptTop = 5, FreeHeap, Played,
        "kept_top", "grown trim threshold",
        "the ends of arenas, where the trim threshold has grown by itself",
        "the ends of arenas stay since the trim threshold has grown", "fragmented: kept top";
    StuckPages = 8, FreeHeap, Walked,
        "stuck_pages", "stuck pages",
        "whole free pages that no trim or purge returns",
        "whole pages are free, and nothing is known to return them", "fragmented: stuck";
    HugePages = 9, OtherWaste, Walked,
        "huge_pages", "huge pages",
        "more than half of RSS is heap in transparent huge pages, which are resident whole",
        "huge pages are resident whole, written or not", "huge pages";
    LazilyFreed = 10, FreeHeap, Walked,
        "lazily_freed", "lazily freed pages",
        "given back with `MADV_FREE`, and counted until the kernel needs memory",
        "pages were given back, and count until the kernel needs memory", "freed lazily";
    PrivateHeap = 11, OtherWaste, Walked,
        "private_heap", "a library's own heap",
        "free memory in a heap that a library has for itself",
        "a library keeps free memory in a heap of its own", "fragmented: library";
    Unexplained = 12, FreeHeap, Walked,
        "unexplained", "unexplained free memory",
        "more than a fifth of RSS is free but resident, and nothing above says why",
        "free memory stays resident for no known reason", "fragmented: unknown";
    MostlyLive = 13, NoWaste, Walked,
        "mostly_live", "in use",
        "most of RSS is live: no allocator changes that",
        "the memory is in use", "in use";
    NotTheHeap = 14, NoWaste, Walked,
        "not_the_heap", "not the heap",
        "most of RSS is not malloc's at all",
        "the memory is not in the heap", "not the heap";
    NotSure = 15, NoWaste, Walked,
        "not_sure", "no verdict",
        "malloc's heap could not be walked",
        "not enough was read for a verdict", "no verdict";
}

impl Mechanism {
    /// Its number in saved sessions.
    pub const fn code(self) -> u8 {
        self.declaration().code
    }

    /// The mechanism with this number.
    pub fn of_code(code: u8) -> Option<Self> {
        let mut all = Self::ALL.iter().copied();
        all.find(|mechanism| mechanism.code() == code)
    }

    /// Those whose remedies are played.
    pub fn predicted() -> impl Iterator<Item = Self> {
        let all = Self::ALL.iter().copied();
        all.filter(|mechanism| mechanism.is_predicted())
    }

    /// Whether its remedies are replayed.
    pub const fn is_predicted(self) -> bool {
        !matches!(self.declaration().returned, Returned::Walked)
    }

    /// Whether the effect of its remedies is unknown until they are replayed.
    pub const fn is_assumed(self) -> bool {
        matches!(self.declaration().returned, Returned::Played)
    }

    /// The kind of memory that a finding about it counts.
    pub(crate) const fn subject(self) -> FindingBytes {
        self.declaration().subject
    }

    /// The name in JSON.
    pub const fn name(self) -> &'static str {
        self.declaration().key
    }

    /// Its name for people.
    pub const fn label(self) -> &'static str {
        self.declaration().label
    }

    /// When it is found.
    pub const fn help(self) -> &'static str {
        self.declaration().help
    }

    /// The cause, as it follows an amount in a sentence.
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
        let (chapter, _) = chapter.split_once("\n## ").expect("another one");
        let rows = chapter.lines().filter(|line| line.starts_with("| `"));
        assert_eq!(rows.count(), Mechanism::ALL.len(), "and no other");
    }

    #[test]
    fn each_has_a_number_of_its_own_which_the_format_of_saved_sessions_lists() {
        let document = include_str!("../../docs/snapshot-format.md");
        let all = Mechanism::ALL.iter();
        let mut listed: Vec<_> = all.map(|one| (one.code(), one.name())).collect();
        listed.sort_unstable();
        let numbers: Vec<u8> = listed.iter().map(|(code, _)| *code).collect();
        let expected: Vec<u8> = (0..listed.len() as u8).collect();
        assert_eq!(numbers, expected);
        let listed = listed.iter().map(|(code, name)| format!("{code} {name}"));
        let row = listed.collect::<Vec<_>>().join(", ");
        assert!(document.contains(&format!("| 1: {row} |")), "{row}");
        // The mechanisms of the first version keep their numbers.
        let first = [0, 1, 2, 3, 4, 5].map(Mechanism::of_code);
        let names = first.map(|one| one.expect("a mechanism").name());
        assert_eq!(
            names,
            [
                "dynamic_mmap_threshold",
                "arena_sprawl",
                "caches",
                "pinned_pages",
                "untrimmed",
                "kept_top"
            ]
        );
        assert_eq!(Mechanism::of_code(expected.len() as u8), None);
    }
}
