//! Blocks without a known root: whether they hold themselves (a cycle), or something that was not
//! read holds them.
//!
//! All references to an object of a garbage cycle come from the cycle, so they add up to its
//! reference count. A higher reference count means that it is also held from elsewhere: by native
//! code, or by something created meanwhile.

use super::{Pass, Resolver};
use crate::memory::TargetMemory;
use crate::objects::census::Amount;
use crate::objects::graph::Graph;
use crate::objects::kinds::Kind;
use crate::objects::names::Names;
use crate::objects::scan::Scanned;
use crate::objects::types::Type;
use crate::objects::words::word;

/// The most blocks without a root that are examined; if there are more, it is unknown what they
/// are.
const MAX_UNREACHED: usize = 1 << 22;

/// Which of the blocks without a root are what.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub(in crate::objects) struct Unreached {
    /// Objects that hold each other, and what only they hold.
    pub(in crate::objects) cycles: Amount,
    /// Objects with more references than were found, and what these hold.
    pub(in crate::objects) held: Amount,
}

/// How often an object is referred to, and from where.
#[derive(Copy, Clone, Default)]
struct Referred {
    /// By its own count; `None` if it is no longer an object, or never was.
    count: Option<u64>,
    found: u64,
    /// Those of them from objects and what belongs to them: a counted pointer of native code may
    /// itself be forgotten.
    by_objects: u64,
}

/// Reads these blocks, which ascend, again, and compares reference counts with the references among
/// them; `None` if there are too many.
pub(in crate::objects) fn unreached<M: TargetMemory + Sync>(
    resolve: &Resolver<'_, M>,
    scanned: &Scanned,
    types: &[Type],
    names: &Names,
    blocks: &[u32],
) -> Option<Unreached> {
    if blocks.len() > MAX_UNREACHED {
        return None;
    }
    let classes = super::classes(resolve, types, names);
    let mut pass = Pass::new(resolve, scanned, types, names, &classes);
    let (graph, referred) = among(&mut pass, blocks);
    let is_held = |at: &u32| {
        let of = &referred[*at as usize];
        of.count.is_some_and(|count| count > of.found)
    };
    let places = 0..blocks.len() as u32;
    let held: Vec<u32> = places.clone().filter(is_held).collect();
    let held = graph.reached(&held, |_| true);
    // Cycles are what objects alone hold. What native blocks hold that nothing refers to may be either.
    let is_unsure = |at: &u32| {
        let of = &referred[*at as usize];
        of.count.is_some_and(|count| count > of.by_objects)
    };
    let unsure: Vec<u32> = places.clone().filter(is_unsure).collect();
    let unsure = graph.reached(&unsure, |_| true);
    let objects = places
        .clone()
        .filter(|at| referred[*at as usize].count.is_some());
    let own: Vec<u32> = objects.filter(|at| !unsure.has(*at)).collect();
    let own = graph.reached(&own, |_| true);
    let mut all = Unreached::default();
    for at in places {
        let bytes = resolve.source.index.bytes(blocks[at as usize]);
        if held.has(at) {
            all.held.add(bytes);
        } else if own.has(at) && !unsure.has(at) {
            all.cycles.add(bytes);
        }
    }
    Some(all)
}

/// The references among these blocks, by their places, and how often each object is referred to.
fn among<M: TargetMemory + Sync>(pass: &mut Pass<'_, M>, blocks: &[u32]) -> (Graph, Vec<Referred>) {
    let mut graph = Graph::with_capacity(blocks.len());
    let mut referred = vec![Referred::default(); blocks.len()];
    pass.each(blocks.iter().copied(), |pass, block, reader| {
        if let Kind::Object { of, head } = pass.scanned.kinds[block as usize].get()
            && let Ok(at) = blocks.binary_search(&block)
            && let Some(object) = reader.bytes(head, 16)
            && word(object, 8) == Some(pass.types[of as usize].addr)
        {
            let count = word(object, 0);
            let layout = pass.resolve.source.layout;
            referred[at].count = count.and_then(|count| layout.reference_count(count));
        }
        // Names of a generator's variables are between the generator and their values.
        let value = |target: u32| match pass.names.of_node(target) {
            Some((_, value)) => value,
            None => target,
        };
        let places = pass.targets.iter().map(|target| value(*target));
        let places = places.filter_map(|target| blocks.binary_search(&target).ok());
        let places: Vec<u32> = places.map(|at| at as u32).collect();
        let is_objects = !matches!(pass.scanned.kinds[block as usize].get(), Kind::Native);
        for &at in &places {
            let to = &mut referred[at as usize];
            to.found += 1;
            to.by_objects += u64::from(is_objects);
        }
        graph.push(&places);
    });
    (graph, referred)
}
