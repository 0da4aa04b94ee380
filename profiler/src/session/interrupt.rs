//! A flag that a signal sets, for work without an event loop of its own.

use std::io;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use signal_hook::consts::SIGTERM;
use signal_hook::low_level::emulate_default_handler;

use super::SessionError;
use super::signals::{AFTER_SIGNAL, Signals};
use crate::say;

/// The interval of checks whether output is blocked, or whether a signal came.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// How long to wait for working processes after a second signal.
const ASKED_TWICE: Duration = Duration::from_millis(200);

/// A flag that is set when the user wants it to end.
///
/// # Errors
/// When signals cannot be waited for.
pub(super) fn flag() -> io::Result<Arc<AtomicBool>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut signals = {
        let _within = runtime.enter();
        Signals::new()?
    };
    let interrupted = Arc::new(AtomicBool::new(false));
    let set = Arc::clone(&interrupted);
    let wait = async move {
        let first = signals.next().await;
        set.store(true, Ordering::Relaxed);
        // All work checks the flag, but its result may be printed on a stopped terminal, or into a
        // pipe that nobody reads. And a second signal must end the process without a wait.
        let last = tokio::select! {
            again = signals.next() => again,
            () = stuck() => first,
        };
        // They would end with this process, and be zombies where nobody reaps orphans.
        profiler_lab::play::end_players(ASKED_TWICE);
        profiler_target::end_forked(ASKED_TWICE);
        let signal = Signal::from_str(last).map_or(SIGTERM, |signal| signal as i32);
        // It ends this process, if that is possible at all.
        let _ = emulate_default_handler(signal);
    };
    profiler_target::start_thread("signals", move || runtime.block_on(wait))?;
    Ok(interrupted)
}

/// Between two looks whether a wait was interrupted.
const WAIT_STEP: Duration = Duration::from_millis(50);

/// Waits, showing `what` happens afterwards as progress on stderr; returns whether it was not
/// interrupted. It calls `is_worth_it` repeatedly to check whether there still is something to wait
/// for.
pub(super) fn wait(
    time: Duration,
    what: &str,
    interrupted: &AtomicBool,
    mut is_worth_it: impl FnMut() -> bool,
) -> bool {
    let (is_watched, until) = (say::is_watched(), Instant::now() + time);
    while let Some(rest) = until.checked_duration_since(Instant::now()) {
        if !is_worth_it() || interrupted.load(Ordering::Relaxed) {
            break;
        }
        if is_watched {
            let seconds = rest.as_secs_f64().ceil();
            say::progress(format_args!("{what} in {seconds:.0} s"));
        }
        thread::sleep(rest.min(WAIT_STEP));
    }
    if is_watched {
        say::clear_progress();
    }
    !interrupted.load(Ordering::Relaxed)
}

/// The result of `work`, on a thread with this name. The work may check the flag and end early with
/// a partial result; otherwise it is abandoned, and its guard undoes what it did to a target.
///
/// # Errors
/// [`SessionError::Interrupted`], or the error of the work.
pub(super) fn unless_interrupted<T, E>(
    name: &str,
    flag: &Arc<AtomicBool>,
    work: impl FnOnce(&AtomicBool) -> Result<T, E> + Send + 'static,
) -> Result<T, SessionError>
where
    T: Send + 'static,
    E: Send + 'static,
    SessionError: From<E>,
{
    let (report, done) = channel();
    let for_work = Arc::clone(flag);
    profiler_target::start_thread(name, move || {
        // The caller may have ended already.
        let _ = report.send(work(&for_work));
    })?;
    let mut is_last_look = false;
    loop {
        let wait = match is_last_look {
            true => AFTER_SIGNAL,
            false => POLL_INTERVAL,
        };
        match done.recv_timeout(wait) {
            Ok(given) => return Ok(given?),
            Err(RecvTimeoutError::Timeout) if is_last_look => {
                return Err(SessionError::Interrupted);
            }
            Err(RecvTimeoutError::Timeout) => is_last_look = flag.load(Ordering::Relaxed),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(io::Error::other("a thread of fragscope panicked").into());
            }
        }
    }
}

/// Completes when printed output is not accepted.
async fn stuck() {
    while !say::is_stuck() {
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_does_not_look_at_the_flag_is_left_to_itself() {
        let flag = Arc::new(AtomicBool::new(false));
        let set = Arc::clone(&flag);
        let looks = unless_interrupted("looks", &flag, move |flag| {
            set.store(true, Ordering::Relaxed);
            Ok::<_, io::Error>(flag.load(Ordering::Relaxed))
        });
        assert!(looks.expect("what it had"));
        let sleeps = unless_interrupted("sleeps", &flag, |_| {
            loop {
                thread::park();
            }
            #[expect(unreachable_code, reason = "of what type it would be")]
            Ok::<(), io::Error>(())
        });
        assert!(matches!(sleeps, Err(SessionError::Interrupted)));
    }
}
