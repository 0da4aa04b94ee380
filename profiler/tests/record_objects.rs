//! Requests to Python's object allocator are recorded, and `PYTHONMALLOC=malloc` is predicted as it
//! really is.

mod support;

use std::path::Path;
use std::process::Command;

use profiler_testing::pythons::pythons;
use serde_json::Value;
use support::record::record;
use support::{command, json, run, stderr, stdout, text};

/// Objects of several sizes, of which some of each generation are kept, and what its anonymous memory then is.
const PROGRAM: &str = "
import random
random.seed(1)
kept = []
for _ in range(4):
    all = [{'number': i, 'text': str(i) * random.randint(1, 9), 'list': [i] * random.randint(1, 20)}
           for i in range(30000)]
    kept += all[::7]
    del all
print(open('/proc/self/status').read().split('RssAnon:')[1].split()[0], flush=True)
";

/// MiB that the program really has.
fn really(python: &str, source: &str, variables: &[(&str, &str)]) -> f64 {
    let mut program = Command::new(python);
    program.args(["-c", source]).envs(variables.iter().copied());
    let kib: f64 = stdout(&run(&mut program)).trim().parse().expect("a number");
    kib / 1024.0
}

/// Those whose objects can be recorded, the default one first.
fn recordable() -> Vec<String> {
    let all = pythons().into_iter();
    let all = all.filter(|one| ((3, 7)..=(3, 15)).contains(&one.version));
    let all = all.filter(|one| !one.free_threaded && !one.debug);
    all.map(|one| text(&one.path).to_owned()).collect()
}

fn replayed(trace: &Path) -> Value {
    json(&run(&mut command(&[
        "replay",
        text(trace),
        "--allocator",
        "jemalloc",
        "--runs",
        "3",
        "--json",
    ])))
}

/// MiB of the candidate of this name.
fn needs(found: &Value, name: &str) -> Option<f64> {
    named(found, name, "rest_bytes")
}

/// MiB of this figure of it.
fn named(found: &Value, name: &str, figure: &str) -> Option<f64> {
    let all = found["candidates"].as_array().expect("candidates");
    let row = all.iter().find(|row| row["name"] == name)?;
    Some(row[figure].as_f64()? / f64::from(1 << 20))
}

#[test]
fn python_without_its_object_allocator_needs_what_a_recording_of_its_objects_says() {
    let python = recordable().swap_remove(0);
    let folder = tempfile::tempdir().expect("a folder");
    let trace = folder.path().join("trace");
    let mut recording = record(&trace, &[&python, "-c", PROGRAM]);
    let output = run(&mut recording);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let found = replayed(&trace);
    assert_eq!(found["trace"]["objects"], false);
    assert_eq!(needs(&found, "PYTHONMALLOC=malloc"), None, "{found}");

    let mut recording = command(&["record", "--objects", "-o"]);
    recording.arg(&trace).args(["--", &python, "-c", PROGRAM]);
    let output = run(&mut recording);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let found = replayed(&trace);
    assert_eq!(found["trace"]["objects"], true);
    assert_eq!(found["calibration"]["trusted"], true, "{found}");
    let baseline = found["candidates"][0]["name"].as_str().expect("a name");
    let had = needs(&found, baseline).expect("the baseline");
    let needed = needs(&found, "PYTHONMALLOC=malloc").expect("played");
    assert!(needs(&found, "jemalloc PYTHONMALLOC=malloc").is_some());
    let truth =
        really(&python, PROGRAM, &[("PYTHONMALLOC", "malloc")]) - really(&python, PROGRAM, &[]);
    let predicted = needed - had;
    assert!(
        (truth - predicted).abs() < 0.03 * had,
        "{predicted:.1} of {truth:.1} MiB, beside {had:.1}"
    );
}

/// A server that forks: four children build objects, and all wait until what they have together was read.
const FORKING: &str = "
import os
kept = [{'number': i, 'text': str(i) * 3} for i in range(40000)]
def anonymous(pid):
    return int(open(f'/proc/{pid}/status').read().split('RssAnon:')[1].split()[0])
children, is_full, go_on = [], os.pipe(), os.pipe()
for _ in range(4):
    child = os.fork()
    if child == 0:
        for _ in range(3):
            all = [{'number': i, 'list': [i, str(i)]} for i in range(12000)]
            kept += all[::4]
        os.write(is_full[1], b'1')
        os.close(go_on[1])
        os.read(go_on[0], 1)
        os._exit(0)
    children.append(child)
full = b''
while len(full) < 4:
    full += os.read(is_full[0], 4)
print(sum(map(anonymous, [os.getpid(), *children])), flush=True)
os.close(go_on[1])
for child in children:
    os.waitpid(child, 0)
";

#[test]
fn peaks_of_a_program_that_forks_are_predicted_with_and_without_its_object_allocator() {
    let python = recordable().swap_remove(0);
    let folder = tempfile::tempdir().expect("a folder");
    let trace = folder.path().join("trace");
    let mut recording = command(&["record", "--objects", "-o"]);
    recording.arg(&trace).args(["--", &python, "-c", FORKING]);
    let output = run(&mut recording);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let found = replayed(&trace);
    let peak = |name: &str| named(&found, name, "peak_bytes").expect("a peak that is known");
    let had = peak(found["candidates"][0]["name"].as_str().expect("a name"));
    let truth =
        really(&python, FORKING, &[("PYTHONMALLOC", "malloc")]) - really(&python, FORKING, &[]);
    let predicted = peak("PYTHONMALLOC=malloc") - had;
    assert!(
        (truth - predicted).abs() < 0.06 * had,
        "{predicted:.1} of {truth:.1} MiB, beside {had:.1}: {found}"
    );
}

#[test]
fn objects_of_every_python_are_recorded_and_where_they_cannot_be_that_is_said() {
    let folder = tempfile::tempdir().expect("a folder");
    let trace = folder.path().join("trace");
    let could_not = |python: &str, variable: Option<(&str, &str)>| {
        let mut recording = command(&["record", "--objects", "-o"]);
        recording
            .arg(&trace)
            .args(["--", python, "-c", "print('ends')"]);
        let output = run(recording.envs(variable));
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        stderr(&output).contains("asks of its object allocator could be recorded")
    };
    let all = recordable();
    for python in &all {
        assert!(!could_not(python, None), "{python}");
        for variable in [("PYTHONDEVMODE", "1"), ("PYTHONMALLOC", "malloc")] {
            assert!(could_not(python, Some(variable)), "{python}: {variable:?}");
        }
    }
    for other in pythons().iter().filter(|one| one.version < (3, 7)) {
        assert!(could_not(text(&other.path), None), "{other:?}");
    }
}
