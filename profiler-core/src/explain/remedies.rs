//! What to do about a mechanism, in the words and settings of the allocator that serves malloc: one
//! row for each remedy. What is set is declared in [`crate::tuning`].

use std::fmt::{self, Display};

use crate::allocator::Allocator;
use crate::report::Mechanism;
use crate::tuning::{self, TRIM_FROM_PYTHON, Tuning};

/// What to do about a mechanism, or why nothing helps.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Remedy {
    /// What can be done, each by itself.
    pub steps: &'static [Step],
    /// In sentences, in which `{0}` is the first step as it is shown, and `{0=}` its value alone.
    pub sentences: &'static str,
}

/// One thing that can be done, by where it is done.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Step {
    /// Settings that the program is started with, in the environment.
    Set(&'static Tuning),
    /// The same of a build whose variables have a prefix of its own before their names.
    SetPrefixed(&'static str, &'static [&'static Tuning]),
    /// A variable of the environment that no allocator reads, and its value.
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
            Self::Set(_) | Self::SetPrefixed(..) | Self::Variable(..) => "environment",
            Self::Call(_) => "call",
            Self::Practice(_) => "practice",
        }
    }
}

impl Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Set(tuning) => tuning.fmt(f),
            Self::SetPrefixed(prefix, all) => {
                write!(f, "{prefix}{}", tuning::together(all))
            }
            Self::Variable(name, value) => write!(f, "{name}={value}"),
            Self::Call(what) | Self::Practice(what) => f.write_str(what),
        }
    }
}

const RELEASE: Step = Step::Call("pyarrow.default_memory_pool().release_unused()");
const TRIM: Step = Step::Call("malloc_trim(0)");
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
            steps: &[Step::Set(&tuning::MIMALLOC_SHORT_PURGE)],
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

const POLARS: Remedy = Remedy {
    steps: &[Step::SetPrefixed(
        "_RJEM_",
        &[&tuning::JEMALLOC_BACKGROUND, &tuning::JEMALLOC_SHORT_DECAY],
    )],
    sentences: "{0} has it purge sooner, at some cost in page faults.",
};

