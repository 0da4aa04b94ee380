//! A memory cgroup that reaches its limit: the kernel kills the target, or fragscope.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use super::aftermath::{self, How};
use super::cgroup::{Cgroup, Kind};
use super::running::{Mode, Running, Setting, Streams};
use super::signals::give_up;
use super::stage::Stage;
use super::worker::{SMALL, Worker};
use super::{Round, Tally, WAIT_LIMIT, processes, small_trace};
use nix::sys::signal::Signal;

const MODES: [Mode; 4] = [
    Mode::Headless,
    Mode::Unlimited,
    Mode::RecordProcess,
    Mode::WhatIf,
];
const PAUSE: Duration = Duration::from_millis(2);
/// How much a target may grow before it is killed.
const ROOM: u64 = 8 << 20;
/// fragscope needs more than the first from its start, and less than the second.
const FRAGSCOPE: (u64, u64) = (2 << 20, 40 << 20);

/// The row.
pub(super) fn run(stage: &Stage, tally: &mut Tally) -> Result<()> {
    let trace = small_trace(stage)?;
    tally.each(|round| {
        let mode = MODES[(round.seed / 2 % MODES.len() as u64) as usize];
        round.kind(format!("{mode:?}"));
        if round.seed.is_multiple_of(2) {
            target_killed(stage, round, mode, &trace)
        } else {
            fragscope_killed(stage, round, mode, &trace)
        }
    })?;
    let (missed, all) = (tally.rounds_of(NO_KILL), tally.rounds);
    if missed as f64 > all as f64 * MAX_MISSED {
        tally.fault(format!(
            "the kernel killed nothing in {missed} of {all} rounds"
        ));
    }
    Ok(())
}

/// A round in which fragscope ended before the kernel killed any of its processes.
const NO_KILL: &str = "no kill";
/// At most this share of the rounds may be without a kill.
const MAX_MISSED: f64 = 0.1;

/// The target is killed while fragscope is attached: its last sample is saved.
fn target_killed(stage: &Stage, round: &mut Round, mode: Mode, trace: &Path) -> Result<()> {
    round.what = format!("the target meets its limit, {mode:?}");
    round.kind("target killed");
    let cgroup = Cgroup::new(Kind::Memory)?;
    let mut worker = Worker::start(stage, SMALL)?;
    cgroup.add(worker.pid)?;
    let setting = Setting::of(worker.pid, trace);
    let mut running = Running::start(stage, mode, &setting)?;
    let attached = wait_for_attached(stage, &mut running, &mut worker)?;
    if !attached {
        round.fault("it does not attach", "");
    }
    let instant = round.instant(Duration::from_secs(1));
    stage.let_pass(instant)?;
    // Pages that it had before it entered the group are not counted.
    cgroup.limit_memory(cgroup.memory()? + ROOM)?;
    worker.command("eat")?;
    let killed = stage.wait_for(WAIT_LIMIT, PAUSE, || Ok(worker.ended()))?;
    if killed.is_none() || cgroup.kills()? == 0 {
        round.fault("no kill", "the kernel did not end the target at its limit");
    }
    let how = match running.wait(stage, WAIT_LIMIT)? {
        None => {
            round.fault(
                "it does not end",
                format!("within {WAIT_LIMIT:?} of its target's end"),
            );
            give_up(stage, round, &mut running)?
        }
        Some(status) => {
            if status.code() == Some(5) {
                aftermath::gone_is_said(round, &running.errors());
            } else {
                round.fault("a wrong exit code", format!("{status}, not 5"));
            }
            aftermath::promised_output(stage, round, &running)?;
            How::ByItself
        }
    };
    aftermath::check(stage, round, &running, None, how)?;
    round.hear(running.errors());
    Ok(())
}

/// fragscope is killed at its own limit, at its start or while it is attached.
fn fragscope_killed(stage: &Stage, round: &mut Round, mode: Mode, trace: &Path) -> Result<()> {
    let cgroup = Cgroup::new(Kind::Memory)?;
    if round.random.bool() {
        let limit = round.random.u64(FRAGSCOPE.0..FRAGSCOPE.1);
        round.what = format!("fragscope has {} KiB, {mode:?}", limit >> 10);
        cgroup.limit_memory(limit)?;
    } else {
        round.what = format!("fragscope has what it needs until it is attached, {mode:?}");
    }
    let mut worker = Worker::start(stage, SMALL)?;
    let setting = Setting {
        worker: worker.pid,
        trace,
        cgroup: Some(&cgroup),
        streams: Streams::Files,
    };
    let mut running = Running::start(stage, mode, &setting)?;
    if wait_for_attached(stage, &mut running, &mut worker)? {
        // It had enough to attach; now it gets no more.
        let mut limit = cgroup.memory()?;
        stage.wait_for(WAIT_LIMIT, PAUSE, || {
            limit = limit.saturating_sub(64 << 10).max(64 << 10);
            // Refused while the kernel finds nothing to take back, and tried again with less.
            let _ = cgroup.limit_memory(limit);
            let killed = cgroup.kills()? > 0 || running.ended().is_some();
            Ok(killed.then_some(()))
        })?;
        round.kind("fragscope killed while attached");
    } else {
        round.kind("fragscope killed at its start");
    }
    if cgroup.kills()? == 0 {
        round.kind(NO_KILL);
        running.signal(Signal::SIGKILL);
    }
    if running.wait(stage, WAIT_LIMIT)?.is_none() {
        // A child of it was killed instead: a player, or the guard. It continues without.
        round.kind("a child killed");
        give_up(stage, round, &mut running)?;
    }
    // Its remaining processes need memory to end.
    cgroup.limit_memory(1 << 30)?;
    aftermath::check(stage, round, &running, Some(&mut worker), How::Killed)?;
    round.hear(running.errors());
    Ok(())
}

/// Waits until breakpoints or a stop show that it is attached; `false` if it ended before.
fn wait_for_attached(stage: &Stage, running: &mut Running, worker: &mut Worker) -> Result<bool> {
    let seen = stage.wait_for(WAIT_LIMIT, PAUSE, || {
        if running.ended().is_some() {
            return Ok(Some(false));
        }
        // The first line, or the first output, comes after the first sample.
        let begun = !running.printed().is_empty() || running.errors().contains("recording process");
        let seen = begun && (worker.text.count() > 0 || processes::is_held(worker.pid));
        Ok(seen.then_some(true))
    })?;
    Ok(seen.unwrap_or(false))
}
