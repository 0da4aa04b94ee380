//! What to do about a mechanism, in the words and settings of the allocator that serves malloc: one
//! row for each remedy.
//!
//! Settings are those of glibc's manual ("Memory Allocation Tunables"), jemalloc 5's `MALLOC_CONF`,
//! mimalloc 2's and 3's environment options, and gperftools' `TCMALLOC_*` variables.

use std::fmt::{self, Display};

use crate::allocator::Allocator;
use crate::report::Mechanism;

/// What to do about a mechanism, or why nothing helps.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Remedy {
    /// What can be done, each by itself: all of it stands in the prose.
    pub steps: &'static [Step],
    /// In sentences.
    pub prose: &'static str,
}

/// One thing that can be done, by where it is done.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Step {
    /// A variable of the environment that the program is started with, and its value.
    Variable(&'static str, &'static str),
    /// A call that the program makes while it runs.
    Call(&'static str),
    /// A change of how the program is written or run.
    Practice(&'static str),
}

impl Step {
    /// Where it is done, as JSON has it.
    pub const fn place(self) -> &'static str {
        match self {
            Self::Variable(..) => "environment",
            Self::Call(_) => "call",
            Self::Practice(_) => "practice",
        }
    }
}

impl Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Variable(name, value) => write!(f, "{name}={value}"),
            Self::Call(what) | Self::Practice(what) => f.write_str(what),
        }
    }
}

const RELEASE: Step = Step::Call("pyarrow.default_memory_pool().release_unused()");
const TRIM: Step = Step::Call("malloc_trim(0)");
const NO_TCACHE: Step = Step::Variable("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0");
const RESTARTS: Step = Step::Practice("restart the worker after a number of tasks");
const FEWER_THREADS: Step = Step::Practice("fewer threads");

/// A remedy with what it is for.
#[derive(Debug)]
struct Row {
    mechanism: Mechanism,
    /// The allocators that must serve malloc; empty when it does not depend on that.
    allocators: &'static [Allocator],
    remedy: Remedy,
}

/// What to do about the heap that a library has for itself.
#[derive(Debug)]
struct LibraryRow {
    /// How the name of its file begins; empty for any.
    library: &'static str,
    allocator: Option<Allocator>,
    remedy: Remedy,
}

/// The first that fits is taken.
const OF_LIBRARIES: &[LibraryRow] = &[
    LibraryRow {
        library: "libarrow",
        allocator: None,
        remedy: Remedy {
            steps: &[
                RELEASE,
                Step::Variable("ARROW_DEFAULT_MEMORY_POOL", "system"),
            ],
            prose: "After each peak call pyarrow.default_memory_pool().release_unused(), or start with \
                ARROW_DEFAULT_MEMORY_POOL=system, so that Arrow allocates from malloc.",
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
            steps: &[Step::Variable("MIMALLOC_PURGE_DELAY", "0")],
            prose: "MIMALLOC_PURGE_DELAY=0 returns free memory at once, at some cost in page faults.",
        },
    },
    LibraryRow {
        library: "",
        allocator: None,
        remedy: Remedy {
            steps: &[RESTARTS],
            prose: "Only the library's own settings change it: see its manual, or restart the worker after \
                a number of tasks.",
        },
    },
];

const POLARS: Remedy = Remedy {
    steps: &[Step::Variable(
        "_RJEM_MALLOC_CONF",
        "background_thread:true,dirty_decay_ms:1000,muzzy_decay_ms:0",
    )],
    prose: "_RJEM_MALLOC_CONF=background_thread:true,dirty_decay_ms:1000,muzzy_decay_ms:0 has it purge \
        sooner, at some cost in page faults.",
};

