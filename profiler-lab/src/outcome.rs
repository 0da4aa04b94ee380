//! The outcome of replaying one candidate: its runs and their figures.

use profiler_core::sample::Sample;

use super::failure::Failure;
use super::figures::{Endings, Figure, PeakAndFinal, median};

/// The measurements of one run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Run {
    /// malloc's resident bytes at each checkpoint of the trace.
    pub resident: Vec<u64>,
    /// Processor time of the player.
    pub cpu_seconds: f64,
    /// Its page faults.
    pub faults: u64,
    /// Its kernel calls for memory, where they could be counted.
    pub kernel_calls: Option<u64>,
}

/// What playing one candidate came to.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Runs as the program most likely ran.
    pub runs: Vec<Run>,
    /// Alternative runs, which only widen the range: with large blocks of unknown use left
    /// untouched, or gaps filled in the other way.
    pub bounds: Vec<Run>,
    /// Why it could not be replayed.
    pub failure: Option<Failure>,
    /// The player's first process at its end, from one of the runs.
    pub sample: Option<Sample>,
}

impl PeakAndFinal<Figure> {
    /// From an outcome, by the processes of its checkpoints and when these ended; `None` if no run
    /// of it completed.
    pub fn of_outcome(outcome: &Outcome, processes: &[u32], endings: &Endings) -> Option<Self> {
        Self::of_runs(&outcome.runs, &outcome.bounds, processes, endings)
    }

    /// The same from runs, and from those that only widen the range.
    pub fn of_runs(
        likely: &[Run],
        bounds: &[Run],
        processes: &[u32],
        endings: &Endings,
    ) -> Option<Self> {
        let of = |runs: &[Run]| -> Vec<PeakAndFinal<u64>> {
            let all = runs.iter().filter_map(|run| {
                let at = processes.iter().copied().zip(run.resident.iter().copied());
                PeakAndFinal::of_ending(&at.collect::<Vec<_>>(), endings)
            });
            all.collect()
        };
        let (likely, bounds) = (of(likely), of(bounds));
        let figure = |part: fn(&PeakAndFinal<u64>) -> u64| {
            let own: Vec<u64> = likely.iter().map(part).collect();
            let all = own.iter().copied().chain(bounds.iter().map(part));
            let (low, high) = all.fold((u64::MAX, 0), |(low, high), bytes| {
                (low.min(bytes), high.max(bytes))
            });
            Some(Figure {
                bytes: median(&own)?,
                low_bytes: low,
                high_bytes: high,
            })
        };
        Some(Self {
            peak: figure(|one| one.peak)?,
            at_end: figure(|one| one.at_end)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_range_has_the_bounds_and_the_median_has_not() {
        let run = |bytes| Run {
            resident: vec![bytes, bytes / 2],
            ..Run::default()
        };
        let outcome = Outcome {
            runs: vec![run(100), run(120), run(110)],
            bounds: vec![run(40)],
            ..Outcome::default()
        };
        let both = PeakAndFinal::of_outcome(&outcome, &[0, 0], &Endings::default()).expect("runs");
        let (peak, last) = (both.peak, both.at_end);
        assert_eq!(
            (peak.low_bytes, peak.bytes, peak.high_bytes),
            (40, 110, 120)
        );
        assert_eq!((last.low_bytes, last.bytes, last.high_bytes), (20, 55, 60));
    }
}
