//! Walking every heap of a target: the one place that knows all walkers.

use std::panic::resume_unwind;
use std::thread;

use profiler_core::addr::{AddrRange, RemoteAddr};
use profiler_core::completeness::{Completeness, Confidence, Defect};
use profiler_core::heap::{Allocator, HeapSnapshot};
use profiler_core::memory::TargetMemory;
use profiler_core::object::AllocatorObject;
use profiler_core::pymalloc::NotWalked;
use profiler_core::residency::ResidencyMap;
use profiler_core::sample::PythonMalloc;
use profiler_core::threads::Thread;
use profiler_core::{glibc, jemalloc, mimalloc, musl, pymalloc, tcmalloc};
use profiler_target::auxv::{AT_RANDOM, auxv_value};
use profiler_target::{CoreFile, Libc, Target, reading_ahead};

/// What walks must know of a target besides its memory and its pages. A live process and a core
/// file give the same facts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// Whether glibc is its C library.
    pub(crate) has_glibc: bool,
    /// The release of its glibc.
    pub(crate) glibc: Option<(u32, u32)>,
    /// The writable mappings of its C library, `.bss` included.
    pub(crate) libc_data: Vec<AddrRange>,
    /// What its environment asks of glibc's malloc.
    pub(crate) malloc_environment: Vec<String>,
    /// The version of its musl, when that is its C library.
    pub(crate) musl: Option<String>,
    /// Where the kernel's random bytes lie (`AT_RANDOM`).
    pub(crate) at_random: Option<RemoteAddr>,
    /// Python's major and minor version.
    pub(crate) python: Option<(u8, u8)>,
    /// What its environment asks of Python's allocators.
    pub(crate) python_malloc_setting: Option<String>,
    /// What its memory says of them: [`Facts::look`].
    pub(crate) python_malloc: Option<PythonMalloc>,
    /// Allocators other than its C library's and Python's, in whichever object holds them.
    pub(crate) allocators: Vec<AllocatorObject>,
}

impl Facts {
    /// Those of a live process.
    pub(crate) fn of(target: &Target) -> Self {
        let libc = |name| target.libc().filter(|libc| libc.name == name);
        Self {
            has_glibc: libc("glibc").is_some(),
            glibc: target.libc_version(),
            libc_data: target.libc_data_ranges(),
            malloc_environment: target.malloc_environment(),
            musl: libc("musl").map(|musl| musl.version.clone()),
            at_random: at_random(&target.auxv().unwrap_or_default()),
            python: target.python_version(),
            python_malloc_setting: target.python_malloc_setting(),
            python_malloc: None,
            allocators: target.allocator_objects(),
        }
    }

    /// Finds in the target's memory what serves Python's objects.
    pub(crate) fn look<M: TargetMemory>(&mut self, memory: &M, residency: &ResidencyMap) {
        let look = |python| pymalloc::objects_allocator(memory, residency, python);
        self.python_malloc = self.python.map(look);
    }

    /// What serves Python's objects, when the walks are done: pools in use are pymalloc's.
    pub(crate) fn python_malloc(&self, heaps: &[HeapSnapshot]) -> Option<PythonMalloc> {
        let walked = heaps
            .iter()
            .any(|heap| heap.allocator == Allocator::Pymalloc);
        match self.python_malloc? {
            PythonMalloc::Unknown if walked => Some(PythonMalloc::Pymalloc),
            told => Some(told),
        }
    }

    /// What serves malloc, when an object other than the C library defines it: name and version.
    pub(crate) fn malloc(&self) -> Option<String> {
        let object = self
            .allocators
            .iter()
            .find(|object| object.defines_malloc)?;
        let name = object.allocator.name();
        // `5.3.0-0-g54eaed1d` is release, commits since, commit.
        let version = object.version.as_deref().unwrap_or_default();
        let release = version.split('-').next().unwrap_or_default();
        Some(format!("{name} {release}").trim_end().to_owned())
    }

    /// Why pymalloc is not walked, where that is not by the target's own choice.
    fn without_pymalloc(&self, reason: NotWalked) -> String {
        match (self.python_malloc, &self.python_malloc_setting) {
            (Some(PythonMalloc::Unknown), None) => {
                format!("{reason}, and the allocator of Python's objects could not be determined")
            }
            (Some(PythonMalloc::Unknown), Some(setting)) => format!(
                "{reason}, and the allocator of Python's objects could not be determined; its environment \
                 has {setting}, which is only a hint"
            ),
            _ => reason.to_string(),
        }
    }

    /// Those of a core file.
    pub(crate) fn of_core(core: &CoreFile) -> Self {
        let libc = |name| core.libc().filter(|libc| libc.name == name);
        Self {
            has_glibc: libc("glibc").is_some(),
            glibc: core.libc().and_then(Libc::glibc_release),
            libc_data: core.libc_data_ranges(),
            malloc_environment: Vec::new(),
            musl: libc("musl").map(|musl| musl.version.clone()),
            at_random: at_random(core.auxv()),
            python: core.python().map(|python| python.version),
            python_malloc_setting: None,
            python_malloc: None,
            allocators: core.allocator_objects(),
        }
    }
}

fn at_random(auxv: &[u8]) -> Option<RemoteAddr> {
    auxv_value(auxv, AT_RANDOM).map(RemoteAddr::new)
}

/// How many of glibc's arenas a thread stands inside of.
pub(crate) fn locked_arenas<M: TargetMemory>(memory: &M, facts: &Facts) -> u32 {
    let context = glibc::Context {
        version: facts.glibc,
        threads: &[],
        libc_data: facts.libc_data.clone(),
        environment: &[],
    };
    glibc::locked_arenas(memory, &context)
}

