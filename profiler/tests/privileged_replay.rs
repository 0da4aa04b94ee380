//! What only root sees of a player.

use std::io::Cursor;
use std::process::{Command, Stdio};

use profiler_lab::open::compile;
use profiler_lab::play::{Setup, play};
use profiler_trace::limits::Meter;
use profiler_trace::record::{Clock, Normaliser, Recorder, SourceEvent};
use profiler_trace::trace::{By, EventKind, Reader, TraceDescription, Writer};

/// Kernel calls for so many blocks of 1 MiB, allocated and freed one after the other by each of two
/// threads.
fn calls_for(blocks: u64) -> u64 {
    let writer = Writer::new(Vec::new(), &TraceDescription::default()).expect("a Vec has room");
    let mut recorder = Recorder::new(writer, Normaliser::new(Clock::new(0, 1)));
    for number in 0..blocks {
        let addr = 0x1000_0000 + (number << 21);
        for thread in 0..2 {
            let addr = addr + thread * (1 << 20);
            let alloc = EventKind::Alloc {
                addr,
                bytes: 1 << 20,
                align: 0,
                by: By::Malloc,
            };
            for kind in [alloc, EventKind::Free { addr }] {
                let event = SourceEvent {
                    time_ns: 0,
                    process: 0,
                    thread,
                    kind: kind.into(),
                };
                recorder.record(&event).expect("a Vec has room");
            }
        }
    }
    let trace = recorder
        .finish()
        .expect("memory")
        .finish()
        .expect("a Vec has room");
    let reader = Reader::new(Cursor::new(trace)).expect("a trace");
    let compiled = compile(reader, Meter::default()).expect("it compiles");
    let setup = Setup {
        count_calls: true,
        // Fixed, so that each block is a mapping of its own.
        env: vec![("MALLOC_MMAP_THRESHOLD_".into(), "131072".into())],
        ..Setup::default()
    };
    let played = play(&compiled.program, &setup, &|_| true).expect("it plays");
    played.kernel_calls.expect("root may count them")
}

#[test]
fn each_mapping_and_unmapping_is_counted_in_all_threads() {
    // On a loaded machine one run in twenty counts one more or less.
    let median = |blocks| {
        let mut counts: Vec<u64> = (0..5).map(|_| calls_for(blocks)).collect();
        counts.sort_unstable();
        counts[2]
    };
    let more = median(300) - median(100);
    assert_eq!(more, 200 * 2 * 2);
}

#[test]
fn what_if_without_the_right_to_probe_ends_with_4_and_the_fix() {
    let mut target = Command::new("sleep").arg("600").spawn().expect("it starts");
    let output = Command::new("setpriv")
        .args(["--bounding-set", "-bpf,-perfmon,-sys_admin"])
        .arg(env!("CARGO_BIN_EXE_fragscope"))
        .args(["attach", "--headless", "--what-if", "jemalloc", "--pid"])
        .arg(target.id().to_string())
        .stdin(Stdio::null())
        .output();
    let runs_on = target.try_wait().expect("our own child").is_none();
    target.kill().expect("it runs");
    target.wait().expect("it ends");
    let output = output.expect("setpriv of util-linux");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{said}");
    let lacking = "root but without CAP_BPF and CAP_PERFMON\n";
    assert!(said.contains(lacking), "{said}");
    assert!(said.contains("--cap-add=BPF --cap-add=PERFMON"), "{said}");
    assert!(runs_on);
}
