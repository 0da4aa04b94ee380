//! Forks that were announced and whose children have not recorded anything yet.

use std::collections::{BTreeMap, HashMap};

use super::numbers::{MAX_THREADS, Numbered, SourceThread};

/// A child that has not recorded anything for this many ns does not exist: its fork failed.
const FAILED_AFTER_NS: u64 = 10_000_000_000;

/// A fork, as its parent and its child identify it.
#[derive(Copy, Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Fork {
    /// The thread that forks.
    pub(super) parent: SourceThread,
    /// Which of its forks this is, so that no child is mistaken for one whose fork failed, or for
    /// one of another process that had the same number before.
    pub(super) number: u64,
}

/// Announced forks. Each child has its numbers already.
#[derive(Clone, Debug, Default)]
pub(super) struct AnnouncedForks {
    /// The children's processes, which are numbered in the order of the announcements.
    processes: HashMap<Fork, u32>,
    by_process: BTreeMap<u32, Announced>,
}

#[derive(Clone, Debug)]
struct Announced {
    fork: Fork,
    child_thread: u32,
    /// When, by the trace's time.
    time_ns: u64,
}

impl AnnouncedForks {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.by_process.len()
    }

    /// Whether one more may be announced.
    pub(super) fn has_room(&self) -> bool {
        self.len() < MAX_THREADS
    }

    /// A thread is about to fork this child.
    pub(super) fn announce(&mut self, fork: Fork, child: Numbered, time_ns: u64) {
        let announced = Announced {
            fork,
            child_thread: child.thread,
            time_ns,
        };
        self.processes.insert(fork, child.process);
        self.by_process.insert(child.process, announced);
    }

    /// The child of this fork begins: its numbers, if it was announced and not given up.
    pub(super) fn begin(&mut self, fork: Fork) -> Option<Numbered> {
        let process = self.processes.remove(&fork)?;
        self.give_back_room();
        let announced = self.by_process.remove(&process)?;
        Some(Numbered {
            process,
            thread: announced.child_thread,
        })
    }

    /// Gives up the oldest if it was announced long enough ago that its fork must have failed.
    pub(super) fn give_up(&mut self, time_ns: u64) -> Option<Numbered> {
        let oldest = self.by_process.first_entry()?;
        if time_ns - oldest.get().time_ns.min(time_ns) < FAILED_AFTER_NS {
            return None;
        }
        let (process, announced) = oldest.remove_entry();
        // A forged fork may have been announced twice: then the later one is still expected.
        if self.processes.get(&announced.fork) == Some(&process) {
            self.processes.remove(&announced.fork);
            self.give_back_room();
        }
        Some(Numbered {
            process,
            thread: announced.child_thread,
        })
    }

    /// Bytes of the tables, about.
    pub(super) fn table_bytes(&self) -> u64 {
        let processes = self.processes.capacity() * size_of::<(Fork, u32)>();
        // Nodes are half full at least.
        let announced = 2 * self.by_process.len() * size_of::<(u32, Announced)>();
        (processes + announced) as u64
    }

    fn give_back_room(&mut self) {
        if self.processes.len() < self.processes.capacity() / 4 {
            self.processes.shrink_to(2 * self.processes.len());
        }
    }

    #[cfg(test)]
    pub(super) fn check(&self) {
        assert!(self.len() <= MAX_THREADS);
        assert!(self.processes.len() <= self.len());
        let room = self.processes.capacity();
        assert!(room <= 8 * self.processes.len() + 4, "{room}");
    }
}
