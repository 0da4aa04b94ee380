//! What a program has when it ends is recorded, however quickly it grew before, and replays are
//! compared with it; a replay without such a record is not called calibrated. Needs no privilege.

mod record_endings {
    mod children;
    mod unanswered;
}
mod support;

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use profiler_core::report::LedgerClass;
use profiler_core::residency::ResidencyMap;
use profiler_testing::child::open_folder;
use profiler_testing::trace::TraceBuilder;
use profiler_trace::trace::{Checkpoint, EventKind, Figures, Item, Reader, TraceDescription};
use serde_json::Value;
use support::record::{compiled, compiled_into, record};
use support::{command, json, run, stderr, stdout, text};

const MIB: u64 = 1 << 20;

/// Requests the given number of MiB in blocks of 8,000 bytes, keeps them, waits until it is
/// measured, and requests as much again at once.
const GROWS: &str = "
import os, sys, time
kept = []
def fill(): kept.extend(bytearray(8000) for _ in range(60 * 131))
fill()
time.sleep(0.5)
fill()
";

/// Writes more events than the ring has slots, and says how much the kernel counts for it then, in pages.
const FILLS_THE_RING: &str = "
for _ in range(700_000): bytes(600)
kept = bytearray(8 << 20)
print(open('/proc/self/statm').read().split()[1], flush=True)
";

#[test]
fn the_ring_of_events_is_no_memory_of_the_program() {
    let folder = open_folder();
    let trace = folder.path().join("trace");
    let output = run(&mut record(
        &trace,
        &["python3", "-S", "-c", FILLS_THE_RING],
    ));
    let said = stderr(&output);
    let counted: u64 = stdout(&output).trim().parse().expect("pages");
    let counted = counted * 4096;
    assert!(counted > 48 * MIB, "{counted} with the ring: {said}");
    let all = checkpoints(&trace);
    let last = all.iter().rfind(|one| one.figures.is_final);
    let figures = &last.expect("it was measured as it ended").figures;
    let rss = figures.rss_bytes.expect("known");
    assert!(
        (8 * MIB..counted - 40 * MIB).contains(&rss),
        "{rss} of {counted}"
    );
    let shared = |class: &LedgerClass| *class == LedgerClass::SharedMemory;
    let shared = figures.ledger.iter().find(|(class, _)| shared(class));
    assert!(shared.expect("a row").1 < MIB, "{shared:?}");
}

/// The checkpoints of a recording.
fn checkpoints(trace: &Path) -> Vec<Checkpoint> {
    let file = BufReader::new(File::open(trace).expect("a trace"));
    let mut reader = Reader::new(file).expect("a trace");
    let mut all = Vec::new();
    while let Some(item) = reader.next_item().expect("sound") {
        if let Item::Checkpoint(checkpoint) = item {
            all.push(checkpoint);
        }
    }
    all
}

/// What replays say of it, of the baseline alone.
fn replayed(trace: &Path) -> Value {
    json(&run(&mut command(&[
        "replay",
        text(trace),
        "--tunable",
        "tcache_count=0",
        "--json",
    ])))
}

/// Frees most of 30 MiB and trims, by a function that `FOUND` finds, twice.
const TRIMS: &str = "
import ctypes, time
trim = FOUND.malloc_trim
kept = []
for _ in range(2):
    blocks = [bytes(700) for _ in range(42_000)]
    kept.append(blocks[::60])
    del blocks
    time.sleep(0.4)
    trim(0)
    time.sleep(0.4)
";

#[test]
fn a_program_that_trims_by_itself_is_replayed_with_its_trims() {
    let folder = tempfile::tempdir().expect("a folder");
    let trace = folder.path().join("trace");
    // By the program's own scope, and by the C library's alone.
    for found in ["ctypes.CDLL(None)", "ctypes.CDLL('libc.so.6')"] {
        let script = TRIMS.replace("FOUND", found);
        let output = run(&mut record(&trace, &["python3", "-S", "-c", &script]));
        assert!(output.status.success(), "{found}: {}", stderr(&output));
        let file = BufReader::new(File::open(&trace).expect("a trace"));
        let mut reader = Reader::new(file).expect("a trace");
        let mut trims = 0;
        while let Some(item) = reader.next_item().expect("sound") {
            if let Item::Event(event) = item {
                trims += u32::from(event.kind == EventKind::Trim { pad: 0 });
            }
        }
        assert_eq!(trims, 2, "{found}");
        let replayed = replayed(&trace);
        assert_eq!(replayed["trace"]["trims"], 2);
        let calibration = &replayed["calibration"];
        assert_eq!(calibration["trusted"], true, "{found}: {calibration}");
        let last = calibration["replayed_bytes"].as_u64().expect("bytes");
        // One block in sixty keeps a page each; untrimmed all 30 MiB would be there.
        assert!(last < 12 * MIB, "{found}: {calibration}");
    }
}

