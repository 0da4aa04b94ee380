//! What is predicted from one walk is what a remedy really returns. Reads other processes' memory,
//! so it needs root.

mod support;

use std::process::Command;

use profiler_testing::child::Child;
use serde_json::Value;
use support::{FRAGSCOPE, fragscope, json, stderr, stdout};

/// Blocks of one size, each seventh of which stays: what is free lies between the survivors.
const SURVIVORS: &str = "
import ctypes, sys
blocks = [bytes(700) for _ in range(30_000)]
blocks = blocks[::7]
print('ready', flush=True)
sys.stdin.readline()
ctypes.CDLL(None).malloc_trim(0)
print('trimmed', flush=True)
sys.stdin.readline()
";

/// Threads that each had a large buffer, in arenas of their own.
const BUFFERS: &str = "
import sys, threading
done, over = threading.Barrier(5), threading.Event()
def work():
    for _ in range(2):
        buffer = bytearray(8 << 20)
        del buffer
    done.wait()
    over.wait()
for _ in range(4):
    threading.Thread(target=work, daemon=True).start()
done.wait()
print('ready', flush=True)
sys.stdin.readline()
";

/// A gigabyte of zeros from calloc, of which nobody wrote a byte, beside memory that is used.
const UNTOUCHED: &str = "
import sys
zeros = bytes(1 << 30)
used = [bytearray(1 << 20) for _ in range(24)]
print('ready', flush=True)
sys.stdin.readline()
";

/// A worker that forks a child, as prefork servers do; both have much that is free. Prints the child's number, and both
/// live until the input ends.
const FORKS: &str = "
import os, sys
def work():
    blocks = [bytes(3000) for _ in range(20_000)]
    return blocks[::40]
kept = work()
inner, outer = os.pipe()
child = os.fork()
if child == 0:
    os.close(outer)
    kept += work()
    os.read(inner, 1)
    os._exit(0)
print(child, flush=True)
sys.stdin.readline()
";

fn predicted(child: &Child) -> Value {
    predicted_of(&child.pid().to_string())
}

fn predicted_of(pid: &str) -> Value {
    json(&fragscope(&[
        "snapshot",
        "--predict",
        "--json",
        "--pid",
        pid,
    ]))
}

