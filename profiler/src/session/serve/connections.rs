//! Which connections are accepted, at what rate, and which open one is closed when there are too
//! many.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::Instant;

/// The most connections of a listener at a time: beyond that, one is closed. A well-behaved one is
/// over in milliseconds.
const MAX_CONNECTIONS: usize = 128;
/// Sources that have no more connections than this are alike: a host may have two scrapers.
const FEW: usize = 4;
/// At most this many recently answered sources are remembered.
const MAX_ANSWERED: usize = 256;
/// This many connections are accepted in a burst, then one per `step`; further ones wait in the
/// kernel. Accepting and closing a connection takes some ten microseconds.
pub(super) const ALL: Limit = Limit {
    burst: 2000,
    step: Duration::from_micros(500),
};
/// The same for one source: further ones are closed, so that others do not wait behind them.
const EACH: Limit = Limit {
    burst: 200,
    step: Duration::from_millis(5),
};
/// At most this many sources are distinguished at a time.
const MAX_SOURCES: usize = 1024;

/// The part of a client's address that it cannot choose: with IPv6 a host has an entire 64-bit
/// network.
#[derive(Copy, Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Source(IpAddr);

impl Source {
    /// All that are not distinguished.
    const OTHERS: Self = Self(IpAddr::V4(Ipv4Addr::UNSPECIFIED));

    pub(super) fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
            address => address,
        })
    }
}

/// Connections that are open, the oldest first.
#[derive(Default)]
pub(super) struct OpenConnections(Vec<OpenConnection>);

struct OpenConnection {
    source: Source,
    /// Whether its request was read, so that it is being answered.
    has_asked: Arc<AtomicBool>,
    task: AbortHandle,
}

impl OpenConnections {
    /// Closes one if the limit is reached.
    pub(super) fn make_room(&mut self, answered: &Answered) {
        self.0.retain(|connection| !connection.task.is_finished());
        if self.0.len() < MAX_CONNECTIONS {
            return;
        }
        let last = answered.last();
        let standings: Vec<Standing> = self
            .0
            .iter()
            .map(|connection| Standing {
                source: connection.source,
                has_asked: connection.has_asked.load(Ordering::Relaxed),
                was_answered: last.sources.contains_key(&connection.source),
            })
            .collect();
        if let Some(at) = least_missed(&standings) {
            self.0.remove(at).task.abort();
        }
    }

    pub(super) fn add(&mut self, source: Source, has_asked: Arc<AtomicBool>, task: AbortHandle) {
        self.0.push(OpenConnection {
            source,
            has_asked,
            task,
        });
    }
}

/// What decides whether a connection may stay.
#[derive(Copy, Clone)]
struct Standing {
    source: Source,
    has_asked: bool,
    /// Whether its source had an answer before.
    was_answered: bool,
}

/// Which of these, the oldest first, to close. Connections being answered stay while they are fewer
/// than the others, so that neither clients that send nothing nor clients that read nothing take
/// all places. The source with the most loses one of its own; among many sources with few each, one
/// that was never answered does.
fn least_missed(standings: &[Standing]) -> Option<usize> {
    let asked = standings.iter().filter(|one| one.has_asked).count();
    let loses = |one: &Standing| one.has_asked == (asked > standings.len() - asked);
    let mut counts: BTreeMap<Source, usize> = BTreeMap::new();
    for one in standings.iter().filter(|one| loses(one)) {
        *counts.entry(one.source).or_default() += 1;
    }
    let candidates = standings.iter().enumerate().filter(|(_, one)| loses(one));
    // Of equals the last is found, which is the oldest in this order.
    let (at, _) = candidates.rev().max_by_key(|(_, one)| {
        let count = counts.get(&one.source).copied().unwrap_or_default();
        (count.max(FEW), !one.was_answered)
    })?;
    Some(at)
}

/// The sources that were answered last.
#[derive(Default)]
pub(super) struct Answered(Mutex<LastAnswered>);

#[derive(Default)]
struct LastAnswered {
    /// Each source, and the number of its last answer.
    sources: BTreeMap<Source, u64>,
    answers: u64,
}

impl Answered {
    fn last(&self) -> MutexGuard<'_, LastAnswered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn note(&self, source: Source) {
        let mut last = self.last();
        last.answers += 1;
        let answer = last.answers;
        last.sources.insert(source, answer);
        if last.sources.len() > MAX_ANSWERED {
            let sources = &mut last.sources;
            let oldest = sources.iter().min_by_key(|(_, answer)| **answer);
            if let Some(oldest) = oldest.map(|(source, _)| *source) {
                sources.remove(&oldest);
            }
        }
    }
}

/// How many connections are accepted.
#[derive(Copy, Clone)]
pub(super) struct Limit {
    burst: u32,
    step: Duration,
}

/// How fast each source may connect.
#[derive(Default)]
pub(super) struct Sources(BTreeMap<Source, Pace>);

