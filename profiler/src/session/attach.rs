//! `attach`: the loop between the target, the clock, the signals and the front end.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use profiler_core::view::View;
use tokio::time::{MissedTickBehavior, interval, sleep_until};

use super::front::Front;
use super::live::LiveSession;
use super::options::{AttachOptions, Budget};
use super::probes::Probes;
use super::sampler::Sampler;
use super::schedule::{STOP_PART_OF_BUDGET, WalkSchedule};
use super::signals::Signals;
use super::what_if::WhatIfSession;
use super::{Ending, SessionError, save};
use crate::probe;
use crate::tui::Effect;

/// Attaches to the target until the duration is over, the user or a signal ends it, or the target
/// is gone; then writes the exports.
///
/// # Errors
/// When the target cannot be opened, the front end fails, or an export cannot be written. The
/// probes are off and the target runs in every case.
pub fn attach(options: &AttachOptions) -> Result<Ending, SessionError> {
    // Outputs, target and screen are checked before anything is attached.
    save::check(&options.outputs)?;
    let sampler = Sampler::open(options.pid)?;
    let mut front = Front::open(options)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let watched = runtime.block_on(watch(options, sampler, &mut front));
    // Whatever else failed, the terminal is given back first and what was seen is saved next.
    let closed = front.close();
    let (view, ending) = watched?;
    save::all(&options.outputs, &view)?;
    closed?;
    let ending = ending?;
    // A closed terminal hears nothing.
    let _ = match &ending {
        Ending::Done => Ok(()),
        Ending::Interrupted(by) => writeln!(io::stderr(), "ended by {by}"),
        Ending::TargetGone(how) => writeln!(io::stderr(), "{how}: its last sample is kept"),
    };
    Ok(ending)
}

/// The last view, and how the session ended or why nothing can be shown any more.
type Watched = (View, io::Result<Ending>);

async fn watch(
    options: &AttachOptions,
    sampler: Sampler,
    front: &mut Front,
) -> Result<Watched, SessionError> {
    // Before anything is attached, so that a signal never finds the default action.
    let mut signals = Signals::new()?;
    let began = Instant::now();
    // Probes that record stay armed, and tell the shadows alone.
    let mut ended_by = None;
    let what_if = match &options.what_if {
        None => None,
        Some(wanted) => {
            let started = WhatIfSession::start(options.pid, wanted, options.manner);
            let mut what_if = started.map_err(SessionError::WhatIf)?;
            // Without probes there is nothing to compare, which is an error and no notice.
            tokio::select! {
                biased;
                name = signals.next() => ended_by = Some(name),
                begun = what_if.begun() => begun.map_err(SessionError::Shadows)?,
            }
            Some(what_if)
        }
    };
    let probes = match (options.probes, options.budget) {
        (false, _) => Probes::Off,
        (true, _) if what_if.is_some() => Probes::Lent,
        (true, Budget::Unlimited) => Probes::start(options.pid, probe::Budget::Unlimited),
        (true, Budget::Share(share)) => {
            let share = share * (1.0 - STOP_PART_OF_BUDGET);
            Probes::start(options.pid, probe::Budget::Share(share))
        }
    };
    let stop_share = match options.budget {
        Budget::Share(share) => Some(share * STOP_PART_OF_BUDGET),
        Budget::Unlimited => None,
    };
    let schedule = WalkSchedule::new(options.interval, stop_share, began);
    let mut session = LiveSession::start(sampler, options.manner, schedule, probes, what_if)?;

    let deadline = options.duration.map(|duration| began + duration);
    let far = began + Duration::from_secs(u64::from(u32::MAX));
    let over = sleep_until(deadline.unwrap_or(far).into());
    tokio::pin!(over);
    let mut ticks = interval(options.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut walking = true;
    let ending = loop {
        if let Some(name) = ended_by {
            break Ok(Ending::Interrupted(name));
        }
        tokio::select! {
            biased;
            name = signals.next() => break Ok(Ending::Interrupted(name)),
            wish = front.wish() => match wish {
                Effect::Quit => break Ok(Ending::Done),
                Effect::Interrupt => break Ok(Ending::Interrupted("Ctrl-C")),
                Effect::Walk if session.ended().is_some() => {
                    front.note("the target is gone: there is nothing left to walk".into());
                }
                Effect::Walk => {
                    session.walk_now();
                    session.tick(true);
                    if let Err(error) = front.show(session.view()) {
                        break Err(error);
                    }
                }
                Effect::Pause(paused) => walking = !paused,
                Effect::Export => {
                    let saved = save::from_screen(&options.outputs, &session.view());
                    front.note(saved.unwrap_or_else(|error| error));
                }
            },
            () = &mut over => break Ok(Ending::Done),
            _ = ticks.tick() => {
                session.tick(walking);
                if let Err(error) = front.show(session.view()) {
                    break Err(error);
                }
                if let Some(how) = session.ended() && !front.outlives_target() {
                    break Ok(Ending::TargetGone(how.to_owned()));
                }
            }
        }
    };
    // Removing the probes takes a moment that nobody should spend before a dead screen.
    front.leave();
    let view = session.finish(walking);
    let ending = match &view.ended {
        Some(how) if matches!(ending, Ok(Ending::Done)) => Ok(Ending::TargetGone(how.clone())),
        _ => ending,
    };
    Ok((view, ending))
}