/// All remedies. Of those for one mechanism the one that names the serving allocator is taken, else
/// the one that names none.
const REMEDIES: &[Row] = &[
    Row {
        mechanism: Mechanism::PinnedPages,
        allocators: &[Allocator::Glibc],
        remedy: Remedy {
            steps: &[RESTARTS],
            prose: "No trim and no glibc setting returns them. An allocator that keeps blocks of one \
                size together, such as jemalloc, may pin fewer pages; else \
                restart the worker after a number of tasks.",
        },
    },
    Row {
        mechanism: Mechanism::PinnedPages,
        allocators: &[],
        remedy: Remedy {
            steps: &[RESTARTS],
            prose: "No trim returns them while those blocks live: restart the worker after a number of tasks, or shorten the \
                lives of the blocks that stay.",
        },
    },
    Row {
        mechanism: Mechanism::Untrimmed,
        allocators: &[Allocator::Glibc],
        remedy: Remedy {
            steps: &[Step::Call("ctypes.CDLL(None).malloc_trim(0)")],
            prose: "After each peak call ctypes.CDLL(None).malloc_trim(0).",
        },
    },
    Row {
        mechanism: Mechanism::Untrimmed,
        allocators: &[Allocator::Jemalloc],
        remedy: Remedy {
            steps: &[
                Step::Variable("MALLOC_CONF", "background_thread:true"),
                Step::Variable("MALLOC_CONF", "dirty_decay_ms:1000,muzzy_decay_ms:0"),
            ],
            prose: "They wait for their decay: an idle process purges only with \
                MALLOC_CONF=background_thread:true; dirty_decay_ms:1000,muzzy_decay_ms:0 makes it \
                sooner, at some cost in page faults.",
        },
    },
    Row {
        mechanism: Mechanism::Untrimmed,
        allocators: &[Allocator::Mimalloc],
        remedy: Remedy {
            steps: &[Step::Variable("MIMALLOC_PURGE_DELAY", "0")],
            prose: "MIMALLOC_PURGE_DELAY=0 returns them at once, at some cost in page faults.",
        },
    },
    Row {
        mechanism: Mechanism::Untrimmed,
        allocators: &[Allocator::Tcmalloc],
        remedy: Remedy {
            steps: &[Step::Variable("TCMALLOC_RELEASE_RATE", "10")],
            prose: "TCMALLOC_RELEASE_RATE=10 returns them sooner, at some cost in page faults.",
        },
    },
    Row {
        mechanism: Mechanism::Untrimmed,
        allocators: &[],
        remedy: Remedy {
            steps: &[RESTARTS],
            prose: "This allocator has no setting for it: restart the worker after a number of tasks.",
        },
    },
    Row {
        mechanism: Mechanism::PinnedTop,
        allocators: &[Allocator::Glibc],
        remedy: Remedy {
            steps: &[TRIM, NO_TCACHE],
            prose: "malloc_trim(0) still returns them. If the blocks are only cached, \
                GLIBC_TUNABLES=glibc.malloc.tcache_count=0 lets the top go by itself.",
        },
    },
    Row {
        mechanism: Mechanism::Caches,
        allocators: &[Allocator::Glibc],
        remedy: Remedy {
            steps: &[
                NO_TCACHE,
                Step::Variable("GLIBC_TUNABLES", "glibc.malloc.mxfast=0"),
                FEWER_THREADS,
                TRIM,
            ],
            prose: "GLIBC_TUNABLES=glibc.malloc.tcache_count=0 gives up tcaches and \
                glibc.malloc.mxfast=0 fastbins, at some cost in speed; with fewer threads there \
                are fewer. malloc_trim(0) returns what lies in fastbins.",
        },
    },
    Row {
        mechanism: Mechanism::Caches,
        allocators: &[Allocator::Jemalloc],
        remedy: Remedy {
            steps: &[
                Step::Variable("MALLOC_CONF", "tcache_max:4096"),
                Step::Variable("MALLOC_CONF", "tcache:false"),
                FEWER_THREADS,
            ],
            prose: "MALLOC_CONF=tcache_max:4096 caches small blocks only (tcache:false none), at some \
                cost in speed; fewer threads cache fewer.",
        },
    },
    Row {
        mechanism: Mechanism::Caches,
        allocators: &[Allocator::Tcmalloc],
        remedy: Remedy {
            steps: &[FEWER_THREADS],
            prose: "TCMALLOC_MAX_TOTAL_THREAD_CACHE_BYTES bounds them; fewer threads cache fewer.",
        },
    },
    Row {
        mechanism: Mechanism::Caches,
        allocators: &[],
        remedy: Remedy {
            steps: &[Step::Practice("Fewer threads")],
            prose: "Fewer threads cache fewer.",
        },
    },
    Row {
        mechanism: Mechanism::ArenaSprawl,
        allocators: &[Allocator::Glibc],
        remedy: Remedy {
            steps: &[Step::Variable("MALLOC_ARENA_MAX", "2")],
            prose: "MALLOC_ARENA_MAX=2 makes threads share arenas. It can also cost memory where their \
                lifetimes mix, so compare peaks before and after.",
        },
    },
    Row {
        mechanism: Mechanism::SparsePools,
        allocators: &[],
        remedy: Remedy {
            steps: &[
                Step::Practice("max-tasks-per-child"),
                Step::Practice("max-requests"),
                Step::Variable("PYTHONMALLOC", "malloc"),
            ],
            prose: "Preloading an allocator does not change pymalloc. New objects reuse the room; to \
                return it, end the process (Celery: max-tasks-per-child, gunicorn: max-requests), \
                or try PYTHONMALLOC=malloc together with another allocator.",
        },
    },
    Row {
        mechanism: Mechanism::DynamicMmapThreshold,
        allocators: &[Allocator::Glibc],
        remedy: Remedy {
            steps: &[Step::Variable("MALLOC_MMAP_THRESHOLD_", "131072")],
            prose: "MALLOC_MMAP_THRESHOLD_=131072 keeps it at 128 KiB, so that each large block goes \
                back to the kernel when it is freed, at the cost of more page faults.",
        },
    },
    Row {
        mechanism: Mechanism::KeptTop,
        allocators: &[Allocator::Glibc],
        remedy: Remedy {
            steps: &[Step::Variable("MALLOC_TRIM_THRESHOLD_", "131072")],
            prose: "MALLOC_TRIM_THRESHOLD_=131072 has free() return \
                all that is more than 128 KiB; it also keeps the mmap threshold where that began, unless \
                MALLOC_MMAP_THRESHOLD_ says otherwise.",
        },
    },
    Row {
        mechanism: Mechanism::StuckPages,
        allocators: &[],
        remedy: Remedy {
            steps: &[RESTARTS],
            prose: "New blocks of the same sizes reuse them; to return them, restart the worker after a number of tasks.",
        },
    },
    Row {
        mechanism: Mechanism::HugePages,
        allocators: &[],
        remedy: Remedy {
            steps: &[Step::Practice("run once with huge pages off")],
            prose: "Run once with huge pages off and compare: NUMPY_MADVISE_HUGEPAGE=0 keeps NumPy from asking for \
                them, /sys/kernel/mm/transparent_hugepage/enabled decides for the whole host.",
        },
    },
    Row {
        mechanism: Mechanism::LazilyFreed,
        allocators: &[],
        remedy: Remedy {
            steps: &[],
            prose: "Nothing is to be done: no page of these has to be written to swap when others need memory.",
        },
    },
    Row {
        mechanism: Mechanism::Unexplained,
        allocators: &[],
        remedy: Remedy {
            steps: &[],
            prose: "A recording from launch on (`fragscope record -- COMMAND`) shows what would return it.",
        },
    },
    Row {
        mechanism: Mechanism::MostlyLive,
        allocators: &[],
        remedy: Remedy {
            steps: &[],
            prose: "No allocator changes that. Of a Python program `fragscope snapshot --objects` says which \
                types these are, and which names hold them.",
        },
    },
    Row {
        mechanism: Mechanism::NotTheHeap,
        allocators: &[],
        remedy: Remedy {
            steps: &[],
            prose: "An allocator changes little: look at the libraries and files that are mapped, and \
                at memory that libraries map themselves.",
        },
    },
    Row {
        mechanism: Mechanism::NotSure,
        allocators: &[],
        remedy: Remedy {
            steps: &[],
            prose: "Residency and probes still show where RSS is and what is allocated; `fragscope \
                doctor --pid PID` names what is missing.",
        },
    },
];

