//! How a process's memory changed from one walk to a later one: RSS plus swap, so that a swap-in is
//! not growth, and by the classes of the ledger.

use std::ops::RangeInclusive;

use crate::tables::LedgerClass;
use crate::trend::Point;
use crate::worth::MOST;

/// Memory that changes by less than this between two walks is steady.
const STEADY_BYTES: f64 = (1 << 20) as f64;
/// A change of less than this share of RSS also counts as none.
const STEADY_SHARE: f64 = 0.005;
/// What falls all the time loses at least this share, in each half of the time, of what it would at a steady rate.
const STEADY_FALL: f64 = 0.25;
/// What gained once gains no more than this share of it in the last fifth of the time.
const FLAT: f64 = 0.2;
/// Parts of the time between two walks of which the median of what was counted is compared.
const PARTS: [RangeInclusive<f64>; 3] = [0.0..=0.2, 0.35..=0.65, 0.8..=1.0];

/// A count taken more than this long after a walk, in ns, is not used for it.
const MOST_AFTER_NS: u64 = 200_000_000;

/// The change from one walk to a later one, in bytes; negative for losses.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MemoryGrowth {
    /// The time between the walks, in ns.
    pub elapsed_ns: u64,
    /// RSS and swap together.
    pub bytes: f64,
    /// Bytes that left swap meanwhile, and were swapped in if they still exist.
    pub swapped_in_bytes: f64,
    /// The part gained by the walked heaps that serve malloc and Python; `None` if none was walked.
    pub heap_bytes: Option<f64>,
    /// The gain of live blocks in memory according to the two walks; `None` without two.
    pub live_bytes: Option<f64>,
    /// Gains of the other classes, the largest first; empty if only counts are known for the
    /// earlier walk.
    pub classes: Vec<(LedgerClass, f64)>,
    /// The first and second half of the time; `None` if nothing was counted in between.
    pub halves: Option<[Half; 2]>,
    /// The largest drop meanwhile, from any count to a later one.
    pub fell_bytes: f64,
    /// In each fifth of the time, the lowest count and when that was, from 0 to 1; `None` where one of them has none.
    pub lows: Option<[Low; FIFTHS]>,
    /// Growth by less than this is steady.
    pub least_bytes: f64,
    /// Numbers of threads at the first and the second walk; `None` unless counted at both.
    pub threads: Option<(u32, u32)>,
}

/// Parts of the time between two walks of which each has a lowest count.
const FIFTHS: usize = 5;

/// The lowest count in a part of the time between two walks.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Low {
    /// When, from 0 to 1.
    pub at: f64,
    /// RSS and swap together.
    pub bytes: f64,
}

/// What a part of the time between two walks gained.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Half {
    /// That part of the time, from 0 to 1.
    pub share: f64,
    /// RSS and swap together.
    pub bytes: f64,
}

impl MemoryGrowth {
    /// From the walk at `from_ns` to that at `to_ns`, by the counts of a session.
    pub fn of_points(points: &[Point], from_ns: u64, to_ns: u64) -> Option<Self> {
        let (from, to) = (at(points, from_ns)?, at(points, to_ns)?);
        Self::of_counts(from, to)
    }

    /// From one count to a later one; `None` if no time passed between them.
    pub(crate) fn of_counts(earlier: &Point, later: &Point) -> Option<Self> {
        let elapsed_ns = later.time_ns.checked_sub(earlier.time_ns)?;
        let heap = |point: &Point| Some(point.heap_bytes? as f64);
        let live = |point: &Point| Some(point.live_resident_bytes? as f64);
        (elapsed_ns > 0).then(|| Self {
            elapsed_ns,
            bytes: memory(later) - memory(earlier),
            swapped_in_bytes: earlier.swap_bytes.saturating_sub(later.swap_bytes) as f64,
            heap_bytes: heap(later)
                .zip(heap(earlier))
                .map(|(later, earlier)| later - earlier),
            live_bytes: live(later)
                .zip(live(earlier))
                .map(|(later, earlier)| later - earlier),
            classes: Vec::new(),
            halves: None,
            threads: earlier.threads.zip(later.threads),
            fell_bytes: 0.0,
            lows: None,
            least_bytes: STEADY_BYTES.max(later.rss_bytes as f64 * STEADY_SHARE),
        })
    }

