//! Predictions compared with the truth, and their errors.

use super::predict::Predicted;
use super::truth::Run;

/// The row of the most at any moment.
pub(super) const PEAK: &str = "peak";
/// The row of the last moment, whatever the program calls it.
pub(super) const FINAL: &str = "final";
/// A smaller saving counts as none: neither sign of it is wrong.
const SAVING: f64 = 5e6;

/// Figures of several runs at one moment, in bytes.
#[derive(Copy, Clone, Debug)]
pub(super) struct Spread {
    pub(super) low: f64,
    pub(super) median: f64,
    pub(super) high: f64,
}

impl Spread {
    /// The spread of at least one figure.
    pub(super) fn of(figures: impl IntoIterator<Item = f64>) -> Self {
        let mut all: Vec<f64> = figures.into_iter().collect();
        all.sort_by(f64::total_cmp);
        Self {
            low: all[0],
            median: quantile(&all, 0.5),
            high: all[all.len() - 1],
        }
    }

    /// The distance from the median of the run farthest from it, as a share of the median.
    fn reach(&self) -> f64 {
        (self.high - self.median).max(self.median - self.low) / self.median
    }
}

/// The figure below which this share of the sorted figures lies.
pub(super) fn quantile(sorted: &[f64], share: f64) -> f64 {
    let at = share * (sorted.len() - 1) as f64;
    let (low, high) = (at.floor() as usize, at.ceil() as usize);
    sorted[low] + (sorted[high] - sorted[low]) * (at - low as f64)
}

/// Summary of the rows of the tables.
#[derive(Debug)]
pub(super) struct Summary {
    /// Median of the errors, as a share of the truth, whatever their sign.
    pub(super) median: f64,
    /// Nine tenths of the errors are below.
    pub(super) p90: f64,
    /// The largest.
    pub(super) most: f64,
    /// Predictions within the range of the runs, or off by less than a hundredth.
    pub(super) within: usize,
    /// Rows in whose band the truth lies.
    pub(super) in_band: usize,
    /// How far single runs are from the median of all: how well one run predicts another.
    pub(super) own_p90: f64,
    /// Figures.
    pub(super) rows: usize,
}

impl Summary {
    /// The summary of at least one row.
    pub(super) fn of<'a>(rows: impl Iterator<Item = &'a Row> + Clone) -> Self {
        let sorted = |figures: Vec<f64>| {
            let mut figures = figures;
            figures.sort_by(f64::total_cmp);
            figures
        };
        let errors = sorted(rows.clone().map(|row| row.error().abs()).collect());
        let own = sorted(rows.clone().map(|row| row.truth.reach()).collect());
        let near = |row: &&Row| row.is_in_range() || row.error().abs() < 0.01;
        Self {
            median: quantile(&errors, 0.5),
            p90: quantile(&errors, 0.9),
            most: quantile(&errors, 1.0),
            within: rows.clone().filter(near).count(),
            in_band: rows.clone().filter(|row| row.is_in_band()).count(),
            own_p90: quantile(&own, 0.9),
            rows: errors.len(),
        }
    }
}

/// One figure of one program under one setting.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) program: &'static str,
    pub(super) setting: &'static str,
    /// The name of the moment, [`FINAL`] or [`PEAK`].
    pub(super) moment: String,
    pub(super) truth: Spread,
    pub(super) predicted: Spread,
    /// The least and the most that any recording's replays allow for, in bytes.
    pub(super) band: (f64, f64),
}

impl Row {
    /// By how much the prediction is too high, as a share of the truth: median against median.
    pub(super) fn error(&self) -> f64 {
        self.predicted.median / self.truth.median - 1.0
    }

    /// Whether the prediction lies in the range of the runs.
    pub(super) fn is_in_range(&self) -> bool {
        self.truth.low <= self.predicted.median && self.predicted.median <= self.truth.high
    }

    /// Whether the truth lies in the band.
    pub(super) fn is_in_band(&self) -> bool {
        (self.band.0..=self.band.1).contains(&self.truth.median)
    }

    /// Whether the real saving or extra cost against `base` is large enough that its sign matters.
    pub(super) fn saves(&self, base: &Self) -> bool {
        (base.truth.median - self.truth.median).abs() > SAVING
    }

    /// Whether the sign of what it saves against `base` matters and is predicted wrongly.
    pub(super) fn has_wrong_sign(&self, base: &Self) -> bool {
        let truth = base.truth.median - self.truth.median;
        let predicted = base.predicted.median - self.predicted.median;
        self.saves(base) && predicted * truth < 0.0
    }
}

