//! `top --once`: one look, each Python process walked once, and a second look.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use profiler_core::host::HostView;

use super::TopOptions;
use super::watcher::WatchedHost;
use crate::say;
use crate::session::{SessionError, interrupt};

/// Walks of `--once` that were not begun after this long are left out, unless `--duration` says another.
const WALKS_FOR: Duration = Duration::from_secs(30);
/// Between two looks whether it was interrupted.
const LOOK: Duration = Duration::from_millis(20);

/// What one look came to.
#[derive(Debug)]
pub enum Once {
    /// What was seen.
    Seen(Box<HostView>),
    /// A signal ended it.
    Interrupted,
}

/// Looks once at all processes, and walks each that runs Python.
///
/// # Errors
/// When there is no `/proc`.
pub fn once(options: &TopOptions) -> Result<Once, SessionError> {
    let interrupted = interrupt::flag()?;
    let (done, seen) = channel();
    let (options, ending) = (options.clone(), Arc::clone(&interrupted));
    // A walk cannot be interrupted; whoever leaves it to itself has it undone by its guard.
    thread::Builder::new().name("top".into()).spawn(move || {
        // Whoever left does not want it any more.
        let _ = done.send(take(&options, &ending));
    })?;
    loop {
        match seen.recv_timeout(LOOK) {
            Ok(view) => return Ok(Once::Seen(Box::new(view?))),
            Err(RecvTimeoutError::Timeout) if interrupted.load(Ordering::Relaxed) => {
                return Ok(Once::Interrupted);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(io::Error::other("the watching thread panicked").into());
            }
        }
    }
}

fn take(options: &TopOptions, interrupted: &AtomicBool) -> io::Result<HostView> {
    let mut host = WatchedHost::new(options);
    let until = Instant::now() + options.duration.unwrap_or(WALKS_FOR);
    host.look()?;
    let mut tried = Vec::new();
    let goes_on = || Instant::now() < until && !interrupted.load(Ordering::Relaxed);
    let is_watched = say::is_watched();
    while options.walks && goes_on() && host.walk_unwalked(&mut tried) {
        if is_watched {
            say::progress(format_args!("{} processes walked", tried.len()));
        }
    }
    if is_watched && options.walks {
        say::clear_progress();
    }
    // Who ended meanwhile is not shown, and what the kernel counts is of the end.
    host.look()?;
    Ok(host.view())
}
