//! Variables of the same function in several running calls: each thread of a pool has one, and one row has them all.

use std::cmp::Reverse;

use hashbrown::{HashMap, HashSet};

use super::candidates::Candidate;
use super::{Holders, MAX_STEPS, Retained};
use crate::memory::TargetMemory;
use crate::objects::holder::Calls;
use crate::objects::names::Name;

/// Nodes that the way down from each call's value is followed over.
const MAX_WAY: usize = 256;

impl<M: TargetMemory> Holders<'_, M> {
    /// The ways down from the values of all calls but the first of each candidate, with its index.
    pub(super) fn other_calls(
        &self,
        all: &[Candidate],
        retained: &Retained,
        heaviest: &[u32],
    ) -> Vec<(usize, Vec<u32>, u32)> {
        let mut ways = Vec::new();
        for (at, candidate) in all.iter().enumerate() {
            if candidate.calls.count > 1 {
                ways.extend(candidate.tops.iter().skip(1).map(|top| {
                    let (way, end) = self.way_down(*top, &retained.bytes, heaviest, MAX_WAY);
                    (at, way, end)
                }));
            }
        }
        ways
    }

    /// The candidates with one for all calls of a function that have a variable.
    pub(super) fn of_calls(&self, all: Vec<Candidate>, retained: &Retained) -> Vec<Candidate> {
        let mut of_variable = HashMap::new();
        let mut joined: Vec<Candidate> = Vec::with_capacity(all.len());
        for candidate in all {
            let name = candidate.names.first();
            let name = name.and_then(|name| self.names.of_node(self.tree.node[*name as usize]));
            let Some((Name::Variable(variable), _)) = name else {
                joined.push(candidate);
                continue;
            };
            match of_variable.get(&variable) {
                Some(&at) => {
                    let one: &mut Candidate = &mut joined[at];
                    one.tops.extend(candidate.tops);
                }
                None => {
                    of_variable.insert(variable, joined.len());
                    joined.push(candidate);
                }
            }
        }
        let many = joined
            .iter_mut()
            .filter(|candidate| candidate.tops.len() > 1);
        many.for_each(|candidate| self.add_up(candidate, retained));
        joined
    }

    /// Makes a candidate of the variables at its tops, of which the first retains most.
    fn add_up(&self, candidate: &mut Candidate, retained: &Retained) {
        candidate
            .tops
            .sort_unstable_by_key(|top| (Reverse(retained.bytes[*top as usize]), *top));
        let tops: HashSet<u32> = candidate.tops.iter().copied().collect();
        let mut threads = HashSet::new();
        let mut is_each_known = true;
        (candidate.bytes, candidate.mapped, candidate.blocks) = (0, 0, 0);
        for &top in &candidate.tops {
            match self.names.thread(self.tree.node[top as usize]) {
                Some(thread) => drop(threads.insert(thread)),
                None => is_each_known = false,
            }
            // What a call has for another that it has called is within its own.
            if self.is_within(top, &tops) {
                continue;
            }
            let bytes = retained.bytes[top as usize];
            candidate.bytes = candidate.bytes.saturating_add(bytes);
            candidate.mapped = candidate.mapped.saturating_add(retained.mapped(top));
            candidate.blocks += u64::from(retained.blocks[top as usize]);
        }
        candidate.calls = Calls {
            count: candidate.tops.len() as u64,
            threads: is_each_known.then_some(threads.len() as u64),
        };
    }

    /// Whether one of these dominates a number.
    fn is_within(&self, number: u32, tops: &HashSet<u32>) -> bool {
        let mut at = self.tree.dominator[number as usize];
        for _ in 0..MAX_STEPS {
            if at == 0 || tops.contains(&at) {
                break;
            }
            at = self.tree.dominator[at as usize];
        }
        at != 0
    }
}