#[test]
fn a_program_is_measured_when_it_ends_before_it_takes_apart_what_it_had() {
    let folder = tempfile::tempdir().expect("a folder");
    let trace = folder.path().join("trace");
    for end in ["", "os._exit(3)", "sys.exit(3)", "raise KeyError"] {
        let script = format!("{GROWS}\n{end}");
        let output = run(&mut record(&trace, &["python3", "-S", "-c", &script]));
        let code = if end.is_empty() {
            0
        } else if end.starts_with("raise") {
            1
        } else {
            3
        };
        assert_eq!(
            output.status.code(),
            Some(code),
            "{end}: {}",
            stderr(&output)
        );
        let all = checkpoints(&trace);
        let last = all.last().expect("checkpoints");
        let live = last.figures.live_bytes.expect("walked");
        assert!(last.figures.is_final && live > 119 * MIB, "{end}: {last:?}");
        let found = replayed(&trace);
        let calibration = &found["calibration"];
        assert_eq!(calibration["rest_compared"], true, "{end}: {calibration}");
        assert_eq!(calibration["trusted"], true, "{end}: {calibration}");
        let recorded = last.figures.malloc_bytes();
        assert_eq!(calibration["recorded_bytes"].as_u64(), recorded, "{end}");
        let replayed = found["candidates"][0]["rest_bytes"].as_u64();
        assert_eq!(calibration["replayed_bytes"].as_u64(), replayed, "{end}");
    }
}

/// A filter of system calls kills whoever asks for more, a thread that was cancelled ends at the next such point of
/// the C library, and a program's own functions may work no more.
#[test]
fn a_program_ends_as_it_does_alone_whatever_it_may_not_do_any_more() {
    let folder = open_folder();
    let trace = folder.path().join("trace");
    let ends = compiled(&folder, "ends", &[]);
    let own = folder.path().join("own");
    std::fs::create_dir(&own).expect("a folder");
    let ends_with_own = compiled_into(&own, "ends", &["-DOWN_OPEN"]);
    for (program, how, is_held) in [
        (&ends, "plain", true),
        (&ends, "plain _exit", true),
        (&ends, "filter", true),
        (&ends, "filter _exit", true),
        (&ends, "launcher", true),
        (&ends, "strict", false),
        (&ends, "cancel", true),
        (&ends, "cancel _exit", true),
        (&ends_with_own, "own", true),
    ] {
        let alone = run(Command::new(program).arg(how));
        let output = run(&mut record(&trace, &[text(program), how]));
        let said = stderr(&output);
        let result = |output: &Output| (output.status.code(), stdout(output));
        assert_eq!(result(&output), result(&alone), "{how}: {said}");
        let at_end = checkpoints(&trace).iter().any(|one| one.figures.is_final);
        assert_eq!(at_end, is_held, "{how}: {said}");
    }
}

/// Jobs in the background of a shell's script do: Python then handles no signal that it would reset.
#[test]
fn a_program_that_ignores_the_interrupt_key_is_measured_when_it_ends() {
    let folder = tempfile::tempdir().expect("a folder");
    let trace = folder.path().join("trace");
    let script = "trap '' INT; exec python3 -S -c \"$0\"";
    let output = run(&mut record(&trace, &["sh", "-c", script, GROWS]));
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let all = checkpoints(&trace);
    let last = all.last().expect("checkpoints");
    let live = last.figures.live_bytes.expect("walked");
    assert!(last.figures.is_final && live > 119 * MIB, "{last:?}");
}

#[test]
fn forked_workers_are_measured_when_they_end_and_count_to_the_end_of_all() {
    let folder = tempfile::tempdir().expect("a folder");
    let trace = folder.path().join("trace");
    let script = format!(
        "{GROWS}
for worker in range(2):
    if os.fork() == 0:
        fill()
        os._exit(0)
for worker in range(2): os.wait()
"
    );
    // Each waits no longer than its share of the time, so that this takes some.
    let script = script.replace("sleep(0.5)", "sleep(4)");
    let output = run(&mut record(&trace, &["python3", "-S", "-c", &script]));
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let all = checkpoints(&trace);
    let at_end = all.iter().filter(|one| one.figures.is_final);
    let at_end: Vec<_> = at_end
        .map(|one| (one.process, one.figures.live_bytes))
        .collect();
    assert_eq!(at_end.last().expect("the program's own").0, 0, "{at_end:?}");
    let worker = at_end.iter().find(|(process, _)| *process > 0);
    let (_, live) = worker.expect("at least one of the workers");
    assert!(*live > Some(178 * MIB), "{at_end:?}");
}

