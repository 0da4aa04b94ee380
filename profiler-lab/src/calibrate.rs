//! Determines whether the replay can be trusted: a replay of the program as it really ran is
//! compared with what was recorded of the program.

use profiler_core::prediction::TRUSTED_ERROR;
use profiler_core::units::bytes;

use super::figures::{At, Endings, PeakAndFinal, median};

/// Checkpoints of less than this share of the peak say little of malloc: an interpreter that starts
/// has other memory, too.
const SHARE_OF_PEAK: f64 = 0.1;
/// When this share of the initial live blocks has been freed, their original layout hardly matters.
const REPLACED: f64 = 0.8;
/// The share of lost events from which the losses are named as a reason.
const NOTABLE_LOSSES: f64 = 0.000_1;

/// One checkpoint.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Point {
    /// Nanoseconds since the recording began.
    pub time_ns: u64,
    /// The process, by its number in the trace.
    pub process: u32,
    /// malloc's resident and swapped bytes, as recorded; `None` if they were not recorded.
    pub recorded_bytes: Option<u64>,
    /// The same in the replay.
    pub replayed_bytes: u64,
}

/// What else affects the trust in a replay.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CalibrationFactors {
    /// Events of the trace.
    pub events: u64,
    /// Events lost.
    pub lost: u64,
    /// Bytes that were live when the recording began.
    pub seed_bytes: u64,
    /// Bytes of those that were freed since.
    pub seed_gone_bytes: u64,
    /// The difference between replaying large blocks touched and untouched, as a share.
    pub touch_band: f64,
    /// The recorded allocator and the replayed one, if they are not known to be the same.
    pub other_allocator: Option<(String, String)>,
    /// Why the replay itself failed.
    pub failure: Option<String>,
    /// The format that was read, if it is not fragscope's own.
    pub foreign: Option<String>,
    /// When processes ended.
    pub endings: Endings,
}

/// The result of the comparison.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Calibration {
    /// Every checkpoint.
    pub points: Vec<Point>,
    /// Peak and final of the checkpoints at which something was recorded, as recorded and as
    /// replayed; `None` if there are none.
    pub compared: Option<PeakAndFinal<(u64, u64)>>,
    /// Peak and final of all checkpoints, as replayed.
    pub replayed: PeakAndFinal<u64>,
    /// Whether these are what was compared, or close to it.
    pub is_compared: PeakAndFinal<bool>,
    /// Median of the errors' sizes.
    pub median_error: Option<f64>,
    /// The largest of the median and of the errors at the peak and at the end; `None` if nothing
    /// can be compared, or most was not.
    pub worst_error: Option<f64>,
    /// Whether a verdict can be given.
    pub trusted: bool,
    /// What is known to cause errors; if there is no verdict, why not.
    pub reasons: Vec<String>,
}

/// The error of a replay, as a share of what was recorded.
pub fn error((recorded, replayed): (u64, u64)) -> f64 {
    match recorded {
        0 => f64::from(u8::from(replayed > 0)),
        _ => replayed as f64 / recorded as f64 - 1.0,
    }
}

/// Compares.
pub fn calibrate(points: Vec<Point>, factors: &CalibrationFactors) -> Calibration {
    let compared: Vec<(At, At)> = points
        .iter()
        .filter_map(|point| {
            let at = |bytes| (point.process, bytes);
            Some((at(point.recorded_bytes?), at(point.replayed_bytes)))
        })
        .collect();
    let (recorded, replayed): (Vec<At>, Vec<At>) = compared.into_iter().unzip();
    let of = |checkpoints: &[At]| PeakAndFinal::of_ending(checkpoints, &factors.endings);
    let all = points.iter().map(|p| (p.process, p.replayed_bytes));
    let mut calibration = Calibration {
        compared: of(&recorded)
            .zip(of(&replayed))
            .map(|(recorded, replayed)| recorded.zip(replayed)),
        replayed: of(&all.collect::<Vec<_>>()).unwrap_or_default(),
        points,
        ..Calibration::default()
    };
    if let Some(why) = &factors.failure {
        let why = format!("the baseline cannot be compared: {why}");
        calibration.reasons.push(why);
        return calibration;
    }
    let Some(compared) = calibration.compared else {
        calibration.reasons.push(nothing_to_compare(factors));
        return calibration;
    };
    calibration.median_error = median_error(&calibration.points, compared.peak.0);
    let worst = [
        error(compared.peak),
        error(compared.at_end),
        calibration.median_error.unwrap_or(0.0),
    ]
    .into_iter()
    .map(f64::abs)
    .fold(0.0, f64::max);
    let of_all = compared.zip(calibration.replayed);
    calibration.is_compared =
        of_all.map(|((_, seen), all)| error((seen, all)).abs() <= TRUSTED_ERROR);
    let unseen = unseen(&calibration);
    calibration.worst_error = unseen.is_none().then_some(worst);
    calibration.trusted = calibration
        .worst_error
        .is_some_and(|worst| worst <= TRUSTED_ERROR);
    calibration.reasons = reasons(factors);
    calibration.reasons.extend(unseen);
    if !calibration.trusted && calibration.reasons.is_empty() {
        calibration.reasons.push(
            "no cause was found; memory that the program maps by itself, or asks for and never \
             touches, has this effect"
                .to_owned(),
        );
    }
    calibration
}

