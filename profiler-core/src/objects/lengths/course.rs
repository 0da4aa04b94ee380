//! What a series of counts shows: whether a container becomes longer, shorter, or both in turn, and how fast what stays
//! in it becomes more.

/// Counts from which a course is drawn at the least.
const LEAST_COUNTS: usize = 6;
/// A container that became shorter by fewer items than this is not said to go up and down.
const LEAST_FALL: u64 = 16;
/// A container goes up and down if it did so this often at the least: fewer turns hide a leak below them.
const LEAST_TURNS: usize = 4;
/// Its lowest counts rise in all by no more than this share of what it goes up and down by.
const MOST_RISE: f64 = 0.1;
/// What goes on gains at least this share, in each half of the time, of what it would at a steady rate,
const STEADY: f64 = 0.25;
/// and loses no more than this share of what it gained meanwhile.
const MOST_BACK: f64 = 0.25;
/// Where it fell by less than this share of what it gained, the first and the last count give the rate.
const HARDLY_BACK: f64 = 0.05;
/// Turns whose lowest counts give a rate at the least.
const LEAST_LOWS: usize = 3;
/// Student's t for 95 % of both sides, of one degree of freedom and more.
const STUDENT: [f64; 9] = [12.71, 4.3, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26];
/// Of more degrees.
const NORMAL: f64 = 2.1;
/// The standard deviation of a number between 0 and 1 of which nothing is known.
const EVEN: f64 = 0.289;
/// A rate of at most this many times the least is said as one number.
const ONE_RATE: f64 = 1.5;

/// How the number of a container's items went on between two censuses.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Course {
    /// It became longer all the time.
    Rises,
    /// It became shorter all the time.
    Falls,
    /// It became shorter and longer again several times, and its lowest counts do not rise.
    UpAndDown,
    /// The same, but its lowest counts are too few to show whether they rise.
    Swings,
    /// The same, and its lowest counts rise.
    RisesBelow,
}

/// How fast what stays in a container becomes more.
#[derive(Copy, Clone, Debug, Default, PartialEq)]
pub struct Pace {
    /// Items a second, at the least;
    pub least: f64,
    /// and at the most.
    pub most: f64,
    /// The most items that it lost at once, as far as it had them again.
    pub swing: f64,
}

impl Pace {
    /// In the middle of the two.
    pub fn middle(&self) -> f64 {
        f64::midpoint(self.least, self.most)
    }

    /// Whether the two are so near one another that one rate is said.
    pub fn is_one(&self) -> bool {
        self.least > 0.0 && self.most <= self.least * ONE_RATE
    }
}

/// Counts of one container.
struct Counts<'a>(&'a [(u64, u64)]);

impl Course {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Rises,
        Self::Falls,
        Self::UpAndDown,
        Self::Swings,
        Self::RisesBelow,
    ];

    /// Whether what it has more at a second look shows nothing.
    pub const fn is_up_and_down(self) -> bool {
        matches!(self, Self::UpAndDown | Self::Swings)
    }

    /// Whether what it gains stays.
    pub const fn rises(self) -> bool {
        matches!(self, Self::Rises | Self::RisesBelow)
    }

    /// Its name in files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rises => "rises",
            Self::Falls => "falls",
            Self::UpAndDown => "up_and_down",
            Self::Swings => "swings",
            Self::RisesBelow => "rises_below",
        }
    }

    /// By the times of the counts, ascending, and what was counted; `None` where that shows none of these.
    pub(super) fn of(counts: &[(u64, u64)]) -> Option<(Self, Pace)> {
        let [(began_ns, first), .., (ended_ns, last)] = *counts else {
            return None;
        };
        if counts.len() < LEAST_COUNTS || ended_ns <= began_ns {
            return None;
        }
        let counts = Counts(counts);
        let (fell, rose) = (counts.most_lost(), counts.most_gained());
        let swing = fell.min(rose);
        let gained = last.abs_diff(first) as f64;
        if last != first && counts.goes_on() {
            let back = if last > first { fell } else { rose };
            if back as f64 <= gained * MOST_BACK {
                let course = if last > first {
                    Self::Rises
                } else {
                    Self::Falls
                };
                return Some((course, counts.pace(swing)));
            }
        }
        if swing < LEAST_FALL || swing as f64 <= gained * MOST_BACK {
            return None;
        }
        let lows = counts.lows(swing);
        let pace = counts.pace_of(&lows, swing);
        Some(if does_not_rise(&lows, swing) {
            (Self::UpAndDown, pace)
        } else if lows.len() >= LEAST_LOWS && pace.least > 0.0 {
            (Self::RisesBelow, pace)
        } else {
            (Self::Swings, pace)
        })
    }
}

