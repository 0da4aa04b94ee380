//! From what the probes tell to the events of a trace.

use std::collections::{BTreeMap, HashMap, HashSet};

use profiler_common::RawEvent;
use profiler_trace::trace::{By, Event, EventKind, SeedBlock};

/// What times are rounded to: a trap takes longer, and what tells nothing takes room in the file.
const CLOCK_NS: u64 = 1000;

/// Follows which blocks live, so that the events are consistent: a free is of a block that lives, an
/// allocation at an address where none does.
///
/// glibc frees the blocks of a thread's cache once more when the thread ends; these frees, and those
/// of blocks whose allocation was lost, are of no block that is known, and are left out.
#[derive(Debug)]
pub(crate) struct Probed {
    /// When the recording began, on the monotonic clock.
    began_ns: u64,
    last_ns: u64,
    threads: HashMap<u32, Thread>,
    next_thread: u32,
    live: HashSet<u64>,
    /// Bytes of the blocks of the seed that still live, by address.
    seed: BTreeMap<u64, u64>,
    left_out: u64,
}

#[derive(Copy, Clone, Debug)]
struct Thread {
    number: u32,
    /// The block whose realloc it is in.
    resizes: Option<Freed>,
}

/// A block that lives no more, or will not when its realloc ends well.
#[derive(Copy, Clone, Debug)]
struct Freed {
    /// Its address in the trace.
    addr: u64,
    /// Its bytes, when it is of the seed.
    seeded: Option<u64>,
}

impl Probed {
    /// A stream that began at this time of the monotonic clock with these blocks.
    pub(crate) fn new(began_ns: u64, seed: &[SeedBlock]) -> Self {
        let live = seed.iter().filter(|block| block.live);
        let seed: BTreeMap<u64, u64> = live.map(|block| (block.addr, block.bytes)).collect();
        Self {
            began_ns,
            last_ns: 0,
            threads: HashMap::new(),
            next_thread: 0,
            live: seed.keys().copied().collect(),
            seed,
            left_out: 0,
        }
    }

    /// Gives these threads, by the kernel's number, the next numbers of the trace; where there is none,
    /// the number is that of a thread that ended before, which its event says.
    pub(crate) fn number(&mut self, tids: &[Option<u32>], mut emit: impl FnMut(Event)) {
        for tid in tids {
            match tid {
                Some(tid) => {
                    self.thread(*tid);
                }
                None => {
                    emit(Event {
                        time_ns: 0,
                        thread: self.next_thread,
                        kind: EventKind::ThreadEnd,
                    });
                    self.next_thread += 1;
                }
            }
        }
    }

    /// Nanoseconds since the recording began.
    pub(crate) fn time_ns(&self, monotonic_ns: u64) -> u64 {
        monotonic_ns.saturating_sub(self.began_ns)
    }

    /// Frees of no block that was known.
    pub(crate) fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Gives the events that one told comes to.
    pub(crate) fn events(&mut self, told: &RawEvent, mut emit: impl FnMut(Event)) {
        // The time is taken after the place in the order, so that it may step back a little.
        let time_ns = self.time_ns(told.time_ns);
        self.last_ns = self.last_ns.max(time_ns - time_ns % CLOCK_NS);
        let time_ns = self.last_ns;
        if told.kind == RawEvent::THREAD_END && !self.threads.contains_key(&told.tid) {
            return;
        }
        let thread = self.thread(told.tid);
        let mut emit = |kind| {
            emit(Event {
                time_ns,
                thread: thread.number,
                kind,
            });
        };
        let is_half = told.flags & RawEvent::REALLOC != 0;
        let resizes = match told.kind {
            RawEvent::LOST => thread.resizes,
            _ => self.set_resizes(told.tid, None),
        };
        let ends = told.kind == RawEvent::KEPT || told.kind == RawEvent::ALLOC && is_half;
        if let Some(gone) = resizes.filter(|_| !ends && told.kind != RawEvent::LOST) {
            // Its end was lost: the block is gone.
            emit(EventKind::Kept { addr: gone.addr });
            emit(EventKind::Free { addr: gone.addr });
        }
        match told.kind {
            RawEvent::ALLOC => {
                if !self.live.insert(told.addr) {
                    self.seed.remove(&told.addr);
                    // Its free was lost, or the walk already saw what a thread was being given.
                    emit(EventKind::Free { addr: told.addr });
                }
                let by = if told.flags & RawEvent::CALLOC != 0 {
                    By::Calloc
                } else if is_half && resizes.is_some() {
                    By::Realloc
                } else {
                    By::Malloc
                };
                emit(EventKind::Alloc {
                    addr: told.addr,
                    bytes: told.size,
                    align: told.align(),
                    by,
                });
            }
            RawEvent::FREE => match self.free(told.addr) {
                Some(freed) if is_half => {
                    self.set_resizes(told.tid, Some(freed));
                    emit(EventKind::Realloc { addr: freed.addr });
                }
                Some(freed) => emit(EventKind::Free { addr: freed.addr }),
                None => self.left_out += 1,
            },
            RawEvent::KEPT => {
                if let Some(Freed { addr, seeded }) = resizes {
                    self.live.insert(addr);
                    self.seed.extend(seeded.map(|bytes| (addr, bytes)));
                    emit(EventKind::Kept { addr });
                }
            }
            RawEvent::THREAD_END => {
                self.threads.remove(&told.tid);
                emit(EventKind::ThreadEnd);
            }
            RawEvent::EXEC => emit(EventKind::Exec),
            RawEvent::LOST => emit(EventKind::Lost { events: told.size }),
            // No other is told.
            _ => {}
        }
    }

