//! What `mmap` objects map: memory outside of all heaps that goes with the object.
//!
//! `multiprocessing.shared_memory`, `numpy.memmap` and what joblib reads have such objects, too.

use super::layout::MMAP_DATA;
use super::types::{Role, Type};
use super::words::read_word;
use crate::addr::{AddrRange, PAGE_SIZE, RemoteAddr};
use crate::memory::TargetMemory;
use crate::residency::{MappingKind, ResidencyMap};
use crate::text::visible;

/// Characters of a file's name that are kept.
const MAX_NAME: usize = 64;

/// What each of the objects has in memory.
#[derive(Debug, Default)]
pub(super) struct Mapped {
    /// Blocks of the objects with the resident bytes that they map, ascending.
    resident: Vec<(u32, u64)>,
}

impl Mapped {
    /// Of the ranges that objects say they map. What an object says counts only where a mapping is that is no
    /// heap's (`extents` ascend), and each byte counts once.
    pub(super) fn of(
        ranges: &[(u32, AddrRange)],
        extents: &[AddrRange],
        residency: &ResidencyMap,
    ) -> Self {
        let mut by_address: Vec<&(u32, AddrRange)> = ranges.iter().collect();
        by_address.sort_unstable_by_key(|(block, range)| (range.start(), *block));
        let mut counted = RemoteAddr::default();
        let mut resident = Vec::with_capacity(ranges.len());
        for (block, range) in by_address {
            let end = range.end().get().checked_next_multiple_of(PAGE_SIZE);
            let end = end.map_or(range.end(), RemoteAddr::new);
            let Some(range) = AddrRange::new(range.start().max(counted), end) else {
                continue;
            };
            if !is_of_program(range, extents, residency) {
                continue;
            }
            counted = range.end();
            let runs = residency.runs_in(range);
            let runs = runs.filter(|run| run.state.is_resident());
            resident.push((*block, runs.map(|run| run.range.len()).sum()));
        }
        resident.sort_unstable();
        Self { resident }
    }

    /// The resident bytes that the object in a block maps; 0 of anything else.
    #[inline]
    pub(super) fn bytes(&self, block: u32) -> u64 {
        if self.resident.is_empty() {
            return 0;
        }
        let at = self.resident.binary_search_by_key(&block, |(of, _)| *of);
        at.map_or(0, |at| self.resident[at].1)
    }

    /// All of them.
    pub(super) fn all(&self) -> &[(u32, u64)] {
        &self.resident
    }
}

/// Whether mappings of a program's own begin at a range, and no heap is in it.
fn is_of_program(range: AddrRange, extents: &[AddrRange], residency: &ResidencyMap) -> bool {
    let first = extents.partition_point(|extent| extent.end() <= range.start());
    let is_heap = extents
        .get(first)
        .is_some_and(|extent| extent.start() < range.end());
    let mapping = residency.mapping_at(range.start());
    let end = mapping.map(|mapping| mapping.range.end());
    let kind = mapping.map(|mapping| &mapping.kind);
    // Parts of one may have other rights, and are mappings of their own then; the kernel makes one of those that
    // belong together.
    let is_mapped = end.is_some_and(|end| {
        let behind = residency.mappings();
        let at = behind.partition_point(|mapping| mapping.range.start() < end);
        let mut end = end;
        for mapping in &behind[at..] {
            if end >= range.end() || mapping.range.start() != end {
                break;
            }
            end = mapping.range.end();
        }
        end >= range.end()
    });
    let can_be = matches!(
        kind,
        Some(
            MappingKind::Anonymous
                | MappingKind::NamedAnonymous(_)
                | MappingKind::File(_)
                | MappingKind::SharedAnonymous(_)
        )
    );
    !is_heap && is_mapped && can_be
}

/// The file that an `mmap` object maps, without its folders; `None` where it maps none, or is none.
pub(super) fn file_name<M: TargetMemory>(
    memory: &M,
    residency: &ResidencyMap,
    of: &Type,
    addr: u64,
) -> Option<String> {
    if of.facts.role != Role::Mmap {
        return None;
    }
    let data = read_word(memory, addr.checked_add(MMAP_DATA)?)?;
    let mapping = residency.mapping_at(RemoteAddr::new(data))?;
    let MappingKind::File(path) = &mapping.kind else {
        return None;
    };
    let name = path.rsplit('/').next().filter(|name| !name.is_empty())?;
    let name: String = name.chars().take(MAX_NAME).collect();
    Some(visible(name).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::residency::{Mapping, PageRun, PageState};

    fn range(start: u64, len: u64) -> AddrRange {
        AddrRange::with_len(RemoteAddr::new(start), len).expect("a range")
    }

    #[test]
    fn each_byte_counts_once_and_none_of_a_heap() {
        let file = MappingKind::File("/data/orders.bin".into());
        let mappings = [
            Mapping::private(range(0x10_0000, 0x4000), MappingKind::Anonymous),
            Mapping::private(range(0x10_4000, 0x4000), file),
            Mapping::private(range(0x20_0000, 0x4000), MappingKind::Stack),
        ];
        let mut residency = ResidencyMap::new(mappings.to_vec());
        for start in [0x10_0000, 0x10_4000, 0x20_0000] {
            residency.push_run(PageRun {
                range: range(start, 0x2000),
                state: PageState::PRESENT,
            });
        }
        let mapped = |ranges: &[(u32, AddrRange)], extents: &[AddrRange]| {
            Mapped::of(ranges, extents, &residency).all().to_vec()
        };
        // Two that lie over each other, and what is no whole page.
        let both = [(7, range(0x10_0000, 0x4000)), (3, range(0x10_3000, 0x4fff))];
        assert_eq!(mapped(&both, &[]), [(3, 0x2000), (7, 0x2000)]);
        let heap = [range(0x10_1000, 0x1000)];
        assert_eq!(mapped(&both[..1], &heap), []);
        let refused = [
            (1, range(0x20_0000, 0x4000)),
            (2, range(0x10_4000, 0x5000)),
            (3, range(0x30_0000, 1 << 40)),
        ];
        assert_eq!(mapped(&refused, &[]), []);
    }
}
