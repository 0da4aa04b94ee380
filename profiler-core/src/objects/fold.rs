//! Folds small blocks with exactly one referrer into that referrer before the dominator tree is
//! built. Most blocks of a heap are like this, and what each remaining node dominates stays the
//! same.

use hashbrown::HashMap;

use super::graph::{Bits, Graph, NONE};

/// Nodes heavier than this many bytes are not folded, because the paths to them are shown.
const MAX_FOLDED: u64 = 16 << 10;
/// Weights are kept in units of this many bytes.
const UNIT: u64 = 8;
/// More than one node refers to it.
const SEVERAL: u32 = NONE - 1;

/// Which nodes are folded, and into what.
#[derive(Debug)]
pub(super) struct Folded {
    /// The only referrer of each node, or [`SEVERAL`] or [`NONE`].
    only: Vec<u32>,
    folded: Bits,
    /// How many are left before each 64 nodes.
    left_before: Vec<u32>,
}

/// How many each node has of something, most of them few.
struct Counts {
    few: Vec<u8>,
    /// Counts above [`u8::MAX`].
    more: HashMap<u32, u32>,
}

impl Counts {
    fn new(nodes: usize) -> Self {
        Self {
            few: vec![0; nodes],
            more: HashMap::new(),
        }
    }

    fn add(&mut self, node: u32) {
        let few = &mut self.few[node as usize];
        match few.checked_add(1) {
            Some(more) => *few = more,
            None => *self.more.entry(node).or_default() += 1,
        }
    }

    /// Takes one away, and says whether none is left.
    fn take(&mut self, node: u32) -> bool {
        let few = &mut self.few[node as usize];
        if *few == u8::MAX
            && let Some(more) = self.more.get_mut(&node)
            && *more > 0
        {
            *more -= 1;
            return false;
        }
        *few = few.saturating_sub(1);
        *few == 0
    }

    fn is_none(&self, node: u32) -> bool {
        self.few[node as usize] == 0
    }
}

impl Folded {
    /// Folds light nodes that may be folded into their only referrer, among the nodes reached from
    /// `roots`, if the referrer is reached too.
    pub(super) fn of(
        graph: &Graph,
        roots: &[u32],
        weight: impl Fn(u32) -> u64,
        may: impl Fn(u32, u32) -> bool,
    ) -> Self {
        let nodes = graph.nodes();
        let only = only_referrers(graph, roots);
        // Bottom-up: a node is processed after all nodes of which it is the only referrer.
        let mut pending = Counts::new(nodes);
        for from in only.iter().copied().filter(|from| *from < SEVERAL) {
            pending.add(from);
        }
        let mut sums: Vec<u16> = (0..nodes as u32).map(|node| units(weight(node))).collect();
        let mut folded = Bits::new(nodes);
        let mut ready: Vec<u32> = Vec::new();
        for first in 0..nodes as u32 {
            if !pending.is_none(first) {
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
                // A node above something heavy is on the path to it, so it stays too.
                let above = &mut sums[into as usize];
                *above = above.saturating_add(sum);
                // A node further on is processed by the loop.
                if pending.take(into) && into < first {
                    ready.push(into);
                }
            }
        }
        let mut left = 0;
        let left_before = folded.words().map(|word| {
            let before = left;
            left += word.count_zeros();
            before
        });
        Self {
            left_before: left_before.collect(),
            only,
            folded,
        }
    }

    /// Whether a node is folded into another.
    #[inline]
    pub(super) fn is_folded(&self, node: u32) -> bool {
        self.folded.has(node)
    }

    /// The only referrer of a node, if there is exactly one.
    pub(super) fn only_referrer(&self, node: u32) -> Option<u32> {
        Some(self.only[node as usize]).filter(|only| *only < SEVERAL)
    }

    /// The place among those that are left of a node that is.
    #[inline]
    pub(super) fn place(&self, node: u32) -> u32 {
        let word = node as usize / 64;
        let before = !self.folded.word(word) & ((1 << (node % 64)) - 1);
        self.left_before[word] + before.count_ones()
    }