/// All remedies. Of those for one mechanism the one that names the serving allocator is taken, else
/// the one that names none.
const REMEDIES: &[Row] = &[
    Row {
        mechanism: Mechanism::PinnedPages,
        allocators: &[Allocator::Glibc],
        remedy: Remedy {
            steps: &[RESTARTS],
            sentences: "No trim and no glibc setting returns them. An allocator that keeps blocks of one \
                size together, such as jemalloc, may pin fewer pages; else {0}.",
        },
    },
    Row {
        mechanism: Mechanism::PinnedPages,
        allocators: &[],
        remedy: Remedy {
            steps: &[RESTARTS],
            sentences: "No trim returns them while those blocks live: {0}, or shorten the \
                lives of the blocks that stay.",
        },
    },
    Row {
        mechanism: Mechanism::Untrimmed,
        allocators: &[Allocator::Glibc],
        remedy: Remedy {
            steps: &[Step::Call(TRIM_FROM_PYTHON)],
            sentences: "After each peak call {0}.",
        },
    },
    Row {
        mechanism: Mechanism::Untrimmed,
        allocators: &[Allocator::Jemalloc],
        remedy: Remedy {
            steps: &[
                Step::Set(&tuning::JEMALLOC_BACKGROUND),
                Step::Set(&tuning::JEMALLOC_SHORT_DECAY),
            ],
            sentences: "They wait for their decay: an idle process purges only with {0}; {1=} makes it \
                sooner, at some cost in page faults.",
        },
    },
    Row {
        mechanism: Mechanism::Untrimmed,
        allocators: &[Allocator::Mimalloc],
        remedy: Remedy {
            steps: &[Step::Set(&tuning::MIMALLOC_SHORT_PURGE)],
            sentences: "{0} returns them at once, at some cost in page faults.",
        },
    },
    Row {
        mechanism: Mechanism::Untrimmed,
        allocators: &[Allocator::Tcmalloc],
        remedy: Remedy {
            steps: &[Step::Set(&tuning::TCMALLOC_RELEASE)],
            sentences: "{0} returns them sooner, at some cost in page faults.",
        },
    },
    Row {
        mechanism: Mechanism::Untrimmed,
        allocators: &[],
        remedy: Remedy {
            steps: &[RESTARTS],
            sentences: "This allocator has no setting for it: {0}.",
        },
    },
    Row {
        mechanism: Mechanism::PinnedTop,
        allocators: &[Allocator::Glibc],
        remedy: Remedy {
            steps: &[TRIM, Step::Set(&tuning::NO_TCACHE)],
            sentences: "{0} still returns them. If the blocks are only cached, \
                {1} lets the top go by itself.",
        },
    },
    Row {
        mechanism: Mechanism::Caches,
        allocators: &[Allocator::Glibc],
        remedy: Remedy {
            steps: &[
                Step::Set(&tuning::NO_TCACHE),
                Step::Set(&tuning::NO_FASTBINS),
                FEWER_THREADS,
                TRIM,
            ],
            sentences: "{0} gives up tcaches and {1=} fastbins, at some cost in speed; with {2} there \
                are fewer. {3} returns what lies in fastbins.",
        },
    },
    Row {
        mechanism: Mechanism::Caches,
        allocators: &[Allocator::Jemalloc],
        remedy: Remedy {
            steps: &[
                Step::Set(&tuning::JEMALLOC_SMALL_CACHES),
                Step::Set(&tuning::JEMALLOC_NO_CACHES),
                FEWER_THREADS,
            ],
            sentences: "{0} caches small blocks only ({1=} none), at some cost in speed; {2} cache fewer.",
        },
    },
    Row {
        mechanism: Mechanism::Caches,
        allocators: &[Allocator::Tcmalloc],
        remedy: Remedy {
            steps: &[FEWER_THREADS],
            sentences: "TCMALLOC_MAX_TOTAL_THREAD_CACHE_BYTES bounds them; {0} cache fewer.",
        },
    },
    Row {
        mechanism: Mechanism::Caches,
        allocators: &[],
        remedy: Remedy {
            steps: &[Step::Practice("Fewer threads")],
            sentences: "{0} cache fewer.",
        },
    },
    Row {
        mechanism: Mechanism::ArenaSprawl,
        allocators: &[Allocator::Glibc],
        remedy: Remedy {
            steps: &[Step::Set(&tuning::TWO_ARENAS)],
            sentences: "{0} makes threads share arenas. It can also cost memory where their \
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
                Step::Set(&tuning::PYTHON_MALLOC),
            ],
            sentences: "Preloading an allocator does not change pymalloc. New objects reuse the room; to \
                return it, end the process (Celery: {0}, gunicorn: {1}), \
                or try {2} together with another allocator.",
        },
    },
    Row {
        mechanism: Mechanism::DynamicMmapThreshold,
        allocators: &[Allocator::Glibc],
        remedy: Remedy {
            steps: &[Step::Set(&tuning::MMAP_THRESHOLD)],
            sentences: "{0} keeps it at 128 KiB, so that each large block goes \
                back to the kernel when it is freed, at the cost of more page faults.",
        },
    },
    Row {
        mechanism: Mechanism::KeptTop,
        allocators: &[Allocator::Glibc],
        remedy: Remedy {
            steps: &[Step::Set(&tuning::TRIM_THRESHOLD)],
            sentences: "{0} has free() return \
                all that is more than 128 KiB; it also keeps the mmap threshold where that began, unless \
                MALLOC_MMAP_THRESHOLD_ says otherwise.",
        },
    },
    Row {
        mechanism: Mechanism::StuckPages,
        allocators: &[],
        remedy: Remedy {
            steps: &[RESTARTS],
            sentences: "New blocks of the same sizes reuse them; to return them, {0}.",
        },
    },
    Row {
        mechanism: Mechanism::HugePages,
        allocators: &[],
        remedy: Remedy {
            steps: &[Step::Practice("run once with huge pages off")],
            sentences: "To see how much that is, {0} and compare: NUMPY_MADVISE_HUGEPAGE=0 keeps NumPy from \
                asking for them, /sys/kernel/mm/transparent_hugepage/enabled decides for the whole host.",
        },
    },
    Row {
        mechanism: Mechanism::LazilyFreed,
        allocators: &[],
        remedy: Remedy {
            steps: &[],
            sentences: "Nothing is to be done: no page of these has to be written to swap when others need memory.",
        },
    },
    Row {
        mechanism: Mechanism::Unexplained,
        allocators: &[],
        remedy: Remedy {
            steps: &[],
            sentences: "A recording from launch on (`fragscope record -- COMMAND`) shows what would return it.",
        },
    },
    Row {
        mechanism: Mechanism::MostlyLive,
        allocators: &[],
        remedy: Remedy {
            steps: &[],
            sentences: "No allocator changes that. Of a Python program `fragscope snapshot --objects` says which \
                types these are, and which names hold them.",
        },
    },
    Row {
        mechanism: Mechanism::NotTheHeap,
        allocators: &[],
        remedy: Remedy {
            steps: &[],
            sentences: "An allocator changes little: look at the libraries and files that are mapped, and \
                at memory that libraries map themselves.",
        },
    },
    Row {
        mechanism: Mechanism::NotSure,
        allocators: &[],
        remedy: Remedy {
            steps: &[],
            sentences: "Residency and probes still show where RSS is and what is allocated; `fragscope \
                doctor --pid PID` names what is missing.",
        },
    },
];

