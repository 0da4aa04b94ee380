//! All remedies, one row each.

use crate::allocator::Allocator;
use crate::mechanism::Mechanism;
use crate::remedy::{Remedy, Step};
use crate::tuning;

/// A remedy and its mechanism.
#[derive(Debug)]
pub(super) struct RemedyRow {
    pub(super) mechanism: Mechanism,
    /// The allocators that must serve malloc; empty if any may.
    pub(super) allocators: &'static [Allocator],
    pub(super) remedy: Remedy,
}

/// What to do about the heap that a library has for itself.
#[derive(Debug)]
pub(super) struct LibraryRow {
    /// Prefix of its file name; empty for any.
    pub(super) library: &'static str,
    pub(super) allocator: Option<Allocator>,
    pub(super) remedy: Remedy,
}

const RELEASE: Step = Step::Call("pyarrow.default_memory_pool().release_unused()");
const TRIM: Step = Step::Call(tuning::MALLOC_TRIM.in_c);
const RESTARTS: Step = Step::Practice("restart the worker after a number of tasks");
const FEWER_THREADS: Step = Step::Practice("fewer threads");

/// The first that fits is taken.
pub(super) const OF_LIBRARIES: &[LibraryRow] = &[
    LibraryRow {
        library: "libarrow",
        allocator: None,
        remedy: Remedy {
            steps: &[
                RELEASE,
                Step::Variable("ARROW_DEFAULT_MEMORY_POOL", "system"),
            ],
            sentences: "After each peak call {0}, or start with {1}, so that Arrow allocates from malloc.",
        },
    },
    LibraryRow {
        library: "_polars",
        allocator: Some(Allocator::Jemalloc),
        remedy: POLARS,
    },
    LibraryRow {
        library: "polars",
        allocator: Some(Allocator::Jemalloc),
        remedy: POLARS,
    },
    LibraryRow {
        library: "",
        allocator: Some(Allocator::Mimalloc),
        remedy: Remedy {
            steps: &[Step::Tune(&tuning::MIMALLOC_SHORT_PURGE)],
            sentences: "{0} returns free memory at once, at some cost in page faults.",
        },
    },
    LibraryRow {
        library: "",
        allocator: None,
        remedy: Remedy {
            steps: &[RESTARTS],
            sentences: "Only the library's own settings change it: see its manual, or {0}.",
        },
    },
];

pub(super) const POLARS: Remedy = Remedy {
    steps: &[Step::SetPrefixed("_RJEM_", &[&tuning::JEMALLOC_NO_DECAY])],
    sentences: "{0} has it purge as soon as pages are free, at some cost in page faults.",
};

