//! `attach`: the loop between the session, the clock, the signals and the front end.

use std::io;
use std::time::{Duration, Instant};

use profiler_core::view::View;
use profiler_sampling::Sampler;
use tokio::time::{MissedTickBehavior, interval, sleep_until, timeout};

use super::front::Front;
use super::options::AttachOptions;
use super::outputs::Outputs;
use super::saved::Recorder;
use super::signals::Signals;
use super::worker::SessionWorker;
use super::{Ending, SessionError};
use crate::say;
use crate::tui::Effect;

/// How long a session that a signal ends is waited for: the signal is to be answered within 200 ms.
const AFTER_SIGNAL: Duration = Duration::from_millis(120);

/// Attaches to the target until the duration is over, the user or a signal ends it, or the target
/// is gone; then writes the exports.
///
/// # Errors
/// When the target cannot be opened, the front end fails, or an export cannot be written. The
/// probes are off and the target runs in every case.
pub fn attach(options: &AttachOptions) -> Result<Ending, SessionError> {
    // Outputs, target and screen are checked before anything is attached.
    let outputs = Outputs::reserve(&options.outputs, &options.inputs())?;
    let recorder = outputs.recorder();
    let sampler = Sampler::open(options.pid)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    // Before anything is attached or drawn, so that a signal never finds the default action.
    let signals = {
        let _entered = runtime.enter();
        Signals::new()?
    };
    let mut front = Front::open(options)?;
    let watched = runtime.block_on(watch(
        options, sampler, signals, &mut front, &outputs, &recorder,
    ));
    let in_haste = matches!(&watched, Ok((_, Ok(Ending::Interrupted(_)))));
    // Whatever else failed, the terminal is given back first and what was seen is saved next.
    let closed = front.close(in_haste);
    let (view, ending) = watched?;
    match view {
        Some(view) => outputs.save_last(&recorder, &view, in_haste)?,
        None => say::line("ended before the first walk of the target: nothing was saved"),
    }
    closed?;
    let ending = ending?;
    match &ending {
        Ending::Done => {}
        Ending::Interrupted(by) => say::line(format_args!("ended by {by}")),
        Ending::TargetGone(how) => say::line(format_args!("{how}: its last walk is kept")),
    }
    Ok(ending)
}

/// The last view, unless it ended before the first, and how the session ended or why nothing can be
/// shown any more.
type Watched = (Option<View>, io::Result<Ending>);

async fn watch(
    options: &AttachOptions,
    sampler: Sampler,
    mut signals: Signals,
    front: &mut Front,
    outputs: &Outputs,
    recorder: &Recorder,
) -> Result<Watched, SessionError> {
    let began = Instant::now();
    let mut session = SessionWorker::start(options.clone(), sampler, recorder.clone())?;
    let deadline = options.duration.map(|duration| began + duration);
    let far = began + Duration::from_secs(u64::from(u32::MAX));
    let over = sleep_until(deadline.unwrap_or(far).into());
    tokio::pin!(over);
    let mut ticks = interval(options.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut walking = true;
    let mut last: Option<View> = None;
    let ending = loop {
        tokio::select! {
            biased;
            name = signals.next() => break Ok(Ending::Interrupted(name)),
            request = front.next_request() => match request {
                Effect::Quit => break Ok(Ending::Done),
                Effect::Interrupt => break Ok(Ending::Interrupted("Ctrl-C")),
                Effect::Walk if last.as_ref().is_some_and(|view| view.ended.is_some()) => {
                    front.note("the target is gone: there is nothing left to walk".into());
                }
                Effect::Walk => session.walk_now(),
                Effect::ReadObjects if last.as_ref().is_some_and(|view| view.ended.is_some()) => {
                    front.note("the target is gone: its objects cannot be read".into());
                }
                Effect::ReadObjects => session.read_objects_now(),
                Effect::Pause(paused) => walking = !paused,
                // Only of a saved session are there other walks to show.
                Effect::Show(_) => {}
                Effect::Export => {
                    let saved = last.as_ref().map(|view| outputs.export_now(view));
                    let none_yet = || Err("there is nothing to export yet".to_owned());
                    front.note(saved.unwrap_or_else(none_yet).unwrap_or_else(|error| error));
                }
            },
            () = &mut over => break Ok(Ending::Done),
            view = session.next() => {
                let view = view?;
                let shown = front.show(view.clone());
                let ended = view.ended.clone();
                last = Some(view);
                if let Err(error) = shown {
                    break Err(error);
                }
                if let Some(how) = ended && !front.outlives_target() {
                    break Ok(Ending::TargetGone(how));
                }
            },
            _ = ticks.tick() => session.tick(walking),
        }
    };
    // Removing the probes takes a moment that nobody should spend before a dead screen.
    front.leave();
    let mut ending = ending;
    session.finish(walking);
    if !matches!(ending, Ok(Ending::Interrupted(_))) {
        tokio::select! {
            biased;
            name = signals.next() => ending = ending.map(|_| Ending::Interrupted(name)),
            view = session.last() => last = Some(view?),
        }
    }
    if matches!(ending, Ok(Ending::Interrupted(_))) {
        // What the session is in the midst of is left to itself: its guards end what it did to the
        // target when this process ends.
        if let Ok(view) = timeout(AFTER_SIGNAL, session.last()).await {
            last = Some(view?);
        }
    }
    let gone = last.as_ref().and_then(|view| view.ended.clone());
    if let (Some(how), Ok(Ending::Done)) = (gone, &ending) {
        ending = Ok(Ending::TargetGone(how));
    }
    Ok((last, ending))
}