fn candidate<'d>(document: &'d Value, name: &str) -> &'d Value {
    let all = document["predictions"].as_array().expect("a list");
    let found = all.iter().find(|one| one["candidate"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {all:?}"))
}

fn bytes(of: &Value, key: &str) -> u64 {
    of[key].as_u64().unwrap_or_else(|| panic!("{key} of {of}"))
}

#[test]
fn what_was_asked_for_and_never_touched_is_no_part_of_rss() {
    let child = Child::python(UNTOUCHED);
    let found = predicted(&child);
    let rss = bytes(&found, "rss_bytes");
    let heaps = found["heaps"].as_array().expect("heaps");
    let sum = |key: &str| heaps.iter().map(|heap| bytes(heap, key)).sum::<u64>();
    let (live, resident) = (
        sum("live_bytes") + sum("mapped_large_bytes"),
        sum("live_resident_bytes"),
    );
    assert!(
        live > (1 << 30) + (24 << 20),
        "as they were asked for: {live}"
    );
    assert!((24 << 20..=rss).contains(&resident), "{resident} of {rss}");
    let untouched = sum("untouched_bytes");
    assert!((1u64 << 30).abs_diff(untouched) < 1 << 20, "{untouched}");
    let why = found["explanation"].as_str().expect("words");
    assert!(
        why.contains("1.0 GiB more were asked for and never written to"),
        "{why}"
    );
    let verdict = found["verdict"].as_str().expect("words");
    assert!(!verdict.contains("GiB"), "{verdict}");

    let check = &found["self_check"];
    assert_eq!(check["holds"], true, "{check}");
    let now = bytes(check, "measured_bytes");
    assert!(now < rss, "{check}");
    for one in found["predictions"].as_array().expect("a list") {
        let then = bytes(one, "rss_bytes") - bytes(one, "rest_bytes");
        assert_eq!(then, rss - now, "all but malloc's stays: {one}");
    }
}

/// jemalloc's background thread is started in the parent, and is not there after a fork.
#[test]
fn a_forked_worker_is_offered_what_works_without_threads() {
    let parent = Child::python(FORKS);
    let names = |found: &Value| -> Vec<String> {
        let all = found["predictions"].as_array().expect("a list");
        let names = all.iter().map(|one| one["candidate"].as_str());
        names.map(|name| name.expect("a name").to_owned()).collect()
    };
    let (background, no_decay) = (
        "jemalloc background".to_owned(),
        "jemalloc no decay".to_owned(),
    );
    let of_parent = names(&predicted(&parent));
    assert!(of_parent.contains(&background), "{of_parent:?}");
    assert!(!of_parent.contains(&no_decay), "{of_parent:?}");
    let of_child = names(&predicted_of(parent.first_line()));
    assert!(!of_child.contains(&background), "{of_child:?}");
    assert!(of_child.contains(&no_decay), "{of_child:?}");
}

#[test]
fn what_a_fork_has_switched_off_is_not_said_to_be_in_effect() {
    let mut command = Command::new("python3");
    command.args(["-S", "-c", FORKS]);
    command.env("LD_PRELOAD", "libjemalloc.so.2");
    command.env("MALLOC_CONF", "background_thread:true");
    let parent = Child::run(command);
    let setting = |pid: &str| -> Option<String> {
        let found = json(&fragscope(&["snapshot", "--json", "--pid", pid]));
        let heaps = found["heaps"].as_array().expect("heaps");
        let heap = heaps.iter().find(|heap| heap["allocator"] == "jemalloc");
        let settings = &heap.expect("it was preloaded")["settings"];
        assert_eq!(settings["opt.background_thread"], "true", "as it was set");
        let lost = settings["opt.background_thread since the fork"].as_str();
        lost.map(str::to_owned)
    };
    assert_eq!(setting(&parent.pid().to_string()), None);
    let of_child = setting(parent.first_line());
    assert_eq!(of_child.as_deref(), Some("without effect"));
    let said = stdout(&fragscope(&[
        "explain",
        "--no-predict",
        "--pid",
        parent.first_line(),
    ]));
    assert!(
        said.contains("MALLOC_CONF=dirty_decay_ms:0,muzzy_decay_ms:0"),
        "{said}"
    );
    assert!(!said.contains("purges only with"), "{said}");
}

#[test]
fn survivors_pin_as_much_elsewhere_and_a_trim_returns_what_was_predicted() {
    let mut child = Child::python(SURVIVORS);
    let found = predicted(&child);
    let check = &found["self_check"];
    assert_eq!(check["holds"], true, "{check}");
    let error = check["error"].as_f64().expect("a share");
    assert!(error.abs() < 0.02, "the heap is reproduced: {check}");
    let now = bytes(check, "measured_bytes");

    // A packing of what is live promised four fifths less.
    let jemalloc = candidate(&found, "jemalloc background");
    assert_ne!(jemalloc["effect"], "saves", "{jemalloc}");
    assert!(bytes(jemalloc, "rest_bytes") > now / 10 * 9, "{jemalloc}");
    let verdict = found["verdict"].as_str().expect("words");
    assert!(!verdict.contains("at most"), "{verdict}");

    let trim = candidate(&found, "malloc_trim");
    child.send("");
    assert_eq!(child.next_line(), "trimmed");
    let trimmed = bytes(&predicted(&child)["self_check"], "measured_bytes");
    let promised = bytes(trim, "rest_bytes");
    // Printing a line takes a few blocks.
    assert!(
        trimmed.abs_diff(promised) <= 64 << 10,
        "{trimmed} {promised}"
    );
}

#[test]
fn a_threshold_that_saves_in_the_walk_saves_in_the_program() {
    let found = predicted(&Child::python(BUFFERS));
    let threshold = candidate(&found, "mmap_threshold=128K");
    assert_eq!(threshold["effect"], "saves", "{threshold}");
    assert_eq!(found["findings"][0]["mechanism"], "dynamic_mmap_threshold");
    let saved = bytes(&found["findings"][0], "bytes");
    assert_eq!(saved, bytes(threshold, "saves_bytes"));

    let mut python = Command::new("python3");
    python.args(["-S", "-c", BUFFERS]);
    for (name, value) in threshold["env"].as_object().expect("variables") {
        python.env(name, value.as_str().expect("text"));
    }
    let really = predicted(&Child::run(python));
    // Its heap is too small now for another prediction; this is that of the whole interpreter.
    let really = bytes(&really["metrics"], "malloc_resident_bytes");
    let high = bytes(threshold, "high_bytes");
    assert!(really <= high + (2 << 20), "{really} {threshold}");
}

#[test]
fn explain_predicts_unless_it_is_not_wanted() {
    let child = Child::python(SURVIVORS);
    let pid = child.pid().to_string();
    let with = fragscope(&["explain", "--pid", &pid]);
    let said = stdout(&with);
    assert_eq!(with.status.code(), Some(0), "{}", stderr(&with));
    assert!(said.contains("\n  mmap_threshold=128K "), "{said}");
    let without = fragscope(&["explain", "--no-predict", "--pid", &pid]);
    let said = stdout(&without);
    assert!(!said.contains("\n  mmap_threshold=128K "), "{said}");
    assert!(said.contains("was not predicted"), "{said}");
}

#[test]
fn what_cannot_be_played_is_said() {
    let child = Child::python(SURVIVORS);
    let pid = child.pid().to_string();
    let mut limited = Command::new("sh");
    // No room for the program that players play.
    let script = r#"ulimit -f 8; trap '' XFSZ; exec "$0" snapshot --predict --json --pid "$1""#;
    limited.args(["-c", script, FRAGSCOPE, &pid]);
    let output = limited.output().expect("it runs");
    let found = json(&output);
    let why = found["not_predicted"].as_str().expect("a reason");
    assert!(why.contains("cannot be played"), "{why}");
    assert_eq!(found["predictions"].as_array().map(Vec::len), Some(0));
}
