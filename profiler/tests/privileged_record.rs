//! `record --pid` on real processes. The heap at the beginning of the recording plus the events
//! since must give, block by block, the heap that a walk finds at the end.

mod privileged_record {
    pub(crate) mod program;
    pub(crate) mod trace;
}
mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};

use nix::sys::signal::Signal;
use privileged_record::program::{Program, record};
use privileged_record::trace::{Trace, place};
use profiler_common::{RawEvent, RecordKind};
use profiler_probe::EventStream;
use profiler_probe::plan::ProbePlan;
use profiler_target::{Target, children_of};
use profiler_testing::child::{Child, open_folder, wait_for_handler};
use profiler_testing::wait::promptly;
use profiler_trace::trace::{By, EventKind};
use support::record::Recording;
use support::{command, stderr};

fn seed_and_events_give_the_heap(threads: u32) {
    let mut program = Program::start(threads);
    assert_eq!(program.ask("run 3000"), "ran");
    let recorder = program.record(&[]);
    for _ in 0..4 {
        assert_eq!(program.ask("run 5000"), "ran");
    }
    let (code, said) = recorder.interrupt();
    assert_eq!(code, 130, "{said}");
    let trace = Trace::read(&program.trace());
    assert_eq!((trace.lost, trace.wrong), (0, 0), "{said}");
    assert!(trace.whole && trace.seeded > 100, "{}", trace.seeded);
    let walked = program.live();
    let own = program.list();
    let held: BTreeSet<u64> = trace.live.keys().copied().collect();
    assert!(own.is_subset(&held), "what it holds lives");
    trace.must_be(&walked);
    assert_eq!(trace.last().live_blocks, Some(walked.len() as u64));
    assert!(trace.last().is_final);
    // One thread ended in each run, and before them the ones whose arenas are left.
    let ends = trace
        .events
        .iter()
        .filter(|e| e.kind == EventKind::ThreadEnd);
    assert_eq!(ends.filter(|end| end.time_ns > 0).count(), 4);
    let by =
        |wanted| trace.count(|kind| matches!(kind, EventKind::Alloc { by, .. } if *by == wanted));
    let kept = trace.count(|kind| matches!(kind, EventKind::Kept { .. }));
    let resized = trace.count(|kind| matches!(kind, EventKind::Realloc { .. }));
    assert!(
        by(By::Calloc) > 100 && kept > 100,
        "{} {kept}",
        by(By::Calloc)
    );
    assert_eq!(by(By::Realloc) + kept, resized);
    // Thread N allocates from arena N mostly; its cache holds some that others freed to it.
    assert!(
        trace.arenas.len() as u32 > threads,
        "{:?}",
        trace.arenas.keys()
    );
    let mut busy = 0;
    for (arena, places) in trace.arenas.iter().filter(|(arena, _)| **arena > 0) {
        let (mut own, mut all) = (0, 0);
        for event in &trace.events {
            match event.kind {
                EventKind::Alloc { addr, bytes, .. }
                    if bytes < 100_000 && event.thread == *arena =>
                {
                    all += 1;
                    own += u32::from(places.contains(&place(addr)));
                }
                _ => {}
            }
        }
        assert!(own * 4 >= all * 3, "arena {arena}: {own} of {all}");
        busy += u32::from(all > 1000);
    }
    assert_eq!(busy, threads);
    let aligned = |kind: &EventKind| matches!(kind, EventKind::Alloc { align, .. } if *align == 6);
    assert!(trace.count(aligned) > 100);
}

#[test]
fn the_seed_and_the_events_of_one_thread_give_the_heap_at_the_end() {
    seed_and_events_give_the_heap(1);
}

#[test]
fn the_seed_and_the_events_of_many_threads_give_the_heap_at_the_end() {
    seed_and_events_give_the_heap(8);
}

/// Waits until some blocks of events were written.
fn wait_for_events(trace: &Path) {
    promptly("events in the file", || {
        let file = std::fs::metadata(trace).ok()?;
        (file.len() > 200_000).then_some(())
    });
}

#[test]
fn a_process_that_is_busy_when_it_begins_loses_nothing() {
    let mut program = Program::start(2);
    assert_eq!(program.ask("busy"), "busy");
    let recorder = program.record(&["--duration", "30s"]);
    // A while that is long enough for events, however slow the machine is.
    wait_for_events(&program.trace());
    assert_eq!(program.ask("idle"), "idle");
    let (code, said) = recorder.interrupt();
    assert_eq!(code, 130, "{said}");
    let trace = Trace::read(&program.trace());
    assert_eq!(trace.lost, 0, "{said}");
    assert!(trace.events.len() > 10_000, "{said}");
    trace.must_be(&program.live());
}

