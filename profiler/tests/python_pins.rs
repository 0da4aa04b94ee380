//! What would go back if a name went, against what really goes back when it does.

mod support;

use std::process::Command;

use profiler_testing::child::Child;
use profiler_testing::pythons::{Python, pythons};
use serde_json::Value;
use support::{fragscope, json};

const DROPPABLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/workers/droppable.py");
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
    for name in ["SPARSE", "CACHE"] {
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
