//! The trace's numbers for processes and threads, counted from 0 as they appear.
//!
//! A recorded program may claim any number, so no table grows beyond its limit.

use std::collections::HashMap;

use super::forks::{AnnouncedForks, Fork};

/// At most this many processes are known at once.
pub const MAX_PROCESSES: usize = 16 << 10;
/// At most this many threads, over all processes, and at most this many children that were
/// announced and have not begun.
pub const MAX_THREADS: usize = 256 << 10;

/// A thread by the source's numbers: those of its process and of itself.
pub(super) type SourceThread = (u64, u64);

/// A thread by the trace's numbers.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) struct Numbered {
    pub(super) process: u32,
    pub(super) thread: u32,
}

/// A process that is not known to have ended.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct RecordedProcess {
    /// The source's number.
    pub source: u64,
    /// The trace's number.
    pub process: u32,
    /// The trace's number of its main thread.
    pub main_thread: u32,
}

/// Numbers processes and threads, and follows forks and execs.
#[derive(Clone, Debug, Default)]
pub(super) struct Numbers {
    processes: HashMap<u64, Process>,
    held: TableRoom,
    /// Whether a process has ended since those that ended were last forgotten.
    has_ended: bool,
    forks: AnnouncedForks,
    next_thread: u32,
    next_process: u32,
    /// The thread of the last event: the next event is mostly of the same one.
    recent: Option<(SourceThread, Numbered)>,
}

/// The size of the tables of threads of all processes.
#[derive(Clone, Debug, Default)]
struct TableRoom {
    threads: usize,
    /// Total capacity for threads in all of these.
    room: usize,
}

impl TableRoom {
    /// Changes one of the tables and frees its unused capacity: a program could otherwise make one
    /// table after another as large as possible.
    fn change<T>(
        &mut self,
        threads: &mut HashMap<u64, u32>,
        change: impl FnOnce(&mut HashMap<u64, u32>) -> T,
    ) -> T {
        self.threads -= threads.len();
        self.room -= threads.capacity();
        let changed = change(threads);
        if threads.len() < threads.capacity() / 4 {
            threads.shrink_to(2 * threads.len());
        }
        self.threads += threads.len();
        self.room += threads.capacity();
        changed
    }

    /// Empties one of the tables, which then takes nothing and may be dropped.
    fn empty(&mut self, threads: &mut HashMap<u64, u32>) {
        self.change(threads, |threads| *threads = HashMap::new());
    }
}

#[derive(Clone, Debug)]
struct Process {
    number: u32,
    main_thread: u32,
    has_ended: bool,
    /// Whether one of its threads ended it while others ran.
    has_left: bool,
    /// The trace's numbers of its threads.
    threads: HashMap<u64, u32>,
}

/// What is known of a thread.
pub(super) enum ThreadLookup {
    /// Its numbers.
    Thread(Numbered),
    /// Its process ended.
    Ended,
    /// Another thread ended its process.
    Left,
    /// Nothing.
    No,
}

impl Numbers {
    /// What is known of a thread.
    pub(super) fn get(&mut self, id: SourceThread) -> ThreadLookup {
        if let Some((of, numbered)) = self.recent
            && of == id
        {
            return ThreadLookup::Thread(numbered);
        }
        match self.processes.get(&id.0) {
            None => ThreadLookup::No,
            Some(process) if process.has_left => ThreadLookup::Left,
            Some(process) if process.has_ended => ThreadLookup::Ended,
            Some(process) => match process.threads.get(&id.1) {
                None => ThreadLookup::No,
                Some(&thread) => {
                    let process = process.number;
                    let numbered = Numbered { process, thread };
                    self.recent = Some((id, numbered));
                    ThreadLookup::Thread(numbered)
                }
            },
        }
    }

    /// The process with this number of the source's.
    pub(super) fn process(&self, source: u64) -> Option<RecordedProcess> {
        let process = self.processes.get(&source)?;
        Some(recorded(source, process))
    }

    /// The processes that have not ended, by their numbers.
    pub(super) fn running(&self) -> Vec<RecordedProcess> {
        let running = self.processes.iter().filter(|(_, one)| !one.has_ended);
        let mut running: Vec<_> = running
            .map(|(&source, one)| recorded(source, one))
            .collect();
        running.sort_by_key(|one| one.process);
        running
    }

    /// Whether any process is known or was.
    pub(super) fn has_any(&self) -> bool {
        self.next_process > 0
    }

    /// How many children were announced that have not recorded anything.
    pub(super) fn announced(&self) -> usize {
        self.forks.len()
    }

    /// Bytes of the tables, about.
    pub(super) fn table_bytes(&self) -> u64 {
        let processes = self.processes.capacity() * size_of::<(u64, Process)>();
        let threads = self.held.room * size_of::<(u64, u32)>();
        (processes + threads) as u64 + self.forks.table_bytes()
    }

