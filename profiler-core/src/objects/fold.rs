//! Small things that one other thing alone refers to are folded into it, before the dominator tree is
//! made: most of a heap is such, and what a node that is left dominates stays the same.

use super::graph::{Bits, Graph, NONE, Ranks};

/// What is heavier than this stays a node of its own, in bytes: the ways down to it are shown.
const MAX_FOLDED: u64 = 16 << 10;
/// Weights are kept in units of so many bytes.
const UNIT: u64 = 8;
/// More than one node refers to it.
const SEVERAL: u32 = NONE - 1;

/// Which nodes are folded, and into what.
#[derive(Debug)]
pub(super) struct Folded {
    /// The only one that refers to each node, [`SEVERAL`] or [`NONE`].
    only: Vec<u32>,
    folded: Bits,
}

impl Folded {
    /// Folds what is light and may be folded into the only one that refers to it, of those that are
    /// reached from `roots` where it is itself.
    pub(super) fn of(
        graph: &Graph,
        roots: &[u32],
        weight: impl Fn(u32) -> u64,
        may: impl Fn(u32, u32) -> bool,
    ) -> Self {
        let nodes = graph.nodes();
        let mut only = vec![NONE; nodes];
        let reached = graph.reached(roots, |_| true);
        for from in 0..nodes as u32 {
            let is_reached = reached.has(from);
            for &to in graph.targets(from) {
                if !is_reached && reached.has(to) {
                    continue;
                }
                let only = &mut only[to as usize];
                if *only == NONE {
                    *only = from;
                } else if *only != from {
                    *only = SEVERAL;
                }
            }
        }
        // From below: a node's turn comes when all have had theirs that it alone refers to. One that has
        // MANY of them has more than is folded, and so has what is above it: their turns never come.
        let mut pending = vec![0u16; nodes];
        for &from in only.iter().filter(|from| **from < SEVERAL) {
            let pending = &mut pending[from as usize];
            *pending = pending.saturating_add(1);
        }
        let mut sums: Vec<u16> = (0..nodes as u32).map(|node| units(weight(node))).collect();
        let mut folded = Bits::new(nodes);
        let mut ready: Vec<u32> = Vec::new();
        for first in 0..nodes as u32 {
            if pending[first as usize] > 0 {
                continue;
            }
            ready.push(first);
            while let Some(node) = ready.pop() {
                let into = only[node as usize];
                if into >= SEVERAL {
                    continue;
                }
                let sum = sums[node as usize];
                if u64::from(sum) * UNIT <= MAX_FOLDED && may(node, into) {
                    folded.set(node);
                }
                // What is above something heavy is on the way down to it, and stays, too.
                let above = &mut sums[into as usize];
                *above = above.saturating_add(sum);
                let pending = &mut pending[into as usize];
                *pending -= u16::from(*pending < MANY);
                // One further on has its turn in the loop.
                if *pending == 0 && into < first {
                    ready.push(into);
                }
            }
        }
        Self { only, folded }
    }

    /// Whether a node is folded into another.
    #[inline]
    pub(super) fn is_folded(&self, node: u32) -> bool {
        self.folded.has(node)
    }

    /// The node that this one is folded into at last, itself if it is not; and the one on the way that
    /// is right below.
    #[inline]
    pub(super) fn within(&self, node: u32) -> (u32, u32) {
        let (mut at, mut below) = (node, node);
        while self.is_folded(at) {
            below = at;
            at = self.only[at as usize];
        }
        (at, below)
    }

    /// The references that are left: folded nodes have none, and theirs are those of what they are
    /// folded into.
    pub(super) fn graph(&self, graph: &Graph) -> Graph {
        let nodes = graph.nodes();
        // Where the next target of each node belongs: first where its own begin, at last where those of
        // the node behind it do.
        let mut next = vec![0u32; nodes + 1];
        let mut several = Bits::new(nodes);
        for (node, only) in self.only.iter().enumerate() {
            if *only == SEVERAL {
                several.set(node as u32);
            }
        }
        let several = Ranks::of(several);
        self.each_edge(graph, &several, |from, _| next[from as usize + 1] += 1);
        for at in 0..nodes {
            next[at + 1] += next[at];
        }
        let mut targets = vec![0; next[nodes] as usize];
        self.each_edge(graph, &several, |from, to| {
            let at = &mut next[from as usize];
            targets[*at as usize] = to;
            *at += 1;
        });
        next.rotate_right(1);
        next[0] = 0;
        Graph::of(next, targets, graph.left_out())
    }

    /// Gives each reference that is left, most of them once: what is folded into one node may refer to the
    /// same thing millions of times.
    fn each_edge(&self, graph: &Graph, several: &Ranks, mut give: impl FnMut(u32, u32)) {
        let mut last = vec![NONE; several.count()];
        for node in 0..graph.nodes() as u32 {
            let mut from = None;
            for &to in graph.targets(node) {
                if self.is_folded(to) {
                    continue;
                }
                let from = *from.get_or_insert_with(|| self.within(node).0);
                let last = several.get(to).map(|rank| &mut last[rank as usize]);
                let again = last.is_some_and(|last| std::mem::replace(last, from) == from);
                if from != to && !again {
                    give(from, to);
                }
            }
        }
    }
}

/// Of light nodes so many are more than [`MAX_FOLDED`].
const MANY: u16 = u16::MAX;

fn units(bytes: u64) -> u16 {
    bytes.div_ceil(UNIT).min(u16::MAX.into()) as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::graph::Dominators;
    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]
        #[test]
        fn what_is_left_retains_what_it_did(
            edges in proptest::collection::vec((0u32..16, 0u32..16), 0..40),
            weights in proptest::collection::vec(0u64..20_000, 16),
            roots in proptest::collection::vec(0u32..16, 1..4),
        ) {
            let mut graph = Graph::with_capacity(16);
            for node in 0..16 {
                let mut targets: Vec<u32> = edges.iter().filter(|e| e.0 == node).map(|e| e.1).collect();
                targets.retain(|to| *to != node);
                targets.dedup();
                graph.push(&targets);
            }
            let weight = |node: u32| weights[node as usize];
            let phases = [roots.clone()];
            let whole = Dominators::of(&graph, &phases);
            let sums = |tree: &Dominators, own: &dyn Fn(u32) -> u64| {
                let own = tree.node.iter().map(|&node| if node == NONE { 0 } else { own(node) });
                tree.retained(own.collect())
            };
            let expected = sums(&whole, &weight);
            let folded = Folded::of(&graph, &roots, weight, |node, _| !roots.contains(&node));
            let left = Dominators::of(&folded.graph(&graph), &phases);
            let own = |left: u32| -> u64 {
                let all = (0..16).filter(|&node| folded.within(node).0 == left);
                all.map(weight).sum()
            };
            let retained = sums(&left, &own);
            for node in 0..16u32 {
                if folded.is_folded(node) {
                    continue;
                }
                let (old, new) = (whole.number[node as usize], left.number[node as usize]);
                prop_assert_eq!(old == NONE, new == NONE);
                if old != NONE {
                    prop_assert_eq!(expected[old as usize], retained[new as usize]);
                }
            }
        }
    }
}
