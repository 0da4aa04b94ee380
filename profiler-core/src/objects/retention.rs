//! Computes who holds what from the references between blocks.

use super::blocks::BlockIndex;
use super::dominators::Dominators;
use super::doubtful::{self, Doubtful};
use super::edges::References;
use super::fold::Folded;
use super::graph::{Graph, NONE};
use super::kinds::{Content, Kind, PackedKind};
use super::mapped::Mapped;
use super::names::{Name, Names, Root};
use super::scan::Source;
use super::types::Type;
use super::{interpreter, late, tracing};
use crate::memory::TargetMemory;

/// Who holds what: the dominator tree of the blocks that remain after folding.
pub(super) struct Retention {
    pub(super) folded: Folded,
    pub(super) tree: Dominators,
    /// References there were.
    pub(super) edges: u64,
    /// References for which there was no number.
    pub(super) left_out: u64,
}

impl Retention {
    /// Of the references between blocks. Native blocks that only objects refer to become their storage.
    pub(super) fn of<M: TargetMemory>(
        references: &mut References,
        names: &Names,
        kinds: &mut [PackedKind],
        source: &Source<'_, M>,
        types: &[Type],
        mapped: &Mapped,
    ) -> Self {
        let index = source.index;
        let mut graph = std::mem::take(&mut references.graph);
        let roots = add_names(&mut graph, names);
        late::add_inside(&mut graph, std::mem::take(&mut references.inside));
        let of_tracing = names.of_root(Root::Tracing);
        tracing::cut(&mut graph, of_tracing, names.node_of_root(Root::Tracing));
        own_reached(kinds, &graph, index);
        let edges = graph.edges() as u64;
        let interned = interpreter::interned(source, kinds, types, names);
        interpreter::give_interned(&mut graph, &interned, kinds, names);
        doubtful::drop(
            &mut graph,
            &roots[0],
            &Doubtful {
                source,
                kinds,
                types,
                names,
                interned: &interned,
            },
        );
        let of_classes = std::mem::take(&mut references.of_classes);
        let first_root = names.first_root();
        late::give(&mut graph, of_classes, |node| {
            node < first_root && !doubtful::is(node, kinds, types)
        });
        let blocks = index.len() as u32;
        let weight = |node: u32| match node < blocks {
            true => index.bytes(node).saturating_add(mapped.bytes(node)),
            false => 0,
        };
        // What a name or a module refers to is not folded, so that it can be shown.
        let may = |node: u32, into: u32| {
            node < blocks && into < blocks && !names.is_space(node) && !names.is_space(into)
        };
        let folded = Folded::of(&graph, &roots[0], weight, may);
        let left = folded.left();
        let graph = folded.graph(&std::mem::take(&mut graph), &left);
        let left_out = graph.left_out();
        let places = |roots: &Vec<u32>| roots.iter().map(|root| folded.place(*root)).collect();
        let roots: Vec<Vec<u32>> = roots.iter().map(places).collect();
        let mut tree = Dominators::of(graph, &roots);
        tree.rename(&left);
        Self {
            folded,
            tree,
            edges,
            left_out: left_out + references.left_out,
        }
    }

    /// The number of what a block is folded into, or [`NONE`].
    fn number(&self, block: u32) -> u32 {
        let (into, _) = self.folded.within(block);
        self.tree.number[self.folded.place(into) as usize]
    }

    /// The blocks, of the first `blocks`, for which no root was found.
    pub(super) fn unreached(&self, blocks: u32) -> Vec<u32> {
        let blocks = 0..blocks;
        blocks.filter(|block| self.number(*block) == NONE).collect()
    }
}

/// Adds a node for each name; returns the roots of each phase: first everything with a name in the
/// program, then one by one the places where references without a name were found.
fn add_names(graph: &mut Graph, names: &Names) -> Vec<Vec<u32>> {
    let mut named = names.owners().to_vec();
    let mut phases = Vec::new();
    for (name, target) in names.all() {
        let node = graph.nodes() as u32;
        match name {
            Name::Root(root) => {
                graph.push(names.of_root(*root));
                phases.push(vec![node]);
            }
            Name::Variable(_) | Name::ThreadLocal => {
                graph.push(&[*target]);
                named.push(node);
            }
            Name::Entry { .. } | Name::Suspended(_) => graph.push(&[*target]),
        }
    }
    phases.insert(0, named);
    phases
}

/// The size of a native block, in bytes, up to which its references are followed to others that
/// belong to the same object.
const MAX_PASSED: u64 = 64 << 10;

/// Native blocks that are reached from an object, directly or through others, are its storage.
fn own_reached(kinds: &mut [PackedKind], graph: &Graph, index: &BlockIndex) {
    let mut stack = Vec::new();
    for block in 0..kinds.len() as u32 {
        let (Kind::Object { of, .. } | Kind::Storage { of, .. }) = kinds[block as usize].get()
        else {
            continue;
        };
        stack.push(block);
        while let Some(from) = stack.pop() {
            for &to in graph.targets(from) {
                let native = kinds.get(to as usize).is_some_and(|kind| kind.is_native());
                if native {
                    let content = Content::Reached;
                    kinds[to as usize] = PackedKind::of(Kind::Storage { of, content });
                    if index.bytes(to) <= MAX_PASSED {
                        stack.push(to);
                    }
                }
            }
        }
    }
}
