//! `record -- COMMAND` on unusual programs: they run as they would alone, and what is missing is
//! reported.

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use profiler_testing::child::open_folder;
use profiler_trace::trace::{EventKind, Item, Reader};
use support::record::{Held, compiled, compiled_into, held, record};
use support::{run, stderr, stdout, text};

/// A recording of one of the programs, whose blocks to be counted have 1003 bytes; it prints what it does alone.
struct Recorded {
    output: Output,
    held: Held,
    trace: PathBuf,
    _folder: tempfile::TempDir,
}

fn recorded(what: &str) -> Recorded {
    let folder = open_folder();
    let trace = folder.path().join("trace");
    let program = compiled(&folder, "unusual", &["-pthread"]);
    let output = run(&mut record(&trace, &[text(&program), what]));
    assert!(
        output.status.code().is_some(),
        "{what}: {}",
        stderr(&output)
    );
    Recorded {
        held: held(&trace, 1003),
        output,
        trace,
        _folder: folder,
    }
}

impl Recorded {
    fn said(&self) -> String {
        stderr(&self.output)
    }
}

#[test]
fn a_sandboxed_program_lives_though_others_fill_the_ring() {
    let recorded = recorded("sandboxed");
    let out = stdout(&recorded.output);
    assert_eq!(out, "sandboxed: 0\ndone\n", "{}", recorded.said());
}

#[test]
fn threads_that_wait_for_room_may_get_a_filter_that_kills_for_waiting() {
    for _ in 0..3 {
        let recorded = recorded("filled");
        assert_eq!(stdout(&recorded.output), "done\n", "{}", recorded.said());
    }
}

#[test]
fn a_filter_that_is_inherited_is_seen_however_many_groups_the_user_has() {
    let recorded = recorded("many_groups");
    assert_eq!(stdout(&recorded.output), "done\n", "{}", recorded.said());
}

#[test]
fn a_program_that_is_executed_behind_a_filter_of_its_own_calls_lives_and_is_recorded() {
    let folder = open_folder();
    let trace = folder.path().join("trace");
    let program = compiled(&folder, "known_calls", &[]);
    let output = run(&mut record(&trace, &[text(&program)]));
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert_eq!(stdout(&output), "worked\n", "{said}");
    assert_eq!(held(&trace, 1003).of_size, 5000, "{said}");
}

#[test]
fn a_program_that_intercepts_system_calls_of_others_fills_the_ring_and_lives() {
    let recorded = recorded("dispatched");
    assert_eq!(stdout(&recorded.output), "done\n", "{}", recorded.said());
}

#[test]
fn a_program_with_one_descriptor_to_open_anything_with_is_recorded() {
    let recorded = recorded("one_descriptor");
    let said = recorded.said();
    assert_eq!(stdout(&recorded.output), "done\n", "{said}");
    assert_eq!(recorded.held.of_size, 5000, "{said}");
}

#[test]
fn a_short_program_without_addresses_for_the_ring_is_said_not_to_be_recorded() {
    let recorded = recorded("few_addresses");
    let said = recorded.said();
    assert_eq!(stdout(&recorded.output), "done\n", "{said}");
    assert_eq!(recorded.held.of_size, 0, "{said}");
    assert!(
        said.contains("a process began without room for the ring"),
        "{said}"
    );
    // That is all that is said of it.
    assert_eq!(said.matches("not recorded").count(), 1, "{said}");
    assert!(!said.contains("not recorded, though"), "{said}");
    assert!(recorded.held.lost > 0, "{said}");
}

#[test]
fn a_program_with_address_sanitizer_is_said_to_end_and_how_it_is_recorded() {
    let folder = open_folder();
    let trace = folder.path().join("trace");
    let program = compiled(&folder, "unusual", &["-pthread", "-fsanitize=address"]);
    let mut command = record(&trace, &[text(&program), "few"]);
    let alone = run(Command::new(&program).arg("few"));
    assert_eq!(stdout(&alone), "done\n");
    let said = stderr(&run(&mut command));
    assert!(said.contains("is built with AddressSanitizer"), "{said}");
    let option = "ASAN_OPTIONS=verify_asan_link_order=0";
    assert!(said.contains(option), "{said}");
    let (name, value) = option.split_once('=').expect("both");
    let output = run(command.env(name, value));
    let said = stderr(&output);
    assert!(!said.contains("AddressSanitizer"), "{said}");
    assert_eq!(stdout(&output), "done\n", "{said}");
    assert_eq!(held(&trace, 1003).of_size, 5000, "{said}");
}

#[test]
fn a_clock_that_others_preload_is_not_asked() {
    let folder = open_folder();
    let trace = folder.path().join("trace");
    let program = compiled(&folder, "known_calls", &[]);
    let clock = compiled(&folder, "other_clock", &["-shared", "-fPIC"]);
    // After the recorder, as programs add theirs.
    let command = r#"LD_PRELOAD="$LD_PRELOAD:$0" exec "$@""#;
    let command = ["sh", "-c", command, text(&clock), text(&program), "works"];
    let output = run(&mut record(&trace, &command));
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert_eq!(held(&trace, 1003).of_size, 5000, "{said}");
    // Of another time nothing is recorded: it would be from the future.
    assert!(said.contains(" 0 lost"), "{said}");
}

#[test]
fn a_copy_by_a_system_call_that_exits_does_not_end_its_parent() {
    let recorded = recorded("copy_that_exits");
    let (held, said) = (&recorded.held, recorded.said());
    assert_eq!(held.of_size, 5000, "{said}");
    assert!(!said.contains("processes that had ended"), "{said}");
}