    /// The same, with the gain of each half and the largest drop, from the counts since the walk at
    /// `from_ns`. Medians of several counts hide memory that a program has only for a moment.
    pub fn with_halves(mut self, points: &[Point], from_ns: u64) -> Self {
        let elapsed = self.elapsed_ns as f64;
        // A session continues after the second walk.
        let until_ns = from_ns.saturating_add(self.elapsed_ns);
        let within = from_ns..=until_ns;
        let seen = points
            .iter()
            .filter(|point| within.contains(&point.time_ns));
        let seen: Vec<(f64, f64)> = seen
            .map(|point| ((point.time_ns - from_ns) as f64 / elapsed, memory(point)))
            .collect();
        let mut most = f64::NEG_INFINITY;
        for (_, bytes) in &seen {
            most = most.max(*bytes);
            self.fell_bytes = self.fell_bytes.max(most - bytes);
        }
        self.lows = lows(&seen);
        let medians = PARTS.map(|part| {
            let within = seen.iter().filter(|(share, _)| part.contains(share));
            let (shares, bytes): (Vec<f64>, Vec<f64>) = within.copied().unzip();
            Some((median(shares)?, median(bytes)?))
        });
        if let [Some(first), Some(middle), Some(last)] = medians {
            self.halves = Some([(first, middle), (middle, last)].map(|(from, to)| Half {
                share: to.0 - from.0,
                bytes: to.1 - from.1,
            }));
        }
        self
    }

    /// The gain over the whole time by the medians of its parts, without memory that existed only
    /// at the moment of a walk.
    pub(crate) fn lasting_bytes(&self) -> Option<f64> {
        let halves = self.halves?;
        let share: f64 = halves.iter().map(|half| half.share).sum();
        (share > 0.0).then(|| halves.iter().map(|half| half.bytes).sum::<f64>() / share)
    }

    /// The same by its lowest counts, where it goes up and down by about as much as it gained and these become more from each fifth of
    /// the time to the next: so what a program has for a moment, when it copies a large block, counts for nothing.
    pub(crate) fn settled(&self) -> Option<Self> {
        let lows = self.lows?;
        let rises = lows.windows(2).all(|two| two[0].bytes < two[1].bytes);
        let [first, _, middle, _, last] = lows;
        let share = last.at - first.at;
        let bytes = (last.bytes - first.bytes) / share;
        if !self.goes_back() || !rises || bytes < self.least_bytes {
            return None;
        }
        let of_moment = self.bytes - bytes;
        let half = |from: Low, to: Low| Half {
            share: (to.at - from.at) / share,
            bytes: to.bytes - from.bytes,
        };
        Some(Self {
            bytes,
            heap_bytes: self.heap_bytes.map(|heap| heap - of_moment),
            live_bytes: None,
            halves: Some([half(first, middle), half(middle, last)]),
            fell_bytes: 0.0,
            ..self.clone()
        })
    }

    /// Whether it falls meanwhile by about as much as it gained, so that two counts alone show nothing.
    pub(crate) fn goes_back(&self) -> bool {
        self.fell_bytes >= self.bytes.abs().max(self.least_bytes) * MOST
    }

    /// By how much the lowest counts rose from the first fifth of the time to the last, where it goes up and down and they
    /// rise nearly throughout: one fifth at most is lower than the one before, and none is below the first or above the
    /// last. Such counts hint at growth and do not show it.
    pub(crate) fn rising_floor(&self) -> Option<f64> {
        let lows = self.lows?.map(|low| low.bytes);
        let [first, .., last] = lows;
        let falls = lows.windows(2).filter(|two| two[1] <= two[0]).count();
        let is_between = lows.iter().all(|low| (first..=last).contains(low));
        let rose = last - first;
        (self.goes_back() && falls <= 1 && is_between && rose >= self.least_bytes).then_some(rose)
    }

    /// Bytes that it lost, where it fell in each half of the time by a quarter at least of what a steady fall would have been.
    pub(crate) fn steady_fall(&self) -> Option<f64> {
        let lost = -self.bytes;
        let falls = |half: &Half| -half.bytes >= lost * half.share * STEADY_FALL;
        let is_steady = self.halves.is_some_and(|halves| halves.iter().all(falls));
        (lost >= self.least_bytes && is_steady).then_some(lost)
    }