/// What there is to say where no row is for the allocator: settings of another one are no remedy.
const NONE: Remedy = Remedy {
    steps: &[],
    sentences: "No setting of this allocator is known to change that.",
};

/// Instead of the remedy for [`Mechanism::MostlyLive`], once it is known what the blocks are.
pub(crate) static OBJECTS_WERE_READ: Remedy = Remedy {
    steps: &[],
    sentences: "No allocator changes that. Python's objects, which were read as well, say which names hold \
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

    /// In sentences, with all that its steps set, call and say.
    pub fn prose(&self) -> String {
        let mut prose = self.sentences.to_owned();
        for (at, step) in self.steps.iter().enumerate() {
            let step = step.to_string();
            let (_, value) = step.split_once('=').unwrap_or(("", &step));
            prose = prose
                .replace(&format!("{{{at}=}}"), value)
                .replace(&format!("{{{at}}}"), &step);
        }
        prose
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
        let of_libraries = OF_LIBRARIES.iter().map(|row| &row.remedy);
        for remedy in REMEDIES.iter().map(|row| &row.remedy).chain(of_libraries) {
            for at in 0..remedy.steps.len() {
                let is_named = [format!("{{{at}}}"), format!("{{{at}=}}")]
                    .iter()
                    .any(|place| remedy.sentences.contains(place));
                assert!(is_named, "step {at} in {remedy:?}");
            }
            let prose = remedy.prose();
            assert!(!prose.contains(['{', '}']), "{prose}");
        }
    }

    #[test]
    fn the_prose_has_steps_whole_or_by_their_value() {
        let caches = Remedy::of(Mechanism::Caches, Some(Allocator::Glibc));
        assert_eq!(
            caches.prose(),
            "GLIBC_TUNABLES=glibc.malloc.tcache_count=0 gives up tcaches and \
             glibc.malloc.mxfast=0 fastbins, at some cost in speed; with fewer threads there are \
             fewer. malloc_trim(0) returns what lies in fastbins."
        );
        assert_eq!(
            POLARS.steps[0].to_string(),
            "_RJEM_MALLOC_CONF=background_thread:true,dirty_decay_ms:1000,muzzy_decay_ms:0"
        );
    }

    #[test]
    fn what_is_played_against_a_mechanism_is_its_remedy() {
        for tuning in [
            &tuning::MMAP_THRESHOLD,
            &tuning::TRIM_THRESHOLD,
            &tuning::TWO_ARENAS,
        ] {
            let undoes = tuning.undoes.expect("it undoes a mechanism");
            let remedy = Remedy::of(undoes, Some(tuning.allocator));
            assert!(remedy.steps.contains(&Step::Set(tuning)), "{tuning:?}");
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
                let prose = Remedy::of(mechanism, serving).prose();
                let of_glibc = ["malloc_trim", "MALLOC_ARENA", "GLIBC_TUNABLES", "glibc"];
                let names_glibc = of_glibc.iter().any(|name| prose.contains(name));
                let is_glibc = serving == Some(Allocator::Glibc);
                assert!(is_glibc || !names_glibc, "{serving:?}: {prose}");
            }
        }
    }

    #[test]
    fn settings_are_those_of_the_allocator_that_serves_malloc() {
        for row in REMEDIES {
            for step in row.remedy.steps {
                // What the loader finds where the target runs is known to predictions alone.
                if let Step::Set(tuning) = step {
                    let own = row.allocators.contains(&tuning.allocator);
                    assert!(own || tuning.allocator == Allocator::Pymalloc, "{row:?}");
                }
            }
        }
    }

    #[test]
    fn a_variable_beside_the_tunings_is_read_by_no_allocator() {
        let of_libraries = OF_LIBRARIES.iter().map(|row| &row.remedy);
        for remedy in REMEDIES.iter().map(|row| &row.remedy).chain(of_libraries) {
            for step in remedy.steps {
                if let Step::Variable(name, _) = step {
                    assert_eq!(reader_of(name), None, "{remedy:?}");
                }
            }
        }
    }
}
