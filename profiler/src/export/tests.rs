use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use profiler_core::activity::ProbeCost;
use profiler_core::completeness::{EndedEarly, Released, Slices, StandStill};
use profiler_core::host::{COLUMNS, HostView, IN_FILES_ALONE, ProcessRow, TreeView};
use profiler_core::objects::Census;
use profiler_core::report::{FragReport, LedgerClass};
use profiler_core::view::{Shadow, WhatIf};
use serde_json::Value;

use super::sample_view::{full, passive};
use super::*;

/// Every key of a document as a path; an element of a list is `[]`.
fn keys(value: &Value, at: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let path = format!("{at}.{key}");
                found.insert(path.clone());
                keys(value, &path, found);
            }
        }
        Value::Array(list) => list
            .iter()
            .for_each(|value| keys(value, &format!("{at}[]"), found)),
        _ => {}
    }
}

fn parsed(view: &View) -> Value {
    serde_json::from_str(&json(view)).expect("json() is JSON")
}

/// The keys that `fragscope.snapshot/1` promises.
const PROMISED: &str = "schema taken_at host target.pid target.comm target.cmdline target.python \
    target.libc target.malloc rss_bytes swap_bytes ledger[].class ledger[].resident_bytes \
    ledger[].shared_bytes ledger[].swapped_bytes heaps[].allocator heaps[].version \
    heaps[].arenas[].id heaps[].arenas[].kind heaps[].arenas[].system_bytes \
    heaps[].arenas[].live_bytes heaps[].arenas[].live_blocks heaps[].arenas[].free_bytes \
    heaps[].arenas[].free_blocks heaps[].arenas[].cached_bytes heaps[].arenas[].top_bytes \
    heaps[].live_bytes heaps[].live_blocks heaps[].free_bytes heaps[].cached_bytes \
    heaps[].mapped_large_bytes heaps[].mapped_large_blocks heaps[].settings \
    size_classes[].allocator size_classes[].upper_bytes size_classes[].live_blocks \
    size_classes[].live_bytes size_classes[].free_blocks size_classes[].free_bytes \
    page_occupancy[].allocator page_occupancy[].min_bytes page_occupancy[].max_bytes \
    page_occupancy[].resident_pages page_occupancy[].swapped_pages metrics.utilisation \
    metrics.pinned_free_bytes metrics.trim_returnable_bytes metrics.compaction_floor_bytes \
    findings[].mechanism findings[].claim findings[].bytes findings[].evidence findings[].remedy \
    findings[].confidence completeness.stopped completeness.stop_ms completeness.walk_ms \
    completeness.events_lost completeness.unreadable_bytes completeness.layout_confidence \
    completeness.defects activity.untracked_blocks activity.ended activity_source what_if";

#[test]
fn json_has_every_promised_key() {
    let mut found = BTreeSet::new();
    keys(&parsed(&full()), "", &mut found);
    for key in PROMISED.split_whitespace() {
        assert!(found.contains(&format!(".{key}")), "{key} is missing");
    }
}

#[test]
fn json_keeps_integers_whole_times_readable_and_the_unknown_null() {
    let value = parsed(&full());
    assert_eq!(value["schema"], "fragscope.snapshot/1");
    assert_eq!(value["taken_at"], "2026-01-02T03:04:05.678Z");
    assert_eq!(value["activity"]["allocs"], u64::MAX / 8);
    assert_eq!(value["activity"]["alloc_bytes_scaled"], 4 << 20);
    assert_eq!(value["target"]["python"], Value::Null);
    assert_eq!(value["pss_bytes"], Value::Null);
    assert_eq!(value["metrics"]["internal_slop_bytes"], Value::Null);
    let floor = &value["metrics"]["compaction_floor_bytes"];
    assert_eq!(floor, 8192);
    assert!(floor.is_u64(), "{floor}");
    assert_eq!(value["heaps"][0]["settings"]["mmap_threshold"], 131_072);
    assert_eq!(value["heaps"][0]["settings"]["trim"], "on");
    assert_eq!(value["completeness"]["stop_ms"], 1.5);
    assert_eq!(value["completeness"]["events_lost"], 7);
    assert_eq!(
        value["completeness"]["defects"][0]["address"],
        "0x555500000000"
    );
    let classes = &value["activity"]["classes"];
    assert_eq!(classes[0]["lifetime_p50_ns"], 20);
    assert_eq!(
        classes[1]["lifetime_p50_ns"],
        Value::Null,
        "none seen to die"
    );
    assert_eq!(parsed(&passive())["activity"], Value::Null);
}

