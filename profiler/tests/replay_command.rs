//! `fragscope replay` as a user runs it, on traces that the test writes. Needs no privilege.

mod support;

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use profiler_core::residency::ResidencyMap;
use profiler_testing::trace::TraceBuilder;
use profiler_testing::wait::eventually;
use profiler_trace::trace::{EventKind, Figures, TraceDescription, Writer};
use serde_json::Value;
use support::{FRAGSCOPE, command, json, run, stderr, stdout, text};

const LARGE: u64 = 100_000;

/// A program that fills 20 MB with blocks, frees all but each tenth, and is looked at twice: with
/// what glibc needs for it, give or take `off`.
fn trace(folder: &Path, off: f64) -> PathBuf {
    let path = folder.join("program.fragtrace");
    let description: TraceDescription = [
        ("command", "a program of 200 blocks"),
        ("malloc", "glibc 2.36"),
        ("thp", "never"),
        ("cpus", "2"),
    ]
    .into_iter()
    .collect();
    let mut trace = TraceBuilder::new(&description);
    let event = Duration::from_millis(10);
    let measure = |trace: &mut TraceBuilder| {
        let figures = Figures {
            malloc_resident_bytes: Some(((200 * LARGE) as f64 * off) as u64),
            ..Figures::default()
        };
        trace.measured(0, &ResidencyMap::new(Vec::new()), figures);
    };
    let mut blocks = Vec::new();
    for _ in 0..200 {
        trace.pass(event);
        blocks.push(trace.alloc(0, LARGE));
    }
    measure(&mut trace);
    // The last block is live: what is free below it stays resident under glibc.
    for (_, &block) in blocks.iter().enumerate().filter(|(i, _)| i % 10 != 9) {
        trace.pass(event);
        trace.free(0, block);
    }
    measure(&mut trace);
    std::fs::write(&path, trace.finish()).expect("written");
    path
}

fn replay(path: &Path, flags: &[&str]) -> Output {
    run(command(&["replay", text(path)]).args(flags))
}

fn candidate<'d>(document: &'d Value, name: &str) -> &'d Value {
    let all = document["candidates"].as_array().expect("a list");
    let found = all.iter().find(|one| one["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {all:?}"))
}

fn bytes(candidate: &Value, key: &str) -> u64 {
    candidate[key]
        .as_u64()
        .unwrap_or_else(|| panic!("{key} of {candidate}"))
}

#[test]
fn the_default_field_is_calibrated_ranked_and_explained() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = replay(&trace(folder.path(), 1.0), &["--json", "--runs", "3"]);
    let found = json(&output);
    assert_eq!(
        found["calibration"]["trusted"], true,
        "{}",
        found["calibration"]
    );
    assert_eq!(found["trace"]["events"], 380);
    let now = candidate(&found, "baseline: glibc 2.36");
    assert!(
        bytes(now, "rest_bytes") > 190 * LARGE,
        "free chunks stay: {now}"
    );
    let trimmed = candidate(&found, "malloc_trim each 1s");
    assert!(bytes(trimmed, "rest_bytes") < 120 * LARGE, "{trimmed}");
    assert_eq!(trimmed["runs"], 5, "at each phase of its period");
    assert_eq!(
        trimmed["peak_bytes"], now["peak_bytes"],
        "it trims after the peak"
    );
    let decayed = candidate(&found, "jemalloc short decay");
    assert_eq!(decayed["runs"], 3);
    assert!(bytes(decayed, "low_bytes") <= bytes(decayed, "rest_bytes"));
    assert!(candidate(&found, "arena_max=1")["same_as_now"].is_string());
    let shares = found["mechanisms"].as_array().expect("a list");
    let untrimmed = shares
        .iter()
        .find(|share| share["mechanism"] == "untrimmed_free_memory")
        .expect("a part of the gap");
    assert!(
        untrimmed["bytes"].as_i64() > Some(100 * LARGE as i64),
        "{untrimmed}"
    );
    let verdict = found["verdict"].as_str().expect("a verdict");
    assert!(
        verdict.contains("free pages that glibc does not give back"),
        "{verdict}"
    );
}

