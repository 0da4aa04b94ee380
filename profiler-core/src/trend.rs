//! Recent growth of a process's memory by the kernel's counts and the walks of a session. It is
//! known long before Python's objects have been read twice.

use crate::worth::MOST;

/// A process watched for less than this time has no growth yet: one page more or less would be a
/// large rate.
const LEAST_TIME_NS: u64 = 2_000_000_000;
/// Growth is computed over this recent time.
const WINDOW_NS: u64 = 30_000_000_000;
/// A process grows if it gained at least this many bytes…
const GROWN_BYTES: f64 = (4 << 20) as f64;
/// …and would gain at least this share of its RSS in an hour.
const GROWN_SHARE_PER_HOUR: f64 = 0.25;

/// One point of the curves over time.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Point {
    /// Nanoseconds since 1970-01-01 UTC.
    pub time_ns: u64,
    /// Resident set by the kernel's account, in bytes.
    pub rss_bytes: u64,
    /// Swap by the kernel's account, in bytes.
    pub swap_bytes: u64,
    /// Live bytes of all walked heaps at the last walk, as requested; `None` if none was walked.
    pub live_bytes: Option<u64>,
    /// Resident bytes of the pages of all walked heaps at the last walk.
    pub heap_bytes: Option<u64>,
    /// The part of `live_bytes` in memory; also `None` in sessions saved by versions without it.
    pub live_resident_bytes: Option<u64>,
    /// Threads at the last walk; `None` also in sessions that were saved by versions without it.
    pub threads: Option<u32>,
}

impl Point {
    /// The live bytes for a curve next to RSS: those in memory, or the requested bytes if that was
    /// not recorded.
    pub fn shown_live_bytes(&self) -> Option<u64> {
        self.live_resident_bytes.or(self.live_bytes)
    }
}

/// Growth of RSS over the time since a process was seen first, or lately.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct RssGrowth {
    /// The length of the interval, in ns.
    pub elapsed_ns: u64,
    /// In bytes a second.
    pub bytes_per_second: f64,
    /// Whether it gained enough, and fast enough, to be called growing.
    pub is_growing: bool,
}

impl RssGrowth {
    /// Between two moments, each given as ns and resident bytes; `None` if they are too close
    /// together.
    pub fn between(from: (u64, u64), to: (u64, u64)) -> Option<Self> {
        let elapsed_ns = to.0.saturating_sub(from.0);
        let gained = to.1 as f64 - from.1 as f64;
        let bytes_per_second = gained * 1e9 / elapsed_ns as f64;
        let is_fast = bytes_per_second * 3600.0 >= to.1 as f64 * GROWN_SHARE_PER_HOUR;
        (elapsed_ns >= LEAST_TIME_NS).then_some(Self {
            elapsed_ns,
            bytes_per_second,
            is_growing: gained >= GROWN_BYTES && is_fast,
        })
    }
}

/// What grows in a process whose RSS grows.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Grows {
    /// Live memory in the walked heaps.
    InUse,
    /// RSS, and nothing of that.
    Elsewhere,
    /// Two walks during the growth are not available yet.
    NotKnown,
}

impl Grows {
    /// Its name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::InUse => "in_use",
            Self::Elsewhere => "elsewhere",
            Self::NotKnown => "not_known",
        }
    }
}

/// How a process's memory has grown lately.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Trend {
    /// RSS.
    pub rss: RssGrowth,
    /// Growth of live memory in the walked heaps, in bytes per second; `None` before there were two
    /// walks.
    pub live_bytes_per_second: Option<f64>,
    /// What grows; `None` if nothing does.
    pub grows: Option<Grows>,
}

impl Trend {
    /// From the points of a session; `None` if it is too early to say.
    pub fn of(points: &[Point]) -> Option<Self> {
        let last = points.last()?;
        let began =
            points.partition_point(|at| at.time_ns.saturating_add(WINDOW_NS) < last.time_ns);
        let lately = points.get(began..)?;
        let first = lately.first()?;
        let seen = |at: &Point| (at.time_ns, at.rss_bytes);
        let rss = RssGrowth::between(seen(first), seen(last))?;
        let middle_ns = first.time_ns + rss.elapsed_ns / 2;
        let middle = lately.partition_point(|at| at.time_ns <= middle_ns);
        let middle = middle
            .checked_sub(1)
            .and_then(|middle| lately.get(middle))?;
        let later_ns = last.time_ns.saturating_sub(middle.time_ns);
        let later = last.rss_bytes as f64 - middle.rss_bytes as f64;
        // A swap-in is not growth.
        let memory = |at: &Point| at.rss_bytes.saturating_add(at.swap_bytes) as f64;
        let is_more = memory(last) - memory(first) >= GROWN_BYTES;
        // A single step is not growth: the later half must gain most of what the average rate gives
        // in that time.
        let goes_on = later >= rss.bytes_per_second * later_ns as f64 / 1e9 * MOST;
        let live_bytes_per_second = live(points, first.time_ns);
        let grows = || match live_bytes_per_second {
            Some(live) if live >= rss.bytes_per_second * MOST => Grows::InUse,
            Some(_) => Grows::Elsewhere,
            None => Grows::NotKnown,
        };
        Some(Self {
            rss,
            live_bytes_per_second,
            grows: (rss.is_growing && is_more && goes_on).then(grows),
        })
    }
}

