//! What to do, in sentences.

use profiler_core::allocator::{Allocator, BuildId};
use profiler_core::prediction::TRUSTED_ERROR;
use profiler_core::units::{bytes, count};
use profiler_core::worth;

use super::calibrate::{Calibration, error};
use super::report::{CandidateReport, Measured, Report};

/// The share of the gap from which a cause dominates.
const DOMINANT_SHARE: f64 = 0.5;
/// From this share on, live memory counts as all of the memory.
const IN_USE: f64 = 0.8;

/// The verdict on a report that is otherwise complete.
pub fn verdict(report: &Report) -> String {
    let now = report.now().and_then(|row| Some((row, row.measured?)));
    if let Some(said) = now.and_then(|(_, had)| too_little(report, &had)) {
        return said;
    }
    if !report.calibration.trusted {
        let clear = now.and_then(|(_, had)| in_spite_of_the_error(report, &had));
        return clear.unwrap_or_else(|| untrusted(&report.calibration));
    }
    let Some((now, had)) = now else {
        return "No verdict: the baseline could not be replayed.".to_owned();
    };
    let mut said = Vec::new();
    let jemalloc = default_of(report, BuildId::Jemalloc).and_then(|row| row.measured);
    let helps = jemalloc.is_some_and(|with| had.saves_with(&with));
    if now.is_under(Allocator::Jemalloc) {
        said.extend(has_it_already(report));
    } else if let Some(with) = jemalloc {
        let peak_is_compared = report.calibration.is_compared.peak;
        said.push(of_jemalloc(&had, &with, helps, peak_is_compared));
    }
    said.extend(dominant(report, &had));
    said.push(best(report, &had, jemalloc.as_ref(), helps));
    said.join(" ")
}

/// For a program that requested so little from malloc that no saving matters.
fn too_little(report: &Report, had: &Measured) -> Option<String> {
    // What was not measured may have been anything.
    let recorded = report.calibration.compared?.peak.0;
    if report.trace.lost > 0 {
        return None;
    }
    let peak = had.memory.peak.high_bytes.max(recorded);
    let least = worth::OF_REPLAY.least(peak);
    (peak < least).then(|| {
        format!(
            "Nothing to compare: in {} events the program had at most {} of malloc's memory, and a saving counts from {} on. \
             A recording of a command has what that command and those that it starts ask of malloc.",
            count(report.trace.events),
            bytes(peak),
            bytes(least)
        )
    })
}

/// The row of an allocator with no setting changed.
fn default_of(report: &Report, build: BuildId) -> Option<&CandidateReport> {
    let mut rows = report.candidates.iter();
    rows.find(|row| row.name.is_default_of(build))
}

/// What is certain although the error of the replay is larger than trusted: an effect far larger
/// than the error.
fn in_spite_of_the_error(report: &Report, had: &Measured) -> Option<String> {
    let worst = report.calibration.worst_error?;
    let (row, with) = report
        .worthwhile()
        .filter_map(|row| Some((row, row.measured?)))
        .min_by_key(|(_, with)| with.memory.at_end.high_bytes)?;
    Some(format!(
        "Replayed as the program really ran, the figures are off by up to {:.1} %, too much for small \
         differences: {}. With {} it would need {} at the end instead of {}, which is far more of a \
         change than the error.",
        worst * 100.0,
        report.calibration.reasons.join("; "),
        row.name,
        bytes(with.memory.at_end.bytes),
        bytes(had.memory.at_end.bytes),
    ))
}

fn untrusted(calibration: &Calibration) -> String {
    let reasons = calibration.reasons.join("; ");
    let Some(compared) = calibration.compared else {
        return format!(
            "No verdict: {reasons}. The table shows the replays, which nothing could be compared with."
        );
    };
    let off = |both| format!("{:+.1} %", error(both) * 100.0);
    let median = calibration.median_error.unwrap_or(0.0) * 100.0;
    let errors = [error(compared.peak), error(compared.at_end), median / 100.0];
    if errors.iter().all(|error| error.abs() <= TRUSTED_ERROR) {
        return format!("No verdict: {reasons}. The table shows what was replayed.");
    }
    format!(
        "No verdict: replayed as the program really ran, the figures differ from the recorded ones \
         by {} at the end, {} at the peak and {median:.1} % in the median; more than {:.0} % is \
         too much to rely on. What is known: {reasons}. The figures in the table may be as far off.",
        off(compared.at_end),
        off(compared.peak),
        TRUSTED_ERROR * 100.0,
    )
}