#[test]
fn what_is_off_by_more_than_it_may_be_gets_no_verdict() {
    let folder = tempfile::tempdir().expect("a folder");
    let trace = trace(folder.path(), 0.8);
    let output = replay(&trace, &["--allocator", "mimalloc", "--runs", "1"]);
    let shown = stdout(&output);
    assert_eq!(output.status.code(), Some(0));
    assert!(
        shown.contains("NOT CALIBRATED") && shown.contains("No verdict"),
        "{shown}"
    );
    assert!(shown.contains("mimalloc "), "the table is shown: {shown}");
}

#[test]
fn a_field_of_ones_own_is_saved_and_what_fails_leaves_the_rest() {
    let folder = tempfile::tempdir().expect("a folder");
    let saved = folder.path().join("report.json");
    let output = replay(
        &trace(folder.path(), 1.0),
        &[
            "--allocator",
            "/nowhere/libnone.so",
            "--tunable",
            "mmap_threshold=65536",
            "-o",
            saved.to_str().expect("UTF-8"),
        ],
    );
    let shown = stdout(&output);
    assert_eq!(output.status.code(), Some(1), "{shown}");
    assert!(shown.contains("libnone.so: cannot read"), "{shown}");
    let said = stderr(&output);
    assert!(
        said.contains("libnone.so was not replayed: cannot read"),
        "{said}"
    );
    let found: Value = serde_json::from_reader(File::open(saved).expect("saved")).expect("JSON");
    let mapped = candidate(&found, "glibc mmap_threshold=65536");
    assert_eq!(mapped["env"]["MALLOC_MMAP_THRESHOLD_"], "65536");
    assert!(bytes(mapped, "rest_bytes") < 30 * LARGE, "{mapped}");
    assert_eq!(found["candidates"].as_array().map(Vec::len), Some(3));
}

/// How many processes the program below has.
const PROCESSES: u32 = 9;

/// A program that forks again and again; some of its children end before it does.
fn trace_of_forks(folder: &Path) -> PathBuf {
    let path = folder.join("forks.fragtrace");
    let mut trace = TraceBuilder::default();
    // Each process has one thread, of its own number.
    for process in 0..PROCESSES {
        let thread = u64::from(process);
        if process > 0 {
            trace.fork(0, thread, thread);
        }
        for _ in 0..100 {
            trace.pass(Duration::from_millis(1));
            trace.alloc(thread, 1000);
        }
        if process % 2 == 1 {
            trace.event(thread, EventKind::Exit);
        }
    }
    std::fs::write(&path, trace.finish()).expect("written");
    path
}

/// What `/proc/PID/stat` says of all processes: number, name, state, parent.
fn processes() -> Vec<(u32, String, char, u32)> {
    let all = std::fs::read_dir("/proc").expect("processes").flatten();
    let known = all.filter_map(|process| {
        let pid: u32 = process.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(process.path().join("stat")).ok()?;
        let (head, tail) = stat.rsplit_once(") ")?;
        let mut words = tail.split(' ');
        let state = words.next()?.chars().next()?;
        let name = head.split_once(" (")?.1.to_owned();
        Some((pid, name, state, words.next()?.parse().ok()?))
    });
    known.collect()
}

/// The children of a process that have ended and were not waited for.
fn zombies_of(parent: u32) -> Vec<u32> {
    let all = processes().into_iter();
    let zombies = all.filter(|(_, _, state, of)| (*state, *of) == ('Z', parent));
    zombies.map(|(pid, ..)| pid).collect()
}

/// The player of this fragscope, and its state.
fn player_of(fragscope: u32) -> Option<(u32, char)> {
    let is_player = |pid: u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.starts_with(b"fragscope-player")
    };
    let mut all = processes().into_iter();
    let found = all.find(|(pid, _, _, parent)| *parent == fragscope && is_player(*pid))?;
    Some((found.0, found.2))
}

/// The guard of its players.
fn guard_of(fragscope: u32) -> Option<Pid> {
    let is_guard = |pid: u32| {
        let name = std::fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
        name == b"play-guard\n"
    };
    let mut all = processes().into_iter();
    let found = all.find(|(pid, _, state, parent)| {
        *parent == fragscope && !matches!(state, 'Z' | 'X') && is_guard(*pid)
    })?;
    Some(Pid::from_raw(found.0.cast_signed()))
}

