//! What would be returned if a name went, compared with what really is returned when it does.

mod support;

use std::process::Command;

use profiler_testing::child::Child;
use profiler_testing::pythons::{Python, pythons};
use serde_json::Value;
use support::{fragscope, json};

const DROPPABLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/workers/droppable.py");
const FORKED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/workers/forked.py");
/// CPython may keep its last free arena, and what runs meanwhile takes a little.
const SLACK: f64 = 1.2e6;

fn holder<'o>(objects: &'o Value, name: &str) -> &'o Value {
    let holders = objects["holders"].as_array().expect("holders");
    let found = holders.iter().find(|holder| holder["name"] == name);
    found.unwrap_or_else(|| panic!("{name} holds nothing"))
}

fn drops_as_predicted(python: &Python) {
    let mut command = Command::new(&python.path);
    command.arg(DROPPABLE);
    let mut child = Child::run(command);
    let pid = child.pid().to_string();
    for name in ["MODELS", "SEEN", "SPARSE", "CACHE"] {
        let args = ["snapshot", "--json", "--stop-for-objects", "--pid", &pid];
        let snapshot = json(&fragscope(&args));
        let holder = holder(&snapshot["objects"], &format!("__main__.{name}")).clone();
        let figure = |key: &str| holder[key].as_f64().expect("a figure");
        let (live, unpinned) = (
            figure("returned_live_bytes"),
            figure("returned_unpinned_bytes"),
        );
        assert!(live <= figure("retained_bytes"), "{holder}");
        let real: f64 = child.ask(name).trim().parse().expect("bytes");
        let predicted = live + unpinned;
        println!("{python:?} {name}: {predicted} predicted, {real} went back");
        assert!(
            (predicted - real).abs() <= real * 0.05 + SLACK,
            "{name}: {predicted} predicted, {real} went back: {holder:#}, {python:?}"
        );
    }
}

#[test]
fn what_goes_back_is_what_was_predicted() {
    // Of those before 3, and those whose allocator is another, other rules hold.
    let all = pythons()
        .into_iter()
        .filter(|python| !python.free_threaded && !python.debug && python.version >= (3, 6));
    for python in all {
        drops_as_predicted(&python);
    }
}

/// A child that was forked, after a collection, with what it copied of its parent's by our account.
fn copied_by_collections(frozen: bool) -> (Value, f64) {
    let mut command = Command::new("python3");
    command.arg(FORKED);
    command.args(frozen.then_some("frozen"));
    let parent = Child::run(command);
    let args = [
        "snapshot",
        "--json",
        "--objects",
        "--pid",
        parent.first_line().trim(),
    ];
    let snapshot = json(&fragscope(&args));
    let copied = snapshot["fork"]["copied_bytes"].as_f64();
    (snapshot["objects"].clone(), copied.expect("it was forked"))
}

#[test]
fn what_a_freeze_before_the_fork_keeps_shared_is_what_was_predicted() {
    let (objects, copied) = copied_by_collections(false);
    let (_, copied_all_the_same) = copied_by_collections(true);
    let saved = copied - copied_all_the_same;
    let most = objects["copied"]["collector_bytes"]
        .as_f64()
        .expect("copies");
    println!("{most} predicted at most, {saved} saved");
    assert!(saved > 8e6, "the collector copies nothing: {saved}");
    assert!(
        most >= saved * 0.95 && most <= saved * 1.25,
        "{most} predicted, {saved} saved"
    );
    let types = objects["types"].as_array().expect("types");
    let dict = types
        .iter()
        .find(|row| row["type"] == "dict")
        .expect("dicts");
    let of_dicts = dict["copied_bytes"].as_f64().expect("bytes");
    assert!(of_dicts > most / 4.0, "{of_dicts} of {most}");
}
