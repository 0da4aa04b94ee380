//! Checks that a player makes progress and stays within its limits.

use std::time::{Duration, Instant};

use super::child::{Activity, Child};
use super::{CHECK_EVERY, PlayError, ReplayProgram, Setup};

/// Time without progress after which a player is considered hung, unless the setup gives another.
const HANGS_AFTER: Duration = Duration::from_secs(20);

/// Watches one player.
pub(super) struct Watch<'a> {
    program: &'a ReplayProgram,
    setup: &'a Setup,
    /// Gets how many operations have been played, and ends the player by giving false.
    progress: &'a dyn Fn(u64) -> bool,
    /// Operations that had been played at the last check.
    played: u64,
    idle: Idle,
    checked: Instant,
}

impl<'a> Watch<'a> {
    pub(super) fn new(
        program: &'a ReplayProgram,
        setup: &'a Setup,
        progress: &'a dyn Fn(u64) -> bool,
    ) -> Self {
        let now = Instant::now();
        Self {
            program,
            setup,
            progress,
            played: 0,
            idle: Idle::since(now),
            checked: now,
        }
    }

    /// Checks a player that is silent or was not checked for a while.
    pub(super) fn check(&mut self, child: &mut Child, is_silent: bool) -> Result<(), PlayError> {
        // A program of many checkpoints never is silent.
        if !is_silent && self.checked.elapsed() <= CHECK_EVERY {
            return Ok(());
        }
        self.checked = Instant::now();
        child.keep_guarded()?;
        let played = child.control().played()?;
        let wanted = || (self.progress)(played);
        // Before the checks that take long if there are many processes.
        if !wanted() {
            return Err(PlayError::Cancelled);
        }
        if played == self.played {
            self.idle.observe(self.checked, child.activity(&wanted)?);
        } else {
            self.played = played;
            self.idle.end(self.checked);
        }
        if let Some(limit_bytes) = self.setup.memory_limit
            && child.has_more_than(limit_bytes, self.program.own_bytes(), &wanted)?
        {
            return Err(PlayError::TooLarge { limit_bytes });
        }
        // A player that has played everything waits for more.
        let of = self.program.published();
        let patience = self.setup.patience.unwrap_or(HANGS_AFTER);
        if is_silent && played < of && self.idle.is_hang(patience) {
            return Err(PlayError::Hung { played, of });
        }
        Ok(())
    }

    /// Whether the player is still wanted.
    pub(super) fn is_wanted(&self) -> bool {
        (self.progress)(self.played)
    }

    /// A player at a checkpoint has made progress, and waits for fragscope.
    pub(super) fn is_at_checkpoint(&mut self) {
        self.idle.end(Instant::now());
    }
}

/// How long a player has made no progress, counting only time in which fragscope itself ran (while
/// it is suspended, so is its player) and in which the player could run: players yield to
/// everything, and one that waits for a processor does not hang.
struct Idle {
    observed: Instant,
    /// The processor time that the player had taken by then.
    used: Duration,
    time: Duration,
    /// The same, regardless of how much processor time it got.
    in_all: Duration,
}

impl Idle {
    /// The most that passes between two looks of a fragscope that runs.
    const MOST: Duration = Duration::from_secs(1);
    /// By what factor the wait is longer for a player that gets no processor.
    const STARVED: u32 = 15;

    fn since(now: Instant) -> Self {
        Self {
            observed: now,
            used: Duration::ZERO,
            time: Duration::ZERO,
            in_all: Duration::ZERO,
        }
    }

    fn observe(&mut self, now: Instant, player: Activity) {
        let passed = now.duration_since(self.observed).min(Self::MOST);
        self.time += match player.is_runnable {
            true => passed.min(player.used.saturating_sub(self.used)),
            false => passed,
        };
        self.in_all += passed;
        self.observed = now;
        self.used = player.used;
    }

    /// Whether it hangs, if `patience` without progress is allowed.
    fn is_hang(&self, patience: Duration) -> bool {
        self.time > patience || self.in_all > patience * Self::STARVED
    }

    /// It made progress.
    fn end(&mut self, now: Instant) {
        self.observed = now;
        self.time = Duration::ZERO;
        self.in_all = Duration::ZERO;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_in_which_fragscope_was_suspended_is_no_hang() {
        let began = Instant::now();
        let mut idle = Idle::since(began);
        let at = |ms| began + Duration::from_millis(ms);
        idle.observe(at(50), Activity::default());
        idle.observe(at(3_600_000), Activity::default());
        assert_eq!(idle.time, Duration::from_millis(1050));
        idle.end(at(3_600_000));
        idle.observe(at(3_600_050), Activity::default());
        assert_eq!(idle.time, Duration::from_millis(50));
    }

    #[test]
    fn a_player_that_waits_for_a_processor_does_not_hang() {
        let began = Instant::now();
        let mut idle = Idle::since(began);
        let runnable = |ms| Activity {
            used: Duration::from_millis(ms),
            is_runnable: true,
        };
        for second in 1..=60 {
            idle.observe(began + Duration::from_secs(second), runnable(10 * second));
        }
        assert_eq!(idle.time, Duration::from_millis(600));
        // A player that runs and gets nowhere hangs.
        for second in 61..=80 {
            let used = 600 + 1000 * (second - 60);
            idle.observe(began + Duration::from_secs(second), runnable(used));
        }
        assert_eq!(idle.time, Duration::from_millis(20_600));
        assert!(idle.is_hang(Duration::from_secs(20)));
        // A player that never gets a processor is given up in the end, also if the used time falls
        // because one of its processes has ended.
        let mut idle = Idle::since(began);
        for second in 1..=299 {
            idle.observe(began + Duration::from_secs(second), runnable(300 - second));
        }
        assert!(!idle.is_hang(Duration::from_secs(20)));
        for second in 300..=301 {
            idle.observe(began + Duration::from_secs(second), runnable(0));
        }
        assert!(idle.is_hang(Duration::from_secs(20)));
    }
}
