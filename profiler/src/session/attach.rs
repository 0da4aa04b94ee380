//! `attach`: the loop between the target, the clock, the signals and the front end.

use std::time::{Duration, Instant};

use profiler_core::view::View;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval, sleep_until};

use super::front::Front;
use super::live::LiveSession;
use super::options::{AttachOptions, Budget};
use super::probes::Probes;
use super::sampler::{Sampler, StopMode};
use super::schedule::{STOP_PART_OF_BUDGET, WalkSchedule};
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
    // Its outputs and its screen are checked before the target is touched.
    save::check(&options.outputs)?;
    let mut front = Front::open(options)?;
    let sampler = Sampler::open(options.pid)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (view, ending) = runtime.block_on(watch(options, sampler, &mut front))?;
    front.close(&ending)?;
    save::all(&options.outputs, &view)?;
    Ok(ending)
}

async fn watch(
    options: &AttachOptions,
    sampler: Sampler,
    front: &mut Front,
) -> Result<(View, Ending), SessionError> {
    // Before anything is attached, so that a signal never finds the default action.
    let mut signals = Signals::new()?;
    let began = Instant::now();
    let probes = match (options.probes, options.budget) {
        (false, _) => Probes::Off,
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
    let mode = if options.stop {
        StopMode::Stop
    } else {
        StopMode::NoStop
    };
    let schedule = WalkSchedule::new(options.interval, stop_share, began);
    let mut session = LiveSession::start(sampler, mode, schedule, probes)?;

    let deadline = options.duration.map(|duration| began + duration);
    let far = began + Duration::from_secs(u64::from(u32::MAX));
    let over = sleep_until(deadline.unwrap_or(far).into());
    tokio::pin!(over);
    let mut ticks = interval(options.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut walking = true;
    let ending = loop {
        tokio::select! {
            biased;
            name = signals.next() => break Ending::Interrupted(name),
            wish = front.wish() => match wish {
                Effect::Quit => break Ending::Done,
                Effect::Interrupt => break Ending::Interrupted("Ctrl-C"),
                Effect::Walk => {
                    session.walk_now();
                    session.tick(true);
                    front.show(session.view())?;
                }
                Effect::Pause(paused) => walking = !paused,
                Effect::Export => {
                    let saved = save::from_screen(&options.outputs, &session.view());
                    front.note(saved.unwrap_or_else(|error| error));
                }
            },
            () = &mut over => break Ending::Done,
            _ = ticks.tick() => {
                session.tick(walking);
                front.show(session.view())?;
                if let Some(how) = session.ended() && !front.outlives_target() {
                    break Ending::TargetGone(how.to_owned());
                }
            }
        }
    };
    let view = session.finish();
    let ending = match &view.ended {
        Some(how) if matches!(ending, Ending::Done) => Ending::TargetGone(how.clone()),
        _ => ending,
    };
    Ok((view, ending))
}

/// The signals that end a session well.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.hangup.recv() => "SIGHUP",
        }
    }
}
