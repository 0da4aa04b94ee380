//! Memory mapped by `mmap` objects: it is outside all heaps and is freed with the object.
//!
//! `multiprocessing.shared_memory`, `numpy.memmap` and joblib use such objects too.

use super::layout::MMAP_DATA;
use super::types::{Role, Type};
use super::words::read_word;
use crate::addr::{AddrRange, PAGE_SIZE, RemoteAddr};
use crate::memory::TargetMemory;
use crate::residency::{Mapping, MappingKind, ResidencyMap};
use crate::text::visible;

/// Characters of a file's name that are kept.
const MAX_NAME: usize = 64;

/// Resident bytes of the memory that an object maps.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct MappedBytes {
    /// All of them.
    pub(super) all: u64,
    /// On pages that are mapped elsewhere as well.
    pub(super) shared: u64,
    /// On pages that may stay when the object is freed: pages of files, of shared mappings, and
    /// pages mapped elsewhere.
    pub(super) kept: u64,
}

impl MappedBytes {
    pub(super) fn add(&mut self, other: Self) {
        self.all = self.all.saturating_add(other.all);
        self.shared = self.shared.saturating_add(other.shared);
        self.kept = self.kept.saturating_add(other.kept);
    }
}

/// The mapped memory of each object.
#[derive(Debug, Default)]
pub(super) struct Mapped {
    /// Blocks of the objects with the resident bytes that they map, ascending.
    resident: Vec<(u32, MappedBytes)>,
}

impl Mapped {
    /// Computed from the ranges that objects claim to map. A claim counts only where there is a
    /// mapping that does not belong to a heap (`extents` ascend), and each address counts once.
    pub(super) fn of(
        ranges: &[(u32, AddrRange)],
        extents: &[AddrRange],
        residency: &ResidencyMap,
    ) -> Self {
        if ranges.is_empty() {
            return Self::default();
        }
        let areas = areas(residency);
        let mut by_address: Vec<&(u32, AddrRange)> = ranges.iter().collect();
        by_address.sort_unstable_by_key(|(block, range)| (range.start(), *block));
        let mut counted = RemoteAddr::default();
        let mut resident = Vec::with_capacity(ranges.len());
        for (block, range) in by_address {
            // The kernel maps whole pages.
            if !range.start().get().is_multiple_of(PAGE_SIZE) {
                continue;
            }
            let end = range.end().get().checked_next_multiple_of(PAGE_SIZE);
            let end = end.map_or(range.end(), RemoteAddr::new);
            let Some(range) = AddrRange::new(range.start().max(counted), end) else {
                continue;
            };
            if !is_within(range, &areas) || is_of_a_heap(range, extents) {
                continue;
            }
            counted = range.end();
            resident.push((*block, resident_bytes(range, residency)));
        }
        resident.sort_unstable_by_key(|(block, _)| *block);
        Self { resident }
    }

    /// The resident bytes that the object in a block maps; 0 of anything else.
    #[inline]
    pub(super) fn bytes(&self, block: u32) -> u64 {
        if self.resident.is_empty() {
            return 0;
        }
        let at = self.resident.binary_search_by_key(&block, |(of, _)| *of);
        at.map_or(0, |at| self.resident[at].1.all)
    }

    /// All of them.
    pub(super) fn all(&self) -> &[(u32, MappedBytes)] {
        &self.resident
    }
}

/// Contiguous areas of a program's own mappings of one kind, ascending. Parts of one mapping that
/// have other permissions are separate mappings in the kernel's list; adjacent ones that belong
/// together are merged there.
fn areas(residency: &ResidencyMap) -> Vec<AddrRange> {
    let mut areas: Vec<AddrRange> = Vec::new();
    let mut before: Option<&Mapping> = None;
    for mapping in residency.mappings().iter().filter(|of| is_of_program(of)) {
        let is_same = before.is_some_and(|before| {
            before.range.end() == mapping.range.start()
                && before.shared == mapping.shared
                && before.kind == mapping.kind
        });
        before = Some(mapping);
        let joined = areas
            .last()
            .filter(|_| is_same)
            .and_then(|last| AddrRange::new(last.start(), mapping.range.end()));
        match (joined, areas.last_mut()) {
            (Some(joined), Some(last)) => *last = joined,
            _ => areas.push(mapping.range),
        }
    }
    areas
}

fn is_of_program(mapping: &Mapping) -> bool {
    matches!(
        mapping.kind,
        MappingKind::Anonymous
            | MappingKind::NamedAnonymous(_)
            | MappingKind::File(_)
            | MappingKind::SharedAnonymous(_)
    )
}

/// Whether a range is inside one of these, which ascend.
fn is_within(range: AddrRange, areas: &[AddrRange]) -> bool {
    let at = areas.partition_point(|area| area.end() <= range.start());
    areas
        .get(at)
        .is_some_and(|area| area.start() <= range.start() && area.end() >= range.end())
}