/// All remedies. Of those for one mechanism, the one that names the serving allocator is used, else
/// the one that names none.
pub(super) const REMEDIES: &[RemedyRow] = &[
    RemedyRow {
        mechanism: Mechanism::PinnedPages,
        allocators: &[Allocator::Glibc],
        remedy: Remedy {
            steps: &[RESTARTS],
            sentences: "No trim and no glibc setting returns them. An allocator that keeps blocks of one \
                size together, such as jemalloc, may pin fewer pages; else {0}.",
        },
    },
    RemedyRow {
        mechanism: Mechanism::PinnedPages,
        allocators: &[],
        remedy: Remedy {
            steps: &[RESTARTS],
            sentences: "No trim returns them while those blocks live: {0}, or shorten the \
                lives of the blocks that stay.",
        },
    },
    RemedyRow {
        mechanism: Mechanism::Untrimmed,
        allocators: &[Allocator::Glibc],
        remedy: Remedy {
            steps: &[Step::Tune(&tuning::TRIM)],
            sentences: "After each peak call {0}.",
        },
    },
    RemedyRow {
        mechanism: Mechanism::Untrimmed,
        allocators: &[Allocator::Jemalloc],
        remedy: Remedy {
            steps: &[
                Step::Tune(&tuning::JEMALLOC_BACKGROUND),
                Step::Tune(&tuning::JEMALLOC_SHORT_DECAY),
            ],
            sentences: "They wait for their decay: an idle process purges only with {0}; {1=} makes it \
                sooner, at some cost in page faults.",
        },
    },
    RemedyRow {
        mechanism: Mechanism::Untrimmed,
        allocators: &[Allocator::Mimalloc],
        remedy: Remedy {
            steps: &[Step::Tune(&tuning::MIMALLOC_SHORT_PURGE)],
            sentences: "{0} returns them at once, at some cost in page faults.",
        },
    },
    RemedyRow {
        mechanism: Mechanism::Untrimmed,
        allocators: &[Allocator::Tcmalloc],
        remedy: Remedy {
            steps: &[Step::Tune(&tuning::TCMALLOC_RELEASE)],
            sentences: "{0} returns them sooner, at some cost in page faults.",
        },
    },
    RemedyRow {
        mechanism: Mechanism::Untrimmed,
        allocators: &[],
        remedy: Remedy {
            steps: &[RESTARTS],
            sentences: "This allocator has no setting for it: {0}.",
        },
    },
    RemedyRow {
        mechanism: Mechanism::PinnedTop,
        allocators: &[Allocator::Glibc],
        remedy: Remedy {
            steps: &[TRIM, Step::Tune(&tuning::NO_TCACHE)],
            sentences: "{0} still returns them. If the blocks are only cached, \
                {1} lets the top go by itself.",
        },
    },
    RemedyRow {
        mechanism: Mechanism::Caches,
        allocators: &[Allocator::Glibc],
        remedy: Remedy {
            steps: &[
                Step::Tune(&tuning::NO_TCACHE),
                Step::Tune(&tuning::NO_FASTBINS),
                FEWER_THREADS,
                TRIM,
            ],
            sentences: "{0} gives up tcaches and {1=} fastbins, at some cost in speed; with {2} there \
                are fewer. {3} returns what lies in fastbins.",
        },
    },
    RemedyRow {
        mechanism: Mechanism::Caches,
        allocators: &[Allocator::Jemalloc],
        remedy: Remedy {
            steps: &[
                Step::Tune(&tuning::JEMALLOC_SMALL_CACHES),
                Step::Tune(&tuning::JEMALLOC_NO_CACHES),
                FEWER_THREADS,
            ],
            sentences: "{0} caches small blocks only ({1=} none), at some cost in speed; {2} cache fewer.",
        },
    },
    RemedyRow {
        mechanism: Mechanism::Caches,
        allocators: &[Allocator::Tcmalloc],
        remedy: Remedy {
            steps: &[Step::Tune(&tuning::TCMALLOC_SMALL_CACHES), FEWER_THREADS],
            sentences: "{0} bounds them to a quarter of what they may hold by default; {1} cache fewer.",
        },
    },
    RemedyRow {
        mechanism: Mechanism::Caches,
        allocators: &[],
        remedy: Remedy {
            steps: &[Step::Practice("Fewer threads")],
            sentences: "{0} cache fewer.",
        },
    },
    RemedyRow {
        mechanism: Mechanism::ArenaSprawl,
        allocators: &[Allocator::Glibc],
        remedy: Remedy {
            steps: &[Step::Tune(&tuning::TWO_ARENAS)],
            sentences: SHARED_ARENAS,
        },
    },
    RemedyRow {
        mechanism: Mechanism::SparsePools,
        allocators: &[],
        remedy: Remedy {
            steps: &[
                Step::Practice("max-tasks-per-child"),
                Step::Practice("max-requests"),
            ],
            // PYTHONMALLOC=malloc took more memory with some programs, so it is not a remedy.
            sentences: "Preloading an allocator does not change pymalloc. New objects reuse the room; it \
                is returned when the objects that lie among it are freed, or the process ends (Celery: {0}, gunicorn: {1}).",
        },
    },
    RemedyRow {
        mechanism: Mechanism::DynamicMmapThreshold,
        allocators: &[Allocator::Glibc],
        remedy: Remedy {
            steps: &[Step::Tune(&tuning::MMAP_THRESHOLD)],
            sentences: "{0} keeps it at {0=KiB}, so that each large block goes \
                back to the kernel when it is freed, at the cost of more page faults.",
        },
    },
    RemedyRow {
        mechanism: Mechanism::KeptTop,
        allocators: &[Allocator::Glibc],
        remedy: Remedy {
            steps: &[Step::Tune(&tuning::TRIM_THRESHOLD)],
            sentences: "{0} has free() return \
                all that is more than {0=KiB}; it also keeps the mmap threshold where that began, unless \
                MALLOC_MMAP_THRESHOLD_ says otherwise.",
        },
    },
    RemedyRow {
        mechanism: Mechanism::StuckPages,
        allocators: &[],
        remedy: Remedy {
            steps: &[RESTARTS],
            sentences: "New blocks of the same sizes reuse them; to return them, {0}.",
        },
    },
    RemedyRow {
        mechanism: Mechanism::HugePages,
        allocators: &[],
        remedy: Remedy {
            steps: &[Step::Practice("run once with huge pages off")],
            sentences: "To see how much that is, {0} and compare: NUMPY_MADVISE_HUGEPAGE=0 keeps NumPy from \
                asking for them, /sys/kernel/mm/transparent_hugepage/enabled decides for the whole host.",
        },
    },
    RemedyRow {
        mechanism: Mechanism::LazilyFreed,
        allocators: &[],
        remedy: Remedy {
            steps: &[],
            sentences: "Nothing is to be done: no page of these has to be written to swap when others need memory.",
        },
    },
    RemedyRow {
        mechanism: Mechanism::Unexplained,
        allocators: &[],
        remedy: Remedy {
            steps: &[],
            sentences: "A recording from launch on (`fragscope record -- COMMAND`) shows what would return it.",
        },
    },
    RemedyRow {
        mechanism: Mechanism::MostlyLive,
        allocators: &[],
        remedy: Remedy {
            steps: &[],
            sentences: "No allocator changes that. Of a Python program a census of its objects says which types \
                these are, and which names hold them.",
        },
    },
    RemedyRow {
        mechanism: Mechanism::NotTheHeap,
        allocators: &[],
        remedy: Remedy {
            steps: &[],
            sentences: "An allocator changes little: look at the libraries and files that are mapped, and \
                at memory that libraries map themselves.",
        },
    },
    RemedyRow {
        mechanism: Mechanism::NotSure,
        allocators: &[],
        remedy: Remedy {
            steps: &[],
            sentences: "Residency and probes still show where RSS is and what is allocated; `fragscope \
                doctor` names what is missing.",
        },
    },
];

