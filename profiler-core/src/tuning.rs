//! Changes of an allocator's settings, and calls of its functions, that are worth trying. Each is
//! declared once; the remedies of findings and the candidates of the lab are made from these.
//!
//! Settings are from glibc's manual ("Memory Allocation Tunables"), jemalloc 5's `MALLOC_CONF`,
//! mimalloc 2's and 3's environment options, and gperftools' `TCMALLOC_*` variables.

use std::fmt::{self, Display};

use crate::allocator::{Allocator, Assignment, Environment, GlibcSetting, MALLOC_TRIM_IN_C};
use crate::mechanism::Mechanism;

/// A change of one allocator's settings, or a call of it.
#[derive(Debug, Eq, PartialEq)]
pub struct Tuning {
    /// Its title; the allocator is added if it is not glibc.
    pub title: &'static str,
    /// The allocator that has these settings.
    pub allocator: Allocator,
    /// What it sets.
    pub sets: &'static [Assignment],
    /// Settings that are also set in a replay, so that nothing else changes compared with the
    /// baseline.
    pub holds: &'static [Assignment],
    /// What the program calls.
    pub calls: Option<Call>,
    /// The mechanism in a glibc heap that it undoes; `None` if none is known.
    pub undoes: Option<Mechanism>,
    /// Its cost, in words.
    pub price: &'static str,
}

/// A call of an allocator's own.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Call {
    /// As written in C.
    pub in_c: &'static str,
    /// As written in Python.
    pub in_python: &'static str,
}

impl Call {
    /// What to do, in words; `when` says when to call it.
    pub fn step(&self, when: &str) -> String {
        format!("call {} {when}: {}", self.in_c, self.in_python)
    }
}

impl Tuning {
    const fn new(
        title: &'static str,
        allocator: Allocator,
        sets: &'static [Assignment],
        price: &'static str,
    ) -> Self {
        Self {
            title,
            allocator,
            sets,
            holds: &[],
            calls: None,
            undoes: None,
            price,
        }
    }

    /// The name of candidates with it.
    pub fn name(&self) -> String {
        match self.allocator {
            Allocator::Glibc => self.title.to_owned(),
            other => format!("{} {}", other.name(), self.title),
        }
    }

    /// The tuning of the candidate with this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        ALL.into_iter().find(|tuning| tuning.name() == name)
    }

    const fn undoes(self, mechanism: Mechanism) -> Self {
        Self {
            undoes: Some(mechanism),
            ..self
        }
    }

    const fn calls(self, call: Call) -> Self {
        Self {
            calls: Some(call),
            ..self
        }
    }

    const fn holds(self, holds: &'static [Assignment]) -> Self {
        Self { holds, ..self }
    }
}

impl Display for Tuning {
    /// The call in Python, or the variables to set if nothing else is set, such as
    /// `MALLOC_ARENA_MAX=2`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(call) = self.calls {
            return f.write_str(call.in_python);
        }
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

/// glibc's own way to give back whole free pages.
pub(crate) const MALLOC_TRIM: Call = Call {
    in_c: MALLOC_TRIM_IN_C,
    in_python: "ctypes.CDLL(None).malloc_trim(0)",
};

const MORE_CALLS: &str = "more system calls and page faults";
const LOCKS: &str = "threads wait for each other's locks";
const SLOWER: &str = "slower malloc and free";
const HUGE: &str = "huge pages fill with less than a page of use";

const fn set(name: &'static str, value: &'static str) -> Assignment {
    Assignment { name, value }
}

/// glibc: the mmap threshold keeps its initial value.
pub static MMAP_THRESHOLD: Tuning = Tuning::new(
    "mmap_threshold=128K",
    Allocator::Glibc,
    &[GlibcSetting::MmapThreshold.set("131072")],
    "a system call and page faults for each block of 128 KiB and more",
)
.undoes(Mechanism::DynamicMmapThreshold);

