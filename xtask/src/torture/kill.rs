//! `kill -9`, in all modes, at random moments and while breakpoints are being set or removed.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::aftermath::{self, How};
use super::running::{MODES, Mode, Running, Setting};
use super::stage::{Interrupted, Stage};
use super::worker::{SMALL, USUAL, Worker};
use super::{BRIEF_WINDOW, Round, Tally, WAIT_LIMIT, processes, small_trace};

/// A random instant is within this time from the start.
const WINDOW: Duration = Duration::from_secs(3);
/// The time between two checks for it: as short as possible.
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
enum Victim {
    Process,
    /// Its process group and its session, like a terminal or a supervisor.
    Group,
    /// What `pkill -9 fragscope` finds.
    Name,
}

/// Moments to aim at: breakpoints come and go, or the whole work is to stop the target.
const AIMED: [(Mode, Aim); 17] = [
    (Mode::Headless, Aim::Arming),
    (Mode::Headless, Aim::Closing),
    (Mode::Unlimited, Aim::Arming),
    (Mode::Unlimited, Aim::Closing),
    (Mode::Screen, Aim::Arming),
    (Mode::Screen, Aim::Closing),
    (Mode::WhatIf, Aim::Arming),
    (Mode::WhatIf, Aim::Closing),
    (Mode::RecordProcess, Aim::Arming),
    (Mode::RecordProcess, Aim::Closing),
    (Mode::GrowthSites, Aim::Arming),
    (Mode::GrowthSites, Aim::Closing),
    (Mode::Native, Aim::Arming),
    (Mode::Native, Aim::Closing),
    (Mode::Repair, Aim::Closing),
    (Mode::Snapshot, Aim::Stopped),
    (Mode::Objects, Aim::Stopped),
];

/// The name under which a round is counted if the moment did not come.
const MISSED: &str = "aim missed";
/// At most this share of the aimed rounds may miss.
const MAX_MISSED: f64 = 0.1;

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
    if missed as f64 > aimed as f64 * MAX_MISSED {
        tally.fault(format!(
            "{missed} of {aimed} aims were missed: nothing was tried there"
        ));
    }
    Ok(())
}

/// The mode and the instant of a round: half of all rounds are aimed, in the modes that allow it.
fn chosen(seed: u64) -> (Mode, Aim) {
    let turn = (seed / 2) as usize;
    match seed.is_multiple_of(2) {
        true => AIMED[turn % AIMED.len()],
        false => (MODES[turn % MODES.len()], Aim::Random),
    }
}

fn one(stage: &Stage, round: &mut Round, trace: &Path, kept: &mut Option<Worker>) -> Result<()> {
    let (mode, aim) = chosen(round.seed);
    let victim = match round.random.u8(..4) {
        0 if mode != Mode::RecordCommand => Victim::Group,
        1 => Victim::Name,
        // The recorded command is in the same group.
        _ => Victim::Process,
    };
    round.what = format!("kill -9 of the {victim:?}, {mode:?}, {aim:?}");
    round.kind(format!("{victim:?}"));
    round.kind(format!("{aim:?}"));
    round.kind(format!("{mode:?}"));

    let worker = match kept {
        Some(worker) => worker,
        None => kept.insert(Worker::start(stage, USUAL)?),
    };
    if mode == Mode::Repair {
        worker.text.leave_breakpoints()?;
    }
    let setting = Setting::of(worker.pid, trace);
    let mut running = Running::start(stage, mode, &setting)?;
    if !wait_for_aim(stage, round, &mut running, worker, aim)? {
        round.kind(MISSED);
    }
    kill_all(stage, &mut running, victim);
    if running.wait(stage, WAIT_LIMIT)?.is_none() {
        round.fault("it does not end", "by SIGKILL");
    }
    if mode == Mode::Repair {
        aftermath::repaired(stage, round, worker)?;
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
        // The next round begins with an intact one.
        *kept = None;
    }
    Ok(())
}

/// Kills the round's processes, except those that have ended and been reaped.
fn kill_all(stage: &Stage, running: &mut Running, victim: Victim) {
    let victims = match victim {
        Victim::Process => vec![running.pid],
        Victim::Group => running.group_and_session(),
        // Before it is executed it has another name.
        Victim::Name => match running.by_name(stage) {
            none if none.is_empty() => vec![running.pid],
            named => named,
        },
    };
    let over = running.ended().is_some();
    for victim in victims {
        if !over || victim != running.pid {
            let _ = kill(Pid::from_raw(victim), Signal::SIGKILL);
        }
    }
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

/// Waits for the instant. Returns whether it came.
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
            // Probes that stay are removed when it is asked to end, once it is at work.
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

/// All probes count as armed after this many looks without a new breakpoint.
const STEADY: u32 = 500;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_rounds_are_aimed_and_most_of_these_at_breakpoints_that_come_or_go() {
        let rounds = 1000;
        let all: Vec<_> = (0..rounds).map(chosen).collect();
        let of = |wanted: fn(&(Mode, Aim)) -> bool| all.iter().filter(|one| wanted(one)).count();
        let random = of(|(_, aim)| *aim == Aim::Random);
        assert_eq!(random, all.len() / 2);
        let arming = of(|(_, aim)| *aim == Aim::Arming);
        let closing = of(|(_, aim)| *aim == Aim::Closing);
        assert!(arming > all.len() / 6 && closing > all.len() / 6);
        assert!(arming + closing > (all.len() - random) * 4 / 5);
        for mode in MODES {
            assert!(all.contains(&(mode, Aim::Random)), "{mode:?}");
        }
        let repairs_or_probes = |mode: Mode| mode == Mode::Repair || mode.probes();
        let at_breakpoints = |aim| matches!(aim, Aim::Arming | Aim::Closing);
        for (mode, aim) in AIMED {
            assert_eq!(repairs_or_probes(mode), at_breakpoints(aim), "{mode:?}");
        }
    }
}