fn of_jemalloc(had: &Measured, with: &Measured, helps: bool, peak_is_compared: bool) -> String {
    let mut said = if helps {
        format!(
            "jemalloc would help: at the end it would need {}{}, {} less than the {} of the baseline.",
            bytes(with.memory.at_end.bytes),
            range(with),
            bytes(had.saved_with(with)),
            bytes(had.memory.at_end.bytes),
        )
    } else {
        format!(
            "jemalloc would not help: at the end it would need {}{}, and the baseline needs {}.",
            bytes(with.memory.at_end.bytes),
            range(with),
            bytes(had.memory.at_end.bytes),
        )
    };
    if with.memory.at_end.high_bytes > had.memory.at_end.low_bytes && helps {
        said.push_str(" That does not hold for every run: the range reaches the baseline.");
    }
    let change = with.memory.peak.bytes as f64 / had.memory.peak.bytes.max(1) as f64 - 1.0;
    let is_known = !had.peak_is_unknown && !with.peak_is_unknown;
    if is_known && change.abs() >= worth::OF_REPLAY.share() {
        said.push_str(&format!(
            " Its peak would be {} {}: {}{}.",
            bytes(with.memory.peak.bytes.abs_diff(had.memory.peak.bytes)),
            if change > 0.0 { "higher" } else { "lower" },
            bytes(with.memory.peak.bytes),
            if peak_is_compared {
                ""
            } else {
                ", as replayed; the program's own was not recorded"
            },
        ));
    }
    said
}

fn range(measured: &Measured) -> String {
    let last = measured.memory.at_end;
    let spread = last.high_bytes - last.low_bytes;
    if spread as f64 <= last.bytes as f64 * worth::OF_REPLAY.share() {
        return String::new();
    }
    format!(" ({} to {})", bytes(last.low_bytes), bytes(last.high_bytes))
}

/// Of a program that has jemalloc: what plain glibc would need instead.
fn has_it_already(report: &Report) -> Option<String> {
    let glibc = default_of(report, BuildId::Glibc)?;
    let last = glibc.measured?.memory.at_end.bytes;
    Some(format!(
        "The program has jemalloc already; under glibc it would need {} at the end.",
        bytes(last)
    ))
}

/// The cause that dominates the gap, if there is one.
fn dominant(report: &Report, had: &Measured) -> Option<String> {
    let gap: i64 = report.shares.iter().map(|share| share.bytes.at_end).sum();
    let known = report
        .shares
        .iter()
        .filter(|share| share.cause.has_remedy());
    let most = known.max_by_key(|share| share.bytes.at_end)?;
    if most.bytes.at_end < had.worth() as i64 {
        return None;
    }
    let words = most.cause.in_words();
    let part = bytes(most.bytes.at_end.unsigned_abs());
    Some(if most.bytes.at_end as f64 >= gap as f64 * DOMINANT_SHARE {
        format!("Dominant cause under glibc: {words}, {part}.")
    } else {
        format!("No cause dominates under glibc; the largest is: {words}, {part}.")
    })
}

/// The candidate that needs least, and how it compares with jemalloc.
fn best(report: &Report, had: &Measured, jemalloc: Option<&Measured>, helps: bool) -> String {
    let others = report.candidates.iter().filter(|row| !row.is_baseline);
    let others = others.filter_map(|row| Some((row, row.measured?)));
    let least = others.min_by_key(|(_, measured)| measured.memory.at_end.bytes);
    let Some((row, least)) = least.filter(|(_, least)| had.saves_with(least)) else {
        let worth = bytes(had.worth());
        let rest = what_is_left(report, had);
        return format!("Nothing that was tried saves as much as {worth} at the end{rest}.");
    };
    if row.name.is_default_of(BuildId::Jemalloc) {
        return "Nothing that was tried needs less at the end.".to_owned();
    }
    let and_more = jemalloc.filter(|_| helps).map(|with| {
        with.memory
            .at_end
            .bytes
            .saturating_sub(least.memory.at_end.bytes)
    });
    match and_more {
        Some(more) if more < had.worth() => format!(
            "Nothing else needs much less: the lowest is {} with {}.",
            row.name,
            bytes(least.memory.at_end.bytes)
        ),
        _ => format!(
            "The lowest at the end is {}: {}{}, {} less than the baseline.",
            row.name,
            bytes(least.memory.at_end.bytes),
            range(&least),
            bytes(had.saved_with(&least)),
        ),
    }
}

