//! References between blocks, in arrays of 32-bit indices.

/// No node.
pub(super) const NONE: u32 = u32::MAX;

/// A bit for each node.
#[derive(Clone, Debug)]
pub(super) struct Bits(Vec<u64>);

impl Bits {
    pub(super) fn new(nodes: usize) -> Self {
        Self(vec![0; nodes.div_ceil(64)])
    }

    #[inline]
    pub(super) fn has(&self, node: u32) -> bool {
        self.0[node as usize / 64] >> (node % 64) & 1 != 0
    }

    /// All in words; bits beyond the last node are 0.
    pub(super) fn words(&self) -> impl Iterator<Item = u64> + '_ {
        self.0.iter().copied()
    }

    #[inline]
    pub(super) fn word(&self, at: usize) -> u64 {
        self.0[at]
    }

    /// How many are set.
    pub(super) fn count(&self) -> usize {
        self.words().map(|word| word.count_ones() as usize).sum()
    }

    /// Sets a bit; returns whether it was set before.
    #[inline]
    pub(super) fn set(&mut self, node: u32) -> bool {
        let had = self.has(node);
        self.0[node as usize / 64] |= 1 << (node % 64);
        had
    }
}

/// References, node by node.
#[derive(Clone, Debug, Default)]
pub(super) struct Graph {
    /// The start of each node's targets, with one more entry at the end.
    starts: Vec<u32>,
    targets: Vec<u32>,
    /// Edges for which there was no number.
    left_out: u64,
}

impl Graph {
    pub(super) fn with_capacity(nodes: usize) -> Self {
        let mut starts = Vec::with_capacity(nodes + 1);
        starts.push(0);
        Self {
            starts,
            ..Self::default()
        }
    }

    /// A graph of this form; `starts` has one entry more than there are nodes.
    pub(super) fn of(starts: Vec<u32>, targets: Vec<u32>, left_out: u64) -> Self {
        Self {
            starts,
            targets,
            left_out,
        }
    }

    /// Adds the next node with these targets.
    pub(super) fn push(&mut self, targets: &[u32]) {
        let room = (NONE as usize).saturating_sub(self.targets.len());
        let taken = targets.len().min(room);
        self.left_out += (targets.len() - taken) as u64;
        if self.targets.capacity() - self.targets.len() < taken {
            // There are too many of them to have room for twice as many.
            self.targets.reserve_exact(self.targets.len() / 8 + taken);
        }
        self.targets.extend_from_slice(&targets[..taken]);
        self.starts.push(self.targets.len() as u32);
    }

    /// Leaves out the edges that are not to be kept.
    pub(super) fn retain(&mut self, keep: impl Fn(u32, u32) -> bool) {
        let mut kept = 0;
        let mut from = 0;
        for node in 0..self.nodes() {
            let end = self.starts[node + 1] as usize;
            for at in from..end {
                let to = self.targets[at];
                if keep(node as u32, to) {
                    self.targets[kept] = to;
                    kept += 1;
                }
            }
            from = end;
            self.starts[node + 1] = kept as u32;
        }
        self.targets.truncate(kept);
    }

    /// Adds these edges, sorted by source node.
    pub(super) fn insert(&mut self, edges: &[(u32, u32)]) {
        let room = (NONE as usize).saturating_sub(self.targets.len());
        let taken = edges.len().min(room);
        self.left_out += (edges.len() - taken) as u64;
        let mut behind = self.targets.len();
        self.targets.reserve_exact(taken);
        self.targets.resize(behind + taken, 0);
        // From the last node backwards, move each node's targets after those still to be inserted
        // before them.
        let mut left = &edges[..taken];
        while let Some(&(from, _)) = left.last() {
            let own = left.partition_point(|edge| edge.0 < from);
            let end = self.starts[from as usize + 1] as usize;
            self.targets.copy_within(end..behind, end + left.len());
            behind = end;
            for (at, (_, to)) in left[own..].iter().enumerate() {
                self.targets[end + own + at] = *to;
            }
            left = &left[..own];
        }
        let mut added = 0;
        let mut edges = edges[..taken].iter().peekable();
        for node in 0..self.nodes() {
            while edges.next_if(|edge| edge.0 as usize == node).is_some() {
                added += 1;
            }
            self.starts[node + 1] += added;
        }
    }