/// Suspends a replay when one of its players works, and waits for that to be suspended as well.
fn suspended_with_its_player(replay: &mut Child) -> u32 {
    let fragscope = Pid::from_raw(replay.id().cast_signed());
    loop {
        let ended = replay.try_wait().expect("ours");
        assert_eq!(ended, None, "no player was suspended");
        let Some((player, _)) = player_of(replay.id()) else {
            continue;
        };
        kill(fragscope, Signal::SIGSTOP).expect("ours");
        // One that has just begun waits for fragscope, and one may have come to its end.
        let is_suspended = |_| {
            std::thread::sleep(Duration::from_millis(10));
            player_of(replay.id()) == Some((player, 'T'))
        };
        if (0..100).any(is_suspended) {
            return player;
        }
        kill(fragscope, Signal::SIGCONT).expect("ours");
    }
}

#[test]
fn players_are_suspended_while_fragscope_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut replay = command(&["replay", text(&trace(folder.path(), 1.0))])
        .args(["--runs", "30", "--allocator", "jemalloc"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("fragscope");
    let fragscope = Pid::from_raw(replay.id().cast_signed());
    let player = suspended_with_its_player(&mut replay);
    kill(fragscope, Signal::SIGCONT).expect("ours");
    let is_suspended = || player_of(replay.id()) == Some((player, 'T'));
    eventually("its player running on", || (!is_suspended()).then_some(()));
    // Nobody is left to let this one run on, but a guard that is new.
    let player = suspended_with_its_player(&mut replay);
    let guard = guard_of(replay.id()).expect("its players have one");
    kill(guard, Signal::SIGKILL).expect("ours");
    kill(fragscope, Signal::SIGCONT).expect("ours");
    let is_suspended = || player_of(replay.id()) == Some((player, 'T'));
    eventually("its player running on", || (!is_suspended()).then_some(()));
    assert_eq!(replay.wait().expect("ours").code(), Some(0));
}

#[test]
fn whoever_is_adopted_is_waited_for_whichever_group_it_is_in() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut replay = Command::new("sh");
    let replay = replay
        .arg("-c")
        // Children of whoever executes fragscope, whose own children outlive them.
        .arg("(while :; do (sleep 0.02 &); sleep 0.02; done) & exec \"$@\"")
        .arg("sh")
        .args([FRAGSCOPE, "replay"])
        .arg(trace_of_forks(folder.path()))
        .args([
            "--runs",
            "9",
            "--allocator",
            "jemalloc",
            "--allocator",
            "mimalloc",
        ])
        .process_group(0)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut replay = replay.spawn().expect("a shell");
    let mut most = 0;
    while replay.try_wait().expect("our own child").is_none() {
        let all = processes().into_iter();
        let is_adopted = |name: &str, parent| name == "sleep" && parent == replay.id();
        let left = all.filter(|(_, name, state, of)| is_adopted(name, *of) && *state == 'Z');
        most = most.max(left.count());
    }
    killpg(Pid::from_raw(replay.id().cast_signed()), Signal::SIGKILL).expect("the loop runs");
    // They end each 20 ms, and are looked at each 50 ms where a processor is free.
    assert!(most < 20, "{most}");
}