impl Counts<'_> {
    fn lengths(&self) -> impl DoubleEndedIterator<Item = u64> + '_ {
        self.0.iter().map(|(_, length)| *length)
    }

    fn seconds(&self) -> f64 {
        let ends = self.0.first().zip(self.0.last());
        ends.map_or(0.0, |((began, _), (ended, _))| {
            ended.saturating_sub(*began) as f64 / 1e9
        })
    }

    /// The most that was lost from any count to a later one.
    fn most_lost(&self) -> u64 {
        most_lost(self.lengths())
    }

    /// The most that was gained.
    fn most_gained(&self) -> u64 {
        most_lost(self.lengths().rev())
    }

    /// Whether each half of the time has its part of what was gained, or lost, in all.
    fn goes_on(&self) -> bool {
        let [(began_ns, first), .., (ended_ns, last)] = *self.0 else {
            return false;
        };
        let middle_ns = began_ns + (ended_ns - began_ns) / 2;
        let middle = self.0.partition_point(|(time_ns, _)| *time_ns < middle_ns);
        let Some(&(at_ns, in_middle)) = self.0.get(middle) else {
            return false;
        };
        let share = (at_ns - began_ns) as f64 / (ended_ns - began_ns) as f64;
        let gained = last as f64 - first as f64;
        let [before, after] = [
            in_middle as f64 - first as f64,
            last as f64 - in_middle as f64,
        ]
        .map(|half| half * gained.signum());
        let gained = gained.abs();
        before >= gained * share * STEADY && after >= gained * (1.0 - share) * STEADY
    }

    /// By the lowest counts where it goes back by a part of what it gains, else by the first and the last.
    fn pace(&self, swing: u64) -> Pace {
        let ends = self.pace_of_ends(swing);
        if ends.swing <= ends.middle().abs() * self.seconds() * HARDLY_BACK {
            let middle = ends.middle();
            return Pace {
                least: middle,
                most: middle,
                ..ends
            };
        }
        let lows = self.lows(swing);
        let of_lows = self.pace_of(&lows, swing);
        match lows.len() >= LEAST_LOWS && of_lows.most - of_lows.least < ends.most - ends.least {
            true => of_lows,
            false => ends,
        }
    }

    /// What the first and the last count show, both of which may be anywhere in a swing.
    fn pace_of_ends(&self, swing: u64) -> Pace {
        let ends = self.0.first().zip(self.0.last());
        let gained = ends.map_or(0.0, |((_, first), (_, last))| *last as f64 - *first as f64);
        let swing = swing as f64;
        let [least, most] = [gained - swing, gained + swing].map(|items| items / self.seconds());
        Pace { least, most, swing }
    }

    /// A line through the lowest counts, and how far it may be off: by how these differ from it, and by how far it rises
    /// between two counts.
    fn pace_of(&self, lows: &[(u64, u64)], swing: u64) -> Pace {
        let (Some(line), true) = (Line::through(lows), lows.len() >= LEAST_LOWS) else {
            return self.pace_of_ends(swing);
        };
        let steps = self
            .0
            .windows(2)
            .map(|two| two[1].1.saturating_sub(two[0].1));
        let mut steps: Vec<u64> = steps.filter(|step| *step > 0).collect();
        steps.sort_unstable();
        let step = steps.get(steps.len() / 2).copied().unwrap_or(0) as f64;
        let degrees = lows.len() - 2;
        // What three lowest counts differ by says little of how far they are off.
        let (deviation, student) = match degrees {
            1 => (line.deviation.max(step * EVEN), STUDENT[1]),
            more => (
                line.deviation,
                STUDENT.get(more - 1).copied().unwrap_or(NORMAL),
            ),
        };
        let error = student * deviation / line.spread.sqrt();
        Pace {
            least: line.slope - error,
            most: line.slope + error,
            swing: swing as f64,
        }
    }

    /// The lowest counts between falls and rises by at least half of `swing` each, with their times.
    fn lows(&self, swing: u64) -> Vec<(u64, u64)> {
        let turn = swing.div_ceil(2).max(1);
        let mut lows = Vec::new();
        // Before it has fallen for the first time it is not known where it came from.
        let mut highest = 0;
        let mut lowest: Option<(u64, u64)> = None;
        for &(time_ns, length) in self.0 {
            match lowest {
                None if length.saturating_add(turn) <= highest => lowest = Some((time_ns, length)),
                None => highest = highest.max(length),
                Some((_, low)) if length >= low.saturating_add(turn) => {
                    lows.extend(lowest.take());
                    highest = length;
                }
                Some((_, low)) if length <= low => lowest = Some((time_ns, length)),
                Some(_) => {}
            }
        }
        // The last is one, too, where it rises again already.
        let last = self.lengths().next_back().unwrap_or(0);
        lows.extend(lowest.filter(|(_, low)| last >= low.saturating_add(turn.div_ceil(2))));
        lows
    }
}

