//! What a forked worker still shares with its parent, from the page tables of both.

use crate::addr::AddrRange;
use crate::residency::{MappingKind, PageState, ResidencyMap};

/// Private anonymous memory of a child against its parent's at the same addresses, in bytes of the
/// child's resident pages.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct ForkSharing {
    /// The parent, by its number in fragscope's own pid namespace.
    pub parent: i32,
    /// Not copied since the fork: one page for both.
    pub shared_bytes: u64,
    /// Each has a page of its own: a write of either broke the sharing. Memory at the same
    /// address that both mapped only after the fork is in it too, so it is a bound from above.
    pub copied_bytes: u64,
    /// Only the child has it.
    pub own_bytes: u64,
}

/// Compares the two.
pub fn sharing(parent: i32, of_parent: &ResidencyMap, of_child: &ResidencyMap) -> ForkSharing {
    let mut sharing = ForkSharing {
        parent,
        ..ForkSharing::default()
    };
    for mapping in of_child.mappings().iter().filter(|m| !m.shared) {
        if !is_anonymous(&mapping.kind) {
            continue;
        }
        for run in of_child.runs_in(mapping.range) {
            if run.state.is_resident() && !run.state.is_file() {
                compare(run.range, run.state, of_parent, &mut sharing);
            }
        }
    }
    sharing
}

fn compare(range: AddrRange, state: PageState, parent: &ResidencyMap, sharing: &mut ForkSharing) {
    let mut rest = range.len();
    for theirs in parent.runs_in(range) {
        if !theirs.state.has_data() || theirs.state.is_file() {
            continue;
        }
        let bytes = theirs.range.len();
        rest -= bytes;
        // A page that another child still shares is shared in the child only if in the parent too.
        if state.is_shared() && theirs.state.is_shared() {
            sharing.shared_bytes += bytes;
        } else {
            sharing.copied_bytes += bytes;
        }
    }
    sharing.own_bytes += rest;
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
    use crate::residency::{Mapping, PageRun};

    const BASE: u64 = 0x5555_0000_0000;

    fn map(states: &[PageState]) -> ResidencyMap {
        let range = |page: usize, pages: usize| {
            let start = RemoteAddr::new(BASE + page as u64 * PAGE_SIZE);
            AddrRange::with_len(start, pages as u64 * PAGE_SIZE).expect("a range")
        };
        let mut map = ResidencyMap::new(vec![Mapping {
            range: range(0, states.len()),
            kind: MappingKind::Brk,
            read: true,
            write: true,
            execute: false,
            shared: false,
            is_tmpfs: false,
            offset: 0,
            inode: 0,
        }]);
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
