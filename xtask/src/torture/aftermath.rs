//! What must hold after fragscope has ended, however it ended.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Result;

use super::Round;
use super::processes;
use super::running::{Mode, Running};
use super::stage::{Stage, list};
use super::worker::{Worker, find_recorded};

/// How long the kernel, the guard and players may take to be gone.
const LIMIT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(5);
/// Changes that a failure prints in full.
const PRINTED: usize = 4;

/// How fragscope ended.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) enum How {
    /// It was killed: its children become orphans, which nobody of its own can reap.
    Killed,
    /// By itself, after a signal or an event: it has reaped its children.
    ByItself,
}

/// Checks everything, and adds the faults to the round. The worker must continue to run.
pub(super) fn check(
    stage: &Stage,
    round: &mut Round,
    running: &Running,
    worker: Option<&mut Worker>,
    how: How,
) -> Result<()> {
    no_processes(stage, round, running, how)?;
    if let Some(worker) = worker {
        runs_on(stage, round, worker)?;
        no_breakpoints(stage, round, worker)?;
    }
    no_files(stage, round, running);
    let leaks = stage.log.borrow_mut().leaks()?;
    if let Some(first) = leaks.first() {
        round.fault(
            "uprobes leaked, says the kernel's log",
            format!("{} lines like: {first}", leaks.len()),
        );
    }
    Ok(())
}

