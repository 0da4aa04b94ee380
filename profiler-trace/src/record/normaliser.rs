//! Turns what a source recorded into the events of a trace.

use super::blocks::LiveBlocks;
use super::clock::Clock;
use super::forks::Fork;
use super::numbers::{Numbered, Numbers, RecordedProcess, SourceThread, ThreadLookup};
use super::source::{SourceEvent, SourceKind};
use crate::trace::{Event, EventKind, SeedBlock};

/// Events of a source that have no place in the trace, by the reason.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct LeftOut {
    /// There were too many processes or threads ([`MAX_PROCESSES`](super::MAX_PROCESSES),
    /// [`MAX_THREADS`](super::MAX_THREADS)). They count as lost.
    pub beyond_limit: u64,
    /// Their process had already recorded its end. They count as lost.
    pub after_exit: u64,
    /// Frees of unknown blocks.
    pub unknown_frees: u64,
}

impl LeftOut {
    /// Those that count as lost.
    fn lost(&self) -> u64 {
        self.beyond_limit + self.after_exit
    }
}

/// Assigns the trace's numbers to processes and threads, tracks forks, execs and ends, and keeps
/// the time. For a source that loses events ([`Self::for_lossy_source`]) it also tracks which
/// blocks are live.
///
/// It trusts nothing: events beyond its limits are counted and left out.
#[derive(Clone, Debug)]
pub struct Normaliser {
    clock: Clock,
    numbers: Numbers,
    blocks: Option<LiveBlocks>,
    left_out: LeftOut,
    /// How many of these were already reported as lost.
    given_as_lost: u64,
}

impl Normaliser {
    /// For a source without earlier blocks.
    pub fn new(clock: Clock) -> Self {
        Self {
            clock,
            numbers: Numbers::default(),
            blocks: None,
            left_out: LeftOut::default(),
            given_as_lost: 0,
        }
    }

    /// Of a source of one process that had these blocks, and which loses events: frees of unknown blocks
    /// are left out, and the ends of blocks that were lost are made up for.
    pub fn for_lossy_source(clock: Clock, seed: &[SeedBlock]) -> Self {
        Self {
            blocks: Some(LiveBlocks::new(seed)),
            ..Self::new(clock)
        }
    }

    /// The trace's time at a time of the source's clock. It is not before the last recorded time,
    /// and nothing later precedes it.
    pub(super) fn advance(&mut self, source_ns: u64) -> u64 {
        self.clock.next_ns(source_ns)
    }

    /// Events left out so far.
    pub fn left_out(&self) -> LeftOut {
        LeftOut {
            unknown_frees: self.blocks.as_ref().map_or(0, LiveBlocks::unknown_frees),
            ..self.left_out
        }
    }

    /// How many of those that were left out are not given as lost yet.
    pub(super) fn pending_losses(&self) -> u64 {
        self.left_out.lost() - self.given_as_lost
    }

    /// Gives them as lost.
    pub(super) fn take_pending_losses(&mut self) -> Option<Event> {
        let events = self.pending_losses();
        self.given_as_lost += events;
        (events > 0).then(|| self.lost(events))
    }

    /// `events` events have been lost so far. It is unknown which thread lost them, so the event is
    /// attributed to the first.
    pub(super) fn lost(&self, events: u64) -> Event {
        Event {
            time_ns: self.clock.last_ns(),
            thread: 0,
            kind: EventKind::Lost { events },
        }
    }

    /// The process with this number of the source's, which may have ended.
    pub fn process(&self, source: u64) -> Option<RecordedProcess> {
        self.numbers.process(source)
    }

    /// The processes that have not reported their end, by their numbers.
    pub fn running(&self) -> Vec<RecordedProcess> {
        self.numbers.running()
    }

    /// Whether any process has recorded something.
    pub fn has_any(&self) -> bool {
        self.numbers.has_any()
    }

    /// How many forked children are expected that have not recorded anything.
    pub fn expected_children(&self) -> usize {
        self.numbers.announced()
    }

    /// Bytes of the tables of processes and threads, about.
    pub fn table_bytes(&self) -> u64 {
        self.numbers.table_bytes()
    }

    /// Assigns the next numbers to these threads of a process; where there is no thread, the number
    /// belongs to a thread that ended before, which its event says.
    pub fn number_threads(
        &mut self,
        process: u64,
        threads: &[Option<u64>],
        mut emit: impl FnMut(Event),
    ) {
        for thread in threads {
            match thread {
                Some(thread) => {
                    // A thread beyond the limit is left out when it comes.
                    let _ = self.numbers.begin_thread((process, *thread));
                }
                None => {
                    let ended = self.numbers.skip_thread();
                    ended.into_iter().for_each(|thread| {
                        emit(Event {
                            time_ns: 0,
                            thread,
                            kind: EventKind::ThreadEnd,
                        });
                    });
                }
            }
        }
    }