    /// Those that are left, by their places.
    pub(super) fn left(&self) -> Vec<u32> {
        let nodes = 0..self.only.len() as u32;
        nodes.filter(|node| !self.is_folded(*node)).collect()
    }

    /// The node into which this one is finally folded, or itself if it is not folded; and the node
    /// directly below that one on the path.
    #[inline]
    pub(super) fn within(&self, node: u32) -> (u32, u32) {
        let (mut at, mut below) = (node, node);
        while self.is_folded(at) {
            below = at;
            at = self.only[at as usize];
        }
        (at, below)
    }

    /// The references among the remaining nodes, by index: references of a folded node count as
    /// those of the node it was folded into.
    pub(super) fn graph(&self, graph: &Graph, left: &[u32]) -> Graph {
        let nodes = left.len();
        let mut starts = vec![0u32; nodes + 1];
        self.each_edge(graph, |from, _| starts[from as usize + 1] += 1);
        for at in 0..nodes {
            starts[at + 1] += starts[at];
        }
        let mut targets = vec![0; starts[nodes] as usize];
        let mut next = starts.clone();
        self.each_edge(graph, |from, to| {
            let at = &mut next[from as usize];
            targets[*at as usize] = to;
            *at += 1;
        });
        Graph::of(starts, targets, graph.left_out())
    }

    /// Gives each reference that is left, most of them once.
    fn each_edge(&self, graph: &Graph, mut give: impl FnMut(u32, u32)) {
        let mut last = vec![NONE; self.only.len() - self.folded.count()];
        for node in 0..graph.nodes() as u32 {
            let mut from = None;
            for &to in graph.targets(node) {
                if self.is_folded(to) {
                    continue;
                }
                let from = *from.get_or_insert_with(|| self.place(self.within(node).0));
                let to = self.place(to);
                let last = &mut last[to as usize];
                if from != to && *last != from {
                    *last = from;
                    give(from, to);
                }
            }
        }
    }
}

/// The only referrer of each node, or [`NONE`] or [`SEVERAL`]. For a node reached from `roots`,
/// only referrers that are reached too count.
fn only_referrers(graph: &Graph, roots: &[u32]) -> Vec<u32> {
    let mut only = vec![NONE; graph.nodes()];
    let reached = graph.reached(roots, |_| true);
    for from in 0..graph.nodes() as u32 {
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
    only
}

/// The weight in units. Weights above the largest that is folded need not be distinguished.
fn units(bytes: u64) -> u16 {
    bytes.div_ceil(UNIT).min(u16::MAX.into()) as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::objects::dominators::Dominators;

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
            let whole = Dominators::of(graph.clone(), &phases);
            let sums = |tree: &Dominators, own: &dyn Fn(u32) -> u64| {
                let own = tree.node.iter().map(|&node| if node == NONE { 0 } else { own(node) });
                tree.retained(own.collect())
            };
            let expected = sums(&whole, &weight);
            let folded = Folded::of(&graph, &roots, weight, |node, _| !roots.contains(&node));
            let nodes = folded.left();
            let places = [roots.iter().map(|root| folded.place(*root)).collect()];
            let mut left = Dominators::of(folded.graph(&graph, &nodes), &places);
            left.rename(&nodes);
            let own = |left: u32| -> u64 {
                let all = (0..16).filter(|&node| folded.within(node).0 == left);
                all.map(weight).sum()
            };
            let retained = sums(&left, &own);
            for node in 0..16u32 {
                if folded.is_folded(node) {
                    continue;
                }
                let (old, new) = (whole.number[node as usize], left.number[folded.place(node) as usize]);
                prop_assert_eq!(old == NONE, new == NONE);
                if old != NONE {
                    prop_assert_eq!(expected[old as usize], retained[new as usize]);
                }
            }
        }
    }
}
