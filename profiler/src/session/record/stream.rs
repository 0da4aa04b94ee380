//! From what preloaded recorders write to the events of a trace: which process and thread each is
//! of, by the trace's own numbers.
//!
//! A recorded program may write anything: what no recorder writes is counted and left out, and no
//! table grows beyond its limit.

use std::collections::{HashMap, VecDeque};

use profiler_common::ring::kind;
use profiler_target::RingEvent;
use profiler_trace::trace::{By, Event, EventKind};

/// So many processes are known at once at the most.
const MOST_PROCESSES: usize = 16 << 10;
/// So many threads, of all processes together; and so many children that were announced and have
/// not begun.
const MOST_THREADS: usize = 256 << 10;
/// The kernel gives no higher number to a thread (`PID_MAX_LIMIT`).
const HIGHEST_PID: u32 = 1 << 22;
/// No allocator gives more (`PTRDIFF_MAX`).
const MOST_BYTES: u64 = i64::MAX as u64;

/// Numbers threads and processes as they appear, and follows forks and execs.
#[derive(Debug)]
pub(crate) struct Stream {
    /// When the recording began, on the monotonic clock.
    began_ns: u64,
    processes: HashMap<u32, Process>,
    /// Threads of all processes.
    threads: usize,
    /// Whether a process has ended since those that ended were last forgotten.
    ended: bool,
    /// Children announced by the thread that forks, which have not written anything yet.
    forked: HashMap<Id, VecDeque<Forked>>,
    announced: usize,
    next_thread: u32,
    next_process: u32,
    left_out: LeftOut,
}

/// A thread by the kernel's numbers: its process and itself.
type Id = (u32, u32);

#[derive(Debug)]
struct Process {
    number: u32,
    main_thread: u32,
    over: bool,
    /// The trace's numbers of its threads.
    threads: HashMap<u32, u32>,
}

#[derive(Debug)]
struct Forked {
    process: u32,
    thread: u32,
}

/// Events that are not in the trace.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct LeftOut {
    /// No recorder writes such: a kind, a number, a size or an alignment that does not exist.
    pub(crate) damaged: u64,
    /// Of processes or threads beyond those that are known at once.
    pub(crate) beyond_limit: u64,
}

/// A process of the recorded program that runs.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) struct Running {
    /// The kernel's number.
    pub(crate) pid: u32,
    /// The trace's number.
    pub(crate) process: u32,
    /// The number of its main thread in the trace.
    pub(crate) main_thread: u32,
}

impl Stream {
    /// A stream that began at this time of the monotonic clock.
    pub(crate) fn new(began_ns: u64) -> Self {
        Self {
            began_ns,
            processes: HashMap::new(),
            threads: 0,
            ended: false,
            forked: HashMap::new(),
            announced: 0,
            next_thread: 0,
            next_process: 0,
            left_out: LeftOut::default(),
        }
    }

    /// Nanoseconds since the recording began.
    pub(crate) fn time_ns(&self, monotonic_ns: u64) -> u64 {
        monotonic_ns.saturating_sub(self.began_ns)
    }

    /// The trace's number of the process with this number of the kernel's.
    pub(crate) fn process(&self, pid: u32) -> Option<u32> {
        self.processes.get(&pid).map(|process| process.number)
    }

    /// Whether any process has written something.
    pub(crate) fn has_any(&self) -> bool {
        self.next_process > 0
    }

    /// Events that were left out so far.
    pub(crate) fn left_out(&self) -> LeftOut {
        self.left_out
    }

    /// How many children were announced that have not written anything.
    pub(crate) fn announced(&self) -> usize {
        self.announced
    }

    /// The processes that have not ended, as far as they say.
    pub(crate) fn running(&self) -> Vec<Running> {
        let running = self.processes.iter().filter(|(_, process)| !process.over);
        let mut running: Vec<_> = running
            .map(|(&pid, process)| Running {
                pid,
                process: process.number,
                main_thread: process.main_thread,
            })
            .collect();
        running.sort_by_key(|running| running.process);
        running
    }