    /// Emits the events for one event of the source, each with the number of its process.
    pub fn push(&mut self, event: &SourceEvent, mut emit: impl FnMut(u32, Event)) {
        let time_ns = self.advance(event.time_ns);
        if let SourceKind::Event(EventKind::Lost { events }) = event.kind {
            // Whether the thread is known or not.
            emit(0, self.lost(events));
            return;
        }
        let id = (event.process, event.thread);
        let mut emit = |of: Numbered, kind| {
            let thread = of.thread;
            let event = Event {
                time_ns,
                thread,
                kind,
            };
            emit(of.process, event);
        };
        match event.kind {
            SourceKind::Start => {
                if let Some(main) = self.numbers.begin_program(id) {
                    apply(&mut self.blocks, main, EventKind::Exec, &mut emit);
                }
            }
            SourceKind::Forked {
                process,
                thread,
                fork: number,
            } => {
                let parent = (process, thread);
                self.numbers.begin_forked(id, Fork { parent, number });
            }
            SourceKind::Forking { .. }
            | SourceKind::Ending
            | SourceKind::Leaving
            | SourceKind::Event(_) => {}
        }
        while let Some(child) = self.numbers.give_up_fork(time_ns) {
            emit(child, EventKind::Exit);
        }
        let of = match self.numbers.get(id) {
            ThreadLookup::Thread(of) => of,
            ThreadLookup::Ended => {
                self.left_out.after_exit += 1;
                return;
            }
            // Other threads of the process ran a little longer.
            ThreadLookup::Left => return,
            // It did nothing before.
            ThreadLookup::No if event.kind == EventKind::ThreadEnd.into() => return,
            ThreadLookup::No => {
                let Some(of) = self.numbers.begin_thread(id) else {
                    self.left_out.beyond_limit += 1;
                    return;
                };
                if of.process != 0 {
                    let process = of.process;
                    emit(of, EventKind::Begin { process });
                }
                of
            }
        };
        if let Some(kind) = self.conclude(id, event.kind, time_ns) {
            apply(&mut self.blocks, of, kind, &mut emit);
        }
    }

    /// The trace's event for an event of a known thread, if there is one.
    fn conclude(&mut self, id: SourceThread, kind: SourceKind, time_ns: u64) -> Option<EventKind> {
        let kind = match kind {
            SourceKind::Event(kind) => kind,
            SourceKind::Forking { fork: number } => {
                let fork = Fork { parent: id, number };
                let Some(child) = self.numbers.announce_fork(fork, time_ns) else {
                    self.left_out.beyond_limit += 1;
                    return None;
                };
                return Some(EventKind::Fork {
                    process: child.process,
                    child: child.thread,
                });
            }
            // Handled before the thread was known.
            SourceKind::Start | SourceKind::Forked { .. } => return None,
            // It frees and allocates nothing.
            SourceKind::Ending | SourceKind::Leaving => return None,
        };
        match kind {
            EventKind::ThreadEnd => self.numbers.end_thread(id),
            EventKind::Exit => {
                self.numbers.end(id.0);
            }
            // Not for a source to say.
            EventKind::Begin { .. } | EventKind::Fork { .. } | EventKind::Exec => return None,
            _ => {}
        }
        Some(kind)
    }

    /// The process with this number in the source is gone without having recorded that: returns its
    /// end at this time of the source's clock, unless it is known.
    pub fn gone(&mut self, source: u64, source_ns: u64) -> Option<(u32, Event)> {
        let ended = self.numbers.end(source)?;
        Some(self.end_of(ended, source_ns))
    }

    /// The same for a process that one of its threads ended at this time: what its other threads
    /// did at that moment changes nothing any more, and is left out.
    pub fn left(&mut self, source: u64, source_ns: u64) -> Option<(u32, Event)> {
        let ended = self.numbers.leave(source)?;
        Some(self.end_of(ended, source_ns))
    }

    fn end_of(&mut self, ended: RecordedProcess, source_ns: u64) -> (u32, Event) {
        let event = Event {
            time_ns: self.advance(source_ns),
            thread: ended.main_thread,
            kind: EventKind::Exit,
        };
        (ended.process, event)
    }
}

/// Gives an event, of blocks that live if these are followed.
fn apply(
    blocks: &mut Option<LiveBlocks>,
    of: Numbered,
    kind: EventKind,
    emit: &mut impl FnMut(Numbered, EventKind),
) {
    match blocks {
        Some(blocks) => blocks.apply(of.thread, kind, |kind| emit(of, kind)),
        None => emit(of, kind),
    }
}

#[cfg(test)]
mod tests;
