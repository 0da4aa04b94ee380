//! How much of large live blocks ([`LARGE_BYTES`] and more) is on pages that were ever touched.

use std::collections::{BTreeMap, HashMap};

use profiler_common::program::LARGE_BYTES;
use profiler_core::addr::{AddrRange, RemoteAddr};
use profiler_core::residency::ResidencyMap;

use crate::trace::{Event, EventKind, SeedBlock};

/// At most this many are recorded at one checkpoint, the largest first.
const MAX_AT_CHECKPOINT: usize = 4096;
/// At most this many large blocks are kept, for all processes together.
const MAX_KEPT: usize = 1 << 20;
/// At most this many are copied at a fork, those at the lowest addresses: each takes about 100 ns,
/// during which nothing else is recorded.
const MAX_COPIED: usize = 64 << 10;

/// The large live blocks of one process.
#[derive(Clone, Debug, Default)]
struct ProcessBlocks {
    live: BTreeMap<u64, Block>,
    /// Those whose realloc is under way, with their addresses, by the thread that reallocates them.
    resized: HashMap<u32, (u64, Block)>,
}

#[derive(Copy, Clone, Debug)]
struct Block {
    bytes: u64,
    /// The last recorded value of it.
    touched: Option<u64>,
}

impl ProcessBlocks {
    /// Takes in an event of the process.
    fn note(&mut self, event: &Event) {
        // Whatever a thread does next ends its realloc.
        let resized = match self.resized.is_empty() {
            true => None,
            false => self.resized.remove(&event.thread),
        };
        match event.kind {
            EventKind::Alloc { addr, bytes, .. } => self.add(addr, bytes),
            EventKind::Free { addr } => {
                self.live.remove(&addr);
            }
            EventKind::Realloc { addr } => {
                let block = self.live.remove(&addr);
                let resized = block.map(|block| (event.thread, (addr, block)));
                self.resized.extend(resized);
            }
            EventKind::Kept { .. } => self.live.extend(resized),
            EventKind::Exec => *self = Self::default(),
            _ => {}
        }
    }

    /// Takes in a live block.
    fn add(&mut self, addr: u64, bytes: u64) {
        self.live.remove(&addr);
        if bytes >= LARGE_BYTES {
            let touched = None;
            self.live.insert(addr, Block { bytes, touched });
        }
    }

    /// A copy for a forked child, in which no other thread ends its realloc.
    fn copy(&self) -> Self {
        let first = self.live.iter().take(MAX_COPIED);
        Self {
            live: first.map(|(&addr, &block)| (addr, block)).collect(),
            resized: HashMap::new(),
        }
    }

    /// How many are kept.
    fn len(&self) -> usize {
        self.live.len() + self.resized.len()
    }

    /// What changed since the last checkpoint: the bytes of each block that are on resident or
    /// swapped pages.
    fn touched(&mut self, residency: &ResidencyMap) -> Vec<EventKind> {
        let mut all: Vec<_> = self.live.iter_mut().collect();
        all.sort_by_key(|(_, block)| std::cmp::Reverse(block.bytes));
        let mut changed = Vec::new();
        for (&addr, block) in all.into_iter().take(MAX_AT_CHECKPOINT) {
            let bytes = bytes_on_pages(residency, addr, block.bytes);
            if block.touched.replace(bytes) != Some(bytes) {
                changed.push(EventKind::Touched { addr, bytes });
            }
        }
        changed
    }
}

/// The large live blocks of many processes, by the trace's number of each.
#[derive(Clone, Debug, Default)]
pub(super) struct LargeBlocks {
    by_process: HashMap<u32, ProcessBlocks>,
    /// The number of blocks of all processes, plus one for each process.
    kept: usize,
}

impl LargeBlocks {
    /// Takes in an earlier block of the first process.
    pub(super) fn seed(&mut self, block: &SeedBlock) {
        if block.bytes >= LARGE_BYTES && self.kept < MAX_KEPT {
            self.add(0, |blocks| blocks.add(block.addr, block.bytes));
        }
    }

    /// Takes in an event of a process. Blocks beyond the limit are not tracked.
    pub(super) fn note(&mut self, process: u32, event: &Event) {
        match event.kind {
            EventKind::Fork { process: child, .. } => {
                let parent = self.by_process.get(&process);
                let fits = parent.filter(|blocks| self.kept + blocks.len() < MAX_KEPT);
                if let Some(copy) = fits.map(ProcessBlocks::copy) {
                    self.remove(child);
                    self.kept += copy.len() + 1;
                    self.by_process.insert(child, copy);
                }
            }
            EventKind::Exit => self.remove(process),
            EventKind::Alloc { addr, bytes, .. } if bytes >= LARGE_BYTES => {
                if self.kept < MAX_KEPT {
                    self.add(process, |blocks| blocks.note(event));
                } else {
                    // The earlier blocks are gone.
                    let kind = EventKind::Free { addr };
                    self.note(process, &Event { kind, ..*event });
                }
            }
            _ => {
                if let Some(blocks) = self.by_process.get_mut(&process) {
                    let before = blocks.len();
                    blocks.note(event);
                    self.kept = self.kept - before + blocks.len();
                }
            }
        }
    }

    /// Takes in a large block of a process, perhaps its first.
    fn add(&mut self, process: u32, add: impl FnOnce(&mut ProcessBlocks)) {
        let blocks = self.by_process.entry(process).or_insert_with(|| {
            self.kept += 1;
            ProcessBlocks::default()
        });
        let before = blocks.len();
        add(blocks);
        self.kept = self.kept - before + blocks.len();
    }

