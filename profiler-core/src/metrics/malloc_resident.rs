//! malloc's own resident memory, defined in the same way for every allocator. Replays are compared
//! with the recorded program by this figure.

use crate::addr::AddrRange;
use crate::heap::{ExtentKind, HeapSnapshot};
use crate::residency::{MappingKind, ResidencyMap};

/// Bytes of malloc's own.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct MallocResident {
    /// In memory.
    pub resident_bytes: u64,
    /// In swap.
    pub swapped_bytes: u64,
}

/// All private anonymous memory and `[heap]`, except stacks, pymalloc's arenas (those of `heaps`,
/// unless they are in malloc's memory anyway) and heaps that a library has for itself. Memory that
/// a program maps directly, and zero-initialised data of objects (0.3 MiB in CPython), cannot be
/// distinguished from an allocator's memory and is included. Shared memory is not.
pub fn malloc_resident(residency: &ResidencyMap, heaps: &[HeapSnapshot]) -> MallocResident {
    let extents = heaps.iter().flat_map(|heap| {
        let is_private = heap.library.is_some();
        let extents = heap.extents.iter();
        extents.filter(move |extent| is_private || extent.kind == ExtentKind::PoolArena)
    });
    let arenas: Vec<_> = extents.map(|extent| extent.range).collect();
    malloc_resident_but(residency, &arenas)
}

/// The same, without memory in these ranges.
pub fn malloc_resident_but(residency: &ResidencyMap, left_out: &[AddrRange]) -> MallocResident {
    let mut left_out = left_out.to_vec();
    left_out.sort_unstable_by_key(|range| range.start());
    let mut sum = MallocResident::default();
    for mapping in residency.mappings() {
        let of_malloc = matches!(
            mapping.kind,
            MappingKind::Brk | MappingKind::Anonymous | MappingKind::NamedAnonymous(_)
        );
        if mapping.shared || !of_malloc {
            continue;
        }
        for run in residency.runs_in(mapping.range) {
            let first = left_out.partition_point(|range| range.end() <= run.range.start());
            // A hostile heap's arenas may overlap: no byte is subtracted twice.
            let (mut outside, mut at) = (0, run.range.start());
            for part in left_out[first..]
                .iter()
                .map_while(|a| a.intersect(&run.range))
            {
                outside += part.start().get().saturating_sub(at.get());
                at = at.max(part.end());
            }
            let bytes = outside + run.range.end().get().saturating_sub(at.get());
            if run.state.is_resident() {
                sum.resident_bytes += bytes;
            } else if run.state.is_swapped() {
                sum.swapped_bytes += bytes;
            }
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::RemoteAddr;
    use crate::heap::{Allocator, Extent};
    use crate::residency::{Mapping, PageRun, PageState};
    use crate::span::SpanList;

    fn range(start: u64, len: u64) -> AddrRange {
        AddrRange::with_len(RemoteAddr::new(start), len).expect("a range")
    }

    fn mapping(start: u64, kind: MappingKind) -> Mapping {
        Mapping::private(range(start, 0x10000), kind)
    }

    #[test]
    fn arenas_of_pymalloc_and_stacks_are_left_out() {
        let mut residency = ResidencyMap::new(vec![
            mapping(0x100000, MappingKind::Brk),
            mapping(0x200000, MappingKind::Anonymous),
            mapping(0x300000, MappingKind::Stack),
            mapping(0x400000, MappingKind::File("/lib/x".into())),
        ]);
        for start in [0x100000, 0x200000, 0x300000, 0x400000] {
            let (state, gone) = (PageState::PRESENT, PageState::SWAPPED);
            residency.push_run(PageRun {
                range: range(start, 0x8000),
                state,
            });
            residency.push_run(PageRun {
                range: range(start + 0x8000, 0x1000),
                state: gone,
            });
        }
        let mut heap = HeapSnapshot::new(Allocator::Pymalloc, "");
        heap.extents.push(Extent {
            range: range(0x204000, 0x8000),
            kind: ExtentKind::PoolArena,
            arena: 0,
            block_header_bytes: 0,
            spans: SpanList::default(),
        });
        let sum = malloc_resident(&residency, &[heap]);
        assert_eq!(sum.resident_bytes, 0x8000 + 0x4000);
        assert_eq!(sum.swapped_bytes, 0x1000);
    }
}
