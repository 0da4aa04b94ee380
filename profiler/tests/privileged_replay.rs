//! What only root can observe of a player.

mod support;

use std::io::Cursor;
use std::process::{Command, Stdio};

use profiler_lab::open::compile;
use profiler_lab::play::{Setup, play};
use profiler_testing::trace::TraceBuilder;
use profiler_trace::limits::Meter;
use profiler_trace::trace::Reader;
use support::{FRAGSCOPE, stderr};

/// System calls for `blocks` blocks of 1 MiB, allocated and freed one after another by each of two
/// threads.
fn calls_for(blocks: u64) -> u64 {
    let mut trace = TraceBuilder::default();
    for _ in 0..blocks {
        for thread in 0..2 {
            let block = trace.alloc(thread, 1 << 20);
            trace.free(thread, block);
        }
    }
    let reader = Reader::new(Cursor::new(trace.finish())).expect("a trace");
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
        .arg(FRAGSCOPE)
        .args(["attach", "--headless", "--what-if", "jemalloc", "--pid"])
        .arg(target.id().to_string())
        .stdin(Stdio::null())
        .output();
    let runs_on = target.try_wait().expect("our own child").is_none();
    target.kill().expect("it runs");
    target.wait().expect("it ends");
    let output = output.expect("setpriv of util-linux");
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(4), "{said}");
    let lacking = "root but without CAP_BPF and CAP_PERFMON\n";
    assert!(said.contains(lacking), "{said}");
    assert!(said.contains("--cap-add=BPF --cap-add=PERFMON"), "{said}");
    assert!(runs_on);
}
