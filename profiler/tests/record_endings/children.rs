//! Children that begin and end, and their memory at the peak.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use nix::sys::signal::Signal;
use profiler_trace::trace::{Event, EventKind, Item, Reader};
use serde_json::Value;

use crate::support::record::{Recording, compiled, held, record};
use crate::support::{run, stderr, text};
use crate::{MIB, checkpoints, replayed};

/// How many processes a trace has, and how many ends of processes: a command may be a script that starts others.
fn processes_and_ends(trace: &Path) -> (usize, usize) {
    let file = BufReader::new(File::open(trace).expect("a trace"));
    let mut reader = Reader::new(file).expect("a trace");
    let (mut processes, mut ends) = (BTreeSet::from([0]), 0);
    while let Some(item) = reader.next_item().expect("sound") {
        match item {
            Item::Event(Event { kind, .. }) => match kind {
                EventKind::Fork { process, .. } | EventKind::Begin { process } => {
                    processes.insert(process);
                }
                EventKind::Exit => ends += 1,
                _ => {}
            },
            Item::Checkpoint(_) | Item::Seed(_) => {}
        }
    }
    (processes.len(), ends)
}

fn mebibytes(found: &Value, key: &str) -> u64 {
    found[key]
        .as_u64()
        .unwrap_or_else(|| panic!("{key}: {found}"))
        / MIB
}

#[test]
fn children_that_come_one_after_the_other_do_not_add_up() {
    let folder = tempfile::tempdir().expect("a folder");
    let trace = folder.path().join("trace");
    let script = "
import os
for _ in range(4):
    child = os.fork()
    if child == 0:
        kept = [bytearray(8000) for _ in range(60 * 131)]
        os._exit(0)
    os.waitpid(child, 0)
";
    let output = run(&mut record(&trace, &["python3", "-S", "-c", script]));
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let (processes, ends) = processes_and_ends(&trace);
    assert!(processes >= 5 && ends == processes, "{ends} of {processes}");
    let found = replayed(&trace);
    assert_eq!(found["trace"]["events_lost"], 0);
    // A child and its parent, which has next to nothing.
    let live = mebibytes(&found["trace"], "peak_live_bytes");
    assert!((59..70).contains(&live), "{live}");
    let peak = mebibytes(&found["candidates"][0], "peak_bytes");
    assert!((59..75).contains(&peak), "{peak}");
}

#[test]
fn the_end_of_a_child_that_says_nothing_of_it_is_recorded() {
    let folder = tempfile::tempdir().expect("a folder");
    let trace = folder.path().join("trace");
    let end_group = if cfg!(target_arch = "x86_64") {
        231
    } else {
        94
    };
    for end in [
        "os.kill(os.getpid(), 9)",
        &format!("ctypes.CDLL(None).syscall({end_group}, 0)"),
    ] {
        let script = format!(
            "
import ctypes, os
for _ in range(3):
    child = os.fork()
    if child == 0:
        kept = [bytearray(8000) for _ in range(131)]
        {end}
    os.waitpid(child, 0)
"
        );
        let output = run(&mut record(&trace, &["python3", "-S", "-c", &script]));
        assert_eq!(output.status.code(), Some(0), "{end}: {}", stderr(&output));
        let (processes, ends) = processes_and_ends(&trace);
        assert!(
            processes >= 4 && ends == processes,
            "{end}: {ends} of {processes}"
        );
    }
    // The command itself.
    let script = "import os; os.kill(os.getpid(), 9)";
    let output = run(&mut record(&trace, &["python3", "-S", "-c", script]));
    assert_eq!(output.status.code(), Some(137), "{}", stderr(&output));
    let (processes, ends) = processes_and_ends(&trace);
    assert_eq!(ends, processes);
}

/// What is allocated after a child that shares the memory of its process, or that the C library knows nothing of, said
/// in its name that it ends.
#[test]
fn a_child_that_ends_in_its_parents_name_does_not_end_its_parent() {
    let folder = profiler_testing::child::open_folder();
    let trace = folder.path().join("trace");
    let script = "
import subprocess
for _ in range(20):
    try: subprocess.run(['/nowhere'])
    except FileNotFoundError: pass
kept = [bytearray(54321) for _ in range(100)]
";
    let output = run(&mut record(&trace, &["python3", "-S", "-c", script]));
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let found = held(&trace, 54322);
    assert!(found.of_size >= 100 && found.lost == 0, "{found:?}");

    let ends = compiled(&folder, "ends", &[]);
    let output = run(&mut record(&trace, &[text(&ends), "launcher"]));
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(held(&trace, 0).lost, 0);
    let (processes, ends) = processes_and_ends(&trace);
    assert_eq!((processes, ends), (1, 1));
}

