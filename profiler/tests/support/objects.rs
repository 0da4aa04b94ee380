//! Objects in the command's output.

use profiler_testing::pythons::{Python, pythons};
use serde_json::Value;

use super::{fragscope, json};

/// The objects of a snapshot that is taken `how`.
pub(crate) fn objects(pid: i32, how: &[&str]) -> Value {
    let pid = pid.to_string();
    let args = [&["snapshot", "--json", "--pid", &pid], how].concat();
    let snapshot = json(&fragscope(&args));
    assert!(snapshot["objects"].is_object(), "{}", snapshot["notices"]);
    snapshot["objects"].clone()
}

/// Pythons whose objects can be read.
pub(crate) fn readable() -> Vec<Python> {
    let all = pythons().into_iter();
    let readable: Vec<_> = all
        .filter(|python| !python.free_threaded && !python.debug)
        .collect();
    assert!(!readable.is_empty(), "no Python that can be read");
    readable
}

/// The objects of this program in each Python that can be read, which stands still meanwhile. What it says when it
/// is ready is put behind it.
pub(crate) fn in_each(program: &str, check: impl Fn(&Value, &Python)) {
    let program = format!(
        "{program}\nimport sys\nsys.stdout.write('ready\\n')\nsys.stdout.flush()\nsys.stdin.readline()\n"
    );
    for python in readable() {
        let child = python.run(&program, None, None);
        check(&objects(child.pid(), &["--stop-for-objects"]), &python);
    }
}

/// The row of a type; null without.
pub(crate) fn of_type<'o>(objects: &'o Value, name: &str) -> &'o Value {
    let types = objects["types"].as_array().expect("types");
    types
        .iter()
        .find(|row| row["type"] == name)
        .unwrap_or(&Value::Null)
}

/// A figure; 0 where it is not there.
pub(crate) fn number(of: &Value, key: &str) -> u64 {
    of[key].as_u64().unwrap_or(0)
}

/// The holder of this name, or that it shares.
pub(crate) fn holder<'o>(objects: &'o Value, name: &str) -> &'o Value {
    let holders = objects["holders"].as_array().expect("holders");
    let found = holders.iter().find(|holder| {
        let shared = holder["shared_with"].as_array().expect("names");
        holder["name"] == name || shared.iter().any(|other| other == name)
    });
    found.unwrap_or_else(|| panic!("{name} holds nothing: {holders:#?}"))
}