/// What there is to say where no row is for the allocator: settings of another one are no remedy.
const NONE: Remedy = Remedy {
    steps: &[],
    prose: "No setting of this allocator is known to change that.",
};

/// Instead of the remedy for [`Mechanism::MostlyLive`], once it is known what the blocks are.
pub(crate) static OBJECTS_WERE_READ: Remedy = Remedy {
    steps: &[],
    prose: "No allocator changes that. Python's objects, which were read as well, say which names hold \
        them.",
};

impl Remedy {
    /// What to do about a mechanism where `serving` serves malloc, or, where the mechanism is one
    /// allocator's own, in that allocator.
    pub fn of(mechanism: Mechanism, serving: Option<Allocator>) -> &'static Self {
        let fitting = |wanted: fn(&Row, Option<Allocator>) -> bool| {
            let mut rows = REMEDIES.iter().filter(|row| row.mechanism == mechanism);
            rows.find(|row| wanted(row, serving)).map(|row| &row.remedy)
        };
        fitting(|row, serving| serving.is_some_and(|own| row.allocators.contains(&own)))
            .or_else(|| fitting(|row, _| row.allocators.is_empty()))
            .unwrap_or(&NONE)
    }

    /// What to do about the heap of a library, by its file's name.
    pub(crate) fn of_library(library: &str, allocator: Allocator) -> &'static Self {
        let mut rows = OF_LIBRARIES.iter();
        let row = rows.find(|row| {
            library.starts_with(row.library) && row.allocator.is_none_or(|own| own == allocator)
        });
        row.map_or(&NONE, |row| &row.remedy)
    }
}

