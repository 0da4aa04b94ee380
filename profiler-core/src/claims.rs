//! Overlapping heaps: every byte belongs to the innermost allocator that claims it.

use crate::addr::AddrRange;
use crate::heap::HeapSnapshot;

/// A range that one extent of one heap owns after inner heaps took theirs.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Claim {
    /// Its addresses.
    pub range: AddrRange,
    /// Index into the heaps.
    pub heap: usize,
    /// Index into that heap's extents.
    pub extent: usize,
}

/// All claims, ascending and not overlapping. Inner heaps come after outer ones, so later heaps win
/// over earlier ones; within a heap the first extent wins.
pub fn claims(heaps: &[HeapSnapshot]) -> Vec<Claim> {
    let mut taken: Vec<Claim> = Vec::new();
    for (heap, snapshot) in heaps.iter().enumerate().rev() {
        let mut extents: Vec<_> = snapshot
            .extents
            .iter()
            .enumerate()
            .map(|(extent, e)| (extent, e.range))
            .collect();
        extents.sort_by_key(|(_, range)| range.start());
        let mut gained = Vec::new();
        let mut end = crate::addr::RemoteAddr::default();
        for (extent, range) in extents {
            let Some(range) = AddrRange::new(range.start().max(end), range.end()) else {
                continue;
            };
            end = range.end();
            leftovers(&taken, range, |range| {
                gained.push(Claim {
                    range,
                    heap,
                    extent,
                })
            });
        }
        taken.extend(gained);
        taken.sort_by_key(|claim| claim.range.start());
    }
    taken
}

/// Gives the parts of `range` that no claim in `taken` (ascending) holds.
fn leftovers(taken: &[Claim], range: AddrRange, mut give: impl FnMut(AddrRange)) {
    let mut at = range.start();
    let first = taken.partition_point(|claim| claim.range.end() <= at);
    for claim in &taken[first..] {
        if claim.range.start() >= range.end() {
            break;
        }
        if let Some(part) = AddrRange::new(at, claim.range.start()).filter(|r| !r.is_empty()) {
            give(part);
        }
        at = at.max(claim.range.end());
    }
    if let Some(part) = AddrRange::new(at, range.end()).filter(|r| !r.is_empty()) {
        give(part);
    }
}