/// Whether it turned often enough to show that its lowest counts rise by next to nothing, by a line through them and twice
/// the standard error of its slope.
fn does_not_rise(lows: &[(u64, u64)], swing: u64) -> bool {
    let Some(line) = Line::through(lows).filter(|_| lows.len() >= LEAST_TURNS) else {
        return false;
    };
    let error = 2.0 * line.deviation / line.spread.sqrt();
    let number = lows.len() as f64;
    let seconds = line.seconds * number / (number - 1.0);
    (line.slope + error) * seconds <= swing as f64 * MOST_RISE
}

/// A straight line, by least squares.
struct Line {
    /// Items a second.
    slope: f64,
    /// The standard deviation of the counts from it.
    deviation: f64,
    /// The sum of the squares of the times from their mean, in seconds.
    spread: f64,
    /// From the first to the last, in seconds.
    seconds: f64,
}

impl Line {
    /// Through three counts at the least.
    fn through(counts: &[(u64, u64)]) -> Option<Self> {
        let [(began_ns, _), _, .., (ended_ns, _)] = *counts else {
            return None;
        };
        let number = counts.len() as f64;
        let since = |time_ns: u64| (time_ns - began_ns) as f64 / 1e9;
        let points = || {
            counts
                .iter()
                .map(|(time_ns, low)| (since(*time_ns), *low as f64))
        };
        let mean_at = points().map(|(at, _)| at).sum::<f64>() / number;
        let mean = points().map(|(_, low)| low).sum::<f64>() / number;
        let spread: f64 = points().map(|(at, _)| (at - mean_at).powi(2)).sum();
        let slope = points()
            .map(|(at, low)| (at - mean_at) * (low - mean))
            .sum::<f64>()
            / spread;
        let off = points().map(|(at, low)| (low - mean - slope * (at - mean_at)).powi(2));
        let deviation = (off.sum::<f64>() / (number - 2.0).max(1.0)).sqrt();
        (counts.len() > 2 && spread > 0.0).then_some(Self {
            slope,
            deviation,
            spread,
            seconds: since(ended_ns),
        })
    }
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
