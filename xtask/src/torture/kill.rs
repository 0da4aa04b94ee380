//! `kill -9`, in all modes, at random instants and at those in which breakpoints come or go.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::aftermath::{self, How};
use super::running::{MODES, Mode, Running, Setting, Streams};
use super::stage::{Interrupted, Stage};
use super::worker::{SMALL, USUAL, Worker};
use super::{BRIEF_WINDOW, Round, Tally, WAIT_LIMIT, processes, small_trace};

/// A random instant lies within this from the start.
const WINDOW: Duration = Duration::from_secs(3);
/// Between two looks for it: as close as they can be.
const PAUSE: Duration = Duration::from_micros(200);

/// When it is killed.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
enum Aim {
    Random,
    /// The first breakpoint has appeared.
    Arming,
    /// The first of them has gone.
    Closing,
    /// The target is stopped for a walk.
    Stopped,
}

/// Who is killed.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
enum Whom {
    Process,
    /// Its process group and its session, as a terminal or a supervisor does.
    Group,
    /// What `pkill -9 fragscope` finds.
    Name,
}

/// What a round is counted under in which the moment did not come.
const MISSED: &str = "aim missed";
/// Of the aimed rounds so many may miss.
const MOST_MISSED: f64 = 0.1;

/// The row.
pub(super) fn run(stage: &Stage, tally: &mut Tally) -> Result<()> {
    let trace = small_trace(stage)?;
    let mut worker = None;
    tally.each(|round| one(stage, round, &trace, &mut worker))?;
    let aimed = [Aim::Arming, Aim::Closing, Aim::Stopped];
    let aimed: u64 = aimed
        .map(|aim| tally.rounds_of(&format!("{aim:?}")))
        .iter()
        .sum();
    let missed = tally.rounds_of(MISSED);
    if missed as f64 > aimed as f64 * MOST_MISSED {
        tally.fault(format!(
            "{missed} of {aimed} aims were missed: nothing was tried there"
        ));
    }
    Ok(())
}

fn one(stage: &Stage, round: &mut Round, trace: &PathBuf, kept: &mut Option<Worker>) -> Result<()> {
    let mode = round.turn(&MODES);
    let whom = match round.random.u8(..4) {
        0 if mode != Mode::RecordCommand => Whom::Group,
        1 => Whom::Name,
        // The recorded command is in the same group.
        _ => Whom::Process,
    };
    // Half of them are aimed.
    let aimed = (round.seed / MODES.len() as u64).is_multiple_of(2);
    let aim = match (aimed, mode) {
        (false, _) => Aim::Random,
        (true, _) if mode.stops_briefly() => Aim::Stopped,
        (true, _) if !mode.probes() => Aim::Random,
        (true, _) if (round.seed / (2 * MODES.len() as u64)).is_multiple_of(2) => Aim::Closing,
        (true, _) => Aim::Arming,
    };
    round.what = format!("kill -9 of the {whom:?}, {mode:?}, {aim:?}");
    round.kind(format!("{whom:?}"));
    round.kind(format!("{aim:?}"));
    round.kind(format!("{mode:?}"));

    let worker = match kept {
        Some(worker) => worker,
        None => kept.insert(Worker::start(stage, USUAL)?),
    };
    let setting = Setting {
        worker: worker.pid,
        trace,
        cgroup: None,
        streams: Streams::Files,
    };
    let mut running = Running::start(stage, mode, &setting)?;
    if !wait_for_aim(stage, round, &mut running, worker, aim)? {
        round.kind(MISSED);
    }
    let victims = match whom {
        Whom::Process => vec![running.pid],
        Whom::Group => running.group_and_session(),
        Whom::Name => {
            // Before it is executed it has another name.
            let named = running.by_name(stage);
            if named.is_empty() {
                vec![running.pid]
            } else {
                named
            }
        }
    };
    let over = running.ended().is_some();
    for victim in victims {
        if !over || victim != running.pid {
            let _ = kill(Pid::from_raw(victim), Signal::SIGKILL);
        }
    }
    if running.wait(stage, WAIT_LIMIT)?.is_none() {
        round.fault("it does not end", "by SIGKILL");
    }
    aftermath::check(stage, round, &running, Some(worker), How::Killed)?;
    aftermath::killed_trace(stage, round, &running)?;
    if let Some(counters) = &running.counters
        && let Some(mut recorded) = Worker::recorded(stage, SMALL, counters)?
    {
        recorded_settles(stage, round, &mut recorded)?;
        aftermath::runs_on(stage, round, &mut recorded)?;
        aftermath::no_breakpoints(stage, round, &mut recorded)?;
    }
    round.hear(running.errors());
    if round.has_failed() {
        // The next round begins with one that is whole.
        *kept = None;
    }
    Ok(())
}

/// The command that was recorded gets to work, with fragscope gone.
fn recorded_settles(stage: &Stage, round: &mut Round, recorded: &mut Worker) -> Result<()> {
    match recorded.settle(stage) {
        Err(error) if !error.is::<Interrupted>() => {
            round.fault("the recorded command does not go on", error.to_string());
            Ok(())
        }
        settled => settled,
    }
}

/// Waits for the instant; whether it came.
fn wait_for_aim(
    stage: &Stage,
    round: &mut Round,
    running: &mut Running,
    worker: &mut Worker,
    aim: Aim,
) -> Result<bool> {
    let mode = running.mode;
    let came = match aim {
        Aim::Random => {
            let window = if mode.is_brief() {
                BRIEF_WINDOW
            } else {
                WINDOW
            };
            let instant = round.instant(window);
            stage.let_pass(instant)?;
            return Ok(true);
        }
        Aim::Arming => stage.wait_for(WAIT_LIMIT, PAUSE, || {
            let seen = worker.text.count() > 0 || running.ended().is_some();
            Ok(seen.then_some(()))
        })?,
        Aim::Stopped => stage.wait_for(WAIT_LIMIT, PAUSE, || {
            let seen = processes::is_held(worker.pid) || running.ended().is_some();
            Ok(seen.then_some(()))
        })?,
        Aim::Closing => {
            let mut most = 0;
            let mut asked = false;
            // Probes that stay go when it is asked to end, once it is at work.
            let mut steady = 0;
            stage.wait_for(WAIT_LIMIT, PAUSE, || {
                let now = worker.text.count();
                if now < most || running.ended().is_some() {
                    return Ok(Some(()));
                }
                steady = if now == most && now > 0 {
                    steady + 1
                } else {
                    0
                };
                most = most.max(now);
                if mode.keeps_probes() && !asked && steady > STEADY {
                    running.signal(Signal::SIGTERM);
                    asked = true;
                }
                Ok(None)
            })?
        }
    };
    Ok(came.is_some() && running.ended().is_none())
}

/// So many looks without a new breakpoint, and all are armed.
const STEADY: u32 = 500;
