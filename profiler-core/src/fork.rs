//! Pages that a forked worker still shares with its parent, from both page tables.

use crate::addr::AddrRange;
use crate::residency::{MappingKind, PageRun, ResidencyMap};

/// A child's private anonymous memory compared with its parent's at the same addresses, in bytes of
/// the child's resident pages.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct ForkSharing {
    /// The parent's pid in fragscope's own pid namespace.
    pub parent: i32,
    /// Not copied since the fork: one page for both.
    pub shared_bytes: u64,
    /// Each process has its own page: a write by either broke the sharing. Memory that both mapped
    /// at the same address only after the fork is included, so this is an upper bound.
    pub copied_bytes: u64,
    /// Pages that only the child has.
    pub own_bytes: u64,
}

/// Compares the two.
pub fn sharing(parent: i32, of_parent: &ResidencyMap, of_child: &ResidencyMap) -> ForkSharing {
    let mut sharing = ForkSharing {
        parent,
        ..ForkSharing::default()
    };
    for run in of_its_own(of_child) {
        let mut rest = run.range.len();
        for (range, is_shared) in of_both(run, of_parent) {
            rest -= range.len();
            match is_shared {
                true => sharing.shared_bytes += range.len(),
                false => sharing.copied_bytes += range.len(),
            }
        }
        sharing.own_bytes += rest;
    }
    sharing
}

/// The pages of [`ForkSharing::copied_bytes`], ascending.
pub fn copied(of_parent: &ResidencyMap, of_child: &ResidencyMap) -> Vec<AddrRange> {
    let runs = of_its_own(of_child);
    let pages = runs.flat_map(|run| of_both(run, of_parent));
    let copied = pages.filter(|(_, is_shared)| !is_shared);
    copied.map(|(range, _)| range).collect()
}

/// Resident runs of private anonymous pages.
fn of_its_own(map: &ResidencyMap) -> impl Iterator<Item = PageRun> + '_ {
    let mappings = map.mappings().iter();
    let private = mappings.filter(|mapping| !mapping.shared && is_anonymous(&mapping.kind));
    let runs = private.flat_map(|mapping| map.runs_in(mapping.range));
    runs.filter(|run| run.state.is_resident() && !run.state.is_file())
}

/// The parts of a run that the parent has pages at, too, and whether they are one page for both.
fn of_both(run: PageRun, parent: &ResidencyMap) -> impl Iterator<Item = (AddrRange, bool)> + '_ {
    let theirs = parent
        .runs_in(run.range)
        .filter(|theirs| theirs.state.has_data() && !theirs.state.is_file());
    // A page that another child still shares is shared in the child only if in the parent too.
    theirs.map(move |theirs| {
        let is_shared = run.state.is_shared() && theirs.state.is_shared();
        (theirs.range, is_shared)
    })
}

fn is_anonymous(kind: &MappingKind) -> bool {
    matches!(
        kind,
        MappingKind::Brk
            | MappingKind::Stack
            | MappingKind::Anonymous
            | MappingKind::NamedAnonymous(_)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::{PAGE_SIZE, RemoteAddr};
    use crate::residency::{Mapping, PageState};

    const BASE: u64 = 0x5555_0000_0000;

    fn map(states: &[PageState]) -> ResidencyMap {
        let range = |page: usize, pages: usize| {
            let start = RemoteAddr::new(BASE + page as u64 * PAGE_SIZE);
            AddrRange::with_len(start, pages as u64 * PAGE_SIZE).expect("a range")
        };
        let mut map = ResidencyMap::new(vec![Mapping::private(
            range(0, states.len()),
            MappingKind::Brk,
        )]);
        for (page, &state) in states.iter().enumerate() {
            map.push_run(PageRun {
                range: range(page, 1),
                state,
            });
        }
        map
    }

    #[test]
    fn each_resident_page_of_the_child_is_shared_copied_or_its_own() {
        let (own, shared) = (
            PageState::PRESENT,
            PageState::PRESENT.with(PageState::SHARED),
        );
        let zero = PageState::PRESENT.with(PageState::ZERO);
        let parent = map(&[
            shared,
            shared,
            own,
            PageState::ABSENT,
            zero,
            PageState::SWAPPED,
            own,
        ]);
        let child = map(&[shared, own, own, own, own, own, PageState::ABSENT, own]);
        let found = sharing(7, &parent, &child);
        assert_eq!(
            found,
            ForkSharing {
                parent: 7,
                shared_bytes: PAGE_SIZE,
                copied_bytes: 3 * PAGE_SIZE,
                own_bytes: 3 * PAGE_SIZE,
            }
        );
    }
}
