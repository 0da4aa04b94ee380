//! `record -- COMMAND` on programs that damage the ring or forge its contents.

mod support;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use profiler_testing::child::{KillOnDrop, open_folder};
use profiler_testing::wait::WAIT_LIMIT;
use support::record::{Held, Recording, allocate, compiled, held, record};
use support::{FRAGSCOPE, run, stderr, stdout, text};

/// A recording of a program that forges, and of an honest one after it in the same ring.
fn forged(how: &[&str]) -> (Output, Held) {
    let folder = open_folder();
    let trace = folder.path().join("trace");
    let forge = compiled(&folder, "forge", &[]);
    let script = format!(
        "{} {} && python3 -S -c '{}' && echo honest",
        text(&forge),
        how.join(" "),
        allocate(1000, 123_457)
    );
    let output = run(&mut record(&trace, &["sh", "-c", &script]));
    let held = held(&trace, 123_457);
    let out = stdout(&output);
    assert!(
        out.ends_with("forged\nhonest\n"),
        "{out}: {}",
        stderr(&output)
    );
    (output, held)
}

#[test]
fn a_head_that_was_moved_far_is_moved_back_and_nothing_is_lost() {
    let (output, held) = forged(&["head"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!((held.of_size, held.lost), (1000, 0), "{}", stderr(&output));
}

#[test]
fn events_that_no_recorder_writes_are_counted_and_the_others_kept() {
    let (output, held) = forged(&["damaged"]);
    assert_eq!((held.of_size, held.lost), (1000, 3), "{}", stderr(&output));
    assert!(stderr(&output).contains("writes invalid events"));
}

#[test]
fn a_ring_that_is_scribbled_over_ends_the_recording_and_no_program() {
    let (output, _) = forged(&["scribble"]);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("damaged the shared ring"), "{said}");
}

#[test]
fn a_ring_cannot_be_made_shorter() {
    let (output, held) = forged(&["shrink"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(output.stdout.starts_with(b"Operation not permitted"));
    assert_eq!(held.of_size, 1000);
}

#[test]
fn what_the_reader_says_can_be_written_by_nobody_else() {
    let (output, held) = forged(&["reader"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(output.stdout.starts_with(b"Operation not permitted"));
    assert_eq!(held.of_size, 1000);
}

#[test]
fn a_thread_that_waits_for_a_full_ring_is_not_cancelled_there_and_keeps_its_errno() {
    let folder = open_folder();
    let trace = folder.path().join("trace");
    let program = compiled(&folder, "full_ring", &["-pthread"]);
    let output = run(&mut record(&trace, &[text(&program)]));
    assert_eq!(stdout(&output), "by itself 0\n", "{}", stderr(&output));
    assert!(held(&trace, 100).of_size > 900_000, "{}", stderr(&output));
}

/// Whoever keeps the ring full lives on, and takes back that others gave it up; or it fills the ring with events
/// faster than anybody else can.
#[test]
fn nobody_is_held_up_for_longer_by_a_program_that_goes_on_forging() {
    for how in ["full", "taken", "crowd"] {
        let (output, _) = forged(&[how]);
        let said = stderr(&output);
        let out = stdout(&output);
        let held_up: f64 = out
            .lines()
            .next()
            .expect("a line")
            .parse()
            .expect("seconds");
        assert!(held_up < 30.0, "{how}: {held_up} s: {said}");
        let is_over = said.contains("ended before its command");
        assert!(is_over || how == "crowd", "{how}: {said}");
    }
}

#[test]
fn a_slot_that_a_living_thread_never_fills_is_passed_by() {
    let (output, held) = forged(&["claim"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!((held.of_size, held.lost), (1000, 1));
}

#[test]
fn claims_in_the_name_of_a_living_thread_hold_up_the_others_for_a_bounded_time_in_all() {
    let began = Instant::now();
    let (output, held) = forged(&["claims"]);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("held up the others for 10 s in all"),
        "{said}"
    );
    assert!(said.contains("ended before its command"), "{said}");
    assert!(!held.whole, "what was cut short is known as such");
    // Each of half a million claims took 2 s.
    assert!(began.elapsed() < WAIT_LIMIT * 2, "{said}");
}

#[test]
fn a_recording_ends_with_its_command_although_the_first_page_was_scribbled_over() {
    let (output, held) = forged(&["page"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(held.whole, "{}", stderr(&output));
}

#[test]
fn a_head_that_is_moved_back_all_the_time_ends_the_recording_and_no_program() {
    let (output, _) = forged(&["back"]);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("ended before its command"), "{said}");
}

/// `record` of a program that forges and stays.
struct Forging {
    recording: Recording,
    _folder: tempfile::TempDir,
    trace: PathBuf,
}

impl Forging {
    fn start(how: &[&str]) -> Self {
        let folder = open_folder();
        let trace = folder.path().join("trace");
        let forge = compiled(&folder, "forge", &[]);
        let command = [&[text(&forge)], how, &["stay"]].concat();
        let mut recording = Recording::start(&mut record(&trace, &command));
        assert_eq!(recording.command_line(), "forged");
        Self {
            recording,
            _folder: folder,
            trace,
        }
    }

    /// Ends it by SIGTERM, which it passes on.
    fn end(self) -> (Held, String) {
        self.recording.signal(Signal::SIGTERM);
        let (code, said) = self.recording.end();
        assert_eq!(code, 143, "{said}");
        (held(&self.trace, 0), said)
    }
}

#[test]
fn a_process_that_does_not_descend_from_the_command_is_never_sampled() {
    let foreign = Command::new("sleep").arg("1000").spawn();
    let foreign = KillOnDrop(foreign.expect("sleep"));
    let forging = Forging::start(&["foreign", &foreign.id().to_string()]);
    // All processes are sampled before the end.
    let (held, said) = forging.end();
    assert!(held.events > 1000, "{said}");
    let processes: Vec<u32> = held.sampled.into_iter().collect();
    assert_eq!(processes, [0], "{said}");
}

#[test]
fn a_child_that_was_there_before_fragscope_is_never_sampled() {
    let folder = open_folder();
    let trace = folder.path().join("trace");
    let forge = compiled(&folder, "forge", &[]);
    // As scripts do that start a service and end with exec.
    let script = format!(
        "sleep 1000 >/dev/null 2>&1 & exec {} record -o {} -- sh -c '{} foreign '$!' && kill '$!",
        FRAGSCOPE,
        text(&trace),
        text(&forge),
    )
    .replace("&& kill", "&& sleep 1 && kill");
    let output = run(Command::new("sh").args(["-c", &script]));
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let held = held(&trace, 32);
    assert!(held.of_size >= 1000, "{held:?}: {said}");
    // Processes 0 and 1 are the shell and what forges, 2 the one that was there before.
    assert!(!held.sampled.contains(&2), "{held:?}: {said}");
}

#[test]
fn a_flood_of_forged_processes_costs_little_memory() {
    let forging = Forging::start(&["flood"]);
    let status = format!("/proc/{}/status", forging.recording.pid());
    let peak = || -> u64 {
        let status = fs::read_to_string(&status).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        kib.expect("a number")
    };
    let peak_kib = peak();
    let (held, said) = forging.end();
    assert!(said.contains("more threads than are followed"), "{said}");
    assert!(held.lost > 1_000_000, "{held:?}");
    // The ring alone is 48 MiB.
    assert!(peak_kib < 250 << 10, "{peak_kib} KiB: {said}");
}

#[test]
fn writers_that_are_killed_in_a_full_ring_hold_up_nobody() {
    let folder = open_folder();
    let trace = folder.path().join("trace");
    let program = compiled(&folder, "killed", &[]);
    let output = run(&mut record(&trace, &[text(&program), "5"]));
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let longest: u64 = stdout(&output).trim().parse().expect(&said);
    // It was 30 s. What reads the ring waits for a processor, too, which this does not leave out: a
    // stall of less it cannot show.
    assert!(longest < 5_000, "{longest} ms: {said}");
    let held = held(&trace, 100);
    // One for each thread that was killed while it wrote.
    assert!(held.whole && held.lost <= 5 * 64, "{held:?}");
}

#[test]
fn what_is_behind_an_event_that_is_never_written_is_kept_when_a_second_signal_ends_the_recording() {
    let Forging {
        mut recording,
        trace,
        _folder,
    } = Forging::start(&["claim"]);
    let fragscope = recording.pid();
    let children = format!("/proc/{fragscope}/task/{fragscope}/children");
    let command = fs::read_to_string(children).expect("it runs");
    let command = Pid::from_raw(command.trim().parse().expect("its only child"));
    recording.signal(Signal::SIGTERM);
    recording.wait_for("a second signal leaves it running");
    recording.signal(Signal::SIGTERM);
    assert_eq!(recording.status().code(), Some(130));
    kill(command, Signal::SIGKILL).expect("it was left running");
    let held = held(&trace, 77_777);
    assert_eq!((held.of_size, held.lost, held.whole), (1000, 1, true));
}
