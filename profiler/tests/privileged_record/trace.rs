//! A trace, read whole.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use profiler_trace::trace::{Checkpoint, Event, EventKind, Figures, Item, Reader, RecordedBy};

/// Blocks of one place are of one arena: a heap of glibc's thread arenas is aligned to 64 MiB.
pub(crate) fn place(addr: u64) -> u64 {
    addr >> 26
}

/// A trace, read whole.
#[derive(Default)]
pub(crate) struct Trace {
    pub(crate) seeded: usize,
    /// Where blocks of the seed lie, by arena.
    pub(crate) arenas: BTreeMap<u32, BTreeSet<u64>>,
    /// Live at the end: bytes and alignment as a power of two, by address.
    pub(crate) live: BTreeMap<u64, (u64, u8)>,
    pub(crate) events: Vec<Event>,
    pub(crate) checkpoints: Vec<Checkpoint>,
    pub(crate) lost: u64,
    /// Frees of blocks that did not live, allocations where one did.
    pub(crate) wrong: u64,
    pub(crate) whole: bool,
}

impl Trace {
    pub(crate) fn read(path: &Path) -> Self {
        let file = BufReader::new(File::open(path).expect("a trace"));
        let mut reader = Reader::new(file).expect("a trace");
        assert_eq!(reader.description().recorder, Some(RecordedBy::Probes));
        let mut trace = Self::default();
        while let Some(item) = reader.next_item().expect("sound") {
            match item {
                Item::Seed(blocks) => {
                    let live = blocks.iter().filter(|block| block.live);
                    trace.live.extend(live.map(|b| (b.addr, (b.bytes, 0))));
                    trace.seeded = trace.live.len();
                    for block in &blocks {
                        let places = trace.arenas.entry(block.arena).or_default();
                        places.insert(place(block.addr));
                    }
                }
                Item::Event(event) => trace.take(event),
                Item::Checkpoint(checkpoint) => trace.checkpoints.push(checkpoint),
            }
        }
        trace.whole = reader.is_complete();
        trace
    }

    fn take(&mut self, event: Event) {
        match event.kind {
            EventKind::Alloc {
                addr, bytes, align, ..
            } => {
                let before = self.live.insert(addr, (bytes, align));
                self.wrong += u64::from(before.is_some());
            }
            EventKind::Free { addr } | EventKind::Realloc { addr } => {
                let before = self.live.remove(&addr);
                self.wrong += u64::from(before.is_none());
            }
            EventKind::Kept { addr } => {
                // What it held is in no event: the walk has it.
                self.live.insert(addr, (0, 0));
            }
            EventKind::Lost { events } => self.lost += events,
            _ => {}
        }
        self.events.push(event);
    }

    pub(crate) fn count(&self, wanted: impl Fn(&EventKind) -> bool) -> usize {
        let kinds = self.events.iter().map(|event| &event.kind);
        kinds.filter(|kind| wanted(kind)).count()
    }

    /// The figures of the last checkpoint.
    pub(crate) fn last(&self) -> &Figures {
        &self.checkpoints.last().expect("a checkpoint").figures
    }

    /// Every block that the walk found lives, and no other, with a size that the allocator gives for
    /// what was asked.
    pub(crate) fn must_be(&self, walked: &BTreeMap<u64, (u64, bool)>) {
        let missing: Vec<_> = walked
            .keys()
            .filter(|a| !self.live.contains_key(a))
            .collect();
        let extra: Vec<_> = self
            .live
            .keys()
            .filter(|a| !walked.contains_key(a))
            .collect();
        assert!(
            missing.is_empty() && extra.is_empty(),
            "of {} blocks {missing:x?} are missing, {extra:x?} are no more",
            walked.len()
        );
        for (addr, (asked, align)) in &self.live {
            let (usable, mapped) = walked[addr];
            // A chunk is a multiple of 16 with 8 bytes for its size; a remainder below 32 bytes
            // stays with it. A mapping is of whole pages.
            let most = if mapped {
                asked + (8192 << align)
            } else {
                asked.max(&24) + 16 + 32
            };
            let fits = *asked == 0 || (*asked <= usable && usable < most);
            assert!(fits, "{addr:x}: {asked} asked, {usable} usable");
            assert_eq!(addr & ((1 << align) - 1), 0, "{addr:x} for 2^{align}");
        }
    }
}
