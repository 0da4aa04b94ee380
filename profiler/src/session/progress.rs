//! Progress of a replay, on stderr.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use profiler_core::units::count;
use profiler_lab::candidate_set::Progress;

use crate::say;

/// Time between two looks of the bar.
const REFRESH: Duration = Duration::from_millis(200);
/// Time between two lines without a terminal.
const LINE: Duration = Duration::from_secs(10);
/// Columns of the bar.
const BAR: u64 = 24;

/// A bar on a terminal, a line now and then elsewhere.
#[derive(Debug)]
pub(crate) struct Bar {
    is_terminal: bool,
    began: Instant,
    last: Mutex<Instant>,
}

impl Bar {
    /// Begins.
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Self {
            is_terminal: say::is_watched(),
            began: now,
            last: Mutex::new(now),
        }
    }

    /// Shows the progress, if it is time to.
    pub(crate) fn show(&self, progress: Progress) {
        let every = if self.is_terminal { REFRESH } else { LINE };
        match self.last.try_lock() {
            Ok(mut last) if last.elapsed() >= every => *last = Instant::now(),
            _ => return,
        }
        let words = words(progress, self.began.elapsed());
        if self.is_terminal {
            let filled = progress.played * BAR / progress.of.max(1);
            let bar: String = (0..BAR)
                .map(|i| if i < filled { '#' } else { '.' })
                .collect();
            say::progress(format_args!("[{bar}] {words}"));
        } else {
            say::line(format_args!("replaying: {words}"));
        }
    }

    /// Takes the bar away.
    pub(crate) fn clear(&self) {
        if self.is_terminal {
            say::clear_progress();
        }
    }
}

fn words(progress: Progress, elapsed: Duration) -> String {
    let Progress {
        played,
        of,
        done,
        candidates,
    } = progress;
    let left = match played {
        0 => String::new(),
        _ => {
            let whole = elapsed.as_secs_f64() * of as f64 / played as f64;
            format!(", {:.0} s left", whole - elapsed.as_secs_f64())
        }
    };
    format!(
        "{}/{} events, {done}/{candidates} candidates{left}",
        count(played),
        count(of)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_follows_from_the_events_played() {
        let progress = Progress {
            played: 25_000,
            of: 100_000,
            done: 2,
            candidates: 9,
        };
        assert_eq!(
            words(progress, Duration::from_secs(10)),
            "25.0k/100.0k events, 2/9 candidates, 30 s left"
        );
        let begun = words(
            Progress {
                played: 0,
                ..progress
            },
            Duration::ZERO,
        );
        assert_eq!(begun, "0/100.0k events, 2/9 candidates");
    }
}
