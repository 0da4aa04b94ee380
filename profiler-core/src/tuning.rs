//! Changes of an allocator's settings that are worth trying, each declared once: the remedies of findings
//! and the candidates of the lab are made from these.
//!
//! Settings are those of glibc's manual ("Memory Allocation Tunables"), jemalloc 5's `MALLOC_CONF`,
//! mimalloc 2's and 3's environment options, and gperftools' `TCMALLOC_*` variables.

use std::fmt::{self, Display};

use crate::allocator::{Allocator, Assignment, Environment};
use crate::report::Mechanism;

/// A change of the settings of one allocator.
#[derive(Debug, Eq, PartialEq)]
pub struct Tuning {
    /// What candidates with it are called.
    pub name: &'static str,
    /// Whose settings these are.
    pub allocator: Allocator,
    /// What it sets.
    pub sets: &'static [Assignment],
    /// What is set besides where it is played, so that nothing else changes against the baseline.
    pub holds: &'static [Assignment],
    /// The mechanism of a heap under glibc that it undoes; `None` where none is known.
    pub undoes: Option<Mechanism>,
    /// What it costs, in words.
    pub price: &'static str,
}

impl Tuning {
    const fn new(
        name: &'static str,
        allocator: Allocator,
        sets: &'static [Assignment],
        price: &'static str,
    ) -> Self {
        Self {
            name,
            allocator,
            sets,
            holds: &[],
            undoes: None,
            price,
        }
    }

    const fn undoes(self, mechanism: Mechanism) -> Self {
        Self {
            undoes: Some(mechanism),
            ..self
        }
    }

    const fn holds(self, holds: &'static [Assignment]) -> Self {
        Self { holds, ..self }
    }
}

impl Display for Tuning {
    /// The variables that it sets where nothing else is set, such as `MALLOC_ARENA_MAX=2`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        together(&[self]).fmt(f)
    }
}

/// The variables that several of one allocator set together.
pub(crate) fn together(all: &[&Tuning]) -> Environment {
    let mut environment = Environment::default();
    for tuning in all {
        environment.assign(tuning.allocator, tuning.sets);
    }
    environment
}

/// How Python calls glibc's `malloc_trim(0)`.
pub const TRIM_FROM_PYTHON: &str = "ctypes.CDLL(None).malloc_trim(0)";

const MORE_CALLS: &str = "more system calls and page faults";
const LOCKS: &str = "threads wait for each other's locks";
const SLOWER: &str = "slower malloc and free";
const HUGE: &str = "huge pages fill with less than a page of use";

const fn set(name: &'static str, value: &'static str) -> Assignment {
    Assignment { name, value }
}

/// glibc: the mmap threshold stays where it begins.
pub static MMAP_THRESHOLD: Tuning = Tuning::new(
    "mmap_threshold=128K",
    Allocator::Glibc,
    &[set("mmap_threshold", "131072")],
    "a system call and page faults for each block of 128 KiB and more",
)
.undoes(Mechanism::DynamicMmapThreshold);

/// glibc: the trim threshold stays where it begins. Either threshold fixes both, so where this is played
/// the other is as high as it gets, which keeps large blocks on the heap.
pub static TRIM_THRESHOLD: Tuning = Tuning::new(
    "trim_threshold=128K",
    Allocator::Glibc,
    &[set("trim_threshold", "131072")],
    "more system calls as the heap shrinks",
)
.holds(&[set("mmap_threshold", "33554432")])
.undoes(Mechanism::KeptTop);

/// glibc: one arena.
pub static ONE_ARENA: Tuning = Tuning::new(
    "arena_max=1",
    Allocator::Glibc,
    &[set("arena_max", "1")],
    LOCKS,
)
.undoes(Mechanism::ArenaSprawl);

/// glibc: two arenas.
pub static TWO_ARENAS: Tuning = Tuning::new(
    "arena_max=2",
    Allocator::Glibc,
    &[set("arena_max", "2")],
    LOCKS,
)
.undoes(Mechanism::ArenaSprawl);

/// glibc: no thread caches.
pub static NO_TCACHE: Tuning = Tuning::new(
    "tcache_count=0",
    Allocator::Glibc,
    &[set("tcache_count", "0")],
    SLOWER,
);

/// glibc: no fastbins.
pub static NO_FASTBINS: Tuning =
    Tuning::new("mxfast=0", Allocator::Glibc, &[set("mxfast", "0")], SLOWER);

/// glibc: it advises huge pages.
pub static HUGE_PAGES: Tuning =
    Tuning::new("hugetlb=1", Allocator::Glibc, &[set("hugetlb", "1")], HUGE);

/// glibc: it advises no huge pages.
pub static NO_HUGE_PAGES: Tuning =
    Tuning::new("hugetlb=0", Allocator::Glibc, &[set("hugetlb", "0")], HUGE);

/// jemalloc: a thread purges, so that an idle process gives back too.
pub static JEMALLOC_BACKGROUND: Tuning = Tuning::new(
    "jemalloc background",
    Allocator::Jemalloc,
    &[set("background_thread", "true")],
    "threads that purge; forked children lose them",
)
.undoes(Mechanism::PinnedPages);