    /// Gives the events that one of the ring comes to. `now_ns` is the time on the monotonic clock
    /// at which it was taken: none is of later.
    pub(crate) fn events(&mut self, told: &RingEvent, now_ns: u64, mut emit: impl FnMut(Event)) {
        if !is_sound(told) {
            self.left_out.damaged += 1;
            return;
        }
        let time_ns = self.time_ns(told.time_ns.min(now_ns));
        let id = (told.process, told.thread);
        if told.kind == kind::FORKED {
            self.begin_forked(id, told.addr);
        } else if told.kind == kind::START {
            self.begin_program(id, time_ns, &mut emit);
        }
        let known = self.processes.get(&id.0);
        if known.is_some_and(|process| process.over) {
            return;
        }
        let thread = known.and_then(|process| process.threads.get(&id.1));
        let thread = thread.copied();
        let Some(thread) = thread.or_else(|| self.begin_thread(id, time_ns, &mut emit)) else {
            self.left_out.beyond_limit += 1;
            return;
        };
        let by = |by| EventKind::Alloc {
            addr: told.addr,
            bytes: told.size,
            align: told.align,
            by,
        };
        let kind = match told.kind {
            kind::ALLOC => by(By::Malloc),
            kind::CALLOC => by(By::Calloc),
            kind::REALLOCATED => by(By::Realloc),
            kind::FREE => EventKind::Free { addr: told.addr },
            kind::REALLOC => EventKind::Realloc { addr: told.addr },
            kind::KEPT => EventKind::Kept { addr: told.addr },
            kind::THREAD_END => {
                self.end_thread(id);
                EventKind::ThreadEnd
            }
            kind::EXIT => {
                self.end(id.0);
                EventKind::Exit
            }
            kind::FORKING => match self.announce(id) {
                Some(fork) => fork,
                None => {
                    self.left_out.beyond_limit += 1;
                    return;
                }
            },
            // Said by the events above.
            _ => return,
        };
        emit(Event {
            time_ns,
            thread,
            kind,
        });
    }

    /// The process with this number is gone, without having said so: gives its end.
    pub(crate) fn gone(&mut self, pid: u32, time_ns: u64) -> Option<Event> {
        let thread = self.end(pid)?;
        Some(Event {
            time_ns,
            thread,
            kind: EventKind::Exit,
        })
    }

    /// Events of `pid` end; its main thread.
    fn end(&mut self, pid: u32) -> Option<u32> {
        let process = self.processes.get_mut(&pid).filter(|p| !p.over)?;
        process.over = true;
        self.threads -= std::mem::take(&mut process.threads).len();
        self.ended = true;
        Some(process.main_thread)
    }

    fn end_thread(&mut self, (pid, tid): Id) {
        if let Some(process) = self.processes.get_mut(&pid) {
            self.threads -= usize::from(process.threads.remove(&tid).is_some());
        }
    }

    /// The thread is about to fork: the child gets its numbers now, before either goes on.
    fn announce(&mut self, id: Id) -> Option<EventKind> {
        if self.announced >= MOST_THREADS {
            return None;
        }
        let (process, child) = (self.number_process()?, self.number_thread()?);
        self.announced += 1;
        let forked = self.forked.entry(id).or_default();
        forked.push_back(Forked {
            process,
            thread: child,
        });
        Some(EventKind::Fork { process, child })
    }

    /// The first event of a forked child, whose parent's thread is `parent` as the ring has it.
    fn begin_forked(&mut self, id: Id, parent: u64) {
        let parent = (parent as u32, (parent >> 32) as u32);
        let Some(announced) = self.forked.get_mut(&parent) else {
            return;
        };
        let Some(forked) = announced.pop_front() else {
            return;
        };
        self.announced -= 1;
        if announced.is_empty() {
            self.forked.remove(&parent);
        }
        self.insert(id, forked.process, forked.thread);
    }

