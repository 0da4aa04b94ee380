//! Questions to the kernel that may never be answered, and the threads that wait for an answer.

use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use crate::start_thread;

/// The threads that got no answer in time and still wait. While there is one nothing more is asked,
/// so that there are no more.
#[derive(Debug)]
pub(super) struct LeftBehind(Mutex<Vec<Weak<()>>>);

/// A thread that waits for an answer.
struct Waiting<T> {
    answered: Receiver<T>,
    /// Gone when the thread has ended.
    thread: Weak<()>,
}

impl LeftBehind {
    pub(super) const fn none() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    /// The answer, if it comes within `limit`, and no other is awaited still.
    pub(super) fn ask<T: Send + 'static>(
        &self,
        limit: Duration,
        question: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        if self.is_any() {
            return None;
        }
        let waiting = Waiting::start(question)?;
        let answer = waiting.answered.recv_timeout(limit).ok();
        if answer.is_none() {
            self.add(&waiting);
        }
        answer
    }

    /// Whether one of them still waits.
    fn is_any(&self) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|thread| thread.strong_count() > 0);
        !all.is_empty()
    }

    /// It may have ended meanwhile: then it is none of them.
    fn add<T>(&self, waiting: &Waiting<T>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(Weak::clone(&waiting.thread));
    }
}

impl<T: Send + 'static> Waiting<T> {
    fn start(question: impl FnOnce() -> T + Send + 'static) -> Option<Self> {
        let (answer, answered) = mpsc::channel();
        let is_running = Arc::new(());
        let thread = Arc::downgrade(&is_running);
        let asking = start_thread("shared-memory", move || {
            // Nothing waits for a late answer.
            let _ = answer.send(question());
            drop(is_running);
        });
        asking.ok().map(|_| Self { answered, thread })
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    fn until_none_waits(left_behind: &LeftBehind) {
        while left_behind.is_any() {
            thread::yield_now();
        }
    }

    #[test]
    fn while_one_waits_nothing_more_is_asked() {
        let left_behind = LeftBehind::none();
        let (answer_now, answer) = mpsc::channel::<()>();
        let silent = left_behind.ask(Duration::from_millis(1), move || answer.recv());
        assert_eq!(silent, None);
        assert_eq!(left_behind.ask(LONG, || 5), None);
        drop(answer_now);
        until_none_waits(&left_behind);
        assert_eq!(left_behind.ask(LONG, || 5), Some(5));
    }

    #[test]
    fn one_that_ends_between_its_time_limit_and_the_note_of_it_is_not_waited_for_ever() {
        let left_behind = LeftBehind::none();
        let waiting = Waiting::start(|| 5).expect("a thread");
        while waiting.thread.strong_count() > 0 {
            thread::yield_now();
        }
        left_behind.add(&waiting);
        assert!(!left_behind.is_any());
        assert_eq!(left_behind.ask(LONG, || 6), Some(6));
    }
}