    /// Whether it had nearly all that it gained in the fourth fifth of the time already, so that it did not go on to the end;
    /// `None` where too little was counted.
    pub(crate) fn is_flat_since(&self, gained: f64) -> Option<bool> {
        let [first, .., fourth, _] = self.lows?;
        let last = first.bytes + self.bytes;
        Some(last - fourth.bytes <= gained * FLAT)
    }

    /// Threads that it had more at the second walk.
    pub(crate) fn more_threads(&self) -> u32 {
        self.threads
            .map_or(0, |(before, now)| now.saturating_sub(before))
    }

    /// The time between the walks, in seconds.
    pub fn seconds(&self) -> f64 {
        self.elapsed_ns as f64 / 1e9
    }
}

/// The count at a walk, or the first after it, which includes what the walk found.
fn at(points: &[Point], walk_ns: u64) -> Option<&Point> {
    let mut points = points.iter();
    points.find(|point| (walk_ns..=walk_ns.saturating_add(MOST_AFTER_NS)).contains(&point.time_ns))
}

/// The lowest count in each fifth of the time.
fn lows(seen: &[(f64, f64)]) -> Option<[Low; FIFTHS]> {
    let mut lows = [None; FIFTHS];
    for &(at, bytes) in seen {
        let fifth = ((at * FIFTHS as f64) as usize).min(FIFTHS - 1);
        let low: &mut Option<Low> = &mut lows[fifth];
        if low.is_none_or(|low| bytes < low.bytes) {
            *low = Some(Low { at, bytes });
        }
    }
    let known: Vec<Low> = lows.into_iter().flatten().collect();
    known.try_into().ok()
}

fn median(mut all: Vec<f64>) -> Option<f64> {
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied()
}

