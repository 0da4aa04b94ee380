//! References whose meaning is only decided when all references are known.

use super::dict;
use super::edges::{Resolver, Weak};
use super::graph::{Bits, Graph};
use super::kinds::Kind;
use super::layout::{DictTable, TYPE_SUBCLASSES};
use super::names::{Names, Root};
use super::scan::Noted;
use super::types::{Role, Type};
use super::words::read_word;
use crate::memory::TargetMemory;

/// The most classes examined for one base.
const MAX_SUBCLASSES: u64 = 1 << 20;

/// For each class, the entries in its bases' `__subclasses__` dictionaries that are freed with the
/// class: the weak reference to it, and the number that is its key. Returns the class with each,
/// ascending.
pub(super) fn of_classes<M: TargetMemory>(
    resolve: &Resolver<'_, M>,
    weak: &[Weak],
    noted: &[Noted],
    types: &[Type],
    names: &Names,
) -> Vec<(u32, u32)> {
    let source = resolve.source;
    if source.layout.dict == DictTable::Open {
        // In 2.7 they stay in a list.
        return Vec::new();
    }
    let classes = noted.iter().filter(|noted| noted.role == Role::Type);
    let addresses = classes.map(|noted| noted.object);
    let mut addresses: Vec<u64> = addresses.chain(types.iter().map(|of| of.addr)).collect();
    addresses.sort_unstable();
    addresses.dedup();
    let of_types = addresses.into_iter().filter_map(|addr| {
        let at = addr.checked_add(TYPE_SUBCLASSES)?;
        read_word(source.memory, at)
    });
    let of_built_in = names.of_root(Root::Interpreter).iter().map(|&block| {
        let Kind::Object { head, .. } = resolve.kinds[block as usize].get() else {
            return 0;
        };
        source.index.range(block).start().get() + head
    });
    let role = |of: u32| types.get(of as usize).map(|of| of.facts.role);
    let mut dicts: Vec<u64> = of_types.chain(of_built_in).collect();
    dicts.sort_unstable();
    dicts.dedup();
    dicts.retain(|&dict| {
        let object = resolve.object(dict);
        object.is_some_and(|(_, of)| role(of) == Some(Role::Dict))
    });
    let mut found = Vec::new();
    for dict in dicts {
        let entries = dict::entries(source.memory, source.layout, dict, MAX_SUBCLASSES);
        for (key, value) in entries.into_iter().flatten() {
            let (Some((key, of_key)), Some((value, _))) =
                (resolve.object(key), resolve.object(value))
            else {
                continue;
            };
            let Ok(at) = weak.binary_search_by_key(&value, |weak| weak.block) else {
                continue;
            };
            let class = match resolve.kinds[weak[at].referent as usize].get() {
                Kind::Object { of, .. } if role(of) == Some(Role::Type) => weak[at].referent,
                _ => continue,
            };
            if !weak[at].calls_back && role(of_key) == Some(Role::Leaf) {
                found.extend([(class, value), (class, key)]);
            }
        }
    }
    found.sort_unstable();
    found
}

/// Assigns things to another owner, given as pairs of owner and thing, one pair for each reference
/// to the thing. Things with more references than that keep their owners. Only references from
/// nodes for which `counts` is true are counted.
pub(super) fn give(graph: &mut Graph, mut owned: Vec<(u32, u32)>, counts: impl Fn(u32) -> bool) {
    let mut things: Vec<u32> = owned.iter().map(|(_, thing)| *thing).collect();
    things.sort_unstable();
    let times = things.chunk_by(|a, b| a == b).map(<[u32]>::len);
    let times: Vec<usize> = times.collect();
    things.dedup();
    let referrers = graph.referrers(&things, counts);
    let mut given = Bits::new(graph.nodes());
    for ((&thing, times), referrers) in things.iter().zip(times).zip(referrers) {
        if referrers as usize == times {
            given.set(thing);
        }
    }
    owned.retain(|(_, thing)| given.has(*thing));
    owned.sort_unstable();
    owned.dedup();
    graph.retain(|_, to| !given.has(to));
    graph.insert(&owned);
}

/// Adds references into native blocks that nothing refers to otherwise.
pub(super) fn add_inside(graph: &mut Graph, mut inside: Vec<(u32, u32)>) {
    let mut blocks: Vec<u32> = inside.iter().map(|(_, to)| *to).collect();
    blocks.sort_unstable();
    blocks.dedup();
    let referrers = graph.referrers(&blocks, |_| true);
    inside.retain(|(_, to)| {
        let at = blocks.binary_search(to);
        at.is_ok_and(|at| referrers[at] == 0)
    });
    inside.sort_unstable();
    inside.dedup();
    graph.insert(&inside);
}

#[cfg(test)]
mod tests {
    use super::super::graph::tests::graph;
    use super::*;

    #[test]
    fn what_is_referred_to_otherwise_is_given_to_nobody_else() {
        // 1 and 2 have 3 and 4 in common, and 1 alone has 5.
        let mut all = graph(7, &[(0, 6), (1, 3), (1, 4), (1, 5), (2, 3), (2, 4)]);
        give(&mut all, vec![(6, 5), (6, 3), (6, 3), (6, 4)], |_| true);
        let targets = |all: &Graph| -> Vec<Vec<u32>> {
            (0..7).map(|node| all.targets(node).to_vec()).collect()
        };
        let given = [
            vec![6],
            vec![4],
            vec![4],
            vec![],
            vec![],
            vec![],
            vec![3, 5],
        ];
        assert_eq!(targets(&all), given);
        add_inside(&mut all, vec![(3, 4), (0, 2), (3, 2), (3, 2)]);
        let added = [
            vec![6, 2],
            vec![4],
            vec![4],
            vec![2],
            vec![],
            vec![],
            vec![3, 5],
        ];
        assert_eq!(targets(&all), added);
    }
}