/// What the memory is that nothing saves; only the default candidates try enough to say so.
fn what_is_left(report: &Report, had: &Measured) -> String {
    let had = had.memory.at_end.bytes;
    let Some(live) = report.trace.live_at_final_bytes else {
        return String::new();
    };
    let freed = live.saturating_sub(report.trace.kept_bytes.unwrap_or(live));
    match live as f64 {
        _ if report.shares.is_empty() => String::new(),
        live_bytes if freed as f64 > live_bytes * (1.0 - IN_USE) => format!(
            ": of {} {} were live, of which the program freed {} after the last checkpoint, where nothing was \
             measured",
            bytes(had),
            bytes(live),
            bytes(freed)
        ),
        live_bytes if live_bytes < had as f64 * IN_USE => format!(
            ": of {} {} are live, and nothing tried returns the rest",
            bytes(had),
            bytes(live)
        ),
        _ => ": as far as an allocator can change it, the memory is in use".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use profiler_core::candidate::CandidateName;

    use crate::ablation::GapCause;
    use crate::ablation::Share;
    use crate::allocators::PlayableAllocator;
    use crate::figures::{Figure, PeakAndFinal};

    const MIB: u64 = 1 << 20;

    fn row(name: &str, peak: u64, last: u64) -> CandidateReport {
        let figure = |mib: u64| Figure {
            bytes: mib * MIB,
            low_bytes: mib * MIB,
            high_bytes: mib * MIB,
        };
        CandidateReport {
            measured: Some(Measured {
                memory: PeakAndFinal { peak, at_end: last }.map(figure),
                runs: 1,
                ..Measured::default()
            }),
            ..CandidateReport::of(CandidateName::parse(name))
        }
    }

    fn report(candidates: Vec<CandidateReport>, shares: &[(GapCause, i64)]) -> Report {
        Report {
            calibration: Calibration {
                trusted: true,
                ..Calibration::default()
            },
            candidates,
            shares: shares
                .iter()
                .map(|(cause, mib)| Share {
                    cause: *cause,
                    bytes: PeakAndFinal {
                        peak: 0,
                        at_end: mib * MIB as i64,
                    },
                })
                .collect(),
            ..Report::default()
        }
    }

    #[test]
    fn a_saving_is_named_with_what_makes_it_and_the_higher_peak() {
        let said = verdict(&report(
            vec![
                row("baseline: glibc 2.36", 100, 90).into_baseline(),
                row("jemalloc", 120, 30),
                row("mimalloc", 110, 29),
            ],
            &[(GapCause::ThreadCaches, 40), (GapCause::Untrimmed, 15)],
        ));
        assert!(said.contains("jemalloc would help"), "{said}");
        assert!(said.contains("60.0 MiB less"), "{said}");
        assert!(said.contains("20.0 MiB higher"), "{said}");
        assert!(
            said.contains("Dominant cause under glibc: chunks cached"),
            "{said}"
        );
        assert!(said.contains("Nothing else needs much less"), "{said}");
    }

    #[test]
    fn where_jemalloc_does_not_help_it_says_so_and_what_would() {
        let said = verdict(&report(
            vec![
                row("baseline: glibc 2.36", 100, 90).into_baseline(),
                row("mmap_threshold=128K", 100, 40),
                row("jemalloc", 100, 88),
            ],
            &[
                (GapCause::DynamicThreshold, 50),
                (GapCause::Unexplained, -48),
            ],
        ));
        assert!(said.contains("jemalloc would not help"), "{said}");
        assert!(said.contains("The lowest at the end is mmap_threshold=128K: 40.0 MiB"));
        assert!(said.contains("large blocks on the heap"), "{said}");
    }

    #[test]
    fn a_program_that_has_jemalloc_is_not_advised_to_take_it() {
        let mut now = row("baseline: jemalloc 5.3.0", 100, 40).into_baseline();
        now.allocator = PlayableAllocator::of(BuildId::Jemalloc).ok();
        let all = vec![now, row("jemalloc", 100, 40), row("glibc", 90, 80)];
        let said = verdict(&report(all, &[]));
        assert!(said.contains("has jemalloc already"), "{said}");
        assert!(said.contains("80.0 MiB at the end"), "{said}");
        assert!(!said.contains("would not help"), "{said}");
    }

    #[test]
    fn where_nothing_helps_it_says_that_the_memory_is_in_use() {
        let said = verdict(&report(
            vec![
                row("baseline: glibc 2.36", 100, 90).into_baseline(),
                row("jemalloc", 100, 87),
            ],
            &[(GapCause::ThreadCaches, 2)],
        ));
        assert!(said.contains("would not help"), "{said}");
        assert!(said.contains("Nothing that was tried saves"), "{said}");
    }

    #[test]
    fn memory_that_is_mostly_free_is_never_called_in_use() {
        let of = |live: u64, kept: Option<u64>| {
            let rows = vec![
                row("baseline: glibc 2.36", 100, 90).into_baseline(),
                row("jemalloc", 100, 87),
            ];
            let mut report = report(rows, &[(GapCause::ThreadCaches, 2)]);
            report.trace.live_at_final_bytes = Some(live * MIB);
            report.trace.kept_bytes = kept.map(|mib| mib * MIB);
            verdict(&report)
        };
        let said = of(20, None);
        assert!(!said.contains("in use"), "{said}");
        assert!(said.contains("of 90.0 MiB 20.0 MiB are live"), "{said}");
        for kept in [None, Some(85), Some(80)] {
            assert!(of(85, kept).contains("the memory is in use"), "{kept:?}");
        }
        let said = of(85, Some(5));
        assert!(!said.contains("in use"), "{said}");
        let freed =
            "85.0 MiB were live, of which the program freed 80.0 MiB after the last checkpoint";
        assert!(said.contains(freed), "{said}");
    }

    #[test]
    fn a_peak_that_was_not_recorded_is_said_to_be_none() {
        let of = |peak| {
            let rows = vec![
                row("baseline: glibc 2.36", 100, 90).into_baseline(),
                row("jemalloc", 130, 20),
            ];
            let mut report = report(rows, &[]);
            report.calibration.is_compared = PeakAndFinal { peak, at_end: true };
            verdict(&report)
        };
        assert!(of(true).contains("30.0 MiB higher: 130.0 MiB."));
        assert!(
            of(false)
                .contains("30.0 MiB higher: 130.0 MiB, as replayed; the program's own was not")
        );
    }

    #[test]
    fn an_effect_far_larger_than_the_error_is_said_with_the_error() {
        let of = |worst_error, last| {
            let rows = vec![
                row("baseline: glibc 2.36", 200, 200).into_baseline(),
                row("jemalloc", 60, last),
            ];
            let mut report = report(rows, &[]);
            report.calibration = Calibration {
                worst_error,
                compared: Some(PeakAndFinal {
                    peak: (200, 218),
                    at_end: (200, 210),
                }),
                ..Calibration::default()
            };
            verdict(&report)
        };
        let said = of(Some(0.088), 8);
        assert!(said.contains("off by up to 8.8 %"), "{said}");
        assert!(
            said.contains("8.0 MiB at the end instead of 200.0 MiB"),
            "{said}"
        );
        // However large the error is, the rest of the saving remains.
        assert!(of(Some(0.088), 140).contains("140.0 MiB at the end instead of 200.0 MiB"));
        assert!(of(Some(0.3), 8).contains("off by up to 30.0 %"));
        assert!(of(Some(0.088), 160).starts_with("No verdict"));
        assert!(of(Some(0.3), 90).starts_with("No verdict"));
        assert!(of(None, 8).starts_with("No verdict"));
    }

    #[test]
    fn a_program_that_asks_for_next_to_nothing_is_said_to() {
        let mut report = report(
            vec![
                row("baseline: glibc 2.36", 0, 0).into_baseline(),
                row("jemalloc", 1, 1),
            ],
            &[],
        );
        report.trace.events = 264;
        report.calibration.trusted = false;
        let compared = |recorded| {
            Some(PeakAndFinal {
                peak: (recorded, 0),
                at_end: (recorded, 0),
            })
        };
        report.calibration.compared = compared(60 << 10);
        let said = verdict(&report);
        assert!(
            said.starts_with("Nothing to compare: in 264 events the program had at most 60.0 KiB"),
            "{said}"
        );
        // What was recorded is more than nothing: the replay lacks it.
        report.calibration.compared = compared(80 * MIB);
        assert!(verdict(&report).starts_with("No verdict"));
    }

    #[test]
    fn without_trust_there_is_no_verdict_but_the_reason() {
        let mut without = report(
            vec![
                row("baseline: glibc 2.36", 100, 90).into_baseline(),
                row("jemalloc", 100, 20),
            ],
            &[],
        );
        without.calibration = Calibration {
            compared: Some(PeakAndFinal {
                peak: (100, 110),
                at_end: (100, 80),
            }),
            median_error: Some(0.1),
            reasons: vec!["3.00 % of the events were lost while recording".into()],
            ..Calibration::default()
        };
        let said = verdict(&without);
        assert!(said.starts_with("No verdict"), "{said}");
        assert!(
            said.contains("-20.0 % at the end") && said.contains("3.00 %"),
            "{said}"
        );
        assert!(!said.contains("help"), "{said}");
    }
}
