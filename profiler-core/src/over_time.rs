//! Fragmentation over a session, by the four ratios of Johnstone and Wilson ("The memory
//! fragmentation problem: solved?", ISMM 1998): memory that the allocators take against memory
//! that is live, each at another choice of moments. 1.0 is no fragmentation.

use crate::report::Metric;
use crate::view::Point;

/// What a walk saw, in bytes.
#[derive(Copy, Clone)]
struct Moment {
    time_ns: u64,
    heap: u64,
    live: u64,
}

impl Moment {
    fn ratio(&self) -> f64 {
        self.heap as f64 / self.live as f64
    }
}

/// The four ratios over the walks in `history` (oldest first); no value when no walk saw live
/// bytes.
pub fn johnstone_wilson(history: &[Point]) -> Vec<Metric> {
    let moments: Vec<_> = history.iter().filter_map(moment).collect();
    let most_live = moments.iter().max_by_key(|m| m.live);
    let most_heap = moments.iter().max_by_key(|m| m.heap);
    let metric = |name, value, help| Metric { name, value, help };
    vec![
        metric(
            "johnstone_wilson_1",
            average(&moments),
            "heap ÷ live bytes, averaged over the time of the session",
        ),
        metric(
            "johnstone_wilson_2",
            most_live.map(Moment::ratio),
            "heap ÷ live bytes at the moment of the most live bytes",
        ),
        metric(
            "johnstone_wilson_3",
            most_heap.map(Moment::ratio),
            "heap ÷ live bytes at the moment of the largest heap",
        ),
        metric(
            "johnstone_wilson_4",
            most_heap
                .zip(most_live)
                .map(|(heap, live)| heap.heap as f64 / live.live as f64),
            "largest heap ÷ most live bytes, whenever each was: what the session really needed",
        ),
    ]
}

fn moment(point: &Point) -> Option<Moment> {
    let live = point.live_bytes.filter(|&live| live > 0)?;
    Some(Moment {
        time_ns: point.time_ns,
        heap: point.heap_bytes?,
        live,
    })
}

/// Each moment counts for the time until the next; one alone counts as it is.
fn average(moments: &[Moment]) -> Option<f64> {
    let (mut sum, mut time) = (0.0, 0.0);
    for pair in moments.windows(2) {
        let lasted = pair[1].time_ns.saturating_sub(pair[0].time_ns) as f64;
        sum += pair[0].ratio() * lasted;
        time += lasted;
    }
    if time > 0.0 {
        Some(sum / time)
    } else {
        moments.last().map(Moment::ratio)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(time_ns: u64, heap_bytes: u64, live_bytes: u64) -> Point {
        Point {
            time_ns,
            rss_bytes: heap_bytes,
            swap_bytes: 0,
            live_bytes: Some(live_bytes),
            heap_bytes: Some(heap_bytes),
        }
    }

    #[test]
    fn each_ratio_looks_at_its_own_moments() {
        // Grows with 100 live, peaks at 300, and keeps 400 resident when 100 are live again.
        let history = [
            point(0, 100, 100),
            point(10, 330, 300),
            point(20, 400, 100),
            point(40, 200, 100),
        ];
        let values: Vec<_> = johnstone_wilson(&history)
            .iter()
            .map(|metric| metric.value.expect("a value"))
            .collect();
        // 10 at 1.0, 10 at 1.1, 20 at 4.0.
        assert!((values[0] - 101.0 / 40.0).abs() < 1e-12, "{values:?}");
        assert_eq!(values[1..], [1.1, 4.0, 400.0 / 300.0]);
    }

    #[test]
    fn nothing_walked_is_nothing_known() {
        let mut blind = point(0, 1, 1);
        blind.live_bytes = None;
        for history in [vec![], vec![blind]] {
            assert!(johnstone_wilson(&history).iter().all(|m| m.value.is_none()));
        }
    }
}
