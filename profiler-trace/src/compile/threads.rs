//! Threads and processes of a compiled stream: when they begin, fork, execute and end, and whose
//! turn it is.

use std::io;

use profiler_common::program::{MAX_PROCESSES, MAX_THREADS, OpCode};

use super::objects::Object;
use super::process::{Block, Process};
use super::{Compiler, ProcessEnd, ProcessFork, Sink, op};

/// A thread of the stream.
#[derive(Debug)]
pub(super) struct Thread {
    pub(super) process: u32,
    /// The slot whose realloc is in progress, and its bytes.
    pub(super) realloc: Option<Block>,
    /// The object that Python has resized, until it gives the new size.
    pub(super) resized: Option<Object>,
    pub(super) ended: bool,
}

impl Compiler {
    pub(super) fn thread(&mut self, number: u32) -> Option<&mut Thread> {
        self.threads.get_mut(number as usize)?.as_mut()
    }

    pub(super) fn put_thread(&mut self, number: u32, process: u32) {
        let index = number as usize;
        if self.threads.len() <= index {
            self.threads.resize_with(index + 1, || None);
        }
        self.threads[index] = Some(Thread {
            process,
            realloc: None,
            resized: None,
            ended: false,
        });
    }

    /// The process of a thread, which is started if it is new; `None` if the process no longer
    /// exists, or the number is out of bounds.
    pub(super) fn process_of(
        &mut self,
        number: u32,
        sink: &mut impl Sink,
    ) -> io::Result<Option<u32>> {
        if number >= MAX_THREADS {
            return Ok(None);
        }
        if let Some(thread) = self.thread(number) {
            let (process, ended) = (thread.process, thread.ended);
            let alive = self.processes[process as usize].alive;
            return Ok((alive && !ended).then_some(process));
        }
        self.spawn(number, 0, sink)?;
        Ok(self.processes[0].alive.then_some(0))
    }

    /// Starts a thread of a process that runs.
    pub(super) fn spawn(
        &mut self,
        number: u32,
        process: u32,
        sink: &mut impl Sink,
    ) -> io::Result<()> {
        if !self.processes[process as usize].alive {
            return Ok(());
        }
        // Any thread of the process can start it.
        let here = self.thread(self.current).map(|thread| thread.process);
        if here != Some(process) {
            let main = self.processes[process as usize].main_thread;
            self.switch(main, sink)?;
        }
        sink.push(op(OpCode::SPAWN, 0, number))?;
        self.put_thread(number, process);
        Ok(())
    }

    /// A thread begins in a process, which is new if its number is.
    pub(super) fn begin(
        &mut self,
        number: u32,
        process: u32,
        sink: &mut impl Sink,
    ) -> io::Result<()> {
        let known = self
            .threads
            .get(number as usize)
            .is_some_and(Option::is_some);
        if known || number >= MAX_THREADS || process >= MAX_PROCESSES {
            self.summary.left_out += u64::from(!known);
            return Ok(());
        }
        if (process as usize) < self.processes.len() {
            return self.spawn(number, process, sink);
        }
        let mut new = Process::new(number);
        new.began_ns = self.clock_ns;
        self.put_process(process, new);
        self.put_thread(number, process);
        self.summary.executes = true;
        sink.push(op(OpCode::START, process.into(), number))?;
        Ok(())
    }

    /// Skipped numbers stand for processes that never ran.
    pub(super) fn put_process(&mut self, number: u32, process: Process) {
        while self.processes.len() < number as usize {
            let mut never = Process::new(0);
            never.alive = false;
            self.processes.push(never);
        }
        match self.processes.get_mut(number as usize) {
            Some(place) => {
                self.summary.slots += place.slots();
                *place = process;
            }
            None => self.processes.push(process),
        }
    }

    /// Continues in a thread.
    pub(super) fn switch(&mut self, number: u32, sink: &mut impl Sink) -> io::Result<()> {
        if self.current != number {
            sink.push(op(OpCode::SWITCH, 0, number))?;
            self.current = number;
        }
        Ok(())
    }

    /// A thread ends; the main thread of its process continues. Main threads are needed for as long
    /// as their process lives.
    pub(super) fn end_thread(
        &mut self,
        number: u32,
        process: u32,
        sink: &mut impl Sink,
    ) -> io::Result<()> {
        let main = self.processes[process as usize].main_thread;
        if number == main {
            return Ok(());
        }
        self.switch(number, sink)?;
        sink.push(op(OpCode::THREAD_END, 0, main))?;
        sink.push(op(OpCode::JOIN, 0, number))?;
        self.current = main;
        if let Some(thread) = self.thread(number) {
            thread.ended = true;
        }
        Ok(())
    }

    pub(super) fn fork(
        &mut self,
        process: u32,
        new: u32,
        child: u32,
        sink: &mut impl Sink,
    ) -> io::Result<()> {
        let known = (new as usize) < self.processes.len()
            || self
                .threads
                .get(child as usize)
                .is_some_and(Option::is_some);
        if known || new >= MAX_PROCESSES || child >= MAX_THREADS {
            self.summary.left_out += 1;
            return Ok(());
        }
        let parent = &self.processes[process as usize];
        let mut copy = parent.fork(child);
        copy.began_ns = self.clock_ns;
        self.summary.forks.push(ProcessFork {
            process: new,
            parent: process,
            time_ns: self.clock_ns,
            objects: parent.object_bytes(),
        });
        self.add_live(copy.live_bytes());
        self.put_process(new, copy);
        self.put_thread(child, new);
        sink.push(op(OpCode::FORK, new.into(), child))?;
        Ok(())
    }

    /// A process executes another program: its heap starts empty, and only this thread remains.
    pub(super) fn exec(
        &mut self,
        thread: u32,
        process: u32,
        sink: &mut impl Sink,
    ) -> io::Result<()> {
        let state = &mut self.processes[process as usize];
        let (main, bytes) = (state.main_thread, state.live_bytes());
        self.live_bytes = self.live_bytes.saturating_sub(bytes);
        self.switch(main, sink)?;
        for other in self.threads.iter_mut().flatten() {
            other.ended |= other.process == process;
        }
        self.put_process(process, Process::new(thread));
        self.summary.forks.retain(|fork| fork.process != process);
        self.put_thread(thread, process);
        self.summary.executes = true;
        sink.push(op(OpCode::EXEC, 0, thread))?;
        self.current = thread;
        Ok(())
    }

    /// A process ends. The first one stays as it is, so that it can be measured.
    pub(super) fn exit(&mut self, process: u32, sink: &mut impl Sink) -> io::Result<()> {
        // A file may claim repeatedly that the first one ends: it stays.
        if self.summary.ends.iter().all(|end| end.process != 0) || process != 0 {
            self.summary.ends.push(ProcessEnd {
                process,
                checkpoints: self.checkpoints.len(),
            });
        }
        if process == 0 {
            return Ok(());
        }
        let state = &mut self.processes[process as usize];
        state.alive = false;
        let (main, bytes) = (state.main_thread, state.live_bytes());
        state.forget_all();
        self.live_bytes = self.live_bytes.saturating_sub(bytes);
        self.switch(main, sink)?;
        let first = self.processes[0].main_thread;
        sink.push(op(OpCode::EXIT, 0, first))?;
        self.current = first;
        Ok(())
    }
}
