//! From what a source recorded to the events of a trace.

use super::blocks::LiveBlocks;
use super::forks::Fork;
use super::numbers::{Known, Numbered, Numbers, RecordedProcess, SourceThread};
use super::source::{SourceEvent, SourceKind};
use crate::trace::{Event, EventKind, SeedBlock};

/// The trace's time: nanoseconds since the recording began, which never step back. (A source takes the
/// time after the place in the order, or on another processor, so that its times may do so by a little.)
#[derive(Copy, Clone, Debug)]
pub struct Clock {
    began_ns: u64,
    step_ns: u64,
    last_ns: u64,
}

impl Clock {
    /// Of a recording that began at this time of its source's clock. Times are rounded down to steps of
    /// `step_ns`: more digits than a source's clock is worth take room in the file.
    pub fn new(began_ns: u64, step_ns: u64) -> Self {
        Self {
            began_ns,
            step_ns: step_ns.max(1),
            last_ns: 0,
        }
    }

    fn next_ns(&mut self, source_ns: u64) -> u64 {
        let time_ns = source_ns.saturating_sub(self.began_ns);
        self.last_ns = self.last_ns.max(time_ns - time_ns % self.step_ns);
        self.last_ns
    }
}

/// Events of a source that have no place in the trace, by the reason.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct LeftOut {
    /// There were too many processes or threads ([`MOST_PROCESSES`](super::MOST_PROCESSES),
    /// [`MOST_THREADS`](super::MOST_THREADS)). They count as lost.
    pub beyond_limit: u64,
    /// Their process had recorded its end before. They count as lost.
    pub after_exit: u64,
    /// Frees of blocks of which nothing was known.
    pub unknown_frees: u64,
}

impl LeftOut {
    /// Those that count as lost.
    fn lost(&self) -> u64 {
        self.beyond_limit + self.after_exit
    }
}

/// Gives processes and threads the trace's numbers, follows forks, execs and ends, and keeps the time.
/// Of a source that loses events ([`Self::for_lossy_source`]) it also follows which blocks live.
///
/// It trusts nothing: what is beyond its limits is counted and left out.
#[derive(Clone, Debug)]
pub struct Normaliser {
    clock: Clock,
    numbers: Numbers,
    blocks: Option<LiveBlocks>,
    left_out: LeftOut,
    /// Of these, so many were given as lost.
    given_as_lost: u64,
}

impl Normaliser {
    /// Of a source of which nothing was there before.
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

    /// The trace's time at a time of the source's clock. It is not before that of what was recorded
    /// last, and nothing later precedes it.
    pub(super) fn advance(&mut self, source_ns: u64) -> u64 {
        self.clock.next_ns(source_ns)
    }

    /// Events that were left out so far.
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

    /// So many events were lost by now. Whose they were is not known: they are of no thread, for which
    /// the first one stands.
    pub(super) fn lost(&self, events: u64) -> Event {
        Event {
            time_ns: self.clock.last_ns,
            thread: 0,
            kind: EventKind::Lost { events },
        }
    }

    /// The process with this number of the source's, which may have ended.
    pub fn process(&self, source: u64) -> Option<RecordedProcess> {
        self.numbers.process(source)
    }

    /// The processes that have not ended, as far as they say, by their numbers.
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