/// The rows of one program under one setting: each moment that was predicted, the last of which is
/// final, then the peak over all of them.
pub(super) fn rows(
    program: &'static str,
    setting: &'static str,
    truth: &[Run],
    predicted: &[Vec<Predicted>],
) -> Vec<Row> {
    let last = predicted[0].len() - 1;
    let mut rows: Vec<Row> = Vec::new();
    let mut peaks = vec![0.0f64; truth.len()];
    for (number, moment) in predicted[0].iter().enumerate() {
        let real: Vec<f64> = truth
            .iter()
            .filter_map(|run| at(run, &moment.name))
            .collect();
        for (peak, bytes) in peaks.iter_mut().zip(&real) {
            *peak = peak.max(*bytes);
        }
        let all = predicted.iter().map(|run| run[number].clone());
        let name = if number == last { FINAL } else { &moment.name };
        rows.push(row(program, setting, name, Spread::of(real), all));
    }
    let most = |run: &Vec<Predicted>| Predicted {
        name: PEAK.to_owned(),
        bytes: run.iter().map(|one| one.bytes).max().unwrap_or(0),
        low_bytes: run.iter().map(|one| one.low_bytes).max().unwrap_or(0),
        high_bytes: run.iter().map(|one| one.high_bytes).max().unwrap_or(0),
    };
    let all = predicted.iter().map(most);
    rows.push(row(program, setting, PEAK, Spread::of(peaks), all));
    rows
}

fn at(run: &Run, moment: &str) -> Option<f64> {
    let found = run.iter().find(|one| one.name == moment);
    found.map(|one| one.bytes as f64)
}

fn row(
    program: &'static str,
    setting: &'static str,
    moment: &str,
    truth: Spread,
    predicted: impl Iterator<Item = Predicted> + Clone,
) -> Row {
    let lows = predicted.clone().map(|one| one.low_bytes as f64);
    let highs = predicted.clone().map(|one| one.high_bytes as f64);
    Row {
        program,
        setting,
        moment: moment.to_owned(),
        truth,
        predicted: Spread::of(predicted.map(|one| one.bytes as f64)),
        band: (
            lows.fold(f64::INFINITY, f64::min),
            highs.fold(0.0, f64::max),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accuracy::truth::Measurement;

    fn run(figures: [u64; 2]) -> Run {
        let moment = |(name, bytes): (&str, u64)| Measurement {
            name: name.to_owned(),
            bytes,
        };
        ["full", "end"]
            .into_iter()
            .zip(figures)
            .map(moment)
            .collect()
    }

    /// With a band from a byte below to a byte above.
    fn replays(figures: [u64; 2]) -> Vec<Predicted> {
        let moment = |one: Measurement| Predicted {
            name: one.name,
            bytes: one.bytes,
            low_bytes: one.bytes - 1,
            high_bytes: one.bytes + 1,
        };
        run(figures).into_iter().map(moment).collect()
    }

    #[test]
    fn medians_are_compared_and_the_peak_is_of_each_run() {
        let truth = [run([100, 10]), run([90, 120]), run([110, 12])];
        let predicted = [replays([105, 12])];
        let rows = rows("program", "glibc", &truth, &predicted);
        let errors: Vec<_> = rows
            .iter()
            .map(|row| (row.error() * 1000.0).round())
            .collect();
        // 105 of 100, 12 of 12, 105 of (100, 120, 110).
        assert_eq!(errors, [50.0, 0.0, -45.0]);
        let names: Vec<_> = rows.iter().map(|row| &*row.moment).collect();
        assert_eq!(names, ["full", FINAL, PEAK]);
        let summary = Summary::of(rows.iter());
        assert_eq!((summary.rows, summary.within, summary.in_band), (3, 3, 1));
        assert!((summary.median - 0.05).abs() < 0.005, "{summary:?}");
    }

    #[test]
    fn moments_before_the_recording_began_are_not_compared() {
        let truth = [run([200, 10])];
        let predicted = [replays([0xdead, 12]).split_off(1)];
        let rows = rows("program", "glibc", &truth, &predicted);
        let found: Vec<_> = rows.iter().map(|r| (&*r.moment, r.truth.median)).collect();
        assert_eq!(found, [(FINAL, 10.0), (PEAK, 10.0)]);
    }

    #[test]
    fn only_large_savings_have_a_sign() {
        let row = |truth: u64, predicted: u64| {
            let (truth, predicted) = ([run([truth, 1])], [replays([predicted, 1])]);
            rows("program", "", &truth, &predicted).swap_remove(0)
        };
        let base = row(50_000_000, 50_000_000);
        assert!(row(60_000_000, 49_000_000).has_wrong_sign(&base));
        assert!(!row(60_000_000, 51_000_000).has_wrong_sign(&base));
        assert!(!row(54_000_000, 49_000_000).has_wrong_sign(&base));
        assert!(row(44_000_000, 51_000_000).has_wrong_sign(&base));
    }
}