/// jemalloc: free pages wait a second for their purge, not ten.
pub static JEMALLOC_SHORT_DECAY: Tuning = Tuning::new(
    "jemalloc short decay",
    Allocator::Jemalloc,
    &[set("dirty_decay_ms", "1000"), set("muzzy_decay_ms", "0")],
    MORE_CALLS,
);

/// jemalloc: free pages are purged at once.
pub static JEMALLOC_NO_DECAY: Tuning = Tuning::new(
    "jemalloc no decay",
    Allocator::Jemalloc,
    &[set("dirty_decay_ms", "0"), set("muzzy_decay_ms", "0")],
    MORE_CALLS,
);

/// jemalloc: two arenas.
pub static JEMALLOC_TWO_ARENAS: Tuning = Tuning::new(
    "jemalloc narenas:2",
    Allocator::Jemalloc,
    &[set("narenas", "2")],
    LOCKS,
);

/// jemalloc: only small blocks are cached.
pub static JEMALLOC_SMALL_CACHES: Tuning = Tuning::new(
    "jemalloc tcache_max:4096",
    Allocator::Jemalloc,
    &[set("tcache_max", "4096")],
    SLOWER,
);

/// jemalloc: no thread caches.
pub static JEMALLOC_NO_CACHES: Tuning = Tuning::new(
    "jemalloc tcache:false",
    Allocator::Jemalloc,
    &[set("tcache", "false")],
    SLOWER,
);

/// mimalloc: free pages are purged at once.
pub static MIMALLOC_SHORT_PURGE: Tuning = Tuning::new(
    "mimalloc short purge",
    Allocator::Mimalloc,
    &[set("PURGE_DELAY", "0")],
    MORE_CALLS,
);

/// tcmalloc: free pages are given back ten times as fast as by itself.
pub static TCMALLOC_RELEASE: Tuning = Tuning::new(
    "tcmalloc fast release",
    Allocator::Tcmalloc,
    &[set("RELEASE_RATE", "10")],
    MORE_CALLS,
);

/// tcmalloc: threads cache 8 MiB in all at most, and not 32 (`kDefaultOverallThreadCacheSize` in
/// `src/common.h`).
pub static TCMALLOC_SMALL_CACHES: Tuning = Tuning::new(
    "tcmalloc small caches",
    Allocator::Tcmalloc,
    &[set("MAX_TOTAL_THREAD_CACHE_BYTES", "8388608")],
    SLOWER,
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allocator::{INITIAL_TRIM_THRESHOLD, MMAP_THRESHOLDS};

    const ALL: [&Tuning; 17] = [
        &MMAP_THRESHOLD,
        &TRIM_THRESHOLD,
        &ONE_ARENA,
        &TWO_ARENAS,
        &NO_TCACHE,
        &NO_FASTBINS,
        &HUGE_PAGES,
        &NO_HUGE_PAGES,
        &JEMALLOC_BACKGROUND,
        &JEMALLOC_SHORT_DECAY,
        &JEMALLOC_NO_DECAY,
        &JEMALLOC_TWO_ARENAS,
        &JEMALLOC_SMALL_CACHES,
        &JEMALLOC_NO_CACHES,
        &MIMALLOC_SHORT_PURGE,
        &TCMALLOC_RELEASE,
        &TCMALLOC_SMALL_CACHES,
    ];

    #[test]
    fn each_sets_what_its_allocator_has() {
        for tuning in ALL {
            for Assignment { name, .. } in tuning.sets.iter().chain(tuning.holds) {
                let names = tuning.allocator.row().settings.names;
                assert!(names.contains(name), "{name} of {tuning:?}");
            }
        }
    }

    #[test]
    fn thresholds_are_those_that_glibc_begins_with_and_ends_at() {
        let value = |one: &Assignment| one.value.parse::<u64>().expect("a number");
        assert_eq!(value(&MMAP_THRESHOLD.sets[0]), *MMAP_THRESHOLDS.start());
        assert_eq!(value(&TRIM_THRESHOLD.sets[0]), INITIAL_TRIM_THRESHOLD);
        assert_eq!(value(&TRIM_THRESHOLD.holds[0]), *MMAP_THRESHOLDS.end());
    }

    #[test]
    fn it_is_shown_as_the_environment_has_it() {
        for (tuning, shown) in [
            (&MMAP_THRESHOLD, "MALLOC_MMAP_THRESHOLD_=131072"),
            (&NO_TCACHE, "GLIBC_TUNABLES=glibc.malloc.tcache_count=0"),
            (
                &JEMALLOC_SHORT_DECAY,
                "MALLOC_CONF=dirty_decay_ms:1000,muzzy_decay_ms:0",
            ),
            (&MIMALLOC_SHORT_PURGE, "MIMALLOC_PURGE_DELAY=0"),
            (&TCMALLOC_RELEASE, "TCMALLOC_RELEASE_RATE=10"),
        ] {
            assert_eq!(tuning.to_string(), shown);
        }
    }
}
