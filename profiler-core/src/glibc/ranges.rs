//! Memory areas that malloc may have mapped, and which parts of them have been claimed.

use std::collections::BTreeMap;

use super::find::is_anonymous;
use crate::addr::{AddrRange, PAGE_SIZE, RemoteAddr};
use crate::memory::TargetMemory;
use crate::residency::{MappingKind, ResidencyMap};

/// Pages whose first bytes are read at once.
const PAGES_PER_READ: usize = 4096;

/// The ranges of private, writable memory that malloc may have obtained, with adjacent mappings
/// joined: `[heap]`, and anonymous memory, which the kernel splits and merges freely.
pub(super) fn areas(residency: &ResidencyMap) -> Vec<AddrRange> {
    let mut areas: Vec<AddrRange> = Vec::new();
    for mapping in residency.mappings() {
        let may = mapping.kind == MappingKind::Brk || is_anonymous(&mapping.kind);
        if !may || mapping.shared || !mapping.write {
            continue;
        }
        match areas.last_mut() {
            Some(last) if last.end() == mapping.range.start() => {
                *last = AddrRange::new(last.start(), mapping.range.end()).unwrap_or(*last);
            }
            _ => areas.push(mapping.range),
        }
    }
    areas
}

/// Address and first two words of each resident page of `area`, ascending.
pub(super) fn page_heads<'m, M: TargetMemory>(
    memory: &'m M,
    residency: &'m ResidencyMap,
    area: AddrRange,
) -> impl Iterator<Item = [u64; 3]> + 'm {
    let mut pages = residency
        .runs_in(area)
        .filter(|run| run.state.is_resident())
        .flat_map(|run| {
            let whole = run.range.whole_pages();
            let (start, end) = (whole.start().get(), whole.end().get());
            (start..end).step_by(PAGE_SIZE as usize)
        });
    let mut answers = Vec::new();
    std::iter::from_fn(move || {
        let read: Vec<_> = pages
            .by_ref()
            .take(PAGES_PER_READ)
            .map(RemoteAddr::new)
            .collect();
        if read.is_empty() {
            return None;
        }
        memory.read_scattered::<16>(&read, &mut answers);
        let heads = read.iter().zip(&answers).filter_map(|(page, bytes)| {
            let value = u128::from_le_bytes((*bytes)?);
            Some([page.get(), value as u64, (value >> 64) as u64])
        });
        Some(heads.collect::<Vec<_>>())
    })
    .flatten()
}

/// Ranges that are some extent's, none overlapping another.
#[derive(Default)]
pub(super) struct Claims {
    ends: BTreeMap<u64, u64>,
}

impl Claims {
    /// Whether no range has a byte of `start..end`.
    pub(super) fn is_free(&self, start: u64, end: u64) -> bool {
        let before = self.ends.range(..end).next_back();
        start < end && before.is_none_or(|(_, &claimed)| claimed <= start)
    }

    /// Whether the byte at `addr` is claimed.
    pub(super) fn holds(&self, addr: u64) -> bool {
        !self.is_free(addr, addr.saturating_add(1))
    }

    /// The parts of `area` that no range has, ascending.
    pub(super) fn gaps(&self, area: AddrRange) -> Vec<AddrRange> {
        let mut gaps = Vec::new();
        let mut at = area.start();
        let first = self.ends.range(..at.get()).next_back();
        let within = self.ends.range(at.get()..area.end().get());
        for (&start, &end) in first.into_iter().chain(within) {
            let start = RemoteAddr::new(start).min(area.end());
            gaps.extend(AddrRange::new(at, start).filter(|gap| !gap.is_empty()));
            at = at.max(RemoteAddr::new(end).min(area.end()));
        }
        gaps.extend(AddrRange::new(at, area.end()).filter(|gap| !gap.is_empty()));
        gaps
    }

    /// The start of the next claim after `addr`.
    pub(super) fn next_after(&self, addr: u64) -> Option<u64> {
        self.ends.range(addr..).next().map(|(&start, _)| start)
    }

    /// Takes `start..end`, which must be free.
    pub(super) fn claim(&mut self, start: u64, end: u64) {
        self.ends.insert(start, end);
    }

    /// Gives back the claim that begins at `start`.
    pub(super) fn release(&mut self, start: u64) {
        self.ends.remove(&start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_and_claims_tile_an_area() {
        let mut claims = Claims::default();
        for (start, end) in [(0, 20), (30, 40), (40, 50), (90, 120)] {
            claims.claim(start, end);
        }
        let gaps = |start, end| {
            let area = AddrRange::new(RemoteAddr::new(start), RemoteAddr::new(end));
            let gaps = claims.gaps(area.expect("ascending"));
            let ends = gaps.iter().map(|gap| (gap.start().get(), gap.end().get()));
            ends.collect::<Vec<_>>()
        };
        assert_eq!(gaps(10, 100), [(20, 30), (50, 90)]);
        assert_eq!(gaps(35, 60), [(50, 60)]);
        assert_eq!(gaps(120, 130), [(120, 130)]);
        assert_eq!(gaps(92, 100), []);
    }
}
