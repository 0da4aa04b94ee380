//! All walkers, behind one entry: where heaps of an allocator may be, and how each is walked.
//!
//! A walk fills in the settings in force as well, and what the environment asked for: where they lie
//! is known only to who reads the allocator's state.

use profiler_core::allocator::{Allocator, AllocatorIdentity, Role};
use profiler_core::heap::HeapSnapshot;
use profiler_core::memory::TargetMemory;
use profiler_core::object::AllocatorObject;
use profiler_core::residency::ResidencyMap;
use profiler_core::sample::PythonMalloc;
use profiler_core::threads::Thread;
use profiler_core::{glibc, jemalloc, mimalloc, musl, pymalloc, tcmalloc};
use profiler_target::{Libc, reading_ahead};

use super::facts::Facts;
use super::known::{Roots, locked};

/// What a walk reads.
#[derive(Debug)]
pub(crate) struct Input<'a, M> {
    /// The target's memory: only what is resident, and of the moment of `residency`.
    pub(crate) memory: &'a M,
    /// Its pages.
    pub(crate) residency: &'a ResidencyMap,
    /// What is known of it.
    pub(crate) facts: &'a Facts,
    /// Where its allocators have their roots, as far as that is known.
    pub(crate) roots: &'a Roots,
    /// Its threads; empty when it was not stopped.
    pub(crate) threads: &'a [Thread],
}

/// Heaps that there may be, to be walked by one walk.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Place<'f> {
    /// Whether the target is known to use them, so that a failure is worth a word.
    pub(crate) expected: bool,
    /// The object that the allocator is in, where its walker starts from one.
    object: Option<&'f AllocatorObject>,
}

/// Why what is at a place was not walked, as its walker says.
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
    /// pymalloc, which may not serve the target's objects at all.
    #[error("{reason}, and the allocator of Python's objects could not be determined{}", hint(.setting))]
    PythonUnknown {
        reason: pymalloc::NotWalked,
        /// What the environment says of it.
        setting: Option<String>,
    },
}

/// What a setting in the environment is worth.
fn hint(setting: &Option<String>) -> String {
    setting.as_ref().map_or_else(String::new, |setting| {
        format!("; its environment has {setting}, which is only a hint")
    })
}

/// How the heaps of one allocator are found and walked.
pub(crate) struct Walker<M> {
    /// Whose.
    pub(crate) kind: Allocator,
    /// Where they may be.
    pub(crate) find: fn(&Facts) -> Vec<Place<'_>>,
    /// Walks what is at one of these places.
    pub(crate) walk: fn(&Input<'_, M>, Place<'_>) -> Result<Vec<HeapSnapshot>, NotWalked>,
}

impl<M: TargetMemory + Sync> Walker<M> {
    /// All of them, outer allocators before those that take their memory from others.
    pub(crate) const ALL: [Self; 6] = [
        Self {
            kind: Allocator::Glibc,
            find: |facts| {
                let libc = facts.libc_of(Allocator::Glibc);
                // Where another allocator serves the whole program, glibc's may never be used, and
                // then has no heap to walk.
                libc.map(|_| anywhere(!facts.replaces_malloc()))
                    .into_iter()
                    .collect()
            },
            walk: |input, _| {
                let context = glibc_context(input.facts, input.threads);
                let mut roots = locked(&input.roots.glibc);
                let walked = reading_ahead(input.memory, |memory| {
                    glibc::walk_from(memory, input.residency, &context, &mut roots)
                });
                Ok(vec![walked?])
            },
        },
        Self {
            kind: Allocator::Musl,
            // A static program of musl's shows no C library, but its heap is identified by its
            // secret.
            find: |facts| {
                let is_musl = facts.libc_of(Allocator::Musl).is_some();
                let is_other = facts.libc.is_some() && !is_musl;
                (!is_other).then(|| anywhere(is_musl)).into_iter().collect()
            },
            walk: |input, _| {
                let context = musl_context(input.facts);
                let mut roots = locked(&input.roots.musl);
                let walked = musl::walk_from(input.memory, input.residency, &context, &mut roots);
                Ok(vec![walked?])
            },
        },
        Self {
            kind: Allocator::Mimalloc,
            // One walk finds the heaps of all copies.
            find: |facts| {
                let copies = in_objects(facts, Allocator::Mimalloc);
                let expected = copies.iter().any(|place| place.expected);
                let any = copies.first().map(|_| anywhere(expected));
                any.into_iter().collect()
            },
            walk: |input, _| {
                let context = mimalloc::Context {
                    objects: &input.facts.allocators,
                    python: input.facts.python,
                };
                Ok(mimalloc::walk(input.memory, input.residency, &context)?)
            },
        },
        Self {
            kind: Allocator::Jemalloc,
            find: |facts| in_objects(facts, Allocator::Jemalloc),
            walk: |input, place| match place.object {
                Some(object) => {
                    let heap = jemalloc::walk(input.memory, input.residency, object)?;
                    Ok(vec![of_object(object, heap)])
                }
                None => Ok(Vec::new()),
            },
        },
        Self {
            kind: Allocator::Tcmalloc,
            find: |facts| in_objects(facts, Allocator::Tcmalloc),
            walk: |input, place| match place.object {
                Some(object) => {
                    let heap = tcmalloc::walk(input.memory, input.residency, object)?;
                    Ok(vec![of_object(object, heap)])
                }
                None => Ok(Vec::new()),
            },
        },
        Self {
            kind: Allocator::Pymalloc,
            // pymalloc in a C program is not to be expected.
            find: |facts| {
                let serves = facts.python_malloc;
                vec![anywhere(serves.is_some_and(PythonMalloc::may_be_pymalloc))]
            },
            walk: |input, _| {
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
    ];
}

/// How many of glibc's arenas a thread stands inside of.
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
        environment: &facts.malloc_environment,
    }
}

/// A place that is found by the walker itself.
fn anywhere(expected: bool) -> Place<'static> {
    Place {
        expected,
        object: None,
    }
}

/// A place for each object that holds this allocator.
fn in_objects(facts: &Facts, kind: Allocator) -> Vec<Place<'_>> {
    let objects = facts.allocators.iter();
    objects
        .filter(|object| object.identity.is(kind))
        .map(|object| Place {
            expected: is_expected(&object.identity),
            object: Some(object),
        })
        .collect()
}

/// Whether the target is known to allocate from it. A library that has an allocator for itself may have a
/// switch for it, or never be called; where it does use it and it cannot be walked, its memory is among
/// what no walked allocator claims.
fn is_expected(identity: &AllocatorIdentity) -> bool {
    identity.serves_malloc() || identity.role == Role::Private && identity.is_in_python()
}

/// The heap of an object, with the library's name where that has it for itself.
fn of_object(object: &AllocatorObject, mut heap: HeapSnapshot) -> HeapSnapshot {
    heap.library = object.identity.private_library();
    heap
}

/// Why pymalloc is not walked, where that is not by the target's own choice.
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
        let facts = Facts::default();
        for walker in Walker::<MemoryImage>::ALL {
            let places = (walker.find)(&facts);
            assert!(
                places.iter().all(|place| !place.expected),
                "{}",
                walker.kind
            );
        }
    }
}
