//! All walkers behind one interface: where heaps of an allocator may be, and how each is walked.
//!
//! A walk also reads the settings in force and those requested by the environment: only the reader
//! of an allocator's state knows where they are.

use profiler_core::addr::PageSize;
use profiler_core::allocator::{Allocator, AllocatorIdentity, Role, UnknownEnvironment};
use profiler_core::heap::HeapSnapshot;
use profiler_core::machine::Machine;
use profiler_core::memory::TargetMemory;
use profiler_core::object::AllocatorObject;
use profiler_core::residency::ResidencyMap;
use profiler_core::sample::PythonMalloc;
use profiler_core::threads::Thread;
use profiler_core::units::bytes;
use profiler_core::{glibc, jemalloc, mimalloc, musl, pymalloc, tcmalloc};
use profiler_target::{Libc, reading_ahead};

use super::facts::Facts;
use super::roots::{Roots, locked};

/// The input of a walk.
#[derive(Debug)]
pub(crate) struct Input<'a, M> {
    /// The target's resident memory, as of the moment of `residency`.
    pub(crate) memory: &'a M,
    /// Its pages.
    pub(crate) residency: &'a ResidencyMap,
    /// Its facts.
    pub(crate) facts: &'a Facts,
    /// The known locations of its allocators' roots.
    pub(crate) roots: &'a Roots,
    /// Its threads; empty if it was not stopped.
    pub(crate) threads: &'a [Thread],
}

