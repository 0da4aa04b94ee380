//! The dominator tree of the references: what each block alone keeps in memory.
//!
//! Lengauer and Tarjan's algorithm (1979) with path compression, O(edges · log nodes) for any
//! graph.

use super::graph::{Graph, NONE};

/// The dominator tree of everything reached. Nodes are renumbered in the order of a depth-first
/// search from an artificial root, which is 0.
#[derive(Debug)]
pub(super) struct Dominators {
    /// The node of each number; [`NONE`] for the root.
    pub(super) node: Vec<u32>,
    /// The number of each of the graph's nodes; [`NONE`] if it was not reached.
    pub(super) number: Vec<u32>,
    /// The number of each number's immediate dominator, which is smaller; 0 for the root.
    pub(super) dominator: Vec<u32>,
    /// The first number of each phase after the first.
    pub(super) phases: Vec<u32>,
    /// Predecessors by number, in the same phase; 0 represents a root.
    predecessors: Graph,
}

impl Dominators {
    /// The tree below `phases` of roots. Nodes reached in one phase are excluded from later ones.
    pub(super) fn of(graph: Graph, phases: &[Vec<u32>]) -> Self {
        let mut search = Search::new(&graph);
        for (nth, roots) in phases.iter().enumerate() {
            if nth > 0 {
                search.phases.push(search.node.len() as u32);
            }
            search.run(roots);
        }
        let predecessors = search.predecessors();
        let Search {
            node,
            number,
            parent,
            phases,
            ..
        } = search;
        // It is no longer needed, and what follows takes as much memory.
        drop(graph);
        Self {
            node,
            number,
            dominator: dominators(parent, &predecessors),
            phases,
            predecessors,
        }
    }

    /// Renames the nodes. Those of [`Self::number`] stay.
    pub(super) fn rename(&mut self, nodes: &[u32]) {
        for node in self.node.iter_mut().filter(|node| **node != NONE) {
            *node = nodes[*node as usize];
        }
    }

    /// The nodes of a later phase than the first begin with this number.
    pub(super) fn first_phase_end(&self) -> u32 {
        let end = self.node.len() as u32;
        self.phases.first().copied().unwrap_or(end)
    }

    /// The numbers that refer to this one, in the same phase; 0 if it is a root.
    pub(super) fn predecessors(&self, number: u32) -> &[u32] {
        self.predecessors.targets(number)
    }

    /// The weight that each number keeps in memory: its own and that of everything it dominates.
    pub(super) fn retained(&self, own: Vec<u64>) -> Vec<u64> {
        self.add_up(own, u64::saturating_add)
    }

    /// The same for numbers of blocks.
    pub(super) fn retained_blocks(&self, own: Vec<u32>) -> Vec<u32> {
        self.add_up(own, u32::saturating_add)
    }

    fn add_up<T: Copy>(&self, own: Vec<T>, add: impl Fn(T, T) -> T) -> Vec<T> {
        let mut sums = own;
        for number in (1..self.node.len()).rev() {
            let above = self.dominator[number] as usize;
            sums[above] = add(sums[above], sums[number]);
        }
        sums
    }

    /// For each number the heaviest of those that it immediately dominates; [`NONE`] if there is
    /// none.
    pub(super) fn heaviest(&self, retained: &[u64]) -> Vec<u32> {
        let mut heaviest = vec![NONE; self.node.len()];
        for number in 1..self.node.len() {
            let best = &mut heaviest[self.dominator[number] as usize];
            if *best == NONE || retained[*best as usize] < retained[number] {
                *best = number as u32;
            }
        }
        heaviest
    }
}

/// A depth-first search.
struct Search<'g> {
    graph: &'g Graph,
    node: Vec<u32>,
    number: Vec<u32>,
    /// The number from which each was first reached.
    parent: Vec<u32>,
    phases: Vec<u32>,
    /// Numbers that the artificial root refers to, ascending within a phase.
    roots: Vec<u32>,
    /// Nodes on the way down, with how many of their targets were gone through.
    stack: Vec<(u32, u32)>,
}

impl<'g> Search<'g> {
    fn new(graph: &'g Graph) -> Self {
        Self {
            graph,
            node: vec![NONE],
            number: vec![NONE; graph.nodes()],
            parent: vec![0],
            phases: Vec::new(),
            roots: Vec::new(),
            stack: Vec::new(),
        }
    }

