//! Who holds the live blocks in each cell of the map, by name.

use std::collections::HashMap;

use profiler_core::addr::PAGE_SIZE;
use profiler_core::objects::PageOwner;
use profiler_core::report::{FragReport, MapExtent};
use profiler_core::text::visible;
use profiler_core::units::nanoseconds;
use serde::Serialize;

use super::map::packed;
use crate::export::sentences;

/// The number of names with a colour of their own: those that hold most pages.
const NAMED: usize = 10;
/// A cell in which no name holds anything.
const NOBODY: u8 = 0;

/// The data for the script.
#[derive(Serialize)]
pub(super) struct Held {
    /// Names; the first one has the number 1 in a cell.
    names: Vec<String>,
    /// The cells, in the order of the map.
    cells: String,
    /// How long before the walk of the map the objects were read, if that was another walk.
    pub(super) age: Option<String>,
}

/// The main holder of each cell; `None` if objects were not read.
pub(super) fn held(
    report: &FragReport,
    extents: &[&MapExtent],
    pages_a_cell: usize,
) -> Option<Held> {
    let census = report.objects.as_deref()?;
    if census.page_owners.is_empty() {
        return None;
    }
    let most = most_pages(&census.page_owners);
    let names = most
        .iter()
        .map(|holder| match census.holders.get(*holder as usize) {
            Some(holder) => visible(sentences::names(holder)).to_string(),
            None => "unknown".to_owned(),
        });
    let value = |holder: u32| match most.iter().position(|one| *one == holder) {
        Some(at) => at as u8 + 1,
        // A name without a colour of its own.
        None => most.len() as u8 + 1,
    };
    let mut cells = Vec::new();
    for extent in extents {
        cells.extend(of_extent(&census.page_owners, extent, pages_a_cell).map(
            |holder| match holder {
                Some(holder) => value(holder),
                None => NOBODY,
            },
        ));
    }
    let age = report.taken_at_ns.saturating_sub(census.taken_at_ns);
    Some(Held {
        names: names.collect(),
        cells: packed(&cells),
        age: (age > 0).then(|| nanoseconds(age)),
    })
}

/// The holders with the most pages.
fn most_pages(owners: &[PageOwner]) -> Vec<u32> {
    let mut bytes: HashMap<u32, u64> = HashMap::new();
    for of in owners {
        *bytes.entry(of.holder).or_default() += of.range.len();
    }
    let mut most: Vec<(u64, u32)> = bytes.into_iter().map(|(of, sum)| (sum, of)).collect();
    most.sort_unstable_by(|a, b| b.cmp(a));
    most.truncate(NAMED);
    most.into_iter().map(|(_, holder)| holder).collect()
}

/// The holder of each cell of an extent: the one with most of its pages.
fn of_extent(
    owners: &[PageOwner],
    extent: &MapExtent,
    pages_a_cell: usize,
) -> impl Iterator<Item = Option<u32>> {
    let cell = pages_a_cell as u64 * PAGE_SIZE;
    let (start, end) = (extent.range.start().get(), extent.range.end().get());
    let mut next = owners.partition_point(|of| of.range.end().get() <= start);
    (start..end).step_by(cell as usize).map(move |from| {
        let to = (from + cell).min(end);
        let mut most = (0, None);
        while let Some(of) = owners.get(next) {
            let (first, last) = (of.range.start().get(), of.range.end().get());
            let common = last.min(to).saturating_sub(first.max(from));
            if common > most.0 {
                most = (common, Some(of.holder));
            }
            if last > to || first >= to {
                break;
            }
            next += 1;
        }
        most.1
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use profiler_core::addr::{AddrRange, RemoteAddr};
    use profiler_core::heap::Allocator;

    const BASE: u64 = 1 << 40;

    fn range(first: u64, pages: u64) -> AddrRange {
        AddrRange::with_len(RemoteAddr::new(BASE + first * PAGE_SIZE), pages * PAGE_SIZE)
            .expect("in the address space")
    }

    #[test]
    fn a_cell_is_whose_most_of_its_pages_are() {
        let owner = |first, pages, holder| PageOwner {
            range: range(first, pages),
            holder,
        };
        let owners = [
            owner(0, 3, 5),
            owner(3, 1, 6),
            owner(6, 4, 7),
            owner(20, 1, 5),
        ];
        let extent = MapExtent {
            allocator: Allocator::Glibc,
            arena: 0,
            range: range(2, 10),
            pages: Vec::new(),
        };
        let of = |pages_a_cell| of_extent(&owners, &extent, pages_a_cell).collect::<Vec<_>>();
        let (five, six, seven) = (Some(5), Some(6), Some(7));
        assert_eq!(
            of(1),
            [
                five, six, None, None, seven, seven, seven, seven, None, None
            ]
        );
        assert_eq!(of(3), [five, seven, seven, None]);
        assert_eq!(most_pages(&owners), [7, 5, 6]);
    }
}
