//! How many items containers have between two censuses: counted several times while the process runs on. Two censuses alone
//! cannot tell a container that becomes longer all the time from one that becomes longer and shorter in turn.

use std::cmp::Reverse;

use super::census::Census;
use super::words::read_word;
use crate::addr::RemoteAddr;
use crate::memory::TargetMemory;
use crate::worth::MOST;

/// Containers that are counted at most, those of the holders that retain most.
const MAX_COUNTED: usize = 256;
/// Counts of each that are kept: of a session that lasts, every other one goes.
const MAX_COUNTS: usize = 128;
/// Counts from which a course is drawn at the least.
const LEAST_COUNTS: usize = 6;
/// A container that became shorter by fewer items than this is not said to go up and down.
const LEAST_FALL: u64 = 16;
/// Where a number of items is as large as this, it is none: the container is gone.
const MAX_LENGTH: u64 = 1 << 40;
/// Parts of the counts of which the lowest are compared.
const PARTS: usize = 5;
/// What goes on gains at least this share, in each half of the time, of what it would at a steady rate,
const STEADY: f64 = 0.25;
/// and loses no more than this share of what it gained meanwhile.
const MOST_BACK: f64 = 0.25;

/// How the number of a container's items went on between two censuses.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Course {
    /// It became longer all the time.
    Rises,
    /// It became shorter all the time.
    Falls,
    /// It became shorter meanwhile by at least half of what it gained or lost in all, and nothing shows that something stays.
    UpAndDown,
}

impl Course {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Rises, Self::Falls, Self::UpAndDown];

    /// Its name in files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rises => "rises",
            Self::Falls => "falls",
            Self::UpAndDown => "up_and_down",
        }
    }

    /// By the times of the counts, ascending, and what was counted; `None` where that shows none of these.
    fn of(counts: &[(u64, u64)]) -> Option<Self> {
        let [(began_ns, first), .., (ended_ns, last)] = *counts else {
            return None;
        };
        if counts.len() < LEAST_COUNTS {
            return None;
        }
        let middle_ns = began_ns + ended_ns.saturating_sub(began_ns) / 2;
        let middle = counts.partition_point(|(time_ns, _)| *time_ns < middle_ns);
        let (at_ns, in_middle) = *counts.get(middle)?;
        let lengths = counts.iter().map(|(_, length)| *length);
        let fell = most_lost(lengths.clone());
        let rose = most_lost(lengths.rev());
        let gained = last.abs_diff(first) as f64;
        let share =
            at_ns.saturating_sub(began_ns) as f64 / ended_ns.saturating_sub(began_ns) as f64;
        let goes_on = |halves: [f64; 2]| {
            halves[0] >= gained * share * STEADY && halves[1] >= gained * (1.0 - share) * STEADY
        };
        let halves = [
            in_middle as f64 - first as f64,
            last as f64 - in_middle as f64,
        ];
        match last > first {
            true if goes_on(halves) && fell as f64 <= gained * MOST_BACK => Some(Self::Rises),
            false
                if last < first
                    && goes_on(halves.map(|half| -half))
                    && rose as f64 <= gained * MOST_BACK =>
            {
                Some(Self::Falls)
            }
            _ if fell.min(rose) >= LEAST_FALL
                && fell.min(rose) as f64 >= gained * MOST
                && !lows_rise(counts) =>
            {
                Some(Self::UpAndDown)
            }
            _ => None,
        }
    }
}

/// Whether the lowest count of each part of the time is higher than that of the part before: then something stays of what
/// goes up and down.
fn lows_rise(counts: &[(u64, u64)]) -> bool {
    let parts = counts.chunks(counts.len().div_ceil(PARTS).max(1));
    let lows = parts.filter_map(|part| part.iter().map(|(_, length)| *length).min());
    lows.is_sorted_by(|before, after| before < after)
}

/// The most that was lost from any count to a later one.
fn most_lost(lengths: impl Iterator<Item = u64>) -> u64 {
    let (mut most, mut lost) = (0, 0);
    for length in lengths {
        most = most.max(length);
        lost = lost.max(most - length);
    }
    lost
}

/// Counts of the items of containers since a census.
#[derive(Clone, Debug, Default)]
pub struct Lengths {
    /// When the walk of that census was.
    since_ns: u64,
    /// Where each number is, and what it was when.
    all: Vec<(RemoteAddr, Vec<(u64, u64)>)>,
}

