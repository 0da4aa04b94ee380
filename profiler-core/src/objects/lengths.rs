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
/// A container goes up and down if it did so this often at the least: fewer turns hide a leak below them.
const LEAST_TURNS: usize = 4;
/// Its lowest counts rise in all by no more than this share of what it goes up and down by.
const MOST_RISE: f64 = 0.1;
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
    /// It became shorter and longer again several times, by at least half of what it gained or lost in all, and its lowest
    /// counts do not rise.
    UpAndDown,
    /// The same, but its lowest counts are too few to show whether they rise, or rise.
    Swings,
}

impl Course {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Rises, Self::Falls, Self::UpAndDown, Self::Swings];

    /// Whether what it has more at a second look shows nothing.
    pub const fn is_up_and_down(self) -> bool {
        matches!(self, Self::UpAndDown | Self::Swings)
    }

    /// Its name in files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rises => "rises",
            Self::Falls => "falls",
            Self::UpAndDown => "up_and_down",
            Self::Swings => "swings",
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
            _ if fell.min(rose) >= LEAST_FALL && fell.min(rose) as f64 >= gained * MOST => {
                Some(match turns_back(counts) {
                    true => Self::UpAndDown,
                    false => Self::Swings,
                })
            }
            _ => None,
        }
    }
}

/// Whether it turned often enough to show that its lowest counts rise by next to nothing, by a line through them and twice
/// the standard error of its slope.
fn turns_back(counts: &[(u64, u64)]) -> bool {
    let lengths = || counts.iter().map(|(_, length)| *length);
    let (Some(least), Some(most)) = (lengths().min(), lengths().max()) else {
        return false;
    };
    let swing = (most - least) as f64;
    let lows = lows(lengths(), (most - least).div_ceil(2).max(1));
    if lows.len() < LEAST_TURNS {
        return false;
    }
    let number = lows.len() as f64;
    let lows = || {
        (0..)
            .zip(&lows)
            .map(|(at, low)| (f64::from(at), *low as f64))
    };
    let mean = |of: fn((f64, f64)) -> f64| lows().map(of).sum::<f64>() / number;
    let (mean_at, mean_low) = (mean(|(at, _)| at), mean(|(_, low)| low));
    let spread: f64 = lows().map(|(at, _)| (at - mean_at).powi(2)).sum();
    let slope = lows()
        .map(|(at, low)| (at - mean_at) * (low - mean_low))
        .sum::<f64>()
        / spread;
    let off = lows().map(|(at, low)| (low - mean_low - slope * (at - mean_at)).powi(2));
    let error = (off.sum::<f64>() / (number - 2.0) / spread).sqrt();
    (slope + 2.0 * error) * number <= swing * MOST_RISE
}

/// The lowest counts between two falls and rises by at least `turn` each.
fn lows(lengths: impl Iterator<Item = u64>, turn: u64) -> Vec<u64> {
    let mut lows = Vec::new();
    // The lowest count since it fell, or the highest since it rose.
    let (mut is_falling, mut extreme) = (true, u64::MAX);
    for length in lengths {
        match is_falling {
            true if length.saturating_sub(extreme) >= turn => {
                lows.push(extreme);
                (is_falling, extreme) = (false, length);
            }
            true => extreme = extreme.min(length),
            false if extreme.saturating_sub(length) >= turn => {
                (is_falling, extreme) = (true, length);
            }
            false => extreme = extreme.max(length),
        }
    }
    lows
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
    /// Where each number is, and what it was.
    all: Vec<(RemoteAddr, Counts)>,
}

/// Counts of one container, evenly spread over the time.
#[derive(Clone, Debug, Default)]
struct Counts {
    /// When, and what.
    kept: Vec<(u64, u64)>,
    /// Of 2 to the power of this many counts one is kept.
    thinned: u32,
    /// How many there were.
    seen: u64,
}

impl Counts {
    fn add(&mut self, time_ns: u64, length: u64) {
        let is_kept = self.seen.trailing_zeros() >= self.thinned;
        self.seen += 1;
        if !is_kept {
            return;
        }
        if self.kept.len() >= MAX_COUNTS {
            let mut nth = 0;
            self.kept.retain(|_| {
                nth += 1;
                nth % 2 == 1
            });
            self.thinned += 1;
        }
        self.kept.push((time_ns, length));
    }
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
        let all = places.into_iter().map(|(_, at)| (at, Counts::default()));
        Self {
            since_ns: census.taken_at_ns,
            all: all.collect(),
        }
    }

    /// Counts them once more, at this time. One that cannot be read any more is not counted again.
    pub fn count<M: TargetMemory>(&mut self, time_ns: u64, memory: &M) {
        self.all.retain_mut(|(at, counts)| {
            let length = read_word(memory, at.get()).filter(|length| *length < MAX_LENGTH);
            if let Some(length) = length {
                counts.add(time_ns, length);
            }
            length.is_some()
        });
    }

    /// Gives the containers of a later census their courses: those that are where they were.
    pub fn give_courses(&self, census: &mut Census) {
        let course = |at: Option<RemoteAddr>| {
            let mut all = self.all.iter();
            let (_, counts) = all.find(|(counted, _)| Some(*counted) == at)?;
            Course::of(&counts.kept)
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
        // It is emptied at every fourth count.
        let sawtooth: Vec<u64> = (0..25).map(|at| at % 4 * 5000).collect();
        assert_eq!(course(&sawtooth), Some(Course::UpAndDown));
        let back: Vec<u64> = sawtooth.iter().rev().copied().collect();
        assert_eq!(course(&back), Some(Course::UpAndDown));
        assert_eq!(
            course(&sawtooth[..14]),
            Some(Course::Swings),
            "too few turns"
        );
        let by_chance = [
            100, 9000, 15_000, 4000, 9000, 14_000, 3000, 8000, 13_000, 200, 9000, 15_000, 3900,
            9000,
        ];
        assert_eq!(course(&by_chance), Some(Course::Swings));
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
        let kept = &lengths.all[0].1.kept;
        assert!(kept.len() <= MAX_COUNTS);
        let steps: Vec<u64> = kept.windows(2).map(|two| two[1].0 - two[0].0).collect();
        assert!(steps.iter().all(|step| *step == steps[0]), "{steps:?}");
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
        assert_eq!(
            course(&slowly),
            Some(Course::Swings),
            "its lowest counts rise"
        );
        // 385 a second below a swing of 10,000 in 1.3 s, for 8 s.
        for phase in 0..13 {
            let leak =
                (0..40).map(|at| 385 * at / 5 + (at * 200 + phase * 100) % 1300 * 10_000 / 1300);
            assert_ne!(
                course(&leak.collect::<Vec<_>>()),
                Some(Course::UpAndDown),
                "{phase}"
            );
        }
        // 1500 a second below one of 25,000 in 2.3 s, for 5 s: too few turns.
        let leak = (0..25).map(|at| 300 * at + at * 200 % 2300 * 25_000 / 2300);
        assert_eq!(course(&leak.collect::<Vec<_>>()), Some(Course::Swings));
        let expired: Vec<u64> = (0..25).map(|at| 20_000 + 400 * (at % 3)).collect();
        assert_eq!(course(&expired), Some(Course::UpAndDown));
    }
}