    /// Gives these threads of a process the next numbers; where there is none, the number is that of a
    /// thread that ended before, which its event says.
    pub fn number_threads(
        &mut self,
        process: u64,
        threads: &[Option<u64>],
        mut emit: impl FnMut(Event),
    ) {
        for thread in threads {
            match thread {
                Some(thread) => {
                    // One beyond the limit is left out when it comes.
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

    /// Gives the events that one of the source comes to, each with the number of its process.
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
            SourceKind::Forking { .. } | SourceKind::Event(_) => {}
        }
        while let Some(child) = self.numbers.give_up_fork(time_ns) {
            emit(child, EventKind::Exit);
        }
        let of = match self.numbers.get(id) {
            Known::Thread(of) => of,
            Known::Ended => {
                self.left_out.after_exit += 1;
                return;
            }
            // It did nothing before.
            Known::No if event.kind == EventKind::ThreadEnd.into() => return,
            Known::No => {
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

    /// What an event of a known thread is in the trace, if it is there.
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
            // Taken in before the thread was known.
            SourceKind::Start | SourceKind::Forked { .. } => return None,
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

    /// The process with this number of the source's is gone without having recorded that: gives its end
    /// at this time of the source's clock, unless it is known.
    pub fn gone(&mut self, source: u64, source_ns: u64) -> Option<(u32, Event)> {
        let ended = self.numbers.end(source)?;
        let event = Event {
            time_ns: self.advance(source_ns),
            thread: ended.main_thread,
            kind: EventKind::Exit,
        };
        Some((ended.process, event))
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
mod tests {
    use EventKind as K;
    use SourceKind as S;

    use super::*;
    use crate::trace::By;

    /// The highest number that the kernel gives to a process.
    const HIGHEST_PID: u64 = 1 << profiler_common::PID_BITS;
    const FREE: S = S::Event(K::Free { addr: 0x10 });

    fn of(process: u64, thread: u64, kind: impl Into<S>) -> SourceEvent {
        SourceEvent {
            time_ns: 1000,
            process,
            thread,
            kind: kind.into(),
        }
    }

    fn forking(fork: u64) -> S {
        S::Forking { fork }
    }

    /// The first event of a child of thread 7 of process 7.
    fn forked(fork: u64) -> S {
        S::Forked {
            process: 7,
            thread: 7,
            fork,
        }
    }

    fn play(all: &[SourceEvent]) -> Vec<(u32, u32, EventKind)> {
        let mut normaliser = Normaliser::new(Clock::new(1000, 1));
        let mut events = Vec::new();
        for event in all {
            normaliser.push(event, |process, event| {
                events.push((process, event.thread, event.kind));
            });
        }
        events
    }

    #[test]
    fn a_forked_child_is_a_process_of_its_own_even_when_its_parent_comes_first() {
        let events = play(&[
            of(7, 7, S::Start),
            of(7, 7, forking(1)),
            of(7, 7, FREE),
            of(8, 8, forked(1)),
            of(8, 8, FREE),
            of(8, 9, FREE),
        ]);
        let fork = EventKind::Fork {
            process: 1,
            child: 1,
        };
        let free = EventKind::Free { addr: 0x10 };
        assert_eq!(
            events,
            [
                (0, 0, fork),
                (0, 0, free),
                (1, 1, free),
                (1, 2, EventKind::Begin { process: 1 }),
                (1, 2, free),
            ]
        );
    }

    #[test]
    fn a_child_takes_the_place_of_no_other_whose_fork_failed() {
        let late = 1000 + 10_000_000_000;
        let after = |time_ns, event| SourceEvent { time_ns, ..event };
        let events = play(&[
            of(7, 7, S::Start),
            of(7, 7, forking(1)),
            of(7, 7, forking(2)),
            of(8, 8, forked(2)),
            of(8, 8, FREE),
            after(late - 1, of(7, 7, FREE)),
            after(late, of(7, 7, FREE)),
            // What was given up is another program when it comes after all.
            after(late, of(9, 9, forked(1))),
        ]);
        let fork = |child| K::Fork {
            process: child,
            child,
        };
        let free = K::Free { addr: 0x10 };
        assert_eq!(
            events,
            [
                (0, 0, fork(1)),
                (0, 0, fork(2)),
                (2, 2, free),
                (0, 0, free),
                (1, 1, K::Exit),
                (0, 0, free),
                (3, 3, K::Begin { process: 3 }),
            ]
        );
    }

    #[test]
    fn a_number_that_is_used_again_has_no_children_of_the_process_before() {
        let events = play(&[
            of(7, 7, S::Start),
            of(7, 7, forking(1)),
            of(7, 7, K::Exit),
            of(7, 7, S::Start),
            of(7, 7, forking(1)),
            of(8, 8, forked(1)),
            of(8, 8, FREE),
        ]);
        let fork = |process, child| K::Fork { process, child };
        assert_eq!(
            events,
            [
                (0, 0, fork(1, 1)),
                (0, 0, K::Exit),
                (2, 2, K::Begin { process: 2 }),
                (2, 2, fork(3, 3)),
                (3, 3, K::Free { addr: 0x10 }),
            ]
        );
    }

    #[test]
    fn events_of_a_process_after_its_end_are_counted() {
        let mut normaliser = Normaliser::new(Clock::new(1000, 1));
        let mut emitted = 0;
        for event in [
            of(7, 7, FREE),
            of(7, 7, K::Exit),
            of(7, 7, FREE),
            of(7, 8, FREE),
            of(7, 7, K::Exit),
        ] {
            normaliser.push(&event, |_, _| emitted += 1);
        }
        assert_eq!(emitted, 2);
        assert_eq!(normaliser.left_out().after_exit, 3);
        let lost = normaliser.take_pending_losses().map(|event| event.kind);
        assert_eq!(lost, Some(K::Lost { events: 3 }));
        assert_eq!(normaliser.take_pending_losses(), None);
    }

    #[test]
    fn an_exec_keeps_the_process_and_ends_its_other_threads() {
        let free = EventKind::Free { addr: 0x10 };
        let events = play(&[
            of(7, 7, S::Start),
            of(7, 9, FREE),
            of(7, 7, S::Start),
            of(7, 9, FREE),
        ]);
        assert_eq!(
            events,
            [(0, 1, free), (0, 0, EventKind::Exec), (0, 2, free)]
        );
    }

    #[test]
    fn a_program_that_was_spawned_is_a_new_process_and_ends_once() {
        let events = play(&[
            of(7, 7, S::Start),
            of(8, 8, S::Start),
            of(8, 8, K::Exit),
            of(8, 8, FREE),
        ]);
        assert_eq!(
            events,
            [
                (1, 1, EventKind::Begin { process: 1 }),
                (1, 1, EventKind::Exit)
            ]
        );
        let mut normaliser = Normaliser::new(Clock::new(0, 1));
        normaliser.push(&of(7, 7, S::Start), |_, _| {});
        assert!(normaliser.gone(7, 5).is_some());
        assert!(normaliser.gone(7, 5).is_none());
        assert!(normaliser.running().is_empty());
    }

    #[test]
    fn threads_are_numbered_as_they_appear_and_end_once() {
        let mut normaliser = Normaliser::for_lossy_source(Clock::new(0, 1), &[]);
        let mut seen = Vec::new();
        normaliser.number_threads(7, &[Some(80), None], |event| seen.push(event.thread));
        let alloc = K::Alloc {
            addr: 0x10,
            bytes: 8,
            align: 0,
            by: By::Malloc,
        };
        for kind in [alloc, K::ThreadEnd, K::ThreadEnd, alloc] {
            normaliser.push(&of(7, 70, kind), |_, event| seen.push(event.thread));
        }
        assert_eq!(seen, [1, 2, 2, 3, 3]);
    }

    #[test]
    fn time_is_in_steps_and_never_goes_back() {
        let mut normaliser = Normaliser::new(Clock::new(1000, 1000));
        let mut times = Vec::new();
        for time_ns in [500, 3999, 2999, 4000] {
            let event = SourceEvent {
                time_ns,
                ..of(1, 1, FREE)
            };
            normaliser.push(&event, |_, event| times.push(event.time_ns));
        }
        assert_eq!(times, [0, 2000, 2000, 3000]);
    }

    #[test]
    fn a_flood_of_forged_processes_and_threads_meets_a_limit_and_costs_little() {
        let mut normaliser = Normaliser::new(Clock::new(0, 1));
        for pid in 1..=HIGHEST_PID / 4 {
            for kind in [S::Start, forking(1), K::ThreadEnd.into()] {
                normaliser.push(&of(pid, pid, kind), |_, _| {});
            }
        }
        for tid in 1..=HIGHEST_PID / 4 {
            normaliser.push(&of(1, tid, FREE), |_, _| {});
        }
        normaliser.numbers.check();
        assert_eq!(normaliser.running().len(), super::super::MOST_PROCESSES);
        assert!(normaliser.left_out().beyond_limit > 1_000_000);
        // An end makes room.
        normaliser.push(&of(1, 1, K::Exit), |_, _| {});
        let mut begun = 0;
        normaliser.push(&of(HIGHEST_PID, 1, FREE), |_, _| begun += 1);
        assert_eq!(begun, 2, "it begins and frees");
        normaliser.numbers.check();
    }

    #[test]
    fn tables_give_back_their_room_when_threads_end_and_children_begin() {
        let mut normaliser = Normaliser::new(Clock::new(0, 1));
        let mut push = |process, thread, kind: S| {
            normaliser.push(&of(process, thread, kind), |_, _| {});
        };
        const THREADS: u64 = 100_000;
        for pid in 1..=16 {
            for tid in 1..=THREADS {
                push(pid, tid, FREE);
            }
            for tid in 2..=THREADS {
                push(pid, tid, K::ThreadEnd.into());
            }
            for fork in 0..THREADS {
                push(pid, 1, forking(fork));
            }
            let (process, thread) = (pid, 1);
            for fork in 1..THREADS {
                let forked = S::Forked {
                    process,
                    thread,
                    fork,
                };
                push(1000, 1000, forked);
            }
        }
        assert!(
            normaliser.table_bytes() < 10_000,
            "{}",
            normaliser.table_bytes()
        );
        normaliser.numbers.check();
    }

    #[test]
    fn forked_children_meet_the_limit_of_threads_too() {
        let mut normaliser = Normaliser::new(Clock::new(0, 1));
        for tid in 1..=super::super::MOST_THREADS as u64 {
            normaliser.push(&of(1, tid, FREE), |_, _| {});
        }
        let (process, thread) = (1, 1);
        for pid in 2..100 {
            let fork = pid;
            normaliser.push(&of(1, 1, forking(fork)), |_, _| {});
            let forked = S::Forked {
                process,
                thread,
                fork,
            };
            normaliser.push(&of(pid, pid, forked), |_, _| {});
        }
        normaliser.numbers.check();
        assert_eq!(normaliser.running().len(), 1);
        assert_eq!(normaliser.left_out().beyond_limit, 98);
    }
}