#[test]
fn players_leave_no_zombies_while_others_play_nor_when_one_crashes() {
    // This process takes the place of a PID 1 that waits for nobody.
    prctl::set_child_subreaper(true).expect("Linux has them");
    let folder = tempfile::tempdir().expect("a folder");
    let (source, crashes) = (folder.path().join("a.c"), folder.path().join("crashes.so"));
    let program = "#include <unistd.h>\n#include <stdlib.h>\nstatic int calls;\n\
                void *malloc(size_t size) { if (++calls > 50) abort(); return sbrk((size + 15) & ~15ul); }\n\
                void *calloc(size_t n, size_t size) { return malloc(n * size); }\n\
                void *realloc(void *block, size_t size) { return malloc(size); }\n\
                void free(void *block) {}\n";
    std::fs::write(&source, program).expect("written");
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-w", "-o"])
        .args([&crashes, &source])
        .status();
    assert!(compiled.expect("a C compiler").success());
    let mut replay = command(&["replay"])
        .arg(trace_of_forks(folder.path()))
        .args(["--runs", "3", "--allocator", "jemalloc", "--allocator"])
        .arg(&crashes)
        .args(["--allocator", "mimalloc"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("fragscope");
    let players = std::thread::available_parallelism().map_or(1, usize::from);
    while replay.try_wait().expect("our own child").is_none() {
        let zombies = zombies_of(replay.id());
        assert!(zombies.len() <= players * PROCESSES as usize, "{zombies:?}");
        let ours = zombies_of(std::process::id());
        assert!(ours.iter().all(|&pid| pid == replay.id()), "{ours:?}");
    }
    let output = replay.wait_with_output().expect("fragscope");
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("crashes.so was not replayed: crashed"),
        "{said}"
    );
    let left = waitpid(None, Some(WaitPidFlag::WNOHANG));
    assert_eq!(left, Err(Errno::ECHILD));
}

#[test]
fn what_can_be_read_of_a_damaged_trace_is_used_and_said() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = trace(folder.path(), 1.0);
    let whole = std::fs::read(&path).expect("readable");
    std::fs::write(&path, &whole[..whole.len() - 40]).expect("written");
    let output = replay(&path, &["--allocator", "glibc", "--json"]);
    assert_eq!(output.status.code(), Some(6));
    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(found["trace"]["trouble"].is_string(), "{}", found["trace"]);
    assert!(bytes(candidate(&found, "glibc"), "peak_bytes") > 190 * LARGE);
    // That a candidate failed is no reason to be silent about it.
    let output = replay(
        &path,
        &["--allocator", "glibc", "--allocator", "/nowhere.so"],
    );
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("was not replayed"), "{said}");
    assert!(said.contains("the recording is incomplete"), "{said}");
}

#[test]
fn what_is_no_trace_ends_with_an_error_that_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let fails = |content: &[u8], words: &str| {
        let path = folder.path().join("file");
        std::fs::write(&path, content).expect("written");
        let output = replay(&path, &[]);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(words), "{said}");
    };
    fails(b"", "not a recording");
    fails(b"#!/bin/sh\necho no trace at all\n", "not a recording");
    fails(b"FRAGTRC\x09............", "format 9");
    let mut empty = Vec::new();
    let writer = Writer::new(&mut empty, &TraceDescription::default()).expect("memory");
    writer.finish().expect("memory");
    fails(&empty, "nothing to play");
    let missing = replay(&folder.path().join("none"), &[]);
    assert_eq!(missing.status.code(), Some(1));
}

#[test]
fn a_folder_for_temporary_files_that_takes_nothing_is_named_with_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = trace(folder.path(), 1.0);
    let nowhere = folder.path().join("nowhere");
    let mut replay = command(&["replay", text(&path)]);
    let output = replay.env("TMPDIR", &nowhere).output().expect("it runs");
    let said = support::stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(text(&nowhere)), "{said}");
    assert!(said.contains("\nfix: make room in"), "{said}");
}

#[test]
fn sizes_that_no_memory_has_are_played_as_far_as_they_can_be() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("calls.log");
    let most = u64::MAX;
    for calls in [
        format!("1 1 malloc({most})=#3\n"),
        format!("1 1 calloc({most},{most})=#3\n1 1 realloc(#3,{most})=#4\n"),
        format!("1 1 malloc({most})=#3\n1 1 memalign(4096,{most})=#4\n2 2 valloc({most})=#5\n"),
        format!("1 1 malloc({})=#3\n", most / 2 + 1),
    ] {
        std::fs::write(&path, &calls).expect("written");
        let output = replay(&path, &["--allocator", "glibc", "--json"]);
        let said = stderr(&output);
        // What no allocator gives is the candidate's failure, and the report is there.
        assert_eq!(output.status.code(), Some(1), "{calls}{said}");
        assert!(said.contains("gave no memory for a block"), "{calls}{said}");
        let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let failure = &candidate(&found, "glibc")["failure"];
        assert!(failure.is_string(), "{calls}{failure}");
    }
}