/// None of fragscope's processes remains, except the worker that it recorded.
fn no_processes(stage: &Stage, round: &mut Round, running: &Running, how: How) -> Result<()> {
    let mut orphans = BTreeSet::new();
    let mut left = Vec::new();
    let gone = stage.wait_for(LIMIT, PAUSE, || {
        left = stage.left_processes();
        if let Some(counters) = &running.counters
            && let Some(recorded) = find_recorded(stage, counters)
        {
            left.retain(|process| process.pid != recorded);
        }
        for process in &left {
            let own = std::process::id() as i32;
            if process.parent == own && process.state == 'Z' {
                orphans.insert(process.name.clone());
                stage.reap(process.pid);
            }
        }
        Ok(left.is_empty().then_some(()))
    })?;
    if gone.is_none() {
        for process in left {
            round.fault(
                "a process is left",
                format!(
                    "{} ({}, state {}, parent {}) after {LIMIT:?}: {}",
                    process.pid,
                    process.name,
                    process.state,
                    process.parent,
                    processes::command_line(process.pid)
                ),
            );
            // The next round begins without it.
            let pid = nix::unistd::Pid::from_raw(process.pid);
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
    }
    match how {
        How::Killed => round.orphans += orphans.len(),
        How::ByItself if orphans.is_empty() => {}
        How::ByItself => round.fault(
            "a zombie is left where PID 1 does not reap",
            format!("{orphans:?}"),
        ),
    }
    Ok(())
}

/// No thread is held or traced, and each continues.
pub(super) fn runs_on(stage: &Stage, round: &mut Round, worker: &mut Worker) -> Result<()> {
    let mut held = Vec::new();
    let free = stage.wait_for(LIMIT, PAUSE, || {
        held = processes::threads(worker.pid)
            .iter()
            .map(|thread| {
                (
                    thread.tid,
                    thread.state,
                    processes::tracer(worker.pid, thread.tid),
                )
            })
            .filter(|&(_, state, tracer)| matches!(state, 't' | 'T') || tracer != 0)
            .collect();
        Ok(held.is_empty().then_some(()))
    })?;
    if free.is_none() {
        round.fault(
            "the target is held",
            format!("after {LIMIT:?} (thread, state, tracer): {held:?}"),
        );
    } else if !worker.goes_on(stage)? {
        round.fault(
            "the target does not go on",
            match (worker.is_alive(), worker.ended()) {
                (true, _) => "a thread of it makes no progress".to_owned(),
                (false, Some(how)) => format!("it died: {how}"),
                (false, None) => "it died".to_owned(),
            },
        );
    }
    Ok(())
}

/// A repair that was killed before it was finished is completed by a second one.
pub(super) fn repaired(stage: &Stage, round: &mut Round, worker: &Worker) -> Result<()> {
    let repair = Command::new(&stage.fragscope)
        .args(["doctor", "--repair", "--pid", &worker.pid.to_string()])
        .output()?;
    if !repair.status.success() {
        let said = String::from_utf8_lossy(&repair.stdout);
        round.fault(
            "a second repair fails",
            format!("{}: {}", repair.status, said.trim()),
        );
    }
    Ok(())
}

/// Its code is the same as in its files.
pub(super) fn no_breakpoints(stage: &Stage, round: &mut Round, worker: &mut Worker) -> Result<()> {
    let mut left = Vec::new();
    let clean = stage.wait_for(LIMIT, PAUSE, || {
        left = worker.text.changes();
        Ok(left.is_empty().then_some(()))
    })?;
    if clean.is_none() {
        let some: Vec<_> = left.iter().take(PRINTED).map(ToString::to_string).collect();
        round.fault(
            "breakpoints are left",
            format!(
                "after {LIMIT:?} {} bytes of the target's code are changed: {}",
                left.len(),
                some.join(", ")
            ),
        );
    }
    Ok(())
}

/// Only promised files are there, and whole ones.
fn no_files(stage: &Stage, round: &mut Round, running: &Running) {
    let mut found = BTreeSet::new();
    list(&running.folder, &mut found);
    for path in found {
        let name = path.strip_prefix(&running.folder).unwrap_or(&path);
        if !running.mode.leaves(name) {
            round.fault(
                "a file is left",
                format!("beside the outputs: {}", name.display()),
            );
        } else if name.extension().is_some_and(|ending| ending == "json")
            && let Err(error) = whole_json(&path)
        {
            round.fault(
                "an output is incomplete",
                format!("{}: {error}", name.display()),
            );
        }
    }
    for path in stage.left_files() {
        round.fault("a file is left", path.display().to_string());
    }
}

fn whole_json(path: &Path) -> Result<()> {
    let _: serde_json::Value = serde_json::from_slice(&fs::read(path)?)?;
    Ok(())
}

/// Whether it reported that it ended before there was anything to save.
fn says_there_is_nothing(errors: &str) -> bool {
    let words = [
        "ended before the first walk",
        "ended before the recording began",
        "ended before the command was started",
        "nothing was played",
        "nothing was printed",
        "was not written",
    ];
    words.iter().any(|words| errors.contains(words))
}

/// The promised output of a mode exists; a trace must be readable from its first event to its last.
pub(super) fn promised_output(stage: &Stage, round: &mut Round, running: &Running) -> Result<()> {
    let Some(&output) = running.mode.outputs().first() else {
        return Ok(());
    };
    let path = running.folder.join(output);
    if !path.is_file() && !running.is_heard() {
        // It is unknown whether there was anything to save.
        return Ok(());
    }
    if !path.is_file() && says_there_is_nothing(&running.errors()) {
        return Ok(());
    }
    if !path.is_file() {
        round.fault("an output is missing", output);
    } else if matches!(running.mode, Mode::RecordProcess | Mode::RecordCommand) {
        // A command that is ended by a signal may leave an event half written: that is reported
        // twice.
        let code = match says_that_events_were_lost(&running.errors()) {
            true => NOT_WHOLE,
            false => 0,
        };
        readable_trace(stage, round, &path, &[code])?;
    }
    Ok(())
}

/// fragscope ended because its target is gone: it says so in a sentence, and does not report a bare
/// kernel error for what it could not do meanwhile.
pub(super) fn gone_is_said(round: &mut Round, said: &str) {
    let last = said.lines().last().unwrap_or_default();
    if last.split_whitespace().count() < 4 {
        round.fault("the target's end is not said", format!("{last:?}"));
    }
    let bare = ["os error", "entity not found"];
    if let Some(line) = said
        .lines()
        .find(|line| bare.iter().any(|bare| line.contains(bare)))
    {
        round.fault("the target's end is said in the kernel's words", line);
    }
}

/// A recording that was killed is readable up to its last complete block.
pub(super) fn killed_trace(stage: &Stage, round: &mut Round, running: &Running) -> Result<()> {
    let Some(output) = running.mode.outputs().first() else {
        return Ok(());
    };
    let path = running.folder.join(output);
    let begun = fs::metadata(&path).is_ok_and(|file| file.len() > 0);
    if begun && matches!(running.mode, Mode::RecordProcess | Mode::RecordCommand) {
        readable_trace(stage, round, &path, &[0, NOT_WHOLE])?;
    }
    Ok(())
}

/// Whether a recorder's last line says so: `wrote FILE: 206.5k events, 1.3 MiB …, 2 checkpoints, 1 lost`.
fn says_that_events_were_lost(errors: &str) -> bool {
    let mut wrote = errors.lines().filter(|line| line.starts_with("wrote "));
    wrote.any(|line| line.contains(" lost") && !line.contains(", 0 lost"))
}

/// The exit code for "done, but what was read was incomplete".
const NOT_WHOLE: i32 = 6;

/// Reads a trace, which ends with one of these codes.
fn readable_trace(stage: &Stage, round: &mut Round, path: &Path, codes: &[i32]) -> Result<()> {
    let read = Command::new(&stage.fragscope)
        .args(["export", "--format", "logalloc"])
        .arg(path)
        .stdout(Stdio::null())
        .output()?;
    if !read.status.code().is_some_and(|code| codes.contains(&code)) {
        let said = String::from_utf8_lossy(&read.stderr);
        round.fault(
            "a trace cannot be read",
            format!("{}: {}", read.status, said.trim()),
        );
    }
    Ok(())
}
