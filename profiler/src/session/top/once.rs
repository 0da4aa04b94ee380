//! `top --once`: one observation, one walk of each Python process, and a second observation.

use std::collections::HashSet;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use profiler_core::host::{Arrangement, HostView, ProcessId};
use profiler_sampling::HostOptions;

use super::TopOptions;
use super::watcher::WatchedHost;
use crate::say;
use crate::session::{SessionError, interrupt};

/// Walks of one look that were not begun after this long are left out, unless `--duration` says another.
pub(super) const WALKS_FOR: Duration = Duration::from_secs(30);

/// Observes all processes once, and walks each that runs Python.
///
/// # Errors
/// When there is no `/proc`, or a signal came.
pub fn once(options: &TopOptions) -> Result<HostView, SessionError> {
    let options = options.clone();
    interrupt::unless_interrupted("top", &interrupt::flag()?, move |interrupted| {
        // Each is counted in full, and there are no turns.
        let of_all = HostOptions {
            budget: None,
            ..options.host()
        };
        let mut host = WatchedHost::new(of_all, None);
        let time = options.walks.then(|| options.duration.unwrap_or(WALKS_FOR));
        take(&mut host, &options.arrangement, time, interrupted)
    })
}

/// An observation, walks for at most `time`, and another observation. What the arrangement shows is
/// walked first: the time may not be enough for others.
pub(super) fn take(
    host: &mut WatchedHost,
    arrangement: &Arrangement,
    time: Option<Duration>,
    interrupted: &AtomicBool,
) -> io::Result<HostView> {
    host.look()?;
    let until = time.map(|time| Instant::now() + time);
    let shown = host.view().rows;
    let shown = shown.iter().filter(|row| arrangement.has_text(row));
    let first: HashSet<ProcessId> = shown.map(|row| row.process.id).collect();
    let mut tried = Vec::new();
    let goes_on = || {
        let is_time = until.is_some_and(|until| Instant::now() < until);
        is_time && !interrupted.load(Ordering::Relaxed)
    };
    let is_watched = say::is_watched();
    while goes_on() && host.walk_unwalked(&first, &mut tried) {
        if is_watched {
            say::progress(format_args!("{} processes walked", tried.len()));
        }
    }
    if is_watched && until.is_some() {
        say::clear_progress();
    }
    // Processes that ended meanwhile are not shown, and the kernel's counts are those at the end.
    host.look()?;
    let mut view = host.view();
    let left = view.rows.iter().filter(|row| {
        row.process.python.is_some() && row.walk.is_none() && row.not_walked.is_none()
    });
    let why = match (until, interrupted.load(Ordering::Relaxed)) {
        (None, _) => None,
        (_, true) => Some("a signal came"),
        _ => Some("the time for walks was over, or they had just begun"),
    };
    let who = match left.count() {
        0 => None,
        1 => Some("1 process that runs Python was".to_owned()),
        count => Some(format!("{count} processes that run Python were")),
    };
    if let (Some(who), Some(why)) = (who, why) {
        view.notices.push(format!("{who} not walked: {why}"));
    }
    Ok(view)
}
