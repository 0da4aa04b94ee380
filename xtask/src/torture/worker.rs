//! The program that fragscope inspects: busy threads whose progress is visible from outside.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use super::stage::{Expected, Stage};
use super::text::Text;
use super::{WAIT_LIMIT, processes};

const PROGRAM: &str = include_str!("worker.py");
/// Slots of the program's counters that belong to no thread: as in the program.
const READY: u64 = 100;
const MAIN: u64 = 101;
const PID: u64 = 102;
/// A worker that nobody ends exits by itself after this time.
const SECONDS: &str = "900";
const PAUSE: Duration = Duration::from_millis(2);

/// How large a worker is.
#[derive(Copy, Clone, Debug)]
pub(super) struct Size {
    pub(super) mib: u32,
    pub(super) threads: u64,
}

/// What most rounds attach to.
pub(super) const USUAL: Size = Size {
    mib: 40,
    threads: 3,
};
/// Quick to start, for rounds that end it.
pub(super) const SMALL: Size = Size { mib: 4, threads: 2 };

/// A running worker. It ends when this is dropped.
pub(super) struct Worker {
    pub(super) pid: i32,
    pub(super) text: Text,
    child: Option<Child>,
    commands: Option<ChildStdin>,
    counters: PathBuf,
    threads: u64,
    /// Children that it forked. They end with it.
    forked: Vec<i32>,
    expected: Expected,
}

/// The arguments that run a worker.
pub(super) fn command_line(stage: &Stage, size: Size, counters: &Path) -> Result<Vec<String>> {
    let program = counters.with_extension("py");
    fs::write(&program, PROGRAM)?;
    let text = |path: &Path| path.to_string_lossy().into_owned();
    Ok(vec![
        text(&stage.python),
        "-S".into(),
        text(&program),
        text(counters),
        size.mib.to_string(),
        size.threads.to_string(),
        SECONDS.into(),
    ])
}