/// Why there is no measured memory to compare with.
fn nothing_to_compare(factors: &CalibrationFactors) -> String {
    match &factors.foreign {
        Some(format) => format!(
            "a recording of {format} does not hold the program's resident memory, so there is \
             nothing to compare with"
        ),
        None => "the trace has no checkpoint of the program's resident memory to compare with"
            .to_owned(),
    }
}

/// The median of the errors at checkpoints that are not a small part of the peak.
fn median_error(points: &[Point], peak: u64) -> Option<f64> {
    let least = (peak as f64 * SHARE_OF_PEAK) as u64;
    let errors: Vec<f64> = points
        .iter()
        .filter_map(|point| Some((point.recorded_bytes?, point.replayed_bytes)))
        .filter(|(recorded, _)| *recorded >= least)
        .map(|both| error(both).abs())
        .collect();
    median(&errors)
}

/// Why the final value was not compared, if it was not.
fn unseen(calibration: &Calibration) -> Option<String> {
    let (_, seen) = calibration.compared?.at_end;
    (!calibration.is_compared.at_end).then(|| {
        format!(
            "the last checkpoint with anything recorded is at {}, as replayed, and the program went on to {} \
             before it ended, where there is nothing to compare with",
            bytes(seen),
            bytes(calibration.replayed.at_end)
        )
    })
}