fn is_of_a_heap(range: AddrRange, extents: &[AddrRange]) -> bool {
    let first = extents.partition_point(|extent| extent.end() <= range.start());
    extents
        .get(first)
        .is_some_and(|extent| extent.start() < range.end())
}

fn resident_bytes(range: AddrRange, residency: &ResidencyMap) -> MappedBytes {
    let mut sums = MappedBytes::default();
    let mappings = residency.mappings();
    let first = mappings.partition_point(|mapping| mapping.range.end() <= range.start());
    let mappings = mappings[first..].iter();
    for mapping in mappings.take_while(|mapping| mapping.range.start() < range.end()) {
        let Some(part) = mapping.range.intersect(&range) else {
            continue;
        };
        let runs = residency.runs_in(part);
        for run in runs.filter(|run| run.state.is_resident()) {
            let bytes = |is: bool| if is { run.range.len() } else { 0 };
            let is_shared = run.state.is_shared();
            sums.add(MappedBytes {
                all: run.range.len(),
                shared: bytes(is_shared),
                kept: bytes(is_shared || mapping.shared || run.state.is_file()),
            });
        }
    }
    sums
}

/// The name, without directories, of the file that an `mmap` object maps; `None` if it maps no
/// file, or is not such an object.
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
    use crate::residency::{PageRun, PageState};

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
            let mapped = Mapped::of(ranges, extents, &residency);
            let all = mapped.all().iter().map(|(block, of)| (*block, of.all));
            all.collect::<Vec<_>>()
        };
        // Two overlapping ranges, and an incomplete page.
        let both = [(7, range(0x10_0000, 0x4000)), (3, range(0x10_3000, 0x4fff))];
        assert_eq!(mapped(&both, &[]), [(3, 0x2000), (7, 0x2000)]);
        let heap = [range(0x10_1000, 0x1000)];
        assert_eq!(mapped(&both[..1], &heap), []);
        let refused = [
            (1, range(0x20_0000, 0x4000)),
            (2, range(0x10_4000, 0x5000)),
            (3, range(0x30_0000, 1 << 40)),
            // Neighbours of another kind, and what begins within a page.
            (4, range(0x10_0000, 0x5000)),
            (5, range(0x10_0800, 0x1000)),
        ];
        assert_eq!(mapped(&refused, &[]), []);
    }

    #[test]
    fn pages_that_may_stay_are_told_from_those_that_go() {
        let at = [0x10_0000, 0x20_0000, 0x30_0000, 0x40_0000];
        let file = MappingKind::File("/data/orders.bin".into());
        let private = |start, kind| Mapping::private(range(start, 0x2000), kind);
        let shared = MappingKind::SharedAnonymous("/dev/zero".into());
        let mut residency = ResidencyMap::new(vec![
            private(at[0], MappingKind::Anonymous),
            private(at[1], MappingKind::Anonymous),
            private(at[2], file),
            Mapping {
                shared: true,
                ..private(at[3], shared)
            },
        ]);
        let mut push = |start, len, state| {
            residency.push_run(PageRun {
                range: range(start, len),
                state,
            });
        };
        push(at[0], 0x2000, PageState::PRESENT);
        // As after a fork.
        push(at[1], 0x2000, PageState::PRESENT.with(PageState::SHARED));
        // The first page is a copy that a write has made.
        push(at[2], 0x1000, PageState::PRESENT);
        push(
            at[2] + 0x1000,
            0x1000,
            PageState::PRESENT.with(PageState::FILE),
        );
        push(at[3], 0x2000, PageState::PRESENT);
        let ranges: Vec<(u32, AddrRange)> =
            (0..).zip(at.map(|start| range(start, 0x2000))).collect();
        let mapped = Mapped::of(&ranges, &[], &residency);
        let found = mapped.all().iter().map(|(_, of)| (of.shared, of.kept));
        assert_eq!(
            found.collect::<Vec<_>>(),
            [(0, 0), (0x2000, 0x2000), (0, 0x1000), (0, 0x2000)]
        );
    }

    #[test]
    fn mappings_with_other_rights_are_one_and_those_of_another_kind_are_not() {
        let part = |start, kind: &MappingKind| Mapping::private(range(start, 0x1000), kind.clone());
        let file = MappingKind::File("/data/orders.bin".into());
        let residency = ResidencyMap::new(vec![
            part(0x10_0000, &MappingKind::Anonymous),
            part(0x10_1000, &MappingKind::Anonymous),
            part(0x10_2000, &file),
            part(0x10_4000, &file),
            part(0x10_5000, &MappingKind::Stack),
        ]);
        assert_eq!(
            areas(&residency),
            [
                range(0x10_0000, 0x2000),
                range(0x10_2000, 0x1000),
                range(0x10_4000, 0x1000)
            ]
        );
    }
}