impl Worker {
    /// Starts one, and waits until its threads are at work.
    pub(super) fn start(stage: &Stage, size: Size) -> Result<Self> {
        let counters = stage.fresh("counters");
        let words = command_line(stage, size, &counters)?;
        let mut child = Command::new(&words[0])
            .args(&words[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            // Ctrl-C is for us, and so are the signals that rounds send to groups.
            .process_group(0)
            .spawn()
            .context("a worker")?;
        let pid = child.id() as i32;
        stage.expected.borrow_mut().insert(pid);
        let commands = child.stdin.take();
        // From here on, its end is taken care of.
        let mut worker = Self {
            text: Text::of(pid)?,
            pid,
            child: Some(child),
            commands,
            counters,
            threads: size.threads,
            forked: Vec::new(),
            expected: stage.expected.clone(),
        };
        worker.settle(stage)?;
        Ok(worker)
    }

    /// The worker that fragscope started with these counters and did not end; `None` if it is not
    /// there.
    pub(super) fn recorded(stage: &Stage, size: Size, counters: &Path) -> Result<Option<Self>> {
        let Some(pid) = find_recorded(stage, counters) else {
            return Ok(None);
        };
        stage.expected.borrow_mut().insert(pid);
        let Ok(text) = Text::of(pid) else {
            return Ok(None);
        };
        Ok(Some(Self {
            pid,
            text,
            child: None,
            commands: None,
            counters: counters.to_owned(),
            threads: size.threads,
            forked: Vec::new(),
            expected: stage.expected.clone(),
        }))
    }

    /// Waits until it is at work, and reads its code: again after an exec.
    pub(super) fn settle(&mut self, stage: &Stage) -> Result<()> {
        let ready = stage.wait_for(WAIT_LIMIT, PAUSE, || {
            ensure!(self.is_alive(), "a worker ended at its start");
            Ok((self.counter(READY) == 1).then_some(()))
        })?;
        ready.context("a worker is not ready after a minute")?;
        self.text = Text::of(self.pid)?;
        Ok(())
    }

    fn counter(&self, slot: u64) -> u64 {
        let mut bytes = [0; 8];
        let file = File::open(&self.counters);
        let read = file.and_then(|file| file.read_exact_at(&mut bytes, 8 * slot));
        read.map_or(0, |()| u64::from_le_bytes(bytes))
    }

    /// Whether it has not ended.
    pub(super) fn is_alive(&self) -> bool {
        processes::process(self.pid).is_some_and(|process| !matches!(process.state, 'Z' | 'X'))
    }

    /// Whether all its threads continue: waits until each has counted.
    pub(super) fn goes_on(&self, stage: &Stage) -> Result<bool> {
        let slots: Vec<_> = (0..self.threads).chain([MAIN]).collect();
        let before: Vec<_> = slots.iter().map(|&slot| self.counter(slot)).collect();
        let went_on = stage.wait_for(WAIT_LIMIT, PAUSE, || {
            let now = slots.iter().map(|&slot| self.counter(slot));
            let all = now.zip(&before).all(|(now, before)| now > *before);
            Ok((all || !self.is_alive()).then_some(()))
        })?;
        Ok(went_on.is_some() && self.is_alive())
    }

    /// Has it execute its program again, and waits until that is at work.
    pub(super) fn exec(&mut self, stage: &Stage) -> Result<()> {
        // Its former counters belong to the previous program.
        let counters = File::options().write(true).open(&self.counters)?;
        counters.write_all_at(&0u64.to_le_bytes(), 8 * READY)?;
        self.command("exec")?;
        self.settle(stage)
    }

    /// Asks it to do something: a line that the program knows.
    pub(super) fn command(&mut self, line: &str) -> Result<()> {
        let commands = self.commands.as_mut().context("it takes no commands")?;
        // A worker that has ended receives nothing.
        let _ = writeln!(commands, "{line}");
        Ok(())
    }

    /// The pid of the child that it forked, once it has.
    pub(super) fn forked(&mut self, stage: &Stage) -> Result<i32> {
        let pid = stage.wait_for(WAIT_LIMIT, PAUSE, || {
            let pid = self.counter(PID + 1);
            Ok((pid != 0).then_some(pid as i32))
        })?;
        let pid = pid.context("the worker did not fork")?;
        self.forked.push(pid);
        self.expected.borrow_mut().insert(pid);
        Ok(pid)
    }

    /// Sends it a signal.
    pub(super) fn signal(&self, signal: Signal) {
        // A worker that has ended needs none.
        let _ = kill(Pid::from_raw(self.pid), signal);
    }

    /// How it ended, if fragscope did not start it.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().ok()?
    }
}

/// The worker with these counters that fragscope started.
pub(super) fn find_recorded(stage: &Stage, counters: &Path) -> Option<i32> {
    let counters = counters.to_string_lossy();
    let runs = |process: &processes::Process| {
        !stage.runs_fragscope(process.pid)
            && processes::command_line(process.pid).contains(&*counters)
    };
    let expected = stage.expected.borrow();
    let mut all = processes::all().into_iter();
    let found = all.find(|process| !expected.contains(&process.pid) && runs(process))?;
    Some(found.pid)
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
        match &mut self.child {
            Some(child) => {
                let _ = child.wait();
            }
            // An orphan is ours to reap; a child whose parent lives is its parent's.
            None => {
                let _ = waitpid(Pid::from_raw(self.pid), None);
            }
        }
        self.expected.borrow_mut().remove(&self.pid);
        for &pid in &self.forked {
            // Orphans now, and ours to wait for.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            let _ = waitpid(Pid::from_raw(pid), None);
            self.expected.borrow_mut().remove(&pid);
        }
        let _ = fs::remove_file(&self.counters);
        let _ = fs::remove_file(self.counters.with_extension("py"));
    }
}