/// Why heaps were not walked, as their walker says.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum NotWalked {
    #[error(transparent)]
    Glibc(#[from] glibc::NotWalked),
    #[error(transparent)]
    Musl(#[from] musl::NotWalked),
    #[error(transparent)]
    Mimalloc(#[from] mimalloc::NotWalked),
    #[error(transparent)]
    Jemalloc(#[from] jemalloc::NotWalked),
    #[error(transparent)]
    Tcmalloc(#[from] tcmalloc::NotWalked),
    #[error(transparent)]
    Pymalloc(#[from] pymalloc::NotWalked),
    /// The walker's layouts are for x86-64 with 4 KiB pages.
    #[error(
        "{allocator} is walked on x86-64 with pages of 4 KiB only, and this is {machine} with pages of {}",
        bytes(*.page_bytes)
    )]
    OtherMachine {
        allocator: &'static str,
        machine: &'static str,
        page_bytes: u64,
    },
    /// pymalloc, which may not serve the target's objects at all.
    #[error("{reason}, and the allocator of Python's objects could not be determined{}", hint(.setting))]
    PythonUnknown {
        reason: pymalloc::NotWalked,
        /// What the environment says of it, or why that is unknown.
        setting: Result<Option<String>, UnknownEnvironment>,
    },
}

/// Whether an allocator's layouts are known on this machine. glibc's and pymalloc's depend on the
/// machine and the page size only as far as their walkers take into account; the other allocators
/// were neither studied nor run there.
fn check_machine(allocator: Allocator, residency: &ResidencyMap) -> Result<(), NotWalked> {
    let (machine, page_size) = (residency.machine(), residency.page_size());
    let is_usual = machine == Machine::X86_64 && page_size == PageSize::default();
    match allocator {
        Allocator::Glibc | Allocator::Pymalloc => Ok(()),
        _ if is_usual => Ok(()),
        _ => Err(NotWalked::OtherMachine {
            allocator: allocator.name(),
            machine: machine.name(),
            page_bytes: page_size.bytes(),
        }),
    }
}

/// What a setting in the environment is worth.
fn hint(setting: &Result<Option<String>, UnknownEnvironment>) -> String {
    match setting {
        Ok(Some(setting)) => format!("; its environment has {setting}, which is only a hint"),
        Ok(None) => String::new(),
        Err(reason) => format!("; there is no hint either: {}", reason.because()),
    }
}

/// How the heaps of one allocator are found and walked.
pub(crate) struct Walker<M> {
    /// The allocator.
    pub(crate) kind: Allocator,
    start: Start<M>,
    /// The search for its roots before a stop; `None` if a walk finds them quickly.
    roots: Option<RootSearch<M>>,
}

/// How the roots of one allocator are found while the target runs.
struct RootSearch<M> {
    /// Whether they are not known yet, of a target that uses the allocator.
    are_missing: fn(&Facts, &Roots) -> bool,
    find: FindRoots<M>,
}

/// Records the roots that it finds in [`Input::roots`].
pub(crate) type FindRoots<M> = fn(&Input<'_, M>);

/// The searches for unknown roots of allocators that a target uses.
pub(crate) fn missing_roots<M: TargetMemory + Sync>(
    facts: &Facts,
    roots: &Roots,
) -> Vec<FindRoots<M>> {
    let searches = Walker::ALL.into_iter().filter_map(|walker| walker.roots);
    let missing = searches.filter(|search| (search.are_missing)(facts, roots));
    missing.map(|search| search.find).collect()
}

/// Where a walker starts.
enum Start<M> {
    /// At something that it finds itself, once.
    Anywhere {
        /// Whether the target is known to use its heaps; `None` if it has none.
        expected: fn(&Facts) -> Option<bool>,
        walk: fn(&Input<'_, M>) -> Result<Vec<HeapSnapshot>, NotWalked>,
    },
    /// From each object that holds the allocator.
    Objects(fn(&Input<'_, M>, &AllocatorObject) -> Result<HeapSnapshot, NotWalked>),
}

/// One planned walk.
pub(crate) struct Planned<'f, M> {
    /// The allocator of the heaps.
    pub(crate) kind: Allocator,
    /// Whether the target is known to use them, so that a failure must be reported.
    pub(crate) expected: bool,
    from: Source<'f, M>,
}

enum Source<'f, M> {
    Anywhere(fn(&Input<'_, M>) -> Result<Vec<HeapSnapshot>, NotWalked>),
    Object(
        fn(&Input<'_, M>, &AllocatorObject) -> Result<HeapSnapshot, NotWalked>,
        &'f AllocatorObject,
    ),
}

impl<M> Planned<'_, M> {
    /// Does the walk.
    pub(crate) fn walk(&self, input: &Input<'_, M>) -> Result<Vec<HeapSnapshot>, NotWalked> {
        check_machine(self.kind, input.residency)?;
        let mut heaps = match self.from {
            Source::Anywhere(walk) => walk(input)?,
            Source::Object(walk, object) => {
                let mut heap = walk(input, object)?;
                // The library's name, if the library has it for itself.
                heap.library = object.identity.private_library();
                vec![heap]
            }
        };
        // glibc's walker compares what was requested with what is in effect. A library's own copy reads variables of
        // other names.
        let serving = heaps.iter_mut().filter(|heap| heap.serves_malloc());
        for heap in serving.filter(|heap| heap.allocator != Allocator::Glibc) {
            match input.facts.requested_of(heap.allocator) {
                Ok(requested) => heap.requested = requested,
                Err(reason) => heap.environment_unknown = Some(reason),
            }
        }
        Ok(heaps)
    }
}

impl<M: TargetMemory + Sync> Walker<M> {
    /// The walks to do for a target with these facts.
    pub(crate) fn plan<'f>(&self, facts: &'f Facts) -> Vec<Planned<'f, M>> {
        let kind = self.kind;
        let planned = |expected, from| Planned {
            kind,
            expected,
            from,
        };
        match self.start {
            Start::Anywhere { expected, walk } => {
                let expected = expected(facts).into_iter();
                expected
                    .map(|expected| planned(expected, Source::Anywhere(walk)))
                    .collect()
            }
            Start::Objects(walk) => facts
                .objects_of(kind)
                .map(|object| planned(is_expected(&object.identity), Source::Object(walk, object)))
                .collect(),
        }
    }

    /// All of them, outer allocators before those that take their memory from others.
    pub(crate) const ALL: [Self; Allocator::COUNT] = [
        Self {
            kind: Allocator::Glibc,
            start: Start::Anywhere {
                // If another allocator serves the whole program, glibc's may never be used, and
                // then has no heap to walk.
                expected: |facts| {
                    let libc = facts.libc_of(Allocator::Glibc);
                    libc.map(|_| !facts.replaces_malloc())
                },
                walk: |input| {
                    let context = glibc_context(input.facts, input.threads);
                    let mut roots = locked(&input.roots.glibc);
                    let walked = reading_ahead(input.memory, |memory| {
                        glibc::walk_from(memory, input.residency, &context, &mut roots)
                    });
                    Ok(vec![walked?])
                },
            },
            roots: Some(RootSearch {
                are_missing: |facts, roots| {
                    let is_glibc = facts.libc_of(Allocator::Glibc).is_some();
                    is_glibc && !locked(&roots.glibc).are_known()
                },
                find: |input| {
                    let context = glibc_context(input.facts, input.threads);
                    let mut roots = locked(&input.roots.glibc);
                    glibc::find_roots(input.memory, input.residency, &context, &mut roots);
                },
            }),
        },
        Self {
            kind: Allocator::Musl,
            start: Start::Anywhere {
                // A static musl program shows no C library, but its heap is identified by its
                // secret.
                expected: |facts| {
                    let is_musl = facts.libc_of(Allocator::Musl).is_some();
                    let is_other = facts.libc.is_some() && !is_musl;
                    (!is_other).then_some(is_musl)
                },
                walk: |input| {
                    let context = musl_context(input.facts);
                    let mut roots = locked(&input.roots.musl);
                    let walked =
                        musl::walk_from(input.memory, input.residency, &context, &mut roots);
                    Ok(vec![walked?])
                },
            },
            roots: Some(RootSearch {
                are_missing: |facts, roots| {
                    let is_musl = facts.libc_of(Allocator::Musl).is_some();
                    is_musl && !locked(&roots.musl).are_known()
                },
                find: |input| {
                    let context = musl_context(input.facts);
                    let mut roots = locked(&input.roots.musl);
                    musl::find_roots(input.memory, input.residency, &context, &mut roots);
                },
            }),
        },
        Self {
            kind: Allocator::Mimalloc,
            start: Start::Anywhere {
                // One walk finds the heaps of all copies.
                expected: |facts| {
                    let copies = facts.objects_of(Allocator::Mimalloc);
                    let expected = copies.map(|object| is_expected(&object.identity));
                    expected.reduce(|all, one| all || one)
                },
                walk: |input| {
                    let context = mimalloc::Context {
                        objects: &input.facts.allocators,
                        python: input.facts.python,
                    };
                    Ok(mimalloc::walk(input.memory, input.residency, &context)?)
                },
            },
            roots: None,
        },
        Self {
            kind: Allocator::Jemalloc,
            start: Start::Objects(|input, object| {
                Ok(jemalloc::walk(input.memory, input.residency, object)?)
            }),
            roots: None,
        },
        Self {
            kind: Allocator::Tcmalloc,
            start: Start::Objects(|input, object| {
                Ok(tcmalloc::walk(input.memory, input.residency, object)?)
            }),
            roots: None,
        },
        Self {
            kind: Allocator::Pymalloc,
            start: Start::Anywhere {
                // pymalloc in a C program is not to be expected.
                expected: |facts| {
                    let serves = facts.python_malloc;
                    Some(serves.is_some_and(PythonMalloc::may_be_pymalloc))
                },
                walk: |input| {
                    let context = pymalloc::Context {
                        python: input.facts.python,
                        serves: input.facts.python_malloc.unwrap_or_default(),
                    };
                    let mut roots = locked(&input.roots.pymalloc);
                    let walked =
                        pymalloc::walk_from(input.memory, input.residency, &context, &mut roots);
                    let heap = walked.map_err(|reason| without_pymalloc(input.facts, reason))?;
                    Ok(vec![heap])
                },
            },
            roots: Some(RootSearch {
                are_missing: |facts, roots| {
                    facts.python.is_some() && !locked(&roots.pymalloc).are_known()
                },
                find: |input| {
                    let Some(python) = input.facts.python else {
                        return;
                    };
                    let mut roots = locked(&input.roots.pymalloc);
                    pymalloc::find_roots(input.memory, input.residency, python, &mut roots);
                },
            }),
        },
    ];
}

/// The number of glibc's arenas that a thread is inside of.
pub(crate) fn locked_arenas<M: TargetMemory>(memory: &M, facts: &Facts, roots: &Roots) -> u32 {
    let context = glibc_context(facts, &[]);
    glibc::locked_arenas(memory, &context, &mut locked(&roots.glibc))
}

/// What musl's walker must know.
pub(crate) fn musl_context(facts: &Facts) -> musl::Context {
    let libc = facts.libc_of(Allocator::Musl);
    musl::Context {
        at_random: facts.at_random,
        version: libc.map(|libc| libc.version.clone()).unwrap_or_default(),
    }
}

/// What glibc's walker must know.
pub(crate) fn glibc_context<'a>(facts: &'a Facts, threads: &'a [Thread]) -> glibc::Context<'a> {
    glibc::Context {
        version: facts.libc.as_ref().and_then(Libc::glibc_release),
        threads,
        libc_data: facts.libc_data.clone(),
        environment: facts.environment.as_deref().map_err(|reason| *reason),
    }
}

/// Whether the target is known to allocate from it. A library with an allocator of its own may have
/// a switch for it, or never be called; if it does use the allocator and it cannot be walked, its
/// memory counts as claimed by no walked allocator.
fn is_expected(identity: &AllocatorIdentity) -> bool {
    identity.serves_malloc() || identity.role == Role::Private && identity.in_python
}

/// Why pymalloc is not walked, unless it is the target's own choice.
fn without_pymalloc(facts: &Facts, reason: pymalloc::NotWalked) -> NotWalked {
    match facts.python_malloc {
        Some(PythonMalloc::Unknown) => NotWalked::PythonUnknown {
            reason,
            setting: facts.python_malloc_setting.clone(),
        },
        _ => NotWalked::Pymalloc(reason),
    }
}

#[cfg(test)]
mod tests {
    use profiler_core::allocator::ROWS;
    use profiler_core::memory::MemoryImage;

    use super::*;

    #[test]
    fn every_allocator_has_one_walker() {
        for row in ROWS {
            let walkers = Walker::<MemoryImage>::ALL;
            let own = walkers.iter().filter(|walker| walker.kind == row.kind);
            assert_eq!(own.count(), 1, "{}", row.name);
        }
    }

    #[test]
    fn a_program_of_which_nothing_is_known_is_expected_to_have_no_heap() {
        let facts = Facts {
            libc: None,
            libc_data: Vec::new(),
            environment: Ok(Vec::new()),
            at_random: None,
            python: None,
            python_malloc_setting: Ok(None),
            python_malloc: None,
            allocators: Vec::new(),
        };
        for walker in Walker::<MemoryImage>::ALL {
            let planned = walker.plan(&facts);
            assert!(planned.iter().all(|one| !one.expected), "{}", walker.kind);
        }
    }
}