#[test]
fn a_second_recorder_is_refused_and_a_third_may_follow() {
    let mut program = Program::start(1);
    let first = program.record(&[]);
    let other = program.path("other");
    let second = |output: &Path| -> Output {
        command(&["record", "--duration", "10ms", "--pid"])
            .arg(program.pid().to_string())
            .arg("-o")
            .arg(output)
            .output()
            .expect("fragscope")
    };
    let refused = second(&other);
    let said = stderr(&refused);
    assert_eq!(refused.status.code(), Some(1));
    assert!(said.contains("is being recorded by another"), "{said}");
    assert!(!other.exists());
    assert_eq!(first.interrupt().0, 130);
    assert_eq!(second(&other).status.code(), Some(0));
    assert_eq!(program.ask("run 10"), "ran");
}

#[test]
fn a_forked_child_leaves_no_trace_and_an_exec_ends_it() {
    let mut program = Program::start(2);
    program.ask("run 1000");
    let recorder = program.record(&[]);
    assert_eq!(program.ask("fork 5000"), "forked");
    assert_eq!(program.ask("run 100"), "ran");
    let walked = program.live();
    assert_eq!(program.ask("exec"), "execed");
    let (code, said) = recorder.end();
    assert_eq!(code, 5, "{said}");
    assert!(said.contains("executed another program"), "{said}");
    let trace = Trace::read(&program.trace());
    assert!(trace.whole && trace.wrong == 0 && trace.lost == 0);
    assert_eq!(trace.count(|kind| *kind == EventKind::Exec), 1);
    trace.must_be(&walked);
}

#[test]
fn a_process_that_dies_ends_it_with_all_up_to_there() {
    let mut program = Program::start(2);
    let recorder = program.record(&[]);
    assert_eq!(program.ask("run 1000"), "ran");
    let walked = program.live();
    program.kill();
    let (code, said) = recorder.end();
    assert_eq!(code, 5, "{said}");
    let trace = Trace::read(&program.trace());
    assert!(trace.whole && !trace.checkpoints.is_empty());
    assert_eq!(trace.count(|kind| *kind == EventKind::Exit), 1);
    trace.must_be(&walked);
}

#[test]
fn a_signal_while_its_file_is_begun_leaves_a_whole_one() {
    let mut program = Program::start(2);
    // The walked blocks are written then, which takes a moment.
    assert_eq!(program.ask("run 30000"), "ran");
    for round in 0..5 {
        let trace = program.path(&format!("begun-{round}"));
        let pid = program.pid().to_string();
        let mut command = command(&["record", "--pid", &pid, "-o"]);
        let recorder = Recording::start(command.arg(&trace));
        promptly("the file", || trace.exists().then_some(()));
        let (code, said) = recorder.interrupt();
        assert_eq!(code, 130, "{said}");
        let trace = Trace::read(&trace);
        assert!(trace.whole && trace.seeded > 100, "{said}");
    }
}

#[test]
fn hits_that_are_no_events_are_explained() {
    let mut program = Child::python(
        "import ctypes, sys\nfree = ctypes.CDLL(None).free\nfree.restype = None\nprint(1, flush=True)\n\
         sys.stdin.readline()\nfor _ in range(100000): free(None)\nprint(2, flush=True)\nsys.stdin.readline()",
    );
    let folder = open_folder();
    let trace = folder.path().join("trace");
    let recorder = record(program.pid(), &trace, &[]);
    assert_eq!(program.ask(""), "2");
    let (code, said) = recorder.interrupt();
    assert_eq!(code, 130, "{said}");
    let hits = said.split("they were hit ").nth(1).expect(&said);
    let (hits, rest) = hits.split_once(' ').expect("a number");
    assert!(hits.parse::<u64>().expect("one") >= 100_000, "{said}");
    assert!(
        rest.starts_with("times by calls that changed nothing"),
        "{said}"
    );
}

/// What the descriptors of a process and of its children are.
fn descriptors(pid: u32) -> Vec<String> {
    let mut all = Vec::new();
    for pid in children_of(pid).into_iter().chain([pid]) {
        let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs");
        let links = entries
            .flatten()
            .filter_map(|fd| std::fs::read_link(fd.path()).ok());
        all.extend(links.map(|link| link.to_string_lossy().into_owned()));
    }
    all
}

#[test]
fn signals_while_the_probes_are_loaded_do_not_make_them_slow() {
    let program = Program::start(1);
    let (pid, trace) = (program.pid().to_string(), program.trace());
    let mut command = command(&["record", "--pid", &pid, "-o"]);
    let mut recorder = Recording::start(command.arg(&trace));
    let own = recorder.pid().as_raw();
    wait_for_handler(own, Signal::SIGUSR1);
    // The verifier gives up on a program when a signal is pending.
    promptly("the file", || {
        recorder.signal(Signal::SIGUSR1);
        trace.exists().then_some(())
    });
    recorder.wait_for("recording process");
    let count =
        |held: &[String], what: &str| held.iter().filter(|held| held.contains(what)).count();
    // They may be on their way to the guard at this moment.
    let held = promptly("its links", || {
        let held = descriptors(own.cast_unsigned());
        (count(&held, "bpf_link") > 0).then_some(held)
    });
    assert_eq!(count(&held, "perf_event"), 0, "a breakpoint each: {held:?}");
    let (code, said) = recorder.interrupt();
    assert_eq!(code, 130, "{said}");
}