    /// Numbers a thread that was not known; `None` when there are too many.
    pub(super) fn begin_thread(&mut self, id: SourceThread) -> Option<Numbered> {
        if self.held.threads >= MAX_THREADS {
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
        let numbered = Numbered { process, thread };
        match self.processes.get_mut(&id.0) {
            Some(known) => {
                let insert = |threads: &mut HashMap<_, _>| threads.insert(id.1, thread);
                self.held.change(&mut known.threads, insert);
            }
            None => self.insert(id, numbered),
        }
        Some(numbered)
    }

    /// Uses up a thread number, as if a thread had ended; `None` if all are used up.
    pub(super) fn skip_thread(&mut self) -> Option<u32> {
        self.number_thread()
    }

    /// A program began in a process. In a known process that was an exec: its main thread continues
    /// alone.
    pub(super) fn begin_program(&mut self, id: SourceThread) -> Option<Numbered> {
        self.recent = None;
        let Some(process) = self.processes.get_mut(&id.0).filter(|p| !p.has_ended) else {
            // Numbered with its first thread.
            self.processes.remove(&id.0);
            return None;
        };
        let thread = process.main_thread;
        self.held.change(&mut process.threads, |threads| {
            *threads = HashMap::from([(id.1, thread)]);
        });
        Some(Numbered {
            process: process.number,
            thread,
        })
    }

    /// A thread is about to fork: the child gets its numbers now, before either continues. `None`
    /// if there are too many.
    pub(super) fn announce_fork(&mut self, fork: Fork, time_ns: u64) -> Option<Numbered> {
        if !self.forks.has_room() {
            return None;
        }
        let child = Numbered {
            process: self.number_process()?,
            thread: self.number_thread()?,
        };
        self.forks.announce(fork, child, time_ns);
        Some(child)
    }

    /// The first event of a forked child, which is a new process if it was not announced.
    pub(super) fn begin_forked(&mut self, id: SourceThread, fork: Fork) {
        if let Some(child) = self.forks.begin(fork) {
            self.insert(id, child);
        }
    }

    /// An announced child that, as of this time of the trace, turns out not to exist.
    pub(super) fn give_up_fork(&mut self, time_ns: u64) -> Option<Numbered> {
        self.forks.give_up(time_ns)
    }

    /// A thread ended.
    pub(super) fn end_thread(&mut self, (process, thread): SourceThread) {
        self.recent = None;
        if let Some(process) = self.processes.get_mut(&process) {
            let remove = |threads: &mut HashMap<_, _>| threads.remove(&thread);
            self.held.change(&mut process.threads, remove);
        }
    }

    /// A process ended. Returns it, unless its end is already known.
    pub(super) fn end(&mut self, source: u64) -> Option<RecordedProcess> {
        self.recent = None;
        let process = self.processes.get_mut(&source).filter(|p| !p.has_ended)?;
        process.has_ended = true;
        self.held.empty(&mut process.threads);
        self.has_ended = true;
        Some(recorded(source, process))
    }

    /// The same for a process that a thread ended while others ran.
    pub(super) fn leave(&mut self, source: u64) -> Option<RecordedProcess> {
        let ended = self.end(source)?;
        let process = self.processes.get_mut(&source)?;
        process.has_left = true;
        Some(ended)
    }

    /// Adds a process with its first thread, if there is room for it.
    fn insert(&mut self, id: SourceThread, first: Numbered) {
        self.recent = None;
        if let Some(mut before) = self.processes.remove(&id.0) {
            self.held.empty(&mut before.threads);
        }
        if self.held.threads >= MAX_THREADS || !self.has_room() {
            return;
        }
        let mut process = Process {
            number: first.process,
            main_thread: first.thread,
            has_ended: false,
            has_left: false,
            threads: HashMap::new(),
        };
        let insert = |threads: &mut HashMap<_, _>| threads.insert(id.1, first.thread);
        self.held.change(&mut process.threads, insert);
        self.processes.insert(id.0, process);
    }

    /// Whether another process may be added. Those that ended are forgotten if there are too many:
    /// what they still record then counts as another's, which is rare.
    fn has_room(&mut self) -> bool {
        if self.processes.len() >= MAX_PROCESSES && std::mem::take(&mut self.has_ended) {
            self.processes.retain(|_, process| !process.has_ended);
        }
        self.processes.len() < MAX_PROCESSES
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

    #[cfg(test)]
    pub(super) fn check(&self) {
        assert!(self.processes.len() <= MAX_PROCESSES);
        let held = &self.held;
        assert!(held.threads <= MAX_THREADS, "{}", held.threads);
        let tables = || self.processes.values().map(|process| &process.threads);
        let threads: usize = tables().map(HashMap::len).sum();
        let room: usize = tables().map(HashMap::capacity).sum();
        assert_eq!((threads, room), (held.threads, held.room));
        // The smallest table has room for three.
        assert!(room <= 8 * threads + 4 * self.processes.len(), "{room}");
        self.forks.check();
    }
}

fn recorded(source: u64, process: &Process) -> RecordedProcess {
    RecordedProcess {
        source,
        process: process.number,
        main_thread: process.main_thread,
    }
}