#[test]
fn a_child_that_shares_its_parents_memory_and_one_that_stays_small_wait_for_nobody() {
    let folder = tempfile::tempdir().expect("a folder");
    let trace = folder.path().join("trace");
    let script = "
import subprocess
kept = [bytearray(8000) for _ in range(60 * 131)]
for _ in range(20): subprocess.run(['/bin/true'], check=True)
try: subprocess.run(['/nowhere'])
except FileNotFoundError: pass
";
    let output = run(&mut record(&trace, &["python3", "-S", "-c", script]));
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let all = checkpoints(&trace);
    let at_end: Vec<_> = all.iter().filter(|one| one.figures.is_final).collect();
    assert_eq!(at_end.len(), 1, "{at_end:?}");
    assert_eq!(at_end[0].process, 0);
}

/// A program of 8,000 bytes each, measured at 130 MiB and, where it is wanted, at its end with `last` MiB.
fn grown(last: u64, is_measured: bool) -> Vec<u8> {
    let description: TraceDescription = [("malloc", "glibc 2.36"), ("thp", "never"), ("cpus", "2")]
        .into_iter()
        .collect();
    let mut trace = TraceBuilder::new(&description);
    let block = 8000;
    let measured = |trace: &mut TraceBuilder, blocks: u64, is_final| {
        let figures = Figures {
            malloc_resident_bytes: Some(blocks * (block + 16)),
            is_final,
            ..Figures::default()
        };
        trace.measured(0, &ResidencyMap::new(Vec::new()), figures);
    };
    let mut live = Vec::new();
    let mut to = |trace: &mut TraceBuilder, mib: u64| {
        let wanted = (mib * MIB / block) as usize;
        while live.len() < wanted {
            live.push(trace.alloc(0, block));
        }
        while live.len() > wanted {
            trace.free(0, live.remove(0));
        }
        live.len() as u64
    };
    let blocks = to(&mut trace, 130);
    measured(&mut trace, blocks, false);
    trace.pass(Duration::from_secs(1));
    let blocks = to(&mut trace, last);
    if is_measured {
        measured(&mut trace, blocks, true);
        to(&mut trace, 1);
    }
    trace.finish()
}

#[test]
fn what_was_not_recorded_is_not_called_calibrated() {
    let folder = tempfile::tempdir().expect("a folder");
    let trace = folder.path().join("trace");
    let of = |last, is_measured| {
        std::fs::write(&trace, grown(last, is_measured)).expect("written");
        replayed(&trace)
    };
    let near = |value: &Value, mib: u64| {
        let bytes = value.as_u64().expect("bytes");
        assert!(bytes.abs_diff(mib * MIB) < 3 * MIB, "{bytes} of {mib} MiB");
    };
    // It grew after it was measured: the table has what it had in the end, which was not compared.
    let found = of(255, false);
    let calibration = &found["calibration"];
    assert_eq!(calibration["trusted"], false, "{calibration}");
    assert_eq!(calibration["rest_compared"], false, "{calibration}");
    assert_eq!(calibration["peak_compared"], false, "{calibration}");
    near(&calibration["recorded_bytes"], 130);
    near(&calibration["replayed_bytes"], 130);
    near(&found["candidates"][0]["rest_bytes"], 255);
    let verdict = found["verdict"].as_str().expect("one");
    assert!(verdict.starts_with("No verdict: "), "{verdict}");
    assert!(verdict.contains("went on to 255."), "{verdict}");
    let shown = stdout(&run(&mut command(&[
        "replay",
        text(&trace),
        "--tunable",
        "tcache_count=0",
    ])));
    let shown = shown.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        shown.contains("NOT CALIBRATED: final not compared: 255."),
        "{shown}"
    );

    // It was measured at its end, and freed all after that: that is taking apart what it had.
    let found = of(255, true);
    let calibration = &found["calibration"];
    assert_eq!(calibration["trusted"], true, "{calibration}");
    assert_eq!(calibration["rest_compared"], true, "{calibration}");
    assert_eq!(calibration["peak_compared"], true, "{calibration}");
    near(&calibration["recorded_bytes"], 255);
    near(&found["candidates"][0]["rest_bytes"], 255);

    // It freed most after it was measured, and was not seen to end: final is what was compared.
    let found = of(20, false);
    assert_eq!(found["calibration"]["trusted"], true);
    near(&found["candidates"][0]["rest_bytes"], 130);
    let whole = json(&run(&mut command(&[
        "replay",
        text(&trace),
        "--json",
        "--runs",
        "1",
    ])));
    let verdict = whole["verdict"].as_str().expect("one");
    assert!(!verdict.contains("in use"), "{verdict}");
    assert!(verdict.contains("the program freed 110."), "{verdict}");
}