/// glibc: the trim threshold keeps its initial value. Setting either threshold fixes both, so in a
/// replay the other is set to its maximum, which keeps large blocks on the heap.
pub static TRIM_THRESHOLD: Tuning = Tuning::new(
    "trim_threshold=128K",
    Allocator::Glibc,
    &[GlibcSetting::TrimThreshold.set("131072")],
    "more system calls as the heap shrinks",
)
.holds(&[GlibcSetting::MmapThreshold.set("33554432")])
.undoes(Mechanism::KeptTop);

/// glibc: one arena.
pub static ONE_ARENA: Tuning = Tuning::new(
    "arena_max=1",
    Allocator::Glibc,
    &[GlibcSetting::ArenaMax.set("1")],
    LOCKS,
)
.undoes(Mechanism::ArenaSprawl);

/// glibc: two arenas.
pub static TWO_ARENAS: Tuning = Tuning::new(
    "arena_max=2",
    Allocator::Glibc,
    &[GlibcSetting::ArenaMax.set("2")],
    LOCKS,
)
.undoes(Mechanism::ArenaSprawl);

/// glibc: no thread caches.
pub static NO_TCACHE: Tuning = Tuning::new(
    "tcache_count=0",
    Allocator::Glibc,
    &[GlibcSetting::TcacheCount.set("0")],
    SLOWER,
);

/// glibc: no fastbins.
pub static NO_FASTBINS: Tuning = Tuning::new(
    "mxfast=0",
    Allocator::Glibc,
    &[GlibcSetting::Mxfast.set("0")],
    SLOWER,
);

/// glibc: it advises huge pages.
pub static HUGE_PAGES: Tuning = Tuning::new(
    "hugetlb=1",
    Allocator::Glibc,
    &[GlibcSetting::Hugetlb.set("1")],
    HUGE,
);

/// glibc: it advises no huge pages.
pub static NO_HUGE_PAGES: Tuning = Tuning::new(
    "hugetlb=0",
    Allocator::Glibc,
    &[GlibcSetting::Hugetlb.set("0")],
    HUGE,
);

/// glibc: free pages are returned when the program requests it.
pub static TRIM: Tuning = Tuning::new(
    "malloc_trim",
    Allocator::Glibc,
    &[],
    "a walk over the free memory each time, and page faults after it",
)
.calls(MALLOC_TRIM)
.undoes(Mechanism::Untrimmed);

/// jemalloc: a background thread purges, so that an idle process also returns memory.
pub static JEMALLOC_BACKGROUND: Tuning = Tuning::new(
    "background",
    Allocator::Jemalloc,
    &[set("background_thread", "true")],
    "threads that purge; forked children lose them",
)
.undoes(Mechanism::PinnedPages);

/// jemalloc: free pages wait a second for their purge, not ten.
pub static JEMALLOC_SHORT_DECAY: Tuning = Tuning::new(
    "short decay",
    Allocator::Jemalloc,
    &[set("dirty_decay_ms", "1000"), set("muzzy_decay_ms", "0")],
    MORE_CALLS,
);

/// jemalloc: free pages are purged at once.
pub static JEMALLOC_NO_DECAY: Tuning = Tuning::new(
    "no decay",
    Allocator::Jemalloc,
    &[set("dirty_decay_ms", "0"), set("muzzy_decay_ms", "0")],
    MORE_CALLS,
)
.undoes(Mechanism::PinnedPages);

/// jemalloc: two arenas.
pub static JEMALLOC_TWO_ARENAS: Tuning = Tuning::new(
    "narenas:2",
    Allocator::Jemalloc,
    &[set("narenas", "2")],
    LOCKS,
);

/// jemalloc: only small blocks are cached.
pub static JEMALLOC_SMALL_CACHES: Tuning = Tuning::new(
    "tcache_max:4096",
    Allocator::Jemalloc,
    &[set("tcache_max", "4096")],
    SLOWER,
);