fn memory(point: &Point) -> f64 {
    point.rss_bytes as f64 + point.swap_bytes as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn points(all: &[(u64, u64)]) -> Vec<Point> {
        let points = (0..).zip(all).map(|(second, (rss, swap))| Point {
            time_ns: second * 1_000_000_000,
            rss_bytes: rss * MIB,
            swap_bytes: swap * MIB,
            live_bytes: None,
            heap_bytes: None,
            live_resident_bytes: None,
            threads: None,
        });
        points.collect()
    }

    #[test]
    fn what_comes_back_from_swap_adds_nothing() {
        let of = |all: &[(u64, u64)]| {
            let last = (all.len() as u64 - 1) * 1_000_000_000;
            let all = points(all);
            MemoryGrowth::of_points(&all, 0, last)
                .expect("two")
                .with_halves(&all, 0)
        };
        let back = of(&[(18, 40), (30, 28), (57, 1)]);
        assert_eq!(
            (back.bytes, back.swapped_in_bytes),
            (0.0, 39.0 * MIB as f64)
        );
        let grown = of(&[(18, 0), (28, 0), (58, 0)]);
        assert_eq!(
            (grown.bytes, grown.swapped_in_bytes),
            (40.0 * MIB as f64, 0.0)
        );
        let half = |mib: u64| Half {
            share: 0.5,
            bytes: (mib * MIB) as f64,
        };
        assert_eq!(grown.halves, Some([half(10), half(30)]));
        assert_eq!(of(&[(18, 0), (28, 0)]).halves, None, "nothing in between");
        // Memory that existed only for a moment does not affect a median.
        let mut copied: Vec<(u64, u64)> = (0..=20).map(|second| (10 + second, 0)).collect();
        copied[10].0 = 90;
        let halves = of(&copied).halves.expect("counted");
        for half in halves {
            let steady = half.share * (20 * MIB) as f64;
            assert!((half.bytes - steady).abs() <= MIB as f64, "{half:?}");
        }
        assert_eq!(MemoryGrowth::of_points(&points(&[(1, 0)]), 0, 0), None);
    }

    #[test]
    fn what_is_there_for_a_moment_counts_for_nothing_where_the_lowest_counts_rise() {
        let of = |all: &[u64]| {
            let last = (all.len() as u64 - 1) * 1_000_000_000;
            let all: Vec<(u64, u64)> = all.iter().map(|rss| (*rss, 0)).collect();
            let all = points(&all);
            let growth = MemoryGrowth::of_points(&all, 0, last).expect("two");
            growth.with_halves(&all, 0).settled()
        };
        // 4 MiB a second, and a copy of all of it in every second count but the first.
        let copied: Vec<u64> = (0..20).map(|at| (100 + 4 * at) * (1 + at % 2)).collect();
        let settled = of(&copied).expect("it rises");
        assert!(
            (settled.bytes - (19 * 4 * MIB) as f64).abs() < 2.0,
            "{settled:?}"
        );
        let halves: f64 = settled
            .halves
            .into_iter()
            .flatten()
            .map(|half| half.share)
            .sum();
        assert!((halves - 1.0).abs() < 1e-9, "{settled:?}");
        let steady: Vec<u64> = (0..20).map(|at| 100 + 4 * at).collect();
        assert_eq!(of(&steady), None, "nothing to leave out");
        let sawtooth: Vec<u64> = (0..20).map(|at| 100 + 30 * (at % 7)).collect();
        assert_eq!(of(&sawtooth), None);
        let swings: Vec<u64> = (0..20).map(|at| 100 + 50 * (at % 2)).collect();
        let floor = |all: &[u64]| {
            let all: Vec<(u64, u64)> = all.iter().map(|rss| (*rss, 0)).collect();
            let all = points(&all);
            let growth = MemoryGrowth::of_points(&all, 0, (all.len() as u64 - 1) * 1_000_000_000);
            growth.expect("two").with_halves(&all, 0).rising_floor()
        };
        assert_eq!(floor(&swings), None);
        assert_eq!(floor(&sawtooth), None);
        // In one of the five no count is without the copy.
        let mut hidden = copied.clone();
        for at in [8, 9, 10, 11] {
            hidden[at] = 2 * (100 + 4 * at as u64);
        }
        assert_eq!(of(&hidden), None);
        assert_eq!(floor(&hidden), None, "above the last");
        hidden[9] = 115;
        assert_eq!(floor(&hidden), Some((4.0 * 16.0) * MIB as f64));
        assert_eq!(of(&swings), None, "it does not grow");
    }

    #[test]
    fn what_goes_on_to_the_end_has_not_grown_once() {
        let is_flat = |all: &[u64]| {
            let all: Vec<(u64, u64)> = all.iter().map(|rss| (*rss, 0)).collect();
            let all = points(&all);
            let growth = MemoryGrowth::of_points(&all, 0, (all.len() as u64 - 1) * 1_000_000_000);
            growth
                .expect("two")
                .with_halves(&all, 0)
                .is_flat_since(40.0 * MIB as f64)
        };
        let once: Vec<u64> = (0..20).map(|at| if at < 6 { 100 } else { 140 }).collect();
        assert_eq!(is_flat(&once), Some(true));
        let begun: Vec<u64> = (0..20)
            .map(|at| 100 + 4 * u64::saturating_sub(at, 10))
            .collect();
        assert_eq!(is_flat(&begun), Some(false));
        let at_last: Vec<u64> = (0..20).map(|at| if at < 18 { 100 } else { 140 }).collect();
        assert_eq!(
            is_flat(&at_last),
            Some(false),
            "nothing shows what comes then"
        );
        assert_eq!(is_flat(&[100, 140]), None);
    }

    #[test]
    fn memory_falls_from_any_count_to_a_later_one_and_what_comes_after_the_walks_is_not_of_them() {
        let fell = |all: &[(u64, u64)], until: u64| {
            let all = points(all);
            let growth = MemoryGrowth::of_points(&all, 0, until * 1_000_000_000).expect("two");
            growth.with_halves(&all, 0).fell_bytes / MIB as f64
        };
        assert_eq!(fell(&[(10, 0), (20, 0), (30, 0)], 2), 0.0);
        assert_eq!(fell(&[(10, 0), (30, 0), (12, 2), (40, 0)], 3), 16.0);
        assert_eq!(fell(&[(10, 0), (20, 0), (30, 0), (5, 0)], 2), 0.0);
    }
}