/// Sentences of the remedies that reduce the number of arenas.
const SHARED_ARENAS: &str = "{0} makes threads share arenas. It can also cost memory where their \
                             lifetimes mix, so compare peaks before and after.";
/// Replaces the row of the same mechanism if one arena was predicted to need least.
pub(super) static ONE_ARENA: Remedy = Remedy {
    steps: &[Step::Tune(&tuning::ONE_ARENA)],
    sentences: SHARED_ARENAS,
};

pub(super) const NONE: Remedy = Remedy {
    steps: &[],
    sentences: "No setting of this allocator is known to change that.",
};

/// Replaces the remedy for [`Mechanism::MostlyLive`] once objects were read.
pub(crate) static OBJECTS_WERE_READ: Remedy = Remedy {
    steps: &[],
    sentences: "No allocator changes that. Python's objects, which were read as well, say which names hold \
        them.",
};

/// Replaces the remedy for [`Mechanism::NotTheHeap`] if a name of the program holds most of the
/// mapped memory.
pub(crate) static NAMED_MAPPING: Remedy = Remedy {
    steps: &[],
    sentences: "An allocator changes little: close() of these objects unmaps that. Private memory goes with it; \
        pages of files and of shared memory stay while the file or another process has them.",
};

/// Replaces jemalloc's remedy for [`Mechanism::Untrimmed`] where its background thread runs.
pub(super) static SHORT_DECAY: Remedy = Remedy {
    steps: &[Step::Tune(&tuning::JEMALLOC_SHORT_DECAY)],
    sentences: "They wait for their decay: {0} makes it sooner, at some cost in page faults.",
};

/// The same where its decay is short already.
pub(super) static BACKGROUND: Remedy = Remedy {
    steps: &[Step::Tune(&tuning::JEMALLOC_BACKGROUND)],
    sentences: "They wait until jemalloc is called: an idle process purges only with {0}.",
};

/// The same where its decay is short and its background thread runs.
pub(super) static SOON: Remedy = Remedy {
    steps: &[],
    sentences: "Its decay options have them purged soon: nothing is to be done.",
};

/// The same where its decay options keep them for good.
pub(super) static NEVER: Remedy = Remedy {
    steps: &[
        Step::Tune(&tuning::JEMALLOC_SHORT_DECAY),
        Step::Tune(&tuning::JEMALLOC_BACKGROUND),
    ],
    sentences: "Its decay options keep them for good: {0} has them purged, unless the program sets these itself, and \
        {1=} also while the process is idle, at some cost in page faults.",
};

/// The same in a forked process.
pub(super) static NEVER_IN_CHILD: Remedy = Remedy {
    steps: &[Step::Tune(&tuning::JEMALLOC_NO_DECAY)],
    sentences: "Its decay options keep them for good: {0} returns them as soon as they are free, unless the program sets \
        these itself, at some cost in page faults.",
};

/// Replaces jemalloc's remedy for [`Mechanism::Untrimmed`] in a forked process, which has lost the
/// thread that would purge while it is idle.
pub(super) static NO_DECAY: Remedy = Remedy {
    steps: &[Step::Tune(&tuning::JEMALLOC_NO_DECAY)],
    sentences: "They wait for their decay, and jemalloc's background thread, which purges while a process is \
        idle, does not survive a fork: {0} returns them as soon as they are free, at some cost in page faults.",
};