    /// How many that count refer to each node of these, which ascend.
    pub(super) fn referrers(&self, of: &[u32], counts: impl Fn(u32) -> bool) -> Vec<u32> {
        let mut referrers = vec![0u32; of.len()];
        let mut among = Bits::new(self.nodes());
        of.iter().for_each(|&node| {
            among.set(node);
        });
        for from in 0..self.nodes() as u32 {
            for to in self.targets(from) {
                if among.has(*to)
                    && counts(from)
                    && let Ok(at) = of.binary_search(to)
                {
                    referrers[at] = referrers[at].saturating_add(1);
                }
            }
        }
        referrers
    }

    /// The nodes reached from these roots, through nodes for which `passed` is true.
    pub(super) fn reached(&self, roots: &[u32], passed: impl Fn(u32) -> bool) -> Bits {
        let mut reached = Bits::new(self.nodes());
        let mut stack: Vec<u32> = Vec::new();
        for &root in roots {
            if !reached.set(root) {
                stack.push(root);
            }
            while let Some(node) = stack.pop() {
                if !passed(node) {
                    continue;
                }
                for &to in self.targets(node) {
                    if !reached.set(to) {
                        stack.push(to);
                    }
                }
            }
        }
        reached
    }

    /// Adds the nodes of another graph, which has numbers of this one as targets.
    pub(super) fn append(&mut self, other: &Self) {
        self.starts.reserve_exact(other.nodes());
        self.targets.reserve_exact(other.targets.len());
        let nodes = other.starts.windows(2);
        for ends in nodes {
            self.push(&other.targets[ends[0] as usize..ends[1] as usize]);
        }
        self.left_out += other.left_out;
    }

    pub(super) fn nodes(&self) -> usize {
        self.starts.len().saturating_sub(1)
    }

    pub(super) fn edges(&self) -> usize {
        self.targets.len()
    }

    /// Edges that are not in it.
    pub(super) fn left_out(&self) -> u64 {
        self.left_out
    }

    #[inline]
    pub(super) fn targets(&self, node: u32) -> &[u32] {
        let node = node as usize;
        &self.targets[self.starts[node] as usize..self.starts[node + 1] as usize]
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A graph of these edges.
    pub(in crate::objects) fn graph(nodes: usize, edges: &[(u32, u32)]) -> Graph {
        let mut graph = Graph::with_capacity(nodes);
        for node in 0..nodes as u32 {
            let targets: Vec<u32> = edges.iter().filter(|e| e.0 == node).map(|e| e.1).collect();
            graph.push(&targets);
        }
        graph
    }

    #[test]
    fn edges_that_are_left_out_are_gone() {
        let mut graph = graph(4, &[(0, 1), (0, 2), (1, 3), (2, 3), (3, 0)]);
        let reached = graph.reached(&[0], |node| node != 2);
        assert_eq!([0, 1, 2, 3].map(|node| reached.has(node)), [true; 4]);
        graph.retain(|from, to| from != 2 && to != 1);
        let left: Vec<&[u32]> = (0..4).map(|node| graph.targets(node)).collect();
        assert_eq!(left, [&[2][..], &[3], &[], &[0]]);
        assert_eq!(graph.referrers(&[0, 2, 3], |_| true), [1, 1, 1]);
        graph.insert(&[(0, 3), (2, 0), (2, 1), (3, 0)]);
        let left: Vec<&[u32]> = (0..4).map(|node| graph.targets(node)).collect();
        assert_eq!(left, [&[2, 3][..], &[3], &[0, 1], &[0, 0]]);
        assert_eq!(graph.referrers(&[0, 3], |from| from != 3), [1, 2]);
        graph.retain(|_, to| to == 2);
        let reached = graph.reached(&[0], |_| true);
        assert_eq!(
            [1, 2, 3].map(|node| reached.has(node)),
            [false, true, false]
        );
    }
}
