//! What happens to the target while fragscope attaches, is attached, or records.

use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::aftermath::{self, How};
use super::cgroup::{Cgroup, Kind};
use super::running::{Mode, Running, Setting, Streams};
use super::signals::{ends_by_interrupt, give_up, is_death, longest_stop};
use super::stage::Stage;
use super::worker::{SMALL, Worker};
use super::{BRIEF_WINDOW, Round, Tally, WAIT_LIMIT, processes, small_trace};

const WINDOW: Duration = Duration::from_secs(2);
/// How long fragscope may take to notice that its target is gone: loading the BPF programs takes
/// seconds on a busy host.
const ENDS_WITHIN: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(1);
/// The default of `--max-stop`, plus the delay on a busy host.
const LONGEST: Duration = Duration::from_millis(3500);
/// How long the effect lasts before fragscope is asked to end.
const LASTS: Duration = Duration::from_millis(1500);

#[derive(Copy, Clone, Debug, Eq, PartialEq)]
enum Event {
    Exits,
    Execs,
    Killed,
    Stopped,
    Frozen,
    Forks,
    Traced,
    /// The group of fragscope itself is frozen.
    FragscopeFrozen,
}

const EVENTS: [Event; 8] = [
    Event::Exits,
    Event::Execs,
    Event::Killed,
    Event::Stopped,
    Event::Frozen,
    Event::Forks,
    Event::Traced,
    Event::FragscopeFrozen,
];

const MODES: [Mode; 7] = [
    Mode::Headless,
    Mode::Unlimited,
    Mode::Screen,
    Mode::WhatIf,
    Mode::RecordProcess,
    Mode::Snapshot,
    Mode::Objects,
];

/// The row.
pub(super) fn run(stage: &Stage, tally: &mut Tally) -> Result<()> {
    let trace = small_trace(stage)?;
    let mut all = Vec::new();
    for event in EVENTS {
        all.extend(MODES.map(|mode| (event, mode)));
    }
    fastrand::Rng::with_seed(0).shuffle(&mut all);
    let mut kept = None;
    tally.each(|round| one(stage, round, &all, &trace, &mut kept))
}

fn one(
    stage: &Stage,
    round: &mut Round,
    all: &[(Event, Mode)],
    trace: &PathBuf,
    kept: &mut Option<Worker>,
) -> Result<()> {
    let (event, mode) = round.turn(all);
    round.kind(format!("{event:?}"));
    round.kind(format!("{mode:?}"));
    let mut worker = match kept.take() {
        Some(worker) => worker,
        None => Worker::start(stage, SMALL)?,
    };
    let cgroup = match event {
        Event::Frozen | Event::FragscopeFrozen => Some(Cgroup::new(Kind::Freezer)?),
        _ => None,
    };
    if let (Event::Frozen, Some(cgroup)) = (event, &cgroup) {
        cgroup.add(worker.pid)?;
    }
    let setting = Setting {
        worker: worker.pid,
        trace,
        cgroup: cgroup.as_ref().filter(|_| event == Event::FragscopeFrozen),
        streams: Streams::Files,
    };
    let mut running = Running::start(stage, mode, &setting)?;
    let instant = round.instant(if mode.stops_briefly() {
        BRIEF_WINDOW
    } else {
        WINDOW
    });
    round.what = format!(
        "{event:?}, {mode:?}, {:.3} s from its start",
        instant.as_secs_f64()
    );
    stage.let_pass(instant)?;
    let how = happens(
        event,
        stage,
        round,
        &mut running,
        &mut worker,
        cgroup.as_ref(),
    )?;
    let gone = matches!(event, Event::Exits | Event::Killed);
    let survivor = (!gone).then_some(&mut worker);
    aftermath::check(stage, round, &running, survivor, how)?;
    round.hear(running.errors());
    drop(running);
    if !gone && !round.has_failed() && event != Event::Forks {
        *kept = Some(worker);
    }
    Ok(())
}

/// Triggers the event, and ends fragscope if the event does not.
fn happens(
    event: Event,
    stage: &Stage,
    round: &mut Round,
    running: &mut Running,
    worker: &mut Worker,
    cgroup: Option<&Cgroup>,
) -> Result<How> {
    let printed = !running.printed().is_empty();
    let cgroup = || cgroup.context("one that is frozen has a group");
    match event {
        Event::Exits => {
            worker.command("exit")?;
            target_gone(stage, round, running, printed)
        }
        Event::Killed => {
            worker.signal(Signal::SIGKILL);
            target_gone(stage, round, running, printed)
        }
        Event::Execs => {
            worker.exec(stage)?;
            target_gone(stage, round, running, printed)
        }
        Event::Stopped => stopped(stage, round, running, worker),
        Event::Frozen => {
            let _frozen = Frozen::begin(cgroup()?)?;
            stage.let_pass(LASTS)?;
            ends_by_interrupt(stage, round, running)
        }
        Event::Forks => forks(stage, round, running, worker),
        Event::Traced => traced(stage, round, running, worker),
        Event::FragscopeFrozen => fragscope_frozen(stage, round, running, worker, cgroup()?),
    }
}

/// The target has exited or executed another program: fragscope ends with 5 and a sentence, or had
/// finished before.
fn target_gone(
    stage: &Stage,
    round: &mut Round,
    running: &mut Running,
    printed: bool,
) -> Result<How> {
    if running.mode == Mode::Screen {
        // It shows the results until the user quits.
        stage.let_pass(LASTS)?;
        running.signal(Signal::SIGTERM);
    }
    let Some(status) = running.wait(stage, ENDS_WITHIN)? else {
        round.fault(
            "it does not end",
            format!("within {ENDS_WITHIN:?} of its target's end"),
        );
        return give_up(stage, round, running);
    };
    let said = running.errors();
    match (running.mode, status.code()) {
        (_, Some(5)) => aftermath::gone_is_said(round, &said),
        (Mode::Screen, Some(130)) | (Mode::Snapshot | Mode::Objects, Some(0)) => {}
        // Ended by the signal that was to end the screen, before it had taken it over.
        (Mode::Screen, None) => return Ok(How::Killed),
        _ => round.fault("a wrong exit code", format!("{status}, not 5")),
    }
    if printed && !running.mode.stops_briefly() {
        aftermath::promised_output(stage, round, running)?;
    }
    Ok(how_of(status))
}