    fn reach(&mut self, node: u32, parent: u32) {
        self.number[node as usize] = self.node.len() as u32;
        self.node.push(node);
        self.parent.push(parent);
        self.stack.push((node, 0));
    }

    fn run(&mut self, roots: &[u32]) {
        let first = self.node.len() as u32;
        for &root in roots {
            if self.number[root as usize] == NONE {
                self.reach(root, 0);
                while let Some((node, done)) = self.stack.last_mut() {
                    let node = *node;
                    let next = self.graph.targets(node).get(*done as usize);
                    *done += 1;
                    match next {
                        Some(&next) if self.number[next as usize] == NONE => {
                            self.reach(next, self.number[node as usize]);
                        }
                        Some(_) => {}
                        None => {
                            self.stack.pop();
                        }
                    }
                }
            }
            // A node reached in an earlier phase does not belong to this one.
            let number = self.number[root as usize];
            if number >= first {
                self.roots.push(number);
            }
        }
    }

    /// The numbers that refer to each number within its phase.
    fn predecessors(&self) -> Graph {
        let count = self.node.len();
        let mut starts = vec![0u32; count + 1];
        self.each_edge(|_, to| starts[to as usize + 1] += 1);
        for at in 0..count {
            starts[at + 1] += starts[at];
        }
        let mut targets = vec![0; starts[count] as usize];
        let mut next = starts.clone();
        self.each_edge(|from, to| {
            let at = &mut next[to as usize];
            targets[*at as usize] = from;
            *at += 1;
        });
        Graph::of(starts, targets, 0)
    }

    fn each_edge(&self, mut give: impl FnMut(u32, u32)) {
        for &root in &self.roots {
            give(0, root);
        }
        let ends = self.phases.iter().copied().chain([self.node.len() as u32]);
        let mut first = 1;
        for end in ends {
            for from in first..end {
                for &to in self.graph.targets(self.node[from as usize]) {
                    // A later phase's references to an earlier one's nodes hold nothing.
                    let to = self.number[to as usize];
                    if to >= first && to != from {
                        give(from, to);
                    }
                }
            }
            first = end;
        }
    }
}

/// Immediate dominators by number, from the parents in the search and the references.
fn dominators(parent: Vec<u32>, predecessors: &Graph) -> Vec<u32> {
    let count = parent.len();
    let mut semi: Vec<u32> = (0..count as u32).collect();
    let mut forest = Forest {
        ancestor: parent,
        label: semi.clone(),
        path: Vec::new(),
    };
    // Lists of the numbers that have each semidominator. A number is in one list until its
    // dominator is known, so the dominator's slot stores the next in the list.
    let mut bucket = vec![NONE; count];
    let mut dominator = vec![0u32; count];
    for number in (1..count as u32).rev() {
        let at = number as usize;
        // Numbers above this one are linked to their parents.
        for &from in predecessors.targets(number) {
            let least = forest.evaluate(from, number, &semi);
            semi[at] = semi[at].min(semi[least as usize]);
        }
        let list = &mut bucket[semi[at] as usize];
        dominator[at] = *list;
        *list = number;
        let above = forest.ancestor[at];
        let mut listed = std::mem::replace(&mut bucket[above as usize], NONE);
        while listed != NONE {
            // This one is linked now, too.
            let least = forest.evaluate(listed, number - 1, &semi);
            let of = listed as usize;
            listed = dominator[of];
            dominator[of] = if semi[least as usize] < semi[of] {
                least
            } else {
                above
            };
        }
    }
    for at in 1..count {
        if dominator[at] != semi[at] {
            dominator[at] = dominator[dominator[at] as usize];
        }
    }
    dominator
}

/// The forest built so far: numbers above a limit are linked to their parents in the search.
struct Forest {
    /// The parent in the search, or a further ancestor once the path was compressed.
    ancestor: Vec<u32>,
    /// The number with the smallest semidominator on the compressed path.
    label: Vec<u32>,
    path: Vec<u32>,
}