    /// Notes that a block lives no more, if one is known there.
    fn free(&mut self, addr: u64) -> Option<Freed> {
        if self.live.remove(&addr) {
            let seeded = self.seed.remove(&addr);
            return Some(Freed { addr, seeded });
        }
        // A walk knows where a block lies, and not where in it an aligned one was given out.
        let (&at, &bytes) = self.seed.range(..addr).next_back()?;
        if addr - at >= bytes {
            return None;
        }
        self.live.remove(&at);
        let seeded = self.seed.remove(&at);
        Some(Freed { addr: at, seeded })
    }

    fn set_resizes(&mut self, tid: u32, block: Option<Freed>) -> Option<Freed> {
        let thread = self.threads.get_mut(&tid)?;
        std::mem::replace(&mut thread.resizes, block)
    }

    fn thread(&mut self, tid: u32) -> Thread {
        let next = &mut self.next_thread;
        *self.threads.entry(tid).or_insert_with(|| {
            *next += 1;
            Thread {
                number: *next - 1,
                resizes: None,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use EventKind as K;

    use super::*;

    fn told(kind: u16, flags: u16, addr: u64) -> RawEvent {
        RawEvent {
            time_ns: 1000,
            addr,
            size: 8,
            tid: 70,
            kind,
            flags,
        }
    }

    const ALLOC: u16 = RawEvent::ALLOC;
    const FREE: u16 = RawEvent::FREE;
    const HALF: u16 = RawEvent::REALLOC;

    fn play(all: &[RawEvent]) -> Vec<K> {
        let seed = [0x100, 0x200].map(|addr| SeedBlock {
            addr,
            bytes: 0x40,
            arena: 0,
            live: addr == 0x100,
        });
        let mut probed = Probed::new(1000, &seed);
        let mut events = Vec::new();
        for told in all {
            probed.events(told, |event| events.push(event.kind));
        }
        events
    }

    fn alloc(addr: u64, by: By) -> K {
        K::Alloc {
            addr,
            bytes: 8,
            align: 0,
            by,
        }
    }

    #[test]
    fn a_realloc_is_two_halves_and_one_that_fails_keeps_its_block() {
        let events = play(&[
            told(FREE, HALF, 0x110),
            told(RawEvent::KEPT, 0, 0x110),
            told(FREE, HALF, 0x110),
            told(ALLOC, HALF, 0x300),
            told(FREE, 0, 0x300),
        ]);
        assert_eq!(
            events,
            [
                K::Realloc { addr: 0x100 },
                K::Kept { addr: 0x100 },
                K::Realloc { addr: 0x100 },
                alloc(0x300, By::Realloc),
                K::Free { addr: 0x300 },
            ]
        );
    }

    #[test]
    fn frees_of_unknown_blocks_are_left_out_and_taken_addresses_freed_first() {
        let events = play(&[
            told(FREE, 0, 0x200),
            told(FREE, 0, 0x110),
            told(ALLOC, 0, 0x100),
            told(FREE, 0, 0x110),
            told(ALLOC, RawEvent::CALLOC, 0x300),
            told(ALLOC, 0, 0x300),
        ]);
        assert_eq!(
            events,
            [
                K::Free { addr: 0x100 },
                alloc(0x100, By::Malloc),
                alloc(0x300, By::Calloc),
                K::Free { addr: 0x300 },
                alloc(0x300, By::Malloc),
            ]
        );
    }

    #[test]
    fn a_realloc_whose_end_was_lost_is_a_free() {
        let events = play(&[
            told(FREE, HALF, 0x100),
            told(RawEvent::LOST, 0, 0),
            told(ALLOC, 0, 0x300),
            told(ALLOC, HALF, 0x400),
        ]);
        assert_eq!(
            events,
            [
                K::Realloc { addr: 0x100 },
                K::Lost { events: 8 },
                K::Kept { addr: 0x100 },
                K::Free { addr: 0x100 },
                alloc(0x300, By::Malloc),
                alloc(0x400, By::Malloc),
            ]
        );
    }

    #[test]
    fn threads_are_numbered_as_they_appear_and_end_once() {
        let mut probed = Probed::new(0, &[]);
        let mut seen = Vec::new();
        probed.number(&[Some(80), None], |event| seen.push(event.thread));
        for kind in [ALLOC, RawEvent::THREAD_END, RawEvent::THREAD_END, ALLOC] {
            probed.events(&told(kind, 0, 0x10), |event| seen.push(event.thread));
        }
        assert_eq!(seen, [1, 2, 2, 3, 3]);
    }
}