fn how_of(status: ExitStatus) -> How {
    if is_death(status) {
        How::Killed
    } else {
        How::ByItself
    }
}

/// The target is stopped by SIGSTOP: fragscope continues, and leaves it stopped.
fn stopped(
    stage: &Stage,
    round: &mut Round,
    running: &mut Running,
    worker: &Worker,
) -> Result<How> {
    worker.signal(Signal::SIGSTOP);
    stage.let_pass(LASTS)?;
    let how = ends_by_interrupt(stage, round, running)?;
    let all_stopped = stage.wait_for(WAIT_LIMIT, PAUSE, || {
        let threads = processes::threads(worker.pid);
        Ok(threads
            .iter()
            .all(|thread| thread.state == 'T')
            .then_some(()))
    })?;
    if all_stopped.is_none() {
        round.fault(
            "a stopped target does not stay so",
            "it was stopped by SIGSTOP",
        );
    }
    worker.signal(Signal::SIGCONT);
    Ok(how)
}

/// The target forks: neither it nor its child keeps a breakpoint.
fn forks(
    stage: &Stage,
    round: &mut Round,
    running: &mut Running,
    worker: &mut Worker,
) -> Result<How> {
    worker.command("fork")?;
    let child = worker.forked(stage)?;
    stage.let_pass(LASTS)?;
    let how = ends_by_interrupt(stage, round, running)?;
    let mut text = super::text::Text::of(child)?;
    let clean = stage.wait_for(WAIT_LIMIT / 12, PAUSE, || {
        Ok(text.changes().is_empty().then_some(()))
    })?;
    if clean.is_none() {
        let changed = text.changes().len();
        round.fault(
            "breakpoints are left",
            format!("in the target's child: {changed}"),
        );
    }
    if processes::process(child).is_none_or(|child| child.state == 'Z') {
        round.fault("the target does not go on", "its child died");
    }
    Ok(how)
}

/// Another tracer holds the target: fragscope says so, or continues without stops.
fn traced(stage: &Stage, round: &mut Round, running: &mut Running, worker: &Worker) -> Result<How> {
    let tracer = Tracer::begin(worker.pid)?;
    stage.let_pass(LASTS)?;
    let how = match running.ended() {
        None => ends_by_interrupt(stage, round, running)?,
        Some(status) => {
            let said = running.errors();
            let of_tracer = said.contains("traced");
            let done_before = running.mode.stops_briefly() && status.success();
            if !(of_tracer || done_before) {
                round.fault("another tracer is not named", status.to_string());
            }
            how_of(status)
        }
    };
    tracer.end();
    Ok(how)
}

/// A small tracer: it seizes every thread and does nothing else.
struct Tracer {
    end: mpsc::Sender<()>,
    thread: JoinHandle<()>,
}

impl Tracer {
    fn begin(pid: i32) -> Result<Self> {
        let (end, ended) = mpsc::channel();
        let (ready, is_ready) = mpsc::channel();
        // The kernel detaches a thread's tracees when that thread ends.
        let thread = thread::spawn(move || {
            for thread in processes::threads(pid) {
                // A walk of fragscope's may hold it at this moment; then fragscope was first.
                let tid = Pid::from_raw(thread.tid);
                for _ in 0..100 {
                    match ptrace::seize(tid, ptrace::Options::empty()) {
                        Err(nix::errno::Errno::EPERM) => thread::sleep(Duration::from_millis(5)),
                        _ => break,
                    }
                }
            }
            // Both ends live as long as the tracer is needed.
            let _ = ready.send(());
            let _ = ended.recv();
        });
        is_ready.recv().context("the tracer")?;
        Ok(Self { end, thread })
    }

    fn end(self) {
        drop(self.end);
        let _ = self.thread.join();
    }
}

/// fragscope's group is frozen in a stop, if one is seen: the target is not held.
fn fragscope_frozen(
    stage: &Stage,
    round: &mut Round,
    running: &mut Running,
    worker: &Worker,
    cgroup: &Cgroup,
) -> Result<How> {
    let seen = stage.wait_for(WAIT_LIMIT, Duration::from_micros(100), || {
        let seen = processes::is_held(worker.pid) || running.ended().is_some();
        Ok(seen.then_some(()))
    })?;
    round.kind(match seen {
        Some(()) => "frozen in a stop",
        None => "no stop seen",
    });
    let frozen = Frozen::begin(cgroup)?;
    let kept = longest_stop(stage, worker.pid)?;
    round.figure(
        "longest stop of the target while fragscope was frozen, s",
        kept.as_secs_f64(),
    );
    if kept > LONGEST {
        round.fault(
            "the target is kept stopped",
            format!("for {kept:.1?} and more"),
        );
    }
    drop(frozen);
    ends_by_interrupt(stage, round, running)
}

/// While this lives, a group is frozen.
struct Frozen<'a>(&'a Cgroup);

impl<'a> Frozen<'a> {
    fn begin(cgroup: &'a Cgroup) -> Result<Self> {
        cgroup.freeze(true)?;
        Ok(Self(cgroup))
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        // The end of the group thaws it again.
        let _ = self.0.freeze(false);
    }
}