/// Its other threads run a little longer: that loses nothing.
#[test]
fn a_process_that_leaves_while_its_threads_run_loses_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let trace = folder.path().join("trace");
    let script = "
import os, threading
def run():
    while True: bytearray(8000)
for _ in range(4):
    if os.fork() == 0:
        for _ in range(4): threading.Thread(target=run, daemon=True).start()
        for _ in range(1000): bytearray(9000)
        os._exit(0)
    os.wait()
";
    let output = run(&mut record(&trace, &["python3", "-S", "-c", script]));
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let found = held(&trace, 0);
    assert!(
        found.whole && found.lost == 0,
        "{found:?}: {}",
        stderr(&output)
    );
    let (processes, ends) = processes_and_ends(&trace);
    assert_eq!(processes, ends);
}

/// A server, each of whose processes frees all that it has once it is asked to end, and takes its time.
#[test]
fn what_a_server_had_when_it_was_asked_to_end_is_final() {
    let folder = tempfile::tempdir().expect("a folder");
    let trace = folder.path().join("trace");
    let script = "
import os, signal, sys, time
def end(*_):
    global kept
    kept = None
    for child in children: os.kill(child, signal.SIGTERM)
    for child in children: os.waitpid(child, 0)
    time.sleep(1)
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
children, ready = [], os.pipe()
for worker in range(3):
    child = os.fork()
    if child == 0:
        children = []
        kept = [bytearray(8000) for _ in range(30 * 131)]
        os.write(ready[1], b'1')
        while True: time.sleep(9)
    children.append(child)
kept = [bytearray(8000) for _ in range(20 * 131)]
for worker in range(3): os.read(ready[0], 1)
time.sleep(1.5)
print('ready', flush=True)
while True: time.sleep(9)
";
    let mut recording = Recording::start(&mut record(&trace, &["python3", "-S", "-c", script]));
    assert_eq!(recording.command_line(), "ready");
    recording.signal(Signal::SIGTERM);
    let (code, said) = recording.end();
    assert_eq!(code, 0, "{said}");
    // A child of which none was taken in time has none: the host may be busy.
    let mut last = BTreeMap::new();
    for one in checkpoints(&trace) {
        let bytes = one.figures.malloc_bytes().expect("measured");
        let had = last.insert(one.process, bytes).unwrap_or(0);
        let is_kept = bytes + MIB > had;
        assert!(is_kept, "{} of {had} in process {}", bytes, one.process);
    }
    assert!(last[&0] > 20 * MIB, "{last:?}");
    let found = replayed(&trace);
    let at_end = found["candidates"][0]["rest_bytes"].as_u64();
    let at_end = at_end.expect("a figure");
    let recorded: u64 = last.values().filter(|bytes| **bytes > MIB).sum();
    let off = at_end.abs_diff(recorded);
    assert!(off < 3 * MIB, "{at_end} of {last:?}: {}", found["verdict"]);
}

/// Those that cannot be measured before they free what they have are not measured afterwards.
#[test]
fn no_process_of_those_that_end_together_is_measured_while_it_takes_itself_apart() {
    let folder = tempfile::tempdir().expect("a folder");
    let trace = folder.path().join("trace");
    let script = "
import os, time
end = os.pipe()
for worker in range(6):
    if os.fork() == 0:
        os.close(end[1])
        kept = [bytearray(8000) for _ in range(25 * 131)]
        os.read(end[0], 1)
        raise SystemExit
time.sleep(3)
os.close(end[1])
for worker in range(6): os.wait()
";
    let output = run(&mut record(&trace, &["python3", "-S", "-c", script]));
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let mut last = BTreeMap::new();
    for one in checkpoints(&trace) {
        let live = one.figures.live_bytes.unwrap_or(0);
        let had = last.insert(one.process, live).unwrap_or(0);
        assert!(live + MIB > had, "{live} of {had}: process {}", one.process);
    }
    let measured = last.values().filter(|live| **live > 24 * MIB).count();
    assert!(measured >= 3, "{last:?}");
}