/// Growth of live memory, from the first walk since `since_ns` (or, without another, the one
/// before) to the last.
fn live(points: &[Point], since_ns: u64) -> Option<f64> {
    // A point contains the result of the walk before it: the first point with a result is that of
    // the walk.
    let same = points.chunk_by(|one, next| one.shown_live_bytes() == next.shown_live_bytes());
    let walks = same.filter_map(|of| Some((of.first()?.time_ns, of.first()?.shown_live_bytes()?)));
    let walks: Vec<(u64, u64)> = walks.collect();
    let (to, earlier) = walks.split_last()?;
    let from = earlier.iter().find(|(at_ns, _)| *at_ns >= since_ns);
    let from = from.or(earlier.last())?;
    let seconds = to.0.checked_sub(from.0).filter(|ns| *ns > 0)? as f64 / 1e9;
    Some((to.1 as f64 - from.1 as f64) / seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// One point per second: RSS, and the live memory found by the last walk, in MiB.
    fn points(all: &[(u64, Option<u64>)]) -> Vec<Point> {
        let points = (0..).zip(all).map(|(second, (rss, live))| Point {
            time_ns: second * 1_000_000_000,
            rss_bytes: rss * MIB,
            swap_bytes: 0,
            live_bytes: live.map(|live| live * 3 * MIB),
            heap_bytes: None,
            live_resident_bytes: live.map(|live| live * MIB),
            threads: None,
        });
        points.collect()
    }

    fn grows(all: &[(u64, Option<u64>)]) -> Option<Grows> {
        Trend::of(&points(all))?.grows
    }

    #[test]
    fn what_grows_is_said_after_two_seconds() {
        let walked = Some(90);
        assert_eq!(Trend::of(&points(&[(100, walked), (120, walked)])), None);
        let once = [(100, walked), (120, walked), (140, walked)];
        let trend = Trend::of(&points(&once)).expect("long enough");
        assert_eq!(trend.grows, Some(Grows::NotKnown));
        assert_eq!(trend.rss.bytes_per_second, 20.0 * MIB as f64);
        let twice = [
            (100, walked),
            (120, walked),
            (140, Some(130)),
            (160, Some(130)),
        ];
        assert_eq!(grows(&twice), Some(Grows::InUse));
        let elsewhere = [
            (100, walked),
            (120, walked),
            (140, Some(91)),
            (160, Some(91)),
        ];
        assert_eq!(grows(&elsewhere), Some(Grows::Elsewhere));
    }

    #[test]
    fn what_comes_back_from_swap_is_no_growth() {
        let mut all = points(&[(100, None), (120, None), (140, None), (160, None)]);
        for (at, swap) in all.iter_mut().zip([90, 70, 50, 30]) {
            at.swap_bytes = swap * MIB;
        }
        assert_eq!(Trend::of(&all).expect("long enough").grows, None);
    }

    #[test]
    fn a_step_and_a_little_more_are_no_growth() {
        let of = |rss: &[u64]| {
            let all: Vec<_> = rss.iter().map(|rss| (*rss, None)).collect();
            grows(&all)
        };
        assert_eq!(of(&[100, 180, 180, 180, 180]), None, "one step");
        assert_eq!(of(&[100, 101, 102, 103]), None, "less than 4 MiB");
        assert_eq!(of(&[100, 90, 80]), None);
        assert_eq!(of(&[100, 102, 104, 106]), Some(Grows::NotKnown));
        // Growth long ago is not recent.
        let long: Vec<u64> = (0..=100).map(|second| 100 + 10 * second.min(20)).collect();
        assert_eq!(of(&long), None);
        assert_eq!(Trend::of(&[]), None);
    }
}
