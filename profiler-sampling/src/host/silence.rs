//! What it means for others that a process did not answer: they are waited for less, and those of the same user later.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::answers::ROOT;

/// Of the time of a session so large a part, one in so many, may go to waiting for file systems that do not answer.
const WAITING_PART: u32 = 10;
/// What took less was no such waiting.
const NO_WAIT: Duration = Duration::from_secs(1);
/// How long a question may take while nobody is waited for any more. What takes longer is asked again at the next look.
const QUICK: Duration = Duration::from_millis(300);
/// After this long it is forgotten that a process, or one of a user, did not answer.
const FORGET: Duration = Duration::from_secs(600);

/// Who did not answer.
#[derive(Debug)]
pub(super) struct Silence {
    /// Users, root excepted, with a process that did not answer, and when that was. `None` stands for
    /// those that are unknown.
    users: BTreeMap<Option<u32>, Instant>,
    /// Until then nobody is waited for again who may take long.
    waits_from: Instant,
}

impl Silence {
    /// Nobody yet.
    pub(super) fn none(now: Instant) -> Self {
        Self {
            users: BTreeMap::new(),
            waits_from: now,
        }
    }

    /// Forgets what was long ago.
    pub(super) fn forget(&mut self, now: Instant) {
        self.users.retain(|_, at| Self::is_remembered(*at, now));
    }

    /// Whether it still counts that somebody did not answer then.
    pub(super) fn is_remembered(at: Instant, now: Instant) -> bool {
        now < at + FORGET
    }

    /// Whether another process of the user that `user` gives did not answer. It is called only where there is any such user.
    /// An unknown user may be any of them.
    pub(super) fn is_of(&self, user: impl FnOnce() -> Option<u32>) -> bool {
        let is_one = |user| self.users.contains_key(&Some(user));
        !self.users.is_empty() && user().is_none_or(is_one)
    }

    /// Whether it says anything of a process that it did not answer within this time.
    pub(super) fn is_told_by(time: Duration) -> bool {
        time > QUICK
    }

    /// Takes note that a process of this user did not answer a question asked at `at`.
    pub(super) fn note(&mut self, user: Option<u32>, at: Instant) {
        // What others of root's do is no sign of what this one will do.
        if user != Some(ROOT) {
            self.users.insert(user, at);
        }
    }

    /// Whether there is time to wait for a process that may not answer.
    pub(super) fn may_wait(&self, now: Instant) -> bool {
        now >= self.waits_from
    }

    /// How long a question may take that may take `most`.
    pub(super) fn time(&self, most: Duration, now: Instant) -> Duration {
        match self.may_wait(now) {
            true => most,
            false => most.min(QUICK),
        }
    }

    /// Takes note that from `began` until now somebody was waited for who may take long.
    pub(super) fn has_waited(&mut self, began: Instant, now: Instant) {
        let took = now.saturating_duration_since(began);
        if took >= NO_WAIT {
            self.waits_from = now + took * (WAITING_PART - 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(15);
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_wait_leaves_nine_times_as_long_to_others() {
        let now = Instant::now();
        let mut silence = Silence::none(now);
        assert!(silence.may_wait(now));
        assert_eq!(silence.time(LONG, now), LONG);
        // What took less than a second was no wait.
        silence.has_waited(now, now + SECOND - Duration::from_millis(1));
        assert!(silence.may_wait(now + SECOND));
        silence.has_waited(now, now + SECOND * 2);
        let last = now + SECOND * 20 - Duration::from_millis(1);
        for at in [now + SECOND * 2, last] {
            assert!(!silence.may_wait(at));
            assert_eq!(silence.time(LONG, at), QUICK);
            assert_eq!(silence.time(QUICK / 2, at), QUICK / 2);
        }
        assert_eq!(silence.time(LONG, now + SECOND * 20), LONG);
    }

    #[test]
    fn a_user_is_marked_for_ten_minutes_and_root_never() {
        let now = Instant::now();
        let mut silence = Silence::none(now);
        silence.note(Some(ROOT), now);
        assert!(!silence.is_of(|| unreachable!("nobody was silent")));
        silence.note(Some(1000), now);
        assert!(silence.is_of(|| Some(1000)));
        for other in [1001, ROOT] {
            assert!(!silence.is_of(|| Some(other)), "{other}");
        }
        let last = now + FORGET - Duration::from_millis(1);
        silence.forget(last);
        assert!(silence.is_of(|| Some(1000)) && Silence::is_remembered(now, last));
        silence.forget(now + FORGET);
        assert!(!silence.is_of(|| Some(1000)) && !Silence::is_remembered(now, now + FORGET));
    }

    #[test]
    fn an_unknown_user_may_be_any_that_is_marked_and_marks_no_other() {
        let now = Instant::now();
        let mut silence = Silence::none(now);
        silence.note(None, now);
        assert!(silence.is_of(|| None) && !silence.is_of(|| Some(1000)));
        let mut silence = Silence::none(now);
        silence.note(Some(1000), now);
        assert!(silence.is_of(|| None));
    }

    #[test]
    fn a_mark_is_renewed_by_what_came_last() {
        let now = Instant::now();
        let mut silence = Silence::none(now);
        silence.note(Some(1000), now);
        silence.note(Some(1000), now + LONG);
        silence.forget(now + FORGET);
        assert!(silence.is_of(|| Some(1000)));
    }

    #[test]
    fn what_had_little_time_says_nothing() {
        assert!(!Silence::is_told_by(QUICK));
        assert!(Silence::is_told_by(QUICK + Duration::from_millis(1)));
    }
}