#[test]
fn copies_are_noticed_while_other_threads_fork() {
    let recorded = recorded("copied_beside_forks");
    assert_eq!(recorded.held.of_size, 1, "{}", recorded.said());
}

#[test]
fn a_handler_that_forks_in_the_midst_of_an_event_spoils_none_and_every_process_ends() {
    let recorded = recorded("forks_in_handlers");
    let (out, said) = (stdout(&recorded.output), recorded.said());
    let blocks = out.split_once(" blocks\n").expect("a count").0;
    let blocks: u64 = blocks.parse().expect("a number");
    // A child has the size of the block that it was asking for as it was forked.
    let children = 300..=600;
    let of_size = recorded.held.of_size;
    let more = of_size.checked_sub(blocks);
    assert!(
        more.is_some_and(|more| more <= *children.end()),
        "{of_size} of {blocks}: {said}"
    );
    assert_eq!(recorded.held.lost, 0, "{said}");
}

#[test]
fn a_thread_is_one_however_often_its_keys_are_cleared() {
    let recorded = recorded("threads_that_keep");
    let threads = threads(&recorded.trace);
    assert_eq!(threads, 101, "{}", recorded.said());
}

/// The threads that do anything in a trace.
fn threads(trace: &Path) -> usize {
    let file = std::io::BufReader::new(std::fs::File::open(trace).expect("a trace"));
    let mut reader = Reader::new(file).expect("a trace");
    let mut threads = std::collections::BTreeSet::new();
    while let Some(item) = reader.next_item().expect("sound") {
        if let Item::Event(event) = item {
            threads.insert(event.thread);
        }
    }
    threads.len()
}

#[test]
fn a_thread_that_never_allocated_ends_a_program_behind_a_filter() {
    for how in ["quiet exit", "quiet _exit"] {
        let recorded = recorded(how);
        let code = recorded.output.status.code();
        assert_eq!(code, Some(4), "{how}: {}", recorded.said());
    }
}

#[test]
fn a_copy_by_a_system_call_is_not_recorded_in_its_parents_name() {
    let recorded = recorded("copied");
    let said = recorded.said();
    assert!(
        said.contains("a process began by a system call (clone)"),
        "{said}"
    );
    assert_eq!(recorded.held.of_size, 20_000, "{said}");
    let frees = frees(&recorded.trace);
    assert!(frees < 10_000, "{frees}: {said}");
}

fn frees(trace: &Path) -> usize {
    let file = std::io::BufReader::new(std::fs::File::open(trace).expect("a trace"));
    let mut reader = Reader::new(file).expect("a trace");
    let mut frees = 0;
    while let Some(item) = reader.next_item().expect("sound") {
        if let Item::Event(event) = item {
            frees += usize::from(matches!(event.kind, EventKind::Free { .. }));
        }
    }
    frees
}

#[test]
fn a_program_that_forbids_itself_the_clock_is_said_to_have_left() {
    let recorded = recorded("timeless");
    let said = recorded.said();
    assert!(said.contains("made reading the clock a fault"), "{said}");
    assert!(recorded.held.lost > 0, "{said}");
}

#[test]
fn a_slot_that_was_given_up_is_one_lost_event_however_often_the_ring_goes_round() {
    let recorded = recorded("abandoned");
    assert!(recorded.held.events > 4 << 20, "{}", recorded.said());
    assert_eq!(recorded.held.lost, 1, "{}", recorded.said());
}

#[test]
fn nobody_leaves_a_recording_because_another_program_says_so() {
    let recorded = recorded("given_up");
    let (held, said) = (&recorded.held, recorded.said());
    // Or fragscope has seen it, and ended the recording.
    let is_ended = recorded.output.status.code() == Some(1);
    assert!(is_ended || held.of_size == 400_000, "{held:?}: {said}");
}

#[test]
fn how_many_left_is_not_believed_beyond_measure() {
    let recorded = recorded("left");
    let said = recorded.said();
    assert!(said.contains("10000 times a process "), "{said}");
    assert!(recorded.held.lost <= 40_000, "{said}");
}

#[test]
fn what_libraries_allocate_before_the_program_begins_is_recorded() {
    let folder = open_folder();
    let trace = folder.path().join("trace");
    let library = compiled_into(folder.path(), "early", &["-shared", "-fPIC", "-pthread"]);
    for _ in 0..5 {
        let mut command = record(&trace, &["python3", "-S", "-c", "pass"]);
        let output = run(command.env("LD_PRELOAD", &library));
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(0), "{said}");
        let held = held(&trace, 123_461);
        assert!(held.whole && held.of_size >= 1000, "{held:?}: {said}");
    }
}

#[test]
fn a_core_of_a_recorded_program_has_its_own_memory_alone() {
    let folder = open_folder();
    let trace = folder.path().join("trace");
    let script = "sed -n '/fragscope-ring/,/VmFlags/p' /proc/self/smaps";
    let output = run(&mut record(&trace, &["sh", "-c", script]));
    let said = stdout(&output);
    let flags = said.lines().find(|line| line.starts_with("VmFlags"));
    // `dd`: not in a core (proc_pid_smaps(5)).
    let flags = flags.expect("the ring's");
    assert!(flags.split(' ').any(|flag| flag == "dd"), "{said}");
}

#[test]
fn the_programs_do_alone_what_is_expected_of_them_here() {
    let folder = open_folder();
    let program = compiled(&folder, "unusual", &["-pthread"]);
    let alone = |what: &str| run(Command::new(&program).arg(what));
    assert_eq!(stdout(&alone("sandboxed")), "sandboxed: 0\ndone\n");
    for how in ["quiet exit", "quiet _exit"] {
        assert_eq!(alone(how).status.code(), Some(4), "{how}");
    }
}