/// The call or event that returns whole free pages.
pub(crate) fn give_back(serving: Option<Allocator>) -> &'static str {
    serving.map_or("a trim", |kind| kind.row().gives_back)
}

/// The names of the caches.
pub(crate) fn caches(serving: Option<Allocator>) -> &'static str {
    serving.map_or("the allocator's caches", |kind| kind.row().caches)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allocator::reader_of;

    #[test]
    fn the_prose_names_all_that_a_remedy_sets() {
        for Row { remedy, .. } in REMEDIES {
            for step in remedy.steps {
                let words = match step {
                    Step::Variable(name, value) => vec![*name, *value],
                    Step::Call(what) | Step::Practice(what) => vec![*what],
                };
                for word in words {
                    assert!(remedy.prose.contains(word), "{word} in {remedy:?}");
                }
            }
        }
    }

    #[test]
    fn a_mechanism_has_one_remedy_for_each_allocator() {
        for (at, row) in REMEDIES.iter().enumerate() {
            for other in &REMEDIES[..at] {
                let same = other.mechanism == row.mechanism;
                let shared = row
                    .allocators
                    .iter()
                    .any(|own| other.allocators.contains(own));
                let both_general = row.allocators.is_empty() && other.allocators.is_empty();
                assert!(!(same && (shared || both_general)), "{row:?}");
            }
        }
    }

    #[test]
    fn no_allocator_gets_the_settings_of_another_in_its_place() {
        for row in REMEDIES.iter().filter(|row| !row.allocators.is_empty()) {
            for serving in [None, Some(Allocator::Glibc), Some(Allocator::Musl)] {
                let is_its = serving.is_some_and(|own| row.allocators.contains(&own));
                let remedy = Remedy::of(row.mechanism, serving);
                assert_eq!(*remedy == row.remedy, is_its, "{serving:?}: {remedy:?}");
            }
        }
        for mechanism in REMEDIES.iter().map(|row| row.mechanism) {
            for serving in Allocator::ALL.map(Some).into_iter().chain([None]) {
                let prose = Remedy::of(mechanism, serving).prose;
                let of_glibc = ["malloc_trim", "MALLOC_ARENA", "GLIBC_TUNABLES", "glibc"];
                let names_glibc = of_glibc.iter().any(|name| prose.contains(name));
                let is_glibc = serving == Some(Allocator::Glibc);
                assert!(is_glibc || !names_glibc, "{serving:?}: {prose}");
            }
        }
    }

    #[test]
    fn a_variable_that_is_set_is_read_by_the_allocator_that_serves_malloc() {
        for row in REMEDIES {
            for step in row.remedy.steps {
                // What the loader finds where the target runs is known to predictions alone.
                if let Step::Variable(name, _) = step {
                    let reader = reader_of(name).unwrap_or_else(|| panic!("{name} in {row:?}"));
                    let is_read = row.allocators.contains(&reader) || *name == "PYTHONMALLOC";
                    assert!(is_read, "{name} in {row:?}");
                }
            }
        }
    }
}
