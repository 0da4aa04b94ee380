use std::collections::BTreeSet;

use profiler_core::candidate::CandidateName;
use profiler_lab::calibrate::Calibration;
use profiler_lab::report::Report;
use serde_json::Value;

use super::sample_report::full;
use super::*;

fn document(report: &Report) -> Value {
    serde_json::from_str(&json(report)).expect("JSON")
}

fn keys(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                found.insert(key.clone());
                // What these hold is named by the environment.
                if !["env", "set"].contains(&&**key) {
                    keys(value, found);
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|value| keys(value, found)),
        _ => {}
    }
}

#[test]
fn every_key_is_documented() {
    let documented = include_str!("../../../../docs/exports.md");
    let chapter = documented
        .split("\n## ")
        .find(|c| c.starts_with("`fragscope.replay/1`"));
    let chapter = chapter.expect("a chapter on it");
    let mut found = BTreeSet::new();
    keys(&document(&full()), &mut found);
    for key in found {
        let forms = [
            format!("`{key}`"),
            format!("`{key}[]`"),
            format!("`{key}{{}}`"),
        ];
        assert!(forms.iter().any(|form| chapter.contains(form)), "{key}");
    }
}

#[test]
fn json_has_the_figures_and_null_for_what_failed() {
    let found = document(&full());
    assert_eq!(found["schema"], "fragscope.replay/1");
    let named = |name: &str| {
        let all = found["candidates"].as_array().expect("a list");
        all.iter().find(|one| one["name"] == name).expect(name)
    };
    let jemalloc = named("jemalloc");
    assert_eq!(jemalloc["rest_bytes"], 311 * (1u64 << 20) / 10);
    assert_eq!(jemalloc["low_bytes"], 296 * (1u64 << 20) / 10);
    assert_eq!(jemalloc["env"]["LD_PRELOAD"], "libjemalloc.so.2");
    assert_eq!(jemalloc["runs"], 15);
    assert_eq!(named("tcmalloc")["peak_bytes"], Value::Null);
    assert!(named("tcmalloc")["failure"].is_string());
    assert_eq!(
        named("arena_max=1")["rest_bytes"],
        named("baseline: glibc 2.36")["rest_bytes"]
    );
    assert!(found["calibration"]["error"].as_f64().expect("a number") > 0.006);
    let gap: i64 = found["mechanisms"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|share| share["bytes"].as_i64())
        .sum();
    assert!((gap - 610 * (1 << 20) / 10).abs() < 10, "{gap}");
}

#[test]
fn a_peak_that_is_not_known_is_said_to_be_unknown() {
    let mut report = full();
    let row = report.candidates.iter_mut().find(|row| row.is_baseline);
    let measured = row.expect("a baseline").measured.as_mut();
    measured.expect("measured").peak_is_unknown = true;
    let found = document(&report);
    let (baseline, other) = (&found["candidates"][0], &found["candidates"][1]);
    assert!(baseline["peak_bytes"].is_null() && baseline["peak_rank"].is_null());
    assert!(baseline["peak_high_bytes"].is_u64() && other["peak_bytes"].is_u64());
    let shown = text(&report, false);
    assert!(
        shown.contains("peak unknown (-)") && !shown.contains("lowest peaks"),
        "{shown}"
    );
}

/// A change of the words or of the wrapping shows here.
#[test]
fn the_text_reads_as_it_did() {
    let shown = text(&full(), false);
    let golden = include_str!("../../../tests/golden/replay.txt");
    assert_eq!(shown, golden, "now it is:\n{shown}");
}

#[test]
fn the_text_is_never_wider_than_80_columns_and_never_drives_the_terminal() {
    let mut report = full();
    report.trace.command = Some(format!("python3 \x1b[2J {}", "x".repeat(200)));
    report.candidates[2].name =
        CandidateName::Other("an allocator with a very long name indeed".into());
    for line in text(&report, false).lines() {
        assert!(line.chars().count() <= 80, "{line}");
        assert!(!line.contains('\x1b'), "{line}");
    }
    assert!(text(&report, true).contains("\x1b[1m"), "headings are bold");
}

#[test]
fn what_could_not_be_played_is_said() {
    let mut report = full();
    report.trace.left_out = 904;
    let shown = text(&report, false);
    let words: Vec<_> = shown.split_whitespace().collect();
    let said = "incomplete: 904 events were left out: more than 4096 processes or 65.5k threads";
    assert!(words.join(" ").contains(said), "{shown}");
    assert_eq!(document(&report)["trace"]["events_left_out"], 904);
}

#[test]
fn without_trust_the_table_stays_and_nothing_is_to_be_copied() {
    let mut report = full();
    report.calibration = Calibration::default();
    let shown = text(&report, false);
    assert!(shown.contains("NOT CALIBRATED"), "{shown}");
    assert!(shown.contains("jemalloc  "), "{shown}");
    assert!(!shown.contains("To use"), "{shown}");
}