/// One allocator's walk, to be run on a thread of its own.
struct Walk<'a> {
    allocator: Allocator,
    /// Whether the target is known to use it, so that a failure is worth a word.
    expected: bool,
    run: Box<dyn FnOnce() -> Result<Vec<HeapSnapshot>, String> + Send + 'a>,
}

impl<'a> Walk<'a> {
    fn new<E: ToString>(
        allocator: Allocator,
        expected: bool,
        run: impl FnOnce() -> Result<HeapSnapshot, E> + Send + 'a,
    ) -> Self {
        Self {
            allocator,
            expected,
            run: Box::new(|| match run() {
                Ok(heap) => Ok(vec![heap]),
                Err(reason) => Err(reason.to_string()),
            }),
        }
    }
}

/// Walks all heaps there are, side by side; the result has outer allocators before inner ones. What
/// could not be walked and was to be expected, and what the walkers say of themselves, goes into
/// `completeness`.
///
/// `memory` reads only what is resident and is of the moment of `residency`; `threads` is empty
/// when the target was not stopped.
pub(crate) fn heaps<M: TargetMemory + Sync>(
    memory: &M,
    residency: &ResidencyMap,
    facts: &Facts,
    threads: &[Thread],
    completeness: &mut Completeness,
) -> Vec<HeapSnapshot> {
    // Where another allocator serves the whole program, glibc's may never be used, and then has no
    // heap to walk.
    let replaced = facts.allocators.iter().any(|object| object.defines_malloc);
    let expected = facts.has_glibc && !replaced;
    let mut walks = vec![Walk::new(Allocator::Glibc, expected, || {
        let context = glibc::Context {
            version: facts.glibc,
            threads,
            libc_data: facts.libc_data.clone(),
            environment: &facts.malloc_environment,
        };
        reading_ahead(memory, |memory| glibc::walk(memory, residency, &context))
    })];
    // A static program of musl's shows no C library, but its heap can be told by its secret.
    if !facts.has_glibc {
        walks.push(Walk::new(Allocator::Musl, facts.musl.is_some(), || {
            let context = musl::Context {
                at_random: facts.at_random,
                version: facts.musl.clone().unwrap_or_default(),
            };
            musl::walk(memory, residency, &context)
        }));
    }
    if let Some(expected) = expects_mimalloc(facts) {
        walks.push(Walk {
            allocator: Allocator::Mimalloc,
            expected,
            run: Box::new(|| {
                let context = mimalloc::Context {
                    objects: &facts.allocators,
                    python: facts.python,
                };
                let walked = mimalloc::walk(memory, residency, &context);
                walked.map_err(|reason| reason.to_string())
            }),
        });
    }
    for object in &facts.allocators {
        if object.allocator == Allocator::Jemalloc {
            walks.push(Walk::new(Allocator::Jemalloc, true, || {
                jemalloc::walk(memory, residency, object)
            }));
        }
        if object.allocator == Allocator::Tcmalloc {
            walks.push(Walk::new(Allocator::Tcmalloc, true, || {
                tcmalloc::walk(memory, residency, object)
            }));
        }
    }
    // pymalloc in a C program is not to be expected.
    let expected = facts
        .python_malloc
        .is_some_and(PythonMalloc::may_be_pymalloc);
    walks.push(Walk::new(Allocator::Pymalloc, expected, || {
        let context = pymalloc::Context {
            python: facts.python,
            serves: facts.python_malloc.unwrap_or_default(),
        };
        let walked = pymalloc::walk(memory, residency, &context);
        walked.map_err(|reason| facts.without_pymalloc(reason))
    }));
    let heaps = run(walks, completeness);
    judge(completeness, &heaps);
    heaps
}

/// Runs all walks at once; the heaps come in the order of the walks.
fn run(walks: Vec<Walk<'_>>, completeness: &mut Completeness) -> Vec<HeapSnapshot> {
    let mut heaps = Vec::new();
    thread::scope(|scope| {
        let running: Vec<_> = walks
            .into_iter()
            .map(|walk| (walk.allocator, walk.expected, scope.spawn(walk.run)))
            .collect();
        for (allocator, expected, walk) in running {
            match walk.join().unwrap_or_else(|panic| resume_unwind(panic)) {
                Ok(found) => heaps.extend(found),
                Err(reason) if expected => completeness.defects.push(Defect {
                    addr: None,
                    what: format!("{} was not walked: {reason}", allocator.name()),
                    bytes: 0,
                }),
                Err(_) => {}
            }
        }
    });
    heaps
}

/// Whether the target uses a mimalloc, where it has one at all: CPython has one in it from 3.13 on
/// that most programs never use.
fn expects_mimalloc(facts: &Facts) -> Option<bool> {
    let of_mimalloc = |object: &&AllocatorObject| object.allocator == Allocator::Mimalloc;
    let mut mimallocs = facts.allocators.iter().filter(of_mimalloc).peekable();
    mimallocs.peek()?;
    let beside_python = mimallocs.any(|object| {
        let file = object.path.rsplit('/').next().unwrap_or_default();
        !file.contains("python")
    });
    let of_python = matches!(
        facts.python_malloc,
        Some(PythonMalloc::Mimalloc | PythonMalloc::MimallocDebug)
    );
    Some(beside_python || of_python)
}

/// Sums up what the walkers said of themselves.
fn judge(completeness: &mut Completeness, heaps: &[HeapSnapshot]) {
    completeness.layout_confidence = heaps
        .iter()
        .map(|heap| heap.confidence)
        .min()
        .unwrap_or(Confidence::None);
    for heap in heaps {
        completeness.threads_in_allocator += heap.threads_inside;
        completeness.unreadable_bytes += heap.unreadable_bytes;
        completeness.defects.extend(heap.defects.iter().cloned());
    }
}