fn reasons(factors: &CalibrationFactors) -> Vec<String> {
    let mut reasons = Vec::new();
    let all = factors.events.saturating_add(factors.lost);
    let share = factors.lost as f64 / all.max(1) as f64;
    if share > NOTABLE_LOSSES {
        reasons.push(format!(
            "{:.2} % of the events were lost while recording",
            share * 100.0
        ));
    }
    let gone = factors.seed_gone_bytes as f64 / factors.seed_bytes.max(1) as f64;
    if factors.seed_bytes > 0 && gone < REPLACED {
        reasons.push(format!(
            "of what was live when the recording began {:.0} % was freed since: how that would lie in \
             another allocator is estimated from its gaps, and a recording from launch knows it",
            gone * 100.0
        ));
    }
    if factors.touch_band > TRUSTED_ERROR {
        reasons.push(format!(
            "how much of its large blocks the program touched is not known, which can change the \
             result by up to {:.0} %",
            factors.touch_band * 100.0
        ));
    }
    if let Some((recorded, played)) = &factors.other_allocator {
        reasons.push(format!(
            "it was recorded under {recorded} and replayed under {played}"
        ));
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(all: &[(u64, u64)]) -> Vec<Point> {
        let numbered = all.iter().enumerate();
        numbered
            .map(|(i, (recorded, replayed))| Point {
                time_ns: i as u64,
                process: 0,
                recorded_bytes: Some(*recorded),
                replayed_bytes: *replayed,
            })
            .collect()
    }

    #[test]
    fn a_close_replay_is_trusted_whatever_the_start_looks_like() {
        let close = points(&[(1, 3), (1000, 1010), (500, 490), (480, 500)]);
        let found = calibrate(close, &CalibrationFactors::default());
        assert!(found.trusted && found.reasons.is_empty());
        let compared = found.compared.expect("checkpoints");
        assert_eq!(compared.peak, (1000, 1010));
        assert_eq!(compared.at_end, (480, 500));
        let median = found.median_error.expect("errors");
        assert!((median - 0.02).abs() < 1e-9, "{median}");
    }

    #[test]
    fn an_error_at_the_peak_at_the_end_or_in_between_takes_the_verdict_away() {
        for bad in [
            [(100, 106), (50, 50), (50, 50), (50, 50)].as_slice(),
            [(100, 100), (50, 50), (50, 50), (50, 53)].as_slice(),
            [(100, 100), (50, 56), (50, 56), (50, 56), (50, 50)].as_slice(),
        ] {
            let found = calibrate(points(bad), &CalibrationFactors::default());
            assert!(!found.trusted, "{bad:?}");
            assert!(found.reasons[0].contains("no cause was found"));
        }
    }

    #[test]
    fn known_causes_are_named() {
        let factors = CalibrationFactors {
            events: 1000,
            lost: 10,
            seed_bytes: 100,
            seed_gone_bytes: 40,
            touch_band: 0.3,
            other_allocator: Some(("jemalloc 3.6.0".into(), "jemalloc 5.3.1".into())),
            ..CalibrationFactors::default()
        };
        let found = calibrate(points(&[(100, 150)]), &factors);
        let said = found.reasons.join("; ");
        for words in ["0.99 %", "40 % was freed since", "30 %", "jemalloc 3.6.0"] {
            assert!(said.contains(words), "{words}: {said}");
        }
        let lost = CalibrationFactors {
            // As a file may claim.
            lost: u64::MAX,
            ..factors.clone()
        };
        let found = calibrate(points(&[(100, 150)]), &lost);
        assert!(
            found.reasons[0].starts_with("100.00 %"),
            "{:?}",
            found.reasons
        );
        let fine = calibrate(points(&[(100, 101)]), &factors);
        assert!(
            fine.trusted && fine.reasons.len() == 4,
            "reasons stay named"
        );
    }

    #[test]
    fn a_program_that_grew_after_its_last_checkpoint_is_not_trusted() {
        let mut all = points(&[(100, 100), (0, 250)]);
        all[1].recorded_bytes = None;
        for (last, is_trusted) in [(250, false), (150, false), (104, true)] {
            all[1].replayed_bytes = last;
            let found = calibrate(all.clone(), &CalibrationFactors::default());
            assert_eq!(found.is_compared.at_end, is_trusted, "{last}");
            assert_eq!(found.trusted, is_trusted, "{last}");
            assert_eq!(found.worst_error.is_some(), is_trusted, "{last}");
            assert_eq!(found.replayed.at_end, last);
            assert_eq!(found.compared.expect("one").at_end, (100, 100));
        }
        all[1].replayed_bytes = 250;
        let found = calibrate(all, &CalibrationFactors::default());
        assert!(
            found.reasons[0].contains("at 100 B, as replayed, and the program went on to 250 B"),
            "{:?}",
            found.reasons
        );
    }

    #[test]
    fn a_peak_that_no_checkpoint_saw_is_not_compared_and_what_is_final_is() {
        let mut all = points(&[(100, 100), (0, 190), (100, 101)]);
        all[1].recorded_bytes = None;
        let found = calibrate(all.clone(), &CalibrationFactors::default());
        assert!(found.trusted && found.is_compared.at_end && !found.is_compared.peak);
        assert_eq!((found.replayed.peak, found.replayed.at_end), (190, 101));
        all[1].replayed_bytes = 104;
        let found = calibrate(all, &CalibrationFactors::default());
        assert!(found.is_compared.peak);
    }

    #[test]
    fn without_checkpoints_nothing_is_trusted() {
        let none = calibrate(Vec::new(), &CalibrationFactors::default());
        assert!(!none.trusted && none.reasons[0].contains("no checkpoint"));
        let mut foreign = points(&[(0, 10)]);
        foreign[0].recorded_bytes = None;
        let factors = CalibrationFactors {
            foreign: Some("heaptrack".into()),
            ..CalibrationFactors::default()
        };
        let none = calibrate(foreign, &factors);
        assert!(!none.trusted && none.reasons[0].contains("heaptrack"));
    }
}
