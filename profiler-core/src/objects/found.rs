//! The names found in a program, and the references between its blocks.

use std::sync::Mutex;

use super::edges::{References, Resolver, references_of};
use super::names::{Name, Names, Root};
use super::scan::{Scanned, Source};
use super::types::{Role, Type, TypeTable};
use super::{frames, late, tracing};
use crate::addr::AddrRange;
use crate::data;
use crate::memory::TargetMemory;
use crate::residency::ResidencyMap;

/// The names, and the references between blocks.
pub(super) fn references<M: TargetMemory + Sync>(
    source: &Source<'_, M>,
    residency: &ResidencyMap,
    extents: &[AddrRange],
    scanned: &Scanned,
    types: &Mutex<TypeTable<&M>>,
    known: &[Type],
) -> (Names, References) {
    let resolve = Resolver {
        source,
        kinds: &scanned.kinds,
    };
    let is_dict = |of: u32| {
        let of = known.get(of as usize);
        of.is_some_and(|of| of.facts.role == Role::Dict)
    };
    let mut names = Names::find(&resolve, &scanned.noted, types, is_dict);
    let running = frames::running(&resolve, residency, &scanned.noted, known);
    for held in running.variables {
        names.add_variable(Name::Variable(held.variable), held);
    }
    for noted in scanned.noted.iter().filter(|n| n.role == Role::LocalDummy) {
        names.add(Name::ThreadLocal, noted.block);
    }
    for of in frames::suspended(&resolve, residency, &scanned.noted, known) {
        names.add_suspended(of);
    }
    let resolved = |words: &mut dyn Iterator<Item = u64>| {
        let mut blocks: Vec<u32> = words.filter_map(|word| resolve.target(word)).collect();
        blocks.sort_unstable();
        blocks.dedup();
        blocks
    };
    let data = |of_python| {
        // Memory directly after a file's data may be a heap as well as its `.bss`.
        let data = data::words(source.memory, residency, of_python);
        let data = data.iter().flat_map(|part| part.outside(extents));
        resolved(&mut data.flatten().copied())
    };
    let of_python = data(true);
    let of_tracing = tracing::blocks(source, &scanned.kinds, &of_python);
    names.add_roots(|root| match root {
        Root::Frames => running.words.clone(),
        Root::Tracing => of_tracing.clone().unwrap_or_default(),
        Root::Interpreter => of_python.clone(),
        Root::Libraries => data(false),
        Root::Stacks => {
            let stacks = frames::stack_words(source.memory, residency);
            resolved(&mut stacks.into_iter())
        }
    });
    let mut references = references_of(&resolve, scanned, known, &names);
    references.is_tracing_known = of_tracing.is_some();
    references.of_classes =
        late::of_classes(&resolve, &references.weak, &scanned.noted, known, &names);
    (names, references)
}