#[test]
fn the_ledger_sums_to_rss_and_swap() {
    let value = parsed(&full());
    let rows = value["ledger"].as_array().expect("a list");
    let sum = |key: &str| -> u64 { rows.iter().filter_map(|row| row[key].as_u64()).sum() };
    assert_eq!(rows.len(), LedgerClass::ALL.len());
    assert_eq!(Value::from(sum("resident_bytes")), value["rss_bytes"]);
    assert_eq!(Value::from(sum("swapped_bytes")), value["swap_bytes"]);
}

#[test]
fn an_interval_is_one_line_with_the_latest_count() {
    let line = ndjson(&full());
    assert!(!line.contains('\n'));
    let value: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(value["schema"], "fragscope.interval/1");
    assert_eq!(
        value["rss_bytes"],
        5 * 4096,
        "the history's, newer than the walk's"
    );
    assert_eq!(value["time"], "2026-01-02T03:04:06.678Z");
    assert_eq!(value["walked_at"], "2026-01-02T03:04:05.678Z");
    assert_eq!(
        value["gaps"],
        serde_json::json!(["stale", "defects", "lost"])
    );
    assert_eq!(value["ended"], "the target exited with 0");
}

#[test]
fn lines_have_the_verdict_and_the_predictions_of_the_snapshot() {
    let view = full();
    let line: Value = serde_json::from_str(&ndjson(&view)).expect("JSON");
    let whole = parsed(&view);
    let of_predictions = [
        "verdict",
        "predictions",
        "self_check",
        "not_predicted",
        "predicted_at",
        "predictions_pending",
    ];
    for key in of_predictions {
        assert_eq!(line[key], whole[key], "{key}");
    }
    assert_eq!(line["predictions"][0]["rest_bytes"], 50 << 20);
    assert_eq!(line["predicted_at"], "2026-01-02T03:03:47.678Z");
    let said = whole["explanation"].as_str().expect("words");
    assert!(
        said.contains("the heap as walked 18.0 s earlier takes"),
        "{said}"
    );
}

#[test]
fn a_page_with_figures_of_two_moments_names_both() {
    let page = html::page(&full());
    let said = "as walked 18.0 s before the walk of the other figures on this page";
    assert!(page.contains(said), "{page}");
    // The report without that has one moment alone.
    assert!(!html::page(&passive()).contains("before the walk of the other figures"));
}

