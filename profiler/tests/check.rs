//! `check` on real processes and saved sessions: its exit code and its output. Needs no privilege.

mod support;

use profiler_testing::child::Child;
use serde_json::Value;
use support::{fragscope, stderr, stdout, text};

/// Half of its heap is free; it grows by 1 MiB when it is asked to.
const WORKER: &str = r"
import sys
kept = [bytes(3000) for i in range(20000)]
del kept[::2]
print('READY', flush=True)
for line in sys.stdin:
    kept.append(b'x' * (1 << 20))
    print('GREW', flush=True)
";

/// Runs `check`, which must end with this code; its line, and what it says.
fn check(words: &[&str], code: i32) -> (Value, String) {
    let output = fragscope(&[&["check"], words].concat());
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{words:?}: {said}");
    let line = stdout(&output);
    assert_eq!(line.lines().count(), 1, "{line}");
    let line: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(line["schema"], "fragscope.check/1");
    (line, said)
}

#[test]
fn what_exceeds_a_threshold_ends_with_3_and_names_it() {
    let worker = Child::python(WORKER);
    let pid = worker.pid().to_string();
    let (line, said) = check(&[&pid, "--max-rss", "1G", "--max-fragmentation", "20%"], 3);
    assert_eq!(line["pid"], worker.pid());
    assert_eq!(line["exceeded"], serde_json::json!(["fragmentation_share"]));
    let [rss, fragmentation] = line["checks"].as_array().expect("a list").as_slice() else {
        panic!("{line}");
    };
    assert_eq!(
        (&rss["key"], &rss["exceeded"]),
        (&"rss_bytes".into(), &false.into())
    );
    assert_eq!(rss["most"], 1 << 30);
    assert!(fragmentation["value"].as_f64() > Some(0.2), "{line}");
    assert!(
        said.contains("fragmentation is ") && said.contains("more than 20.0 %"),
        "{said}"
    );

    let (line, said) = check(
        &[
            "--pid",
            &pid,
            "--max-rss",
            "1G",
            "--max-fragmentation",
            "99%",
        ],
        0,
    );
    assert_eq!(
        (&line["exceeded"], said.as_str()),
        (&serde_json::json!([]), "")
    );
    let (line, _) = check(&[&pid, "--max-rss", "1M", "--max-fragmentation", "1M"], 3);
    assert_eq!(
        line["exceeded"],
        serde_json::json!(["rss_bytes", "fragmentation_bytes"])
    );
}

#[test]
fn growth_is_measured_over_the_time_that_is_asked_for() {
    let mut worker = Child::python(WORKER);
    let pid = worker.pid().to_string();
    let at_rest = ["--pid", &pid, "--max-growth", "1K/h", "--over", "300ms"];
    let (line, _) = check(&at_rest, 0);
    // The kernel may take pages away meanwhile.
    let value = line["checks"][0]["value"].as_f64();
    assert!(value.is_some_and(|value| value <= 0.0), "{line}");
    let growing =
        std::thread::spawn(move || check(&[&pid, "--max-growth", "100K/s", "--over", "2s"], 3));
    while !growing.is_finished() {
        worker.ask("more");
    }
    let (line, said) = growing.join().expect("it is exceeded");
    assert_eq!(
        line["exceeded"],
        serde_json::json!(["growth_bytes_per_second"])
    );
    assert!(said.contains("growth of RSS is "), "{said}");
}

#[test]
fn a_saved_session_is_checked_by_its_last_walk_and_what_is_unknown_is_an_error() {
    let worker = Child::python(WORKER);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("one.fragsnap");
    let pid = worker.pid().to_string();
    let saved = fragscope(&["snapshot", "--pid", &pid, "-o", text(&file)]);
    assert_eq!(saved.status.code(), Some(0), "{}", stderr(&saved));
    drop(worker);
    check(&[text(&file), "--max-fragmentation", "20%"], 3);
    check(&[text(&file), "--max-fragmentation", "90%"], 0);
    // One walk says nothing of growth.
    let unknown = [text(&file), "--max-growth", "1M/s", "--max-rss", "10G"];
    let (line, said) = check(&unknown, 1);
    assert_eq!(line["checks"][1]["value"], Value::Null);
    assert!(said.contains("growth of RSS is not known"), "{said}");
}

#[test]
fn a_threshold_and_somebody_to_check_are_required() {
    for words in [
        &["check", "4711"][..],
        &["check", "--max-rss", "1G"],
        &["check", "4711", "--max-rss", "1G", "--over", "1s"],
        &["check", "4711", "--max-growth", "1M"],
    ] {
        assert_eq!(fragscope(words).status.code(), Some(2), "{words:?}");
    }
    let gone = fragscope(&["check", "2147483647", "--max-rss", "1G"]);
    assert_eq!(gone.status.code(), Some(5));
}
