//! The bounded history of a session: when it is full, every other point is dropped.

use std::sync::Arc;

use profiler_core::view::Point;

/// Points kept at most; a terminal shows a few hundred.
const CAPACITY: usize = 4096;

/// The curves over time.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    points: Arc<Vec<Point>>,
}

impl History {
    /// Appends a point.
    pub(crate) fn push(&mut self, point: Point) {
        let points = Arc::make_mut(&mut self.points);
        if points.len() == CAPACITY {
            let mut index = 0;
            points.retain(|_| {
                index += 1;
                index % 2 == 1
            });
        }
        points.push(point);
    }

    /// The points, oldest first.
    pub(crate) fn points(&self) -> Arc<Vec<Point>> {
        Arc::clone(&self.points)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_history_keeps_its_first_and_its_last_point() {
        let mut history = History::default();
        for time_ns in 0..20_000 {
            history.push(Point {
                time_ns,
                rss_bytes: 1,
                swap_bytes: 0,
                live_bytes: None,
                heap_bytes: None,
                live_resident_bytes: None,
                threads: None,
            });
        }
        let points = history.points();
        assert!(points.len() <= CAPACITY);
        assert_eq!(points[0].time_ns, 0);
        assert_eq!(points[points.len() - 1].time_ns, 19_999);
        assert!(points.windows(2).all(|w| w[0].time_ns < w[1].time_ns));
    }
}