#[test]
fn the_table_reads_back_with_the_figures_of_the_json() {
    let view = full();
    let bytes = super::csv::table(&view).expect("a table");
    let mut reader = ::csv::Reader::from_reader(bytes.as_slice());
    let header = "taken_at pid table allocator item field value unit";
    let titles: Vec<_> = reader
        .headers()
        .expect("a header")
        .iter()
        .map(str::to_owned)
        .collect();
    assert_eq!(titles.join(" "), header);
    let mut figures = BTreeMap::new();
    for record in reader.records() {
        let record = record.expect("a row");
        assert_eq!(&record[0], "2026-01-02T03:04:05.678Z");
        assert_eq!(&record[1], "4711");
        assert!(
            record[6].is_empty() || record[6].parse::<f64>().is_ok(),
            "{record:?}"
        );
        let key = format!(
            "{}/{}/{}/{}",
            &record[2], &record[3], &record[4], &record[5]
        );
        let before = figures.insert(key, (record[6].to_owned(), record[7].to_owned()));
        assert_eq!(before, None, "{record:?} is there twice");
    }
    let value = parsed(&view);
    for row in value["ledger"].as_array().expect("a list") {
        let class = row["class"].as_str().expect("a name");
        let (figure, unit) = &figures[&format!("ledger//{class}/resident_bytes")];
        assert_eq!(*figure, row["resident_bytes"].to_string());
        assert_eq!(unit, "bytes");
    }
    for (name, metric) in value["metrics"].as_object().expect("an object") {
        let found = figures[&format!("metrics///{name}")].0.parse::<f64>().ok();
        // serde_json reads numbers back to the last digit but one.
        let off = found.zip(metric.as_f64()).map(|(a, b)| (a - b).abs() / b);
        assert_eq!(found.is_some(), metric.is_number(), "{name}");
        assert!(!off.is_some_and(|off| off > 1e-12), "{name}: {off:?}");
    }
    assert_eq!(figures["page_occupancy/glibc/1-64/resident_pages"].0, "1");
    assert_eq!(
        figures["metrics///held_by_64_bytes_pages"],
        ("1".into(), "pages".into())
    );
    assert!(!figures.contains_key("activity_classes//64/lifetime_p50_ns"));
    let predicted = |field| &figures[&format!("predictions/glibc/mmap_threshold=128K/{field}")].0;
    assert_eq!(*predicted("low_bytes"), (46 << 20).to_string());
    assert_eq!(figures["predictions/glibc/arena_max=1/rest_bytes"].0, "");
    assert_eq!(
        figures["self_check///measured_bytes"].0,
        (100 << 20).to_string()
    );
}

#[test]
fn the_log_holds_each_distribution_with_its_unit() {
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
    let bytes = super::hlog::log(&full()).expect("a log");
    let mut tags = Vec::new();
    for entry in IntervalLogIterator::new(&bytes) {
        if let LogEntry::Interval(interval) = entry.expect("parses") {
            let tag = interval.tag().expect("a tag").as_str().to_owned();
            tags.push((tag, interval.max()));
        }
    }
    let found: Vec<_> = tags
        .iter()
        .map(|(tag, max)| (tag.as_str(), *max as u64))
        .collect();
    assert_eq!(
        found.iter().map(|(tag, _)| *tag).collect::<Vec<_>>(),
        [
            "alloc_bytes",
            "lifetime_ns",
            "live_block_bytes.glibc",
            "resident_page_live_bytes.glibc",
            "swapped_page_live_bytes.glibc"
        ]
    );
    assert_eq!(
        found[3].1, 4096,
        "the fullest page, exactly, as page sizes are counted"
    );
    assert_eq!(found[4].1, 0);
}

#[test]
fn lines_align_with_their_heading() {
    for view in [full(), passive()] {
        let (heading, line) = (line_heading(), line(&view));
        let at = heading.find("lost").expect("a title") + "lost".len();
        assert_eq!(
            line.as_bytes()[at],
            b' ',
            "{heading}\n{line}: a column ends where its title does"
        );
        assert!(
            line.starts_with("03:04:0"),
            "{line}: the time comes first, in UTC"
        );
    }
    assert!(line(&full()).ends_with(" stale,defects,lost"));
    assert!(line(&passive()).ends_with(" ok"));
}

#[test]
fn text_is_at_most_100_columns_and_free_of_control_characters() {
    for shown in [text(&full()), text(&passive()), explanation(&full())] {
        for line in shown.lines() {
            assert!(line.chars().count() <= 100, "{line}");
            assert!(!line.chars().any(char::is_control), "{line:?}");
        }
    }
    assert!(text(&full()).contains("defect: a chunk's size is odd"));
    assert!(text(&full()).contains("The target exited with 0."));
    assert!(text(&full()).contains("sum "));
}

#[test]
fn each_format_is_written_by_its_ending() {
    let dir = tempfile::tempdir().expect("a folder");
    for (name, begins) in [("a.json", "{"), ("b.CSV", "taken_at,"), ("c.hlog", "#")] {
        let path = dir.path().join(name);
        let place = reserve(&path).expect("can be written");
        write(&place, &full()).expect("written");
        assert!(fs::read_to_string(&path).expect("read").starts_with(begins));
    }
    assert_eq!(
        fs::read_dir(dir.path()).expect("listed").count(),
        3,
        "nothing else left behind"
    );
}