impl Lengths {
    /// Of the containers in which the bytes of the largest holders spread out, none counted yet.
    pub fn of(census: &Census) -> Self {
        let mut places: Vec<(u64, RemoteAddr)> = Vec::new();
        for holder in &census.holders {
            places.extend(holder.length_at.map(|at| (holder.retained_bytes, at)));
            let branches = holder.branches.iter();
            places.extend(branches.filter_map(|of| Some((of.retained_bytes, of.length_at?))));
        }
        places.sort_unstable_by_key(|(bytes, at)| (Reverse(*bytes), *at));
        places.dedup_by_key(|(_, at)| *at);
        places.truncate(MAX_COUNTED);
        let all = places.into_iter().map(|(_, at)| (at, Vec::new()));
        Self {
            since_ns: census.taken_at_ns,
            all: all.collect(),
        }
    }

    /// Counts them once more, at this time. One that cannot be read any more is not counted again.
    pub fn count<M: TargetMemory>(&mut self, time_ns: u64, memory: &M) {
        self.all.retain_mut(|(at, counts)| {
            let length = read_word(memory, at.get()).filter(|length| *length < MAX_LENGTH);
            if counts.len() >= MAX_COUNTS {
                let mut nth = 0;
                counts.retain(|_| {
                    nth += 1;
                    nth % 2 == 1
                });
            }
            counts.extend(length.map(|length| (time_ns, length)));
            length.is_some()
        });
    }

    /// Gives the containers of a later census their courses: those that are where they were.
    pub fn give_courses(&self, census: &mut Census) {
        let course = |at: Option<RemoteAddr>| {
            let mut all = self.all.iter();
            let (_, counts) = all.find(|(counted, _)| Some(*counted) == at)?;
            Course::of(counts)
        };
        census.counted_since_ns = Some(self.since_ns);
        for holder in &mut census.holders {
            holder.course = course(holder.length_at);
            for branch in &mut holder.branches {
                branch.course = course(branch.length_at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::census::Holder;

    fn course(lengths: &[u64]) -> Option<Course> {
        let counts = (0..).zip(lengths).map(|(at, length)| (at * 200, *length));
        Course::of(&counts.collect::<Vec<_>>())
    }

    #[test]
    fn a_course_is_that_of_all_counts_and_not_of_the_first_and_the_last() {
        assert_eq!(course(&[10, 20, 30, 40, 50, 60]), Some(Course::Rises));
        assert_eq!(course(&[10, 20, 19, 40, 50, 60]), Some(Course::Rises));
        assert_eq!(course(&[60, 50, 40, 30, 20, 10]), Some(Course::Falls));
        let sawtooth = [100, 9000, 15_000, 4000, 9000, 14_000, 3000, 8000];
        assert_eq!(course(&sawtooth), Some(Course::UpAndDown));
        let mut back = sawtooth;
        back.reverse();
        assert_eq!(course(&back), Some(Course::UpAndDown));
    }

    #[test]
    fn a_container_is_counted_where_it_is_and_by_few_counts_however_long() {
        use crate::memory::MemoryImage;

        let image = |at: RemoteAddr, word: u64| {
            let mut image = MemoryImage::default();
            image.insert(at, word.to_le_bytes().to_vec());
            image
        };

        let at = RemoteAddr::new(0x1000);
        let mut census = Census {
            taken_at_ns: 7,
            holders: vec![Holder {
                length_at: Some(at),
                ..Default::default()
            }],
            ..Census::default()
        };
        let mut lengths = Lengths::of(&census);
        for count in 0..10_000u64 {
            lengths.count(count * 1000, &image(at, count));
        }
        assert!(lengths.all[0].1.len() <= MAX_COUNTS);
        lengths.give_courses(&mut census);
        assert_eq!(census.counted_since_ns, Some(7));
        assert_eq!(census.holders[0].course, Some(Course::Rises));
        // It is elsewhere by now, or gone.
        census.holders[0].length_at = Some(RemoteAddr::new(0x2000));
        lengths.give_courses(&mut census);
        assert_eq!(census.holders[0].course, None);
        let gone = image(RemoteAddr::new(0x9000), 0);
        lengths.count(u64::MAX, &gone);
        assert!(lengths.all.is_empty());
    }

    #[test]
    fn what_gained_once_or_was_hardly_counted_has_no_course() {
        assert_eq!(course(&[10, 10, 10, 10, 10, 60, 60]), None, "one step");
        assert_eq!(course(&[10, 10, 10, 10, 10, 10]), None);
        assert_eq!(course(&[10, 20, 30]), None);
        assert_eq!(course(&[]), None);
        assert_eq!(
            course(&[128, 127, 128, 128, 127, 128]),
            None,
            "a full cache"
        );
        let slowly: Vec<u64> = (0..25).map(|at| 1000 + 200 * (at % 5) + 20 * at).collect();
        assert_eq!(course(&slowly), None, "its lowest counts rise");
        let expired: Vec<u64> = (0..25).map(|at| 20_000 + 400 * (at % 3)).collect();
        assert_eq!(course(&expired), Some(Course::UpAndDown));
    }
}