impl Forest {
    /// The number with the smallest semidominator on the path from `number` to its tree's root,
    /// where numbers above `limit` are linked.
    fn evaluate(&mut self, number: u32, limit: u32, semi: &[u32]) -> u32 {
        if number <= limit {
            return self.label[number as usize];
        }
        let mut at = number;
        loop {
            let above = self.ancestor[at as usize];
            if above <= limit {
                break;
            }
            self.path.push(at);
            at = above;
        }
        while let Some(at) = self.path.pop() {
            let at = at as usize;
            let above = self.ancestor[at] as usize;
            let (mine, theirs) = (self.label[at], self.label[above]);
            if semi[theirs as usize] < semi[mine as usize] {
                self.label[at] = theirs;
            }
            self.ancestor[at] = self.ancestor[above];
        }
        self.label[number as usize]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::objects::graph::tests::graph;

    /// Which nodes are reached from the roots without passing `without`.
    fn reached(graph: &Graph, roots: &[u32], without: u32) -> Vec<bool> {
        let mut reached = vec![false; graph.nodes()];
        let mut stack: Vec<u32> = roots.to_vec();
        while let Some(node) = stack.pop() {
            if node != without && !std::mem::replace(&mut reached[node as usize], true) {
                stack.extend(graph.targets(node));
            }
        }
        reached
    }

    #[test]
    fn what_two_share_belongs_to_what_is_above_both() {
        // 0 -> 1, 0 -> 2, 1 -> 3, 2 -> 3, 3 -> 4, and 5 alone.
        let graph = graph(6, &[(0, 1), (0, 2), (1, 3), (2, 3), (3, 4), (4, 3)]);
        let tree = Dominators::of(graph.clone(), &[vec![0], vec![5]]);
        let above = |node: u32| {
            let number = tree.number[node as usize];
            tree.node[tree.dominator[number as usize] as usize]
        };
        assert_eq!([0, 1, 2, 3, 4, 5].map(above), [NONE, 0, 0, 0, 3, NONE]);
        let own = |weight: fn(u32) -> u64| {
            tree.node.iter().map(move |&node| match node {
                NONE => 0,
                node => weight(node),
            })
        };
        let retained = tree.retained(own(|node| 1 << node).collect());
        assert_eq!(retained[tree.number[3] as usize], 0b01_1000);
        assert_eq!(retained[tree.number[0] as usize], 0b01_1111);
        assert_eq!(retained[0], 0b11_1111);
        assert_eq!(tree.first_phase_end(), tree.number[5]);
    }

    #[test]
    fn a_later_phase_takes_nothing_from_an_earlier_one() {
        let graph = graph(4, &[(0, 1), (2, 1), (2, 3)]);
        let tree = Dominators::of(graph.clone(), &[vec![0], vec![2, 1]]);
        let retained = tree.retained(vec![1; tree.node.len()]);
        assert_eq!(retained[tree.number[0] as usize], 2);
        assert_eq!(retained[tree.number[2] as usize], 2);
        assert_eq!(tree.predecessors(tree.number[1]), [tree.number[0]]);
    }

    #[test]
    fn a_chain_of_a_million_with_links_back_takes_no_stack() {
        const LEN: u32 = 1_000_000;
        let mut graph = Graph::with_capacity(LEN as usize);
        for node in 0..LEN {
            graph.push(&[(node + 1) % LEN, node.saturating_sub(1), LEN - 1]);
        }
        let tree = Dominators::of(graph.clone(), &[vec![0]]);
        let retained = tree.retained(vec![1; tree.node.len()]);
        assert_eq!(retained[0], u64::from(LEN) + 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]
        #[test]
        fn dominators_are_what_all_paths_pass(
            edges in proptest::collection::vec((0u32..12, 0u32..12), 0..40),
            roots in proptest::collection::vec(0u32..12, 1..4),
        ) {
            let graph = graph(12, &edges);
            let tree = Dominators::of(graph.clone(), std::slice::from_ref(&roots));
            let all = reached(&graph, &roots, NONE);
            for node in 0..12u32 {
                let number = tree.number[node as usize];
                prop_assert_eq!(number != NONE, all[node as usize]);
                if number == NONE {
                    continue;
                }
                // Strict dominators are the nodes without which it is not reached.
                let strict: Vec<u32> = (0..12)
                    .filter(|&other| other != node && all[other as usize])
                    .filter(|&other| !reached(&graph, &roots, other)[node as usize])
                    .collect();
                let mut climbed = Vec::new();
                let mut at = tree.dominator[number as usize];
                while at != 0 {
                    climbed.push(tree.node[at as usize]);
                    at = tree.dominator[at as usize];
                }
                climbed.sort_unstable();
                prop_assert_eq!(climbed, strict);
            }
        }
    }
}
