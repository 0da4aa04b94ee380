//! Places below a holder where its bytes spread out, besides the largest: any of them may grow.

use std::cmp::Reverse;

use hashbrown::HashMap;

use super::candidates::Candidate;
use super::{Holders, Retained};
use crate::addr::RemoteAddr;
use crate::memory::TargetMemory;
use crate::objects::holder::{Branch, MAX_BRANCHES};
use crate::objects::kinds::{Content, Kind};

/// The smallest branch, in bytes.
const LEAST_BRANCH: u64 = 16 << 10;
/// The most nodes of a path that are searched for branches, and the most nodes of a branch.
const MAX_WAY: usize = 256;
/// The most branches of all holders together.
const MAX_ALL: usize = 2000;

/// A branch, and where it leads.
pub(super) struct BranchWay {
    /// The index of its holder among the candidates.
    pub(super) holder: usize,
    /// From the holder down to where its bytes spread out.
    pub(super) way: Vec<u32>,
    /// The last of them.
    pub(super) end: u32,
    /// The step at which it leaves the path to the largest place.
    from: usize,
}

impl<M: TargetMemory> Holders<'_, M> {
    /// What leaves these ways, the largest of each.
    pub(super) fn branches(
        &self,
        ways: &[(Vec<u32>, u32)],
        retained: &Retained,
        heaviest: &[u32],
    ) -> Vec<BranchWay> {
        let nodes = ways.iter().flat_map(|(way, _)| way.iter().take(MAX_WAY));
        let mut below: HashMap<u32, Vec<u32>> = nodes.map(|node| (*node, Vec::new())).collect();
        let most_first = |numbers: &mut Vec<u32>| {
            numbers.sort_unstable_by_key(|number| (Reverse(retained.of_blocks(*number)), *number));
            numbers.truncate(MAX_BRANCHES + 1);
        };
        for number in 1..self.tree.node.len() as u32 {
            // Names are holders themselves.
            let is_block = (self.tree.node[number as usize] as usize) < self.kinds.len();
            if !is_block || retained.of_blocks(number) < LEAST_BRANCH {
                continue;
            }
            // The contents of a deque's block belong to the deque.
            let mut above = self.tree.dominator[number as usize];
            if self.is_deque_block(number) {
                continue;
            }
            if self.is_deque_block(above) {
                above = self.tree.dominator[above as usize];
            }
            if let Some(numbers) = below.get_mut(&above) {
                numbers.push(number);
                if numbers.len() > 4 * MAX_BRANCHES {
                    most_first(numbers);
                }
            }
        }
        let mut all = Vec::new();
        for (holder, (way, _)) in ways.iter().enumerate() {
            let mut tops: Vec<(u32, usize)> = Vec::new();
            for (at, node) in way.iter().take(MAX_WAY).enumerate() {
                let next = way.get(at + 1);
                let numbers = below.get(node).into_iter().flatten();
                let numbers = numbers.filter(|number| Some(*number) != next);
                tops.extend(numbers.map(|number| (*number, at)));
            }
            tops.sort_unstable_by_key(|(top, _)| (Reverse(retained.of_blocks(*top)), *top));
            let rest = MAX_ALL.saturating_sub(all.len());
            for (top, at) in tops.into_iter().take(MAX_BRANCHES.min(rest)) {
                let (down, end) = self.way_down(top, &retained.bytes, heaviest, MAX_WAY);
                let way = way[..=at].iter().copied().chain(down).collect();
                all.push(BranchWay {
                    holder,
                    way,
                    end,
                    from: at + 1,
                });
            }
        }
        all
    }

    fn is_deque_block(&self, number: u32) -> bool {
        let content = Content::DequeItems;
        number != 0
            && matches!(self.kind(number), Some(Kind::Storage { content: of, .. }) if of == content)
    }

    /// A branch as it is reported, with the type and number of its items; `None` if there is no
    /// object on it.
    pub(super) fn branch(
        &self,
        of: &BranchWay,
        candidate: &Candidate,
        item: Option<(u32, u64)>,
        retained: &Retained,
    ) -> Option<Branch> {
        let own = &of.way[of.from..];
        let (_, addr) = own.iter().find_map(|number| self.object(*number))?;
        Some(Branch {
            object: RemoteAddr::new(addr),
            retained_bytes: retained.of_blocks(own[0]),
            path: self.path(&of.way),
            length_at: self.length_at_end(candidate, &of.way),
            course: None,
            pace: None,
            item_type: item.map(|(of, _)| self.types[of as usize].name.clone()),
            items: item.map_or(0, |(_, count)| count),
        })
    }
}
