//! How much of large live blocks is on pages that were ever touched.

use std::collections::BTreeMap;

use profiler_core::addr::{AddrRange, RemoteAddr};
use profiler_core::residency::ResidencyMap;
use profiler_trace::trace::EventKind;

/// Blocks of so many bytes are looked at: smaller ones are touched by their use, nearly always.
const LARGE: u64 = 128 << 10;
/// So many are told of at one checkpoint, the largest first.
const MOST: usize = 4096;

/// The large live blocks of one process.
#[derive(Clone, Debug, Default)]
pub(crate) struct LargeBlocks {
    live: BTreeMap<u64, Block>,
    /// Those whose realloc is under way.
    resized: BTreeMap<u64, Block>,
}

#[derive(Copy, Clone, Debug)]
struct Block {
    bytes: u64,
    /// What was last told of it.
    touched: Option<u64>,
}

impl LargeBlocks {
    /// Takes in an event of the process.
    pub(crate) fn note(&mut self, event: &EventKind) {
        match *event {
            EventKind::Alloc { addr, bytes, .. } => self.add(addr, bytes),
            EventKind::Free { addr } => {
                self.live.remove(&addr);
            }
            EventKind::Realloc { addr } => {
                let block = self.live.remove(&addr);
                self.resized.extend(block.map(|block| (addr, block)));
            }
            EventKind::Kept { addr } => {
                let block = self.resized.remove(&addr);
                self.live.extend(block.map(|block| (addr, block)));
            }
            EventKind::Exec => *self = Self::default(),
            _ => {}
        }
    }

    /// Takes in a block that was there before.
    pub(crate) fn add(&mut self, addr: u64, bytes: u64) {
        self.live.remove(&addr);
        self.resized.remove(&addr);
        if bytes >= LARGE {
            let touched = None;
            self.live.insert(addr, Block { bytes, touched });
        }
    }

    /// What changed since the last look: the bytes of each block that lie on resident or swapped
    /// pages.
    pub(crate) fn touched(&mut self, residency: &ResidencyMap) -> Vec<EventKind> {
        let mut all: Vec<_> = self.live.iter_mut().collect();
        all.sort_by_key(|(_, block)| std::cmp::Reverse(block.bytes));
        let mut changed = Vec::new();
        for (&addr, block) in all.into_iter().take(MOST) {
            let bytes = bytes_on_pages(residency, addr, block.bytes);
            if block.touched.replace(bytes) != Some(bytes) {
                changed.push(EventKind::Touched { addr, bytes });
            }
        }
        changed
    }
}

fn bytes_on_pages(residency: &ResidencyMap, addr: u64, bytes: u64) -> u64 {
    let Some(block) = AddrRange::with_len(RemoteAddr::new(addr), bytes) else {
        return 0;
    };
    let runs = residency.runs_in(block);
    let there = runs.filter(|run| run.state.is_resident() || run.state.is_swapped());
    let within = there.map(|run| {
        let start = run.range.start().max(block.start());
        let end = run.range.end().min(block.end());
        end.get().saturating_sub(start.get())
    });
    within.sum()
}

#[cfg(test)]
mod tests {
    use profiler_core::residency::{Mapping, MappingKind, PageRun, PageState};
    use profiler_trace::trace::By;

    use super::*;

    fn range(start: u64, len: u64) -> AddrRange {
        AddrRange::with_len(RemoteAddr::new(start), len).expect("short")
    }

    fn alloc(addr: u64, bytes: u64) -> EventKind {
        EventKind::Alloc {
            addr,
            bytes,
            align: 0,
            by: By::Malloc,
        }
    }

    fn resident(runs: &[(u64, u64)]) -> ResidencyMap {
        let mut map = ResidencyMap::new(vec![Mapping {
            range: range(0, 1 << 30),
            kind: MappingKind::Anonymous,
            read: true,
            write: true,
            execute: false,
            shared: false,
            offset: 0,
            inode: 0,
        }]);
        for &(start, len) in runs {
            map.push_run(PageRun {
                range: range(start, len),
                state: PageState::PRESENT,
            });
        }
        map
    }

    #[test]
    fn only_large_live_blocks_are_told_and_only_what_changed() {
        let mut blocks = LargeBlocks::default();
        for event in [
            alloc(0x10_0010, LARGE),
            alloc(0x20_0010, LARGE),
            alloc(0x30_0010, LARGE - 1),
            EventKind::Free { addr: 0x20_0010 },
        ] {
            blocks.note(&event);
        }
        let map = resident(&[
            (0x10_0000, 0x2000),
            (0x11_f000, 0x2000),
            (0x30_0000, 0x1000),
        ]);
        let addr = 0x10_0010;
        let bytes = 0x1ff0 + 0x1000 + 0x10;
        let told = EventKind::Touched { addr, bytes };
        assert_eq!(blocks.touched(&map), [told]);
        assert_eq!(blocks.touched(&map), []);
        blocks.note(&EventKind::Realloc { addr });
        assert_eq!(blocks.touched(&resident(&[])), []);
        blocks.note(&EventKind::Kept { addr });
        let told = EventKind::Touched { addr, bytes: 0 };
        assert_eq!(blocks.touched(&resident(&[])), [told]);
    }
}
