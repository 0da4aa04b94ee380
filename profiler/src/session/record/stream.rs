//! From what preloaded recorders tell to the events of a trace: which process and thread each is
//! of, by the trace's own numbers.

use std::collections::{HashMap, VecDeque};

use profiler_common::ring::kind;
use profiler_trace::trace::{By, Event, EventKind};

use crate::process::Told;

/// A thread by the kernel's numbers: its process and itself.
type Id = (u32, u32);

/// Numbers threads and processes as they appear, and follows forks and execs.
#[derive(Debug)]
pub(crate) struct Stream {
    /// When the recording began, on the monotonic clock.
    began_ns: u64,
    threads: HashMap<Id, u32>,
    processes: HashMap<u32, Process>,
    /// Children announced by the thread that forks, which have not told anything yet.
    forked: HashMap<Id, VecDeque<Forked>>,
    next_thread: u32,
    next_process: u32,
}

#[derive(Debug)]
struct Process {
    number: u32,
    main_thread: u32,
    over: bool,
}

#[derive(Debug)]
struct Forked {
    process: u32,
    thread: u32,
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
            threads: HashMap::new(),
            processes: HashMap::new(),
            forked: HashMap::new(),
            next_thread: 0,
            next_process: 0,
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

    /// The processes that have not ended, as far as they told.
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

    /// Gives the events that one told comes to.
    pub(crate) fn events(&mut self, told: &Told, mut emit: impl FnMut(Event)) {
        let time_ns = self.time_ns(told.time_ns);
        let id = (told.process, told.thread);
        if told.kind == kind::FORKED {
            self.begin_forked(id, told.addr);
        } else if told.kind == kind::START {
            self.begin_program(id, time_ns, &mut emit);
        }
        let known = self.processes.get(&told.process);
        if known.is_some_and(|process| process.over) {
            return;
        }
        let thread = match self.threads.get(&id) {
            Some(&thread) => thread,
            None => self.begin_thread(id, time_ns, &mut emit),
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
                self.threads.remove(&id);
                EventKind::ThreadEnd
            }
            kind::EXIT => {
                self.end(told.process);
                EventKind::Exit
            }
            kind::FORKING => {
                let (process, child) = (self.number_process(), self.number_thread());
                let forked = self.forked.entry(id).or_default();
                forked.push_back(Forked {
                    process,
                    thread: child,
                });
                EventKind::Fork { process, child }
            }
            // Whatever else a program writes there is none of ours.
            _ => return,
        };
        emit(Event {
            time_ns,
            thread,
            kind,
        });
    }

    /// The process with this number is gone, without having told: gives its end.
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
        self.threads.retain(|&(of, _), _| of != pid);
        Some(process.main_thread)
    }

    /// The first event of a forked child, whose parent's thread is `parent` as the ring has it.
    fn begin_forked(&mut self, id: Id, parent: u64) {
        let parent = (parent as u32, (parent >> 32) as u32);
        let Some(forked) = self.forked.get_mut(&parent).and_then(VecDeque::pop_front) else {
            return;
        };
        self.threads.retain(|&(of, _), _| of != id.0);
        self.threads.insert(id, forked.thread);
        self.processes.insert(
            id.0,
            Process {
                number: forked.process,
                main_thread: forked.thread,
                over: false,
            },
        );
    }

    /// A program began in a process: a new one, or by exec in one that is known.
    fn begin_program(&mut self, id: Id, time_ns: u64, emit: &mut impl FnMut(Event)) {
        let Some(process) = self.processes.get(&id.0).filter(|p| !p.over) else {
            // Numbered with its first thread.
            self.processes.remove(&id.0);
            return;
        };
        let thread = process.main_thread;
        self.threads.retain(|&(of, _), _| of != id.0);
        self.threads.insert(id, thread);
        emit(Event {
            time_ns,
            thread,
            kind: EventKind::Exec,
        });
    }

    fn begin_thread(&mut self, id: Id, time_ns: u64, emit: &mut impl FnMut(Event)) -> u32 {
        let thread = self.number_thread();
        self.threads.insert(id, thread);
        let process = match self.processes.get(&id.0) {
            Some(process) => process.number,
            None => {
                let number = self.number_process();
                let process = Process {
                    number,
                    main_thread: thread,
                    over: false,
                };
                self.processes.insert(id.0, process);
                number
            }
        };
        if process != 0 {
            emit(Event {
                time_ns,
                thread,
                kind: EventKind::Begin { process },
            });
        }
        thread
    }

    fn number_thread(&mut self) -> u32 {
        self.next_thread += 1;
        self.next_thread - 1
    }

    fn number_process(&mut self) -> u32 {
        self.next_process += 1;
        self.next_process - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(process: u32, thread: u32, kind: u64, addr: u64) -> Told {
        Told {
            time_ns: 1000,
            addr,
            size: 8,
            thread,
            process,
            kind,
            align: 0,
        }
    }

    fn play(all: &[Told]) -> Vec<(u32, EventKind)> {
        let mut stream = Stream::new(1000);
        let mut events = Vec::new();
        for told in all {
            stream.events(told, |event| events.push((event.thread, event.kind)));
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
        stream.events(&told(7, 7, kind::START, 1), |_| {});
        assert!(stream.gone(7, 5).is_some());
        assert!(stream.gone(7, 5).is_none());
        assert!(stream.running().is_empty());
    }
}
