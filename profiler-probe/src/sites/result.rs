//! The jumps in a function's body at which its result is already in `rax`, chosen so that every
//! call that returns a block passes exactly one of them.

use super::emulation::{Treatment, treatment};
use super::paths::{End, Explorer, Returned};
use super::{Body, Code, Symbols, site};
use crate::plan::{Function, Site};

/// More candidates than this are not weighed.
const MAX_CANDIDATES: usize = 64;
/// Nor more choices among them than this.
const MAX_STEPS: u32 = 10_000;

/// The result sites of the function, or `None` when none can be proven right.
pub(super) fn result_sites(
    code: &Code,
    body: &Body,
    function: Function,
    symbols: &Symbols,
) -> Option<Vec<Site>> {
    if body.is_too_long() {
        return None;
    }
    let mut explorer = Explorer::new(code, *body, function, &symbols.endings);
    let all = explorer.explore(&[]).ok()?;
    // The function may continue elsewhere: in a part that the compiler moved away, or in a function
    // that it calls last. That belongs to it as long as nothing else leads there.
    let mut foreign = code.references(
        |target| target != body.start && all.reached.contains_key(&target),
        |from| !body.contains(from) && !all.reached.contains_key(&from),
    );
    let has_symbol = |at: &&u64| **at != body.start && symbols.starts.contains(at);
    foreign.extend(all.reached.keys().filter(has_symbol));
    if foreign.iter().any(|&target| body.contains(target)) {
        return None;
    }
    let mut candidates: Vec<u64> = all
        .reached
        .values()
        .filter(|i| body.contains(i.ip()) || foreign.is_empty())
        .filter(|i| treatment(code.bytes_of(i)) == Treatment::Emulated)
        .map(|i| i.ip())
        .collect();
    candidates.sort_unstable();
    candidates.retain(|&candidate| {
        explorer
            .explore(&[candidate])
            .is_ok_and(|paths| paths.ends.iter().any(|(passed, _)| *passed != 0))
    });
    if candidates.is_empty() || candidates.len() > MAX_CANDIDATES {
        return None;
    }
    let together = explorer.explore(&candidates).ok()?;
    if together.ends.contains(&(0, Returned::Other)) {
        return None;
    }
    let passed: Vec<u64> = together.ends.iter().map(|end| end.0).collect();
    let chosen = one_of_each(&passed)?;
    let chosen: Vec<u64> = (0..candidates.len())
        .filter(|bit| chosen & (1 << bit) != 0)
        .map(|bit| candidates[bit])
        .collect();
    let proof = explorer.explore(&chosen).ok()?;
    if !proof.ends.iter().all(passes_exactly_one) {
        return None;
    }
    chosen
        .iter()
        .map(|&at| site(code, body, &code.decode(at)?))
        .collect()
}

fn passes_exactly_one((passed, returned): &End) -> bool {
    match returned {
        Returned::Result => passed.count_ones() == 1,
        Returned::Null => *passed == 0,
        Returned::Other => false,
    }
}

/// A set of bits that has exactly one bit in common with each of `sets` that is not empty; `None`
/// when there is none, or none is found soon.
fn one_of_each(sets: &[u64]) -> Option<u64> {
    fn search(sets: &[u64], chosen: u64, barred: u64, steps: &mut u32) -> Option<u64> {
        let Some(&open) = sets.iter().find(|s| **s != 0 && **s & chosen == 0) else {
            return Some(chosen);
        };
        let mut rest = open & !barred;
        while rest != 0 {
            *steps = steps.checked_sub(1)?;
            let bit = rest & rest.wrapping_neg();
            rest ^= bit;
            let rivals = sets
                .iter()
                .filter(|s| **s & bit != 0)
                .fold(0, |all, s| all | s)
                & !bit;
            if rivals & chosen == 0
                && let Some(found) = search(sets, chosen | bit, barred | rivals, steps)
            {
                return Some(found);
            }
        }
        None
    }
    let mut steps = MAX_STEPS;
    search(sets, 0, 0, &mut steps)
}

#[cfg(test)]
mod tests;
