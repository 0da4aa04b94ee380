//! The numbers that the kernel gives to new processes and threads.
//!
//! The kernel gives them in turn and begins anew at `kernel.pid_max` (`idr_alloc_cyclic` in
//! `kernel/pid.c`). So whatever was created between two threads of ours has a number between
//! theirs, unless in between all numbers were given: that takes longer than [`Given::is_recent`]
//! permits. Only root, and root of our container, can choose the number of a new process
//! (`clone3`, `set_tid`).

use std::time::{Duration, Instant};

use nix::unistd::gettid;

use crate::kernel_file::kernel_text;
use crate::start_thread;

/// Numbers are given one by one under a lock of the host, so each takes at least this long.
const TIME_OF_A_NUMBER: Duration = Duration::from_micros(1);
/// `kernel.pid_max` where it cannot be read: the smallest default.
const PID_MAX: i32 = 32_768;

/// The number of a thread of ours.
#[derive(Copy, Clone, Debug)]
pub(super) struct Number {
    number: i32,
    /// A time before it was given.
    before: Instant,
    /// A time after that.
    after: Instant,
}

impl Number {
    /// Of the calling thread, which was started after `before`.
    pub(super) fn of_this_thread(before: Instant) -> Self {
        Self {
            number: gettid().as_raw(),
            before,
            after: Instant::now(),
        }
    }

    /// A new one; `None` if no thread can be started.
    pub(super) fn new() -> Option<Self> {
        let before = Instant::now();
        let thread = start_thread("number", move || Self::of_this_thread(before));
        thread.ok()?.join().ok()
    }
}

/// The numbers that were given since a certain one.
#[derive(Copy, Clone, Debug)]
pub(super) struct Given {
    since: i32,
    last: Number,
    count: i32,
    /// All numbers are below this.
    most: i32,
}

impl Given {
    /// None yet.
    pub(super) fn since(last: Number) -> Self {
        let most = kernel_text("/proc/sys/kernel/pid_max");
        let most = most.ok().and_then(|most| most.trim().parse().ok());
        Self::below(most.unwrap_or(PID_MAX), last)
    }

    fn below(most: i32, last: Number) -> Self {
        Self {
            since: last.number,
            last,
            count: 0,
            most,
        }
    }

    /// In this time not all numbers can be given.
    fn turn(&self) -> Duration {
        TIME_OF_A_NUMBER * self.most.cast_unsigned()
    }

    /// How often a new number is needed.
    pub(super) fn step(&self) -> Duration {
        self.turn() / 4
    }

    /// Whether no new number is needed yet.
    pub(super) fn is_recent(&self) -> bool {
        self.last.before.elapsed() < self.step()
    }

    /// Counts the numbers up to this new one. Returns whether those given are known: they are not
    /// if a number may have been given twice.
    pub(super) fn follow(&mut self, new: Number) -> bool {
        let took = new.after.saturating_duration_since(self.last.before);
        let more = self.distance(self.last.number, new.number);
        self.count = self.count.saturating_add(more);
        self.last = new;
        took < self.turn() && self.count < self.most / 2
    }

    #[cfg(test)]
    pub(super) fn so_far(&self) -> (i32, i32) {
        (self.since, self.count)
    }

    fn distance(&self, from: i32, to: i32) -> i32 {
        match to >= from {
            true => to - from,
            false => (self.most - from).saturating_add(to),
        }
    }

    /// Whether this number may have been given.
    pub(super) fn includes(&self, number: i32) -> bool {
        (1..=self.count).contains(&self.distance(self.since, number))
    }

    /// All of them, if there are no more than `most`.
    pub(super) fn all(self, most: i32) -> Option<impl Iterator<Item = i32>> {
        let number = move |nth: i32| match self.since.saturating_add(nth) {
            number if number < self.most => number,
            number => number - self.most,
        };
        (self.count <= most).then(|| (1..=self.count).map(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: i32 = 32_768;
    const TURN: Duration = Duration::from_micros(MOST as u64);

    fn number(number: i32, at: Instant) -> Number {
        Number {
            number,
            before: at,
            after: at,
        }
    }

    #[test]
    fn what_is_created_between_two_threads_has_a_number_between_theirs() {
        let at = Instant::now();
        let mut given = Given::below(MOST, number(1000, at));
        assert_eq!(given.all(10).expect("none").count(), 0);
        assert!(given.follow(number(1002, at)) && given.follow(number(1003, at)));
        let all: Vec<i32> = given.all(3).expect("three").collect();
        assert_eq!(all, [1001, 1002, 1003]);
        assert!(given.all(2).is_none());
        assert!(all.iter().all(|number| given.includes(*number)));
        assert!(!given.includes(1000) && !given.includes(1004));
    }

    #[test]
    fn after_the_largest_number_the_smallest_are_given() {
        let at = Instant::now();
        let mut given = Given::below(MOST, number(MOST - 2, at));
        assert!(given.follow(number(2, at)));
        let all: Vec<i32> = given.all(10).expect("few").collect();
        assert_eq!(all, [MOST - 1, 0, 1, 2]);
        assert!(all.iter().all(|number| given.includes(*number)));
        assert!(!given.includes(3) && !given.includes(MOST - 2));
    }

    #[test]
    fn numbers_are_unknown_once_one_may_have_been_given_twice() {
        let at = Instant::now();
        let given = Given::below(MOST, number(1000, at));
        assert!({ given }.follow(number(1001, at + TURN / 2)));
        assert!(!{ given }.follow(number(1001, at + TURN)));
        // Each within its time.
        let (mut followed, mut is_known) = (given, true);
        for nth in 1..=4 {
            is_known = followed.follow(number(1000 + nth * 5000, at + TURN / 2 * nth as u32));
            assert_eq!(is_known, nth < 4, "{nth}");
        }
        assert!(!is_known);
    }

    #[test]
    fn the_kernel_gives_them_in_turn() {
        let mut given = Given::since(Number::new().expect("a thread"));
        let next = Number::new().expect("a thread");
        // Where others start more than half of all numbers meanwhile, that is not known.
        if given.follow(next) {
            assert!(given.includes(next.number));
        }
    }
}