#[test]
fn what_cannot_be_written_is_refused_before_and_leaves_the_file_alone() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("out.xml");
    fs::write(&path, "before").expect("written");
    let error = reserve(&path).expect_err("no such format");
    assert!(matches!(error, ExportError::UnknownEnding(_)), "{error}");
    assert_eq!(fs::read_to_string(&path).expect("read"), "before");
    // No user may make files there, not even root.
    let message = reserve(Path::new("/proc/self/out.json"))
        .expect_err("no place for files")
        .to_string();
    assert!(
        message.starts_with("cannot write /proc/self/out.json"),
        "{message}"
    );
}

#[test]
fn every_key_column_and_tag_is_documented() {
    let documented = include_str!("../../../docs/exports.md");
    let is_documented = |word: &str| documented.contains(&format!("`{word}`"));
    let mut found = BTreeSet::new();
    keys(&parsed(&full()), "", &mut found);
    let line = serde_json::from_str(&ndjson(&full())).expect("JSON");
    keys(&line, "", &mut found);
    for path in &found {
        // What these hold is named elsewhere: by the allocator, or in metrics.md.
        let by_others = [
            ".settings.",
            ".figures.",
            ".evidence.",
            ".metrics.",
            ".over_time.",
            ".env.",
        ];
        if by_others.iter().any(|part| path.contains(part)) {
            continue;
        }
        let key = path.rsplit('.').next().expect("a key");
        let forms = [key.to_owned(), format!("{key}[]"), format!("{key}{{}}")];
        assert!(forms.iter().any(|form| is_documented(form)), "{path}");
    }
    let table = super::csv::table(&full()).expect("a table");
    let mut reader = ::csv::Reader::from_reader(table.as_slice());
    for record in reader.records() {
        let record = record.expect("a row");
        assert!(is_documented(&record[2]), "the table {}", &record[2]);
    }
}

#[test]
fn every_key_of_the_table_of_processes_is_documented() {
    let documented = include_str!("../../../docs/exports.md");
    let section = documented.split("## `fragscope.top/1`").nth(1);
    let section = section.and_then(|rest| rest.split("\n## ").next());
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let words = section.expect("a section").split(|c| !is_word(c));
    let words: BTreeSet<&str> = words.collect();
    let columns = COLUMNS.iter().chain(&IN_FILES_ALONE);
    let of_columns = columns.flat_map(|column| column.key.split('.'));
    let view = TreeView {
        master: 1,
        processes: HostView {
            rows: vec![ProcessRow::default()],
            ..HostView::default()
        },
        objects: None,
    };
    let mut found = BTreeSet::new();
    let document: Value = serde_json::from_str(&json::tree(&view)).expect("JSON");
    let row = &document["processes"][0];
    assert!(
        row["metrics"].is_object() && row["cgroup"].is_object(),
        "{row}"
    );
    keys(&document, "", &mut found);
    let of_document = found.iter().filter(|path| !path.starts_with(".host."));
    let of_document = of_document.map(|path| path.rsplit('.').next().expect("a key"));
    for key in of_columns.chain(of_document) {
        assert!(words.contains(key), "{key}");
    }
}