    /// A program began in a process: a new one, or by exec in one that is known.
    fn begin_program(&mut self, id: Id, time_ns: u64, emit: &mut impl FnMut(Event)) {
        let Some(process) = self.processes.get_mut(&id.0).filter(|p| !p.over) else {
            // Numbered with its first thread.
            self.processes.remove(&id.0);
            return;
        };
        let thread = process.main_thread;
        self.threads -= process.threads.len();
        process.threads = HashMap::from([(id.1, thread)]);
        self.threads += 1;
        emit(Event {
            time_ns,
            thread,
            kind: EventKind::Exec,
        });
    }

    /// Numbers a thread that was not known; `None` when there are too many.
    fn begin_thread(&mut self, id: Id, time_ns: u64, emit: &mut impl FnMut(Event)) -> Option<u32> {
        if self.threads >= MOST_THREADS {
            return None;
        }
        let process = match self.processes.get(&id.0) {
            Some(process) => process.number,
            None => {
                self.has_room().then_some(())?;
                self.number_process()?
            }
        };
        let thread = self.number_thread()?;
        match self.processes.get_mut(&id.0) {
            Some(known) => {
                known.threads.insert(id.1, thread);
                self.threads += 1;
            }
            None => self.insert(id, process, thread),
        }
        if process != 0 {
            emit(Event {
                time_ns,
                thread,
                kind: EventKind::Begin { process },
            });
        }
        Some(thread)
    }

    /// A process with its first thread, if there is room for it.
    fn insert(&mut self, id: Id, number: u32, thread: u32) {
        if !self.has_room() {
            return;
        }
        let process = Process {
            number,
            main_thread: thread,
            over: false,
            threads: HashMap::from([(id.1, thread)]),
        };
        self.threads += 1;
        if let Some(before) = self.processes.insert(id.0, process) {
            self.threads -= before.threads.len();
        }
    }

    /// Whether another process may be known. Those that ended are forgotten when there are too many:
    /// what they still say counts as another's, which is rare.
    fn has_room(&mut self) -> bool {
        if self.processes.len() >= MOST_PROCESSES && std::mem::take(&mut self.ended) {
            self.processes.retain(|_, process| !process.over);
        }
        self.processes.len() < MOST_PROCESSES
    }

    /// `None` when all numbers are used up.
    fn number_thread(&mut self) -> Option<u32> {
        let number = self.next_thread;
        self.next_thread = number.checked_add(1)?;
        Some(number)
    }

    /// `None` when all numbers are used up.
    fn number_process(&mut self) -> Option<u32> {
        let number = self.next_process;
        self.next_process = number.checked_add(1)?;
        Some(number)
    }
}