    /// What changed for a process since its last checkpoint, as in [`ProcessBlocks::touched`].
    pub(super) fn touched(&mut self, process: u32, residency: &ResidencyMap) -> Vec<EventKind> {
        let blocks = self.by_process.get_mut(&process);
        blocks.map_or_else(Vec::new, |blocks| blocks.touched(residency))
    }

    fn remove(&mut self, process: u32) {
        if let Some(blocks) = self.by_process.remove(&process) {
            self.kept -= blocks.len() + 1;
        }
    }
}

fn bytes_on_pages(residency: &ResidencyMap, addr: u64, bytes: u64) -> u64 {
    let Some(block) = AddrRange::with_len(RemoteAddr::new(addr), bytes) else {
        return 0;
    };
    residency.data_bytes(block)
}

#[cfg(test)]
mod tests {
    use profiler_core::residency::{Mapping, MappingKind, PageRun, PageState};

    use super::*;
    use crate::trace::By;

    fn range(start: u64, len: u64) -> AddrRange {
        AddrRange::with_len(RemoteAddr::new(start), len).expect("short")
    }

    fn of(thread: u32, kind: EventKind) -> Event {
        Event {
            time_ns: 0,
            thread,
            kind,
        }
    }

    fn alloc(addr: u64, bytes: u64) -> Event {
        moved(0, addr, bytes, By::Malloc)
    }

    fn moved(thread: u32, addr: u64, bytes: u64, by: By) -> Event {
        let align = 0;
        let kind = EventKind::Alloc {
            addr,
            bytes,
            align,
            by,
        };
        of(thread, kind)
    }

    fn resident(runs: &[(u64, u64)]) -> ResidencyMap {
        let mut map = ResidencyMap::new(vec![Mapping::private(
            range(0, 1 << 30),
            MappingKind::Anonymous,
        )]);
        for &(start, len) in runs {
            map.push_run(PageRun {
                range: range(start, len),
                state: PageState::PRESENT,
            });
        }
        map
    }

    #[test]
    fn only_large_live_blocks_are_recorded_and_only_what_changed() {
        let mut blocks = ProcessBlocks::default();
        for event in [
            alloc(0x10_0010, LARGE_BYTES),
            alloc(0x20_0010, LARGE_BYTES),
            alloc(0x30_0010, LARGE_BYTES - 1),
            of(0, EventKind::Free { addr: 0x20_0010 }),
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
        let expected = EventKind::Touched { addr, bytes };
        assert_eq!(blocks.touched(&map), [expected]);
        assert_eq!(blocks.touched(&map), []);
        blocks.note(&of(0, EventKind::Realloc { addr }));
        assert_eq!(blocks.touched(&resident(&[])), []);
        blocks.note(&of(0, EventKind::Kept { addr }));
        let expected = EventKind::Touched { addr, bytes: 0 };
        assert_eq!(blocks.touched(&resident(&[])), [expected]);
    }

    #[test]
    fn a_realloc_holds_one_block_of_its_thread_until_the_thread_goes_on() {
        let mut all = LargeBlocks::default();
        for number in 0..1000 {
            let addr = (number + 1) << 20;
            all.note(0, &alloc(addr, LARGE_BYTES));
            all.note(0, &of(0, EventKind::Realloc { addr }));
            assert_eq!(all.kept, 2);
            // Another thread does not end it.
            let free = EventKind::Free { addr: 0x10 };
            all.note(0, &of(1, free));
            assert_eq!(all.kept, 2);
            all.note(0, &moved(0, 0x10, LARGE_BYTES, By::Realloc));
            assert_eq!(all.kept, 2, "the old block is no more");
            all.note(0, &of(0, free));
            assert_eq!(all.kept, 1);
        }
    }

    #[test]
    fn a_fork_copies_no_more_than_takes_a_moment() {
        let mut all = LargeBlocks::default();
        for number in 0..2 * MAX_COPIED as u64 {
            all.note(0, &alloc(number << 20, LARGE_BYTES));
        }
        for child in 1..4 {
            let process = child;
            all.note(0, &of(0, EventKind::Fork { process, child }));
            assert_eq!(all.by_process[&child].len(), MAX_COPIED);
        }
        assert_eq!(all.kept, 5 * MAX_COPIED + 4);
    }

    #[test]
    fn large_blocks_of_all_processes_together_meet_a_limit() {
        let mut all = LargeBlocks::default();
        let fork = |child| {
            let process = child;
            of(0, EventKind::Fork { process, child })
        };
        for number in 0..1000 {
            all.note(0, &alloc(number << 20, LARGE_BYTES));
        }
        for child in 1..=2000 {
            all.note(0, &fork(child));
        }
        let count = |all: &LargeBlocks| -> usize {
            all.by_process.values().map(|blocks| blocks.len() + 1).sum()
        };
        assert!(all.kept <= MAX_KEPT, "{}", all.kept);
        for number in 0..MAX_KEPT as u64 {
            all.note(1, &alloc(number << 20, LARGE_BYTES));
        }
        assert_eq!((all.kept, count(&all)), (MAX_KEPT, MAX_KEPT));
        for process in 0..=2000 {
            all.note(process, &of(0, EventKind::Exit));
        }
        assert_eq!((all.kept, count(&all)), (0, 0));
    }
}