#[test]
fn a_budget_that_is_exceeded_ends_it_and_keeps_what_there_is() {
    let mut program = Program::start(2);
    assert_eq!(program.ask("busy"), "busy");
    let recorder = program.record(&["--budget", "1%"]);
    let (code, said) = recorder.end();
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("more than the budget of 1.0 %"), "{said}");
    let trace = Trace::read(&program.trace());
    assert!(trace.whole && !trace.events.is_empty());
    assert!(trace.last().is_final);
}

#[test]
fn a_device_is_no_place_for_it_and_the_process_runs_on() {
    let program = Program::start(1);
    let recorded = command(&["record", "--duration", "5s", "-o", "/dev/full", "--pid"])
        .arg(program.pid().to_string())
        .output()
        .expect("fragscope");
    let said = stderr(&recorded);
    assert_eq!(recorded.status.code(), Some(1), "{said}");
    assert!(said.contains("not a regular file"), "{said}");
    let mut program = program;
    assert_eq!(program.ask("run 10"), "ran");
}

#[test]
fn a_disk_that_fills_up_ends_it_and_what_was_written_can_be_read() {
    let mut program = Program::start(2);
    let disk = program.path("disk");
    std::fs::create_dir(&disk).expect("a folder");
    let small = |command: &str, options: &[&str]| {
        let done = Command::new(command).args(options).arg(&disk).status();
        assert!(done.expect(command).success(), "{command} {options:?}");
    };
    small("mount", &["-t", "tmpfs", "-o", "size=1m", "none"]);
    let trace = disk.join("trace");
    let recorder = record(program.pid(), &trace, &[]);
    assert_eq!(program.ask("run 600000"), "ran");
    let (code, said) = recorder.end();
    let read = Trace::read(&trace);
    small("umount", &[]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("No space left on device"), "{said}");
    assert!(!read.whole && read.events.len() > 10_000 && read.wrong == 0);
    assert_eq!(program.ask("run 10"), "ran");
}

#[test]
fn events_that_the_ring_has_no_room_for_are_reported_where_they_are_missing() {
    let mut program = Program::start(2);
    let target = Target::open(program.pid()).expect("it runs");
    let plan = ProbePlan::for_recording(&target).expect("a plan");
    let mut stream = EventStream::attach_with_ring(program.pid(), &plan, 1 << 16).expect("probes");
    let mut events: Vec<RawEvent> = Vec::new();
    for _ in 0..3 {
        // The ring has room for 1600 events, and nobody takes any meanwhile.
        assert_eq!(program.ask("run 3000"), "ran");
        assert!(stream.drain(usize::MAX, |event| events.push(*event)) > 1000);
    }
    let rest = stream.unreported_losses().expect("counters");
    let lost: Vec<usize> = (0..events.len())
        .filter(|&at| events[at].kind() == Some(RecordKind::Lost))
        .collect();
    // The losses of a run are in the first event of the next one.
    assert_eq!(lost.len(), 2, "{lost:?}");
    assert!(lost.iter().all(|&at| events[at].size > 1000) && rest > 1000);
    assert!(lost[0] > 1000 && lost[1] > lost[0] + 1000, "{lost:?}");
}

/// Blocks of another allocator: their number by the walk, for where in its block an aligned one lies
/// is not known.
fn blocks_are_seeded_and_freed(compiler: &str, library: &str) {
    let mut program = Program::start_with(compiler, 3, |command| {
        command.env("LD_PRELOAD", library);
    });
    program.ask("run 3000");
    let recorder = program.record(&[]);
    program.ask("run 5000");
    let (code, said) = recorder.interrupt();
    assert_eq!(code, 130, "{said}");
    let trace = Trace::read(&program.trace());
    assert_eq!((trace.lost, trace.wrong), (0, 0), "{said}");
    assert!(trace.seeded > 100);
    assert_eq!(trace.last().live_blocks, Some(trace.live.len() as u64));
    assert!(!said.contains("not known"), "{said}");
}

#[test]
fn jemallocs_blocks_are_seeded_and_freed() {
    blocks_are_seeded_and_freed("cc", "libjemalloc.so.2");
}

#[test]
fn mimallocs_blocks_are_seeded_and_freed() {
    blocks_are_seeded_and_freed("cc", "libmimalloc.so.2.0");
}

#[test]
fn tcmallocs_blocks_are_seeded_and_freed() {
    blocks_are_seeded_and_freed("cc", "libtcmalloc_minimal.so.4");
}

#[test]
fn musls_blocks_are_seeded_and_freed() {
    blocks_are_seeded_and_freed("musl-gcc", "");
}