#[test]
fn what_has_failed_is_among_the_gaps_of_a_line_and_of_its_json() {
    let mut view = full();
    view.ended = None;
    let before = line(&view);
    let json: Value = serde_json::from_str(&ndjson(&view)).expect("JSON");
    assert!(json["activity"]["probe_share"].is_f64(), "{json}");
    assert!(json["activity"]["allocs_per_second"].is_f64(), "{json}");
    let mut activity = view.activity.as_deref().expect("it is full").clone();
    activity.ended = Some("the thread panicked".into());
    activity.untracked_blocks = 3;
    view.activity = Some(Arc::new(activity));
    let shadow = Shadow {
        name: "jemalloc".into(),
        ended: Some("crashed (SIGKILL)".into()),
        ..Shadow::default()
    };
    view.what_if = Some(WhatIf {
        shadows: vec![shadow],
        ..WhatIf::default()
    });
    let after = line(&view);
    let value: Value = serde_json::from_str(&ndjson(&view)).expect("JSON");
    for gap in ["untracked", "probes-ended", "shadow-ended"] {
        assert!(!before.contains(gap), "{before}");
        assert!(after.contains(gap), "{after}");
        let gaps = value["gaps"].as_array().expect("a list");
        assert!(gaps.iter().any(|one| one == gap), "{value}");
    }
    assert_eq!(value["activity"]["untracked_blocks"], 3);
    assert_eq!(value["activity"]["ended"], "the thread panicked");
    // They are not those of before, nor none.
    assert_eq!(value["activity"]["probe_share"], Value::Null);
    assert_eq!(value["activity"]["allocs_per_second"], Value::Null);
    assert_eq!(parsed(&view)["activity"]["frees_per_second"], Value::Null);
    let shadow = &value["what_if"]["shadows"][0];
    assert_eq!(shadow["ended"], "crashed (SIGKILL)");
    assert_eq!(parsed(&view)["activity"]["untracked_blocks"], 3);
}

#[test]
fn probes_that_record_for_what_if_are_neither_none_nor_rates() {
    let mut view = full();
    view.ended = None;
    assert_eq!(parsed(&view)["activity_source"], "sampled");
    (view.activity, view.sites, view.probes_wanted) = (None, None, false);
    assert_eq!(parsed(&view)["activity_source"], "not_requested");
    view.probes_wanted = true;
    assert_eq!(parsed(&view)["activity_source"], "no_probes");
    assert!(line(&view).contains("no-probes"));

    view.probes_wanted = false;
    let cost = ProbeCost {
        hits: 1000,
        ns_per_hit: 1700.0,
        share: 0.125,
        budget: None,
    };
    let mut what_if = WhatIf {
        events_lost: 12,
        cost: Some(cost),
        ..WhatIf::default()
    };
    view.what_if = Some(what_if.clone());
    let value: Value = serde_json::from_str(&ndjson(&view)).expect("JSON");
    assert_eq!(value["activity_source"], "recorded");
    assert_eq!(value["activity"], Value::Null);
    assert_eq!(value["what_if"]["cost"]["share"], 0.125);
    assert_eq!(value["what_if"]["cost"]["budget_share"], Value::Null);
    assert_eq!(value["events_lost"], 12);
    assert_eq!(
        value["gaps"].as_array().expect("a list").last(),
        Some(&"lost".into())
    );
    let words = line(&view);
    assert!(words.contains(" 12.5 % "), "{words}");
    assert!(words.contains(" 12 ") && words.contains("lost"), "{words}");
    let sentence = "or call sites; they take 12.5 % of one core";
    let said = |view: &View| text(view).split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(said(&view).contains(sentence), "{}", text(&view));
    assert!(html::page(&view).contains(sentence));

    what_if.ended = Some("no shadow is left".into());
    view.what_if = Some(what_if);
    let words = line(&view);
    assert!(
        words.contains("probes-ended") && !words.contains("12.5 %"),
        "{words}"
    );
    assert!(said(&view).contains("they have ended: no shadow is left"));
    assert_eq!(parsed(&view)["what_if"]["ended"], "no shadow is left");
}

#[test]
fn probes_that_are_being_attached_are_not_said_to_be_none() {
    let mut view = full();
    view.activity = None;
    view.probes_attaching = true;
    let attaching = line(&view);
    assert!(attaching.contains("attaching"), "{attaching}");
    assert!(!attaching.contains("no-probes"), "{attaching}");
    view.probes_attaching = false;
    let none = line(&view);
    assert!(
        none.contains("no-probes") && !none.contains("attaching"),
        "{none}"
    );
}