/// Whether a recorder may have written it.
fn is_sound(event: &RingEvent) -> bool {
    let is_number = |number| (1..=HIGHEST_PID).contains(&number);
    (kind::ALLOC..=kind::REALLOCATED).contains(&event.kind)
        && is_number(event.process)
        && is_number(event.thread)
        && event.align < 64
        && event.size <= MOST_BYTES
        && event.addr.checked_add(event.size).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(process: u32, thread: u32, kind: u64, addr: u64) -> RingEvent {
        RingEvent {
            time_ns: 1000,
            addr,
            size: 8,
            thread,
            process,
            kind,
            align: 0,
        }
    }

    fn play(all: &[RingEvent]) -> Vec<(u32, EventKind)> {
        let mut stream = Stream::new(1000);
        let mut events = Vec::new();
        for told in all {
            stream.events(told, 2000, |event| events.push((event.thread, event.kind)));
        }
        events
    }

    #[test]
    fn a_forked_child_is_a_process_of_its_own_even_when_its_parent_tells_first() {
        let events = play(&[
            told(7, 7, kind::START, 1),
            told(7, 7, kind::FORKING, 0),
            told(7, 7, kind::FREE, 0x10),
            told(8, 8, kind::FORKED, 7 << 32 | 7),
            told(8, 8, kind::FREE, 0x10),
            told(8, 9, kind::FREE, 0x20),
        ]);
        let fork = EventKind::Fork {
            process: 1,
            child: 1,
        };
        assert_eq!(
            events,
            [
                (0, fork),
                (0, EventKind::Free { addr: 0x10 }),
                (1, EventKind::Free { addr: 0x10 }),
                (2, EventKind::Begin { process: 1 }),
                (2, EventKind::Free { addr: 0x20 }),
            ]
        );
    }

    #[test]
    fn an_exec_keeps_the_process_and_ends_its_other_threads() {
        let events = play(&[
            told(7, 7, kind::START, 1),
            told(7, 9, kind::FREE, 0x10),
            told(7, 7, kind::START, 1),
            told(7, 9, kind::FREE, 0x20),
        ]);
        assert_eq!(
            events,
            [
                (1, EventKind::Free { addr: 0x10 }),
                (0, EventKind::Exec),
                (2, EventKind::Free { addr: 0x20 }),
            ]
        );
    }

    #[test]
    fn a_program_that_was_spawned_is_a_new_process_and_ends_once() {
        let events = play(&[
            told(7, 7, kind::START, 1),
            told(8, 8, kind::START, 7),
            told(8, 8, kind::EXIT, 0),
            told(8, 8, kind::FREE, 0x10),
        ]);
        assert_eq!(
            events,
            [(1, EventKind::Begin { process: 1 }), (1, EventKind::Exit)]
        );
        let mut stream = Stream::new(0);
        stream.events(&told(7, 7, kind::START, 1), 2000, |_| {});
        assert!(stream.gone(7, 5).is_some());
        assert!(stream.gone(7, 5).is_none());
        assert!(stream.running().is_empty());
    }

    #[test]
    fn what_no_recorder_writes_is_counted_and_left_out() {
        let good = told(7, 7, kind::ALLOC, 0x10);
        let bad = [
            RingEvent { kind: 0, ..good },
            RingEvent { kind: 12, ..good },
            RingEvent { process: 0, ..good },
            RingEvent {
                process: u32::MAX,
                ..good
            },
            RingEvent { thread: 0, ..good },
            RingEvent { align: 64, ..good },
            RingEvent {
                size: 1 << 63,
                ..good
            },
            RingEvent {
                addr: u64::MAX,
                ..good
            },
        ];
        let mut stream = Stream::new(1000);
        for event in &bad {
            stream.events(event, 2000, |event| panic!("{event:?}"));
        }
        assert_eq!(stream.left_out().damaged, bad.len() as u64);
        // A time that is still to come is now.
        let late = RingEvent {
            time_ns: u64::MAX,
            ..good
        };
        let mut times = Vec::new();
        stream.events(&late, 2000, |event| times.push(event.time_ns));
        assert_eq!(times, [1000]);
    }

    #[test]
    fn a_flood_of_forged_processes_and_threads_meets_a_limit_and_costs_little() {
        let mut stream = Stream::new(0);
        let mut emitted = 0u64;
        for pid in 1..=HIGHEST_PID / 4 {
            for kind in [kind::START, kind::FORKING, kind::THREAD_END] {
                stream.events(&told(pid, pid, kind, 1), 2000, |_| emitted += 1);
            }
        }
        for tid in 1..=HIGHEST_PID / 4 {
            stream.events(&told(1, tid, kind::FREE, 0x10), 2000, |_| emitted += 1);
        }
        assert_eq!(stream.processes.len(), MOST_PROCESSES);
        assert!(stream.threads <= MOST_THREADS, "{}", stream.threads);
        assert!(stream.announced <= MOST_THREADS);
        assert!(stream.left_out().beyond_limit > 1_000_000);
        // An end makes room.
        stream.events(&told(1, 1, kind::EXIT, 0), 2000, |_| {});
        let mut begun = 0;
        stream.events(&told(HIGHEST_PID, 1, kind::FREE, 0), 2000, |_| begun += 1);
        assert_eq!(begun, 2, "it begins and frees");
        let counted: usize = stream.processes.values().map(|p| p.threads.len()).sum();
        assert_eq!(counted, stream.threads);
    }
}