/// jemalloc: no thread caches.
pub static JEMALLOC_NO_CACHES: Tuning = Tuning::new(
    "tcache:false",
    Allocator::Jemalloc,
    &[set("tcache", "false")],
    SLOWER,
);

/// mimalloc: free pages are purged at once.
pub static MIMALLOC_SHORT_PURGE: Tuning = Tuning::new(
    "short purge",
    Allocator::Mimalloc,
    &[set("PURGE_DELAY", "0")],
    MORE_CALLS,
);

/// tcmalloc: free pages are returned ten times as fast as by default.
pub static TCMALLOC_RELEASE: Tuning = Tuning::new(
    "fast release",
    Allocator::Tcmalloc,
    &[set("RELEASE_RATE", "10")],
    MORE_CALLS,
);

/// tcmalloc: thread caches hold at most 8 MiB in total instead of 32
/// (`kDefaultOverallThreadCacheSize` in `src/common.h`).
pub static TCMALLOC_SMALL_CACHES: Tuning = Tuning::new(
    "small caches",
    Allocator::Tcmalloc,
    &[set("MAX_TOTAL_THREAD_CACHE_BYTES", "8388608")],
    SLOWER,
);

/// All of them.
pub static ALL: [&Tuning; 18] = [
    &MMAP_THRESHOLD,
    &TRIM_THRESHOLD,
    &ONE_ARENA,
    &TWO_ARENAS,
    &NO_TCACHE,
    &NO_FASTBINS,
    &HUGE_PAGES,
    &NO_HUGE_PAGES,
    &TRIM,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allocator::{INITIAL_MMAP_THRESHOLD_KIB, INITIAL_TRIM_THRESHOLD, MMAP_THRESHOLDS};
    use crate::metrics::MetricId;

    #[test]
    fn each_sets_what_its_allocator_has() {
        for tuning in ALL {
            for Assignment { name, .. } in tuning.sets.iter().chain(tuning.holds) {
                let names = tuning.allocator.row().settings.names;
                assert!(names.contains(name), "{name} of {tuning:?}");
            }
            assert_ne!(tuning.sets.is_empty(), tuning.calls.is_none(), "{tuning:?}");
        }
    }

    #[test]
    fn candidates_are_called_by_the_allocator_unless_that_is_glibc() {
        for tuning in ALL {
            let named = Tuning::named(&tuning.name());
            assert_eq!(named, Some(tuning), "{}", tuning.name());
        }
        assert_eq!(JEMALLOC_BACKGROUND.name(), "jemalloc background");
        assert_eq!(TWO_ARENAS.name(), "arena_max=2");
        assert_eq!(Tuning::named("jemalloc"), None);
    }

    #[test]
    fn thresholds_are_those_that_glibc_begins_with_and_ends_at() {
        let value = |one: &Assignment| one.value.parse::<u64>().expect("a number");
        assert_eq!(value(&MMAP_THRESHOLD.sets[0]), *MMAP_THRESHOLDS.start());
        assert_eq!(value(&TRIM_THRESHOLD.sets[0]), INITIAL_TRIM_THRESHOLD);
        assert_eq!(value(&TRIM_THRESHOLD.holds[0]), *MMAP_THRESHOLDS.end());
        let initial = format!("{INITIAL_MMAP_THRESHOLD_KIB} KiB");
        for sentence in [
            MMAP_THRESHOLD.price,
            Mechanism::DynamicMmapThreshold.help(),
            MetricId::LargeFreeBytes.help(),
        ] {
            assert!(sentence.contains(&initial), "{sentence}");
        }
    }

    #[test]
    fn it_is_shown_as_the_environment_has_it() {
        for (tuning, shown) in [
            (&MMAP_THRESHOLD, "MALLOC_MMAP_THRESHOLD_=131072"),
            (&TRIM, "ctypes.CDLL(None).malloc_trim(0)"),
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