#[test]
fn a_stop_that_ended_early_is_neither_a_stop_nor_none() {
    let said = |stand_still| {
        let mut view = full();
        let mut report = (*view.report).clone();
        report.completeness.stand_still = stand_still;
        view.report = Arc::new(report);
        let one_line = text(&view).split_whitespace().collect::<Vec<_>>().join(" ");
        (one_line, parsed(&view)["completeness"].clone())
    };
    let has = |about: &Value, gap: &str| {
        let gaps = about["gaps"].as_array().expect("a list");
        gaps.iter().any(|one| one == gap)
    };
    let (all, about) = said(StandStill::Released(Released {
        why: EndedEarly::Overdue,
        after_ns: 2_000_000_000,
    }));
    assert!(
        all.contains("was stopped, and ran on after 2.0 s, as"),
        "{all}"
    );
    assert!(all.contains("(--max-stop)"), "{all}");
    assert!(!all.contains("was not stopped"), "{all}");
    assert_eq!(about["stopped"], false);
    assert_eq!(about["released"]["why"], "max-stop");
    assert_eq!(about["released"]["after_ms"], 2000.0);
    assert!(has(&about, "released") && !has(&about, "moving"), "{about}");
    let (all, about) = said(StandStill::Never);
    assert!(all.contains("was not stopped"), "{all}");
    assert_eq!(about["released"], Value::Null);
    assert!(has(&about, "moving") && !has(&about, "released"), "{about}");
    let (all, about) = said(StandStill::InSlices(Slices {
        number: 9,
        longest_ns: 20_000_000,
        changed_bytes: 12 << 10,
        running_bytes: 200 << 20,
    }));
    assert!(
        all.contains("stopped 9 times, for 20.0 ms at most"),
        "{all}"
    );
    assert!(
        all.contains("200.0 MiB of it were read in between"),
        "{all}"
    );
    assert!(all.contains("12.0 KiB changed between the stops"), "{all}");
    assert_eq!(about["stopped"], false);
    assert_eq!(about["slices"]["number"], 9);
    assert_eq!(about["slices"]["longest_ms"], 20.0);
    assert_eq!(about["slices"]["changed_bytes"], 12 << 10);
    assert_eq!(about["slices"]["running_bytes"], 200 << 20);
    assert!(has(&about, "slices") && !has(&about, "moving"), "{about}");
    let (_, about) = said(StandStill::Throughout);
    assert_eq!(about["slices"], Value::Null);
    assert_eq!(about["stopped"], true);
    assert!(
        !has(&about, "moving") && !has(&about, "released"),
        "{about}"
    );
}

#[test]
fn objects_that_were_read_before_the_walk_have_their_age() {
    let aged = |seconds: u64| {
        let view = full();
        let census = Census {
            taken_at_ns: view.report.taken_at_ns - seconds * 1_000_000_000,
            ..Census::default()
        };
        let report = FragReport::clone(&view.report).with_objects(Arc::new(census), None);
        View {
            report: Arc::new(report),
            ..view
        }
    };
    let (old, new) = (aged(40), aged(0));
    assert!(explanation(&old).contains("PYTHON OBJECTS, as read 40 s before: "));
    assert!(explanation(&new).contains("PYTHON OBJECTS: "));
    let page = |view: &View| {
        let page = bytes(view, Format::Html).expect("a page");
        String::from_utf8(page).expect("UTF-8")
    };
    assert!(page(&old).contains("All this is as read 40 s before the walk."));
    assert!(!page(&new).contains("as read"));
    let between = profiler_core::difference::Difference::between(&old.report, &new.report);
    let text = diff::text(&old.report, &new.report, &between);
    assert_eq!(
        text.matches("its objects are as read 40 s before").count(),
        1,
        "{text}"
    );
    let json: Value =
        serde_json::from_str(&diff::json(&old.report, &new.report, &between)).expect("JSON");
    assert_ne!(
        json["before"]["objects_taken_at"],
        json["before"]["taken_at"]
    );
    assert_eq!(json["after"]["objects_taken_at"], json["after"]["taken_at"]);
}