impl Sources {
    /// Whether another connection of this one is served.
    pub(super) fn may(&mut self, mut source: Source, now: Instant) -> bool {
        if self.0.len() >= MAX_SOURCES && !self.0.contains_key(&source) {
            self.0.retain(|_, pace| pace.due > now);
            if self.0.len() >= MAX_SOURCES {
                source = Source::OTHERS;
            }
        }
        let pace = self.0.entry(source).or_insert_with(|| Pace::new(EACH, now));
        let may = pace.next() <= now;
        if may {
            pace.took(now);
        }
        may
    }
}

/// How fast connections are accepted.
pub(super) struct Pace {
    limit: Limit,
    /// When the next one would be accepted if there were no burst.
    due: Instant,
    not_before: Instant,
}

impl Pace {
    pub(super) fn new(limit: Limit, now: Instant) -> Self {
        Self {
            limit,
            due: now,
            not_before: now,
        }
    }

    pub(super) fn next(&self) -> Instant {
        let burst = self.due.checked_sub(self.limit.step * self.limit.burst);
        burst.map_or(self.not_before, |burst| burst.max(self.not_before))
    }

    pub(super) fn took(&mut self, now: Instant) {
        self.due = self.due.max(now) + self.limit.step;
    }

    pub(super) fn rest(&mut self, until: Instant) {
        self.not_before = until;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(number: u32) -> Source {
        Source::of(Ipv4Addr::from_bits(0x0a00_0000 + number).into())
    }

    fn waits(number: u32) -> Standing {
        Standing {
            source: source(number),
            has_asked: false,
            was_answered: false,
        }
    }

    #[test]
    fn room_is_made_at_the_expense_of_the_source_that_has_most() {
        let mut open: Vec<Standing> = (0..3).map(waits).collect();
        assert_eq!(least_missed(&open), Some(0), "the oldest of all");
        open.extend((0..6).map(|_| waits(9)));
        assert_eq!(least_missed(&open), Some(3), "the oldest of its own");
        // Earlier answers do not help it.
        for one in &mut open[3..] {
            one.was_answered = true;
        }
        assert_eq!(least_missed(&open), Some(3));
        assert_eq!(least_missed(&[]), None);
    }

    #[test]
    fn of_sources_with_few_connections_each_one_that_was_answered_before_stays() {
        let mut open: Vec<Standing> = (0..9).map(waits).collect();
        // A scraper with two ports at one address.
        for scraper in [0, 1] {
            open[scraper].source = source(100);
            open[scraper].was_answered = true;
        }
        assert_eq!(least_missed(&open), Some(2));
    }

    #[test]
    fn neither_who_says_nothing_nor_who_reads_nothing_takes_the_place_of_the_other() {
        let mut open: Vec<Standing> = (0..9).map(waits).collect();
        open[0].has_asked = true;
        assert_eq!(least_missed(&open), Some(1), "the first is being answered");
        // Most ask, and read nothing.
        for one in &mut open {
            one.has_asked = true;
        }
        open[0].has_asked = false;
        assert_eq!(least_missed(&open), Some(1));
        open[1].was_answered = true;
        assert_eq!(least_missed(&open), Some(2));
    }

    #[test]
    fn a_bounded_number_of_sources_is_remembered_and_the_last_ones_stay() {
        let answered = Answered::default();
        for number in 0..2 * MAX_ANSWERED as u32 {
            answered.note(source(number));
            answered.note(source(0));
        }
        let last = answered.last();
        assert_eq!(last.sources.len(), MAX_ANSWERED);
        assert!(last.sources.contains_key(&source(0)) && !last.sources.contains_key(&source(1)));
    }

    #[test]
    fn many_connections_are_taken_at_once_and_then_one_each_step() {
        let Limit { burst, step } = ALL;
        let now = Instant::now() + step * burst * 2;
        let mut pace = Pace::new(ALL, Instant::now());
        let mut taken = 0;
        while pace.next() <= now {
            pace.took(now);
            taken += 1;
            assert!(taken <= burst + 1, "no bound");
        }
        assert!(taken >= burst, "{taken}");
        let next = pace.next();
        assert!(next > now && next <= now + step);
        let rest = now + Duration::from_millis(100);
        pace.rest(rest);
        assert_eq!(pace.next(), rest);
    }

    #[test]
    fn a_source_that_connects_too_often_takes_nothing_from_another() {
        let mut sources = Sources::default();
        let now = Instant::now();
        let mut may = |source: &str| {
            let address = source.parse().expect("an address");
            sources.may(Source::of(address), now)
        };
        let served = (0..10 * EACH.burst).filter(|_| may("10.0.0.1")).count();
        assert!((200..=201).contains(&served), "{served}");
        assert!(may("10.0.0.2"));
        // The same host, whatever address of its network it uses.
        let served = (0..10 * EACH.burst).filter(|n| may(&format!("2001:db8::{n:x}")));
        assert!(served.count() <= 201);
        assert!(!may("::ffff:10.0.0.1") && may("2001:db8:0:1::1"));
        // However many there are, a bounded number is kept.
        for number in 0..2 * MAX_SOURCES {
            sources.may(source(number as u32 + 1), now);
        }
        assert!(sources.0.len() <= MAX_SOURCES + 1);
        let later = now + Duration::from_secs(60);
        let other = Source::of([10, 9, 9, 9].into());
        assert!(sources.may(other, later) && sources.0.len() < 3);
    }
}
