//! Every kind of error gets advice that helps.

use std::collections::BTreeSet;

use clap::{Command, CommandFactory, Parser};
use profiler_target::host::Capability;
use profiler_target::{Action, Caller, Denial, Limit};

use super::super::args::Line;
use super::*;
use crate::export::ExportError;
use crate::hints::{self, Hint};
use crate::session::outputs::Outputs;

fn advice(words: &[&str]) -> Advice {
    let line = Line::try_parse_from(["fragscope"].iter().chain(words)).expect("parses");
    Advice::of(&line.command)
}

fn denied(denial: Denial) -> ErrorKind {
    ErrorKind::NotPermitted {
        action: Action::Inspect,
        denial,
    }
}

#[test]
fn the_subcommand_that_was_used_is_the_one_to_run_as_root() {
    let kind = denied(Denial::NotDumpable);
    for (words, fix) in [
        (&["attach", "--pid", "7"][..], "attach --pid 7"),
        (&["snapshot", "--pid", "7", "--json"], "snapshot --pid 7"),
        (&["explain", "--pid", "7"], "explain --pid 7"),
        (&["doctor", "--pid", "7"], "doctor --pid 7"),
        (
            &["doctor", "--repair", "--pid", "7"],
            "doctor --pid 7 --repair",
        ),
        (
            &["record", "-o", "a.fragtrace", "--pid", "7"],
            "record --pid 7 -o a.fragtrace",
        ),
        (
            &["record", "-o", "a b;c", "--pid", "7"],
            "record --pid 7 -o FILE",
        ),
        (&["demo"], "demo"),
    ] {
        let expected = format!("sudo fragscope {fix}");
        assert_eq!(advice(words).on(&kind), Some(expected), "{words:?}");
    }
}

#[test]
fn a_recording_that_cannot_be_probed_begins_with_the_command() {
    let record = advice(&["record", "--pid", "7", "-o", "x"]);
    for kind in [
        ErrorKind::NoSysfs,
        ErrorKind::HostNotProbeable,
        ErrorKind::TargetNotProbeable,
    ] {
        let fix = record.on(&kind).expect("there is a way");
        assert!(fix.contains("record -o FILE -- COMMAND"), "{fix}");
        assert!(!fix.contains("--no-probes"), "{fix}");
    }
}

#[test]
fn every_lacking_capability_is_in_the_fix() {
    let lacking = vec![Capability::SysPtrace, Capability::DacReadSearch];
    let kind = denied(Denial::MissingCapability {
        caller: Caller::Root,
        lacking,
    });
    let fix = advice(&["snapshot", "--pid", "7"]).on(&kind).expect("one");
    assert!(
        fix.contains("--cap-add=SYS_PTRACE --cap-add=DAC_READ_SEARCH ("),
        "{fix}"
    );
}

#[test]
fn every_ending_that_is_advised_is_written() {
    for ending in export::ENDINGS
        .split([',', ' '])
        .filter_map(|word| word.strip_prefix('.'))
    {
        let path = format!("/nonexistent/out.{ending}");
        let failure = Outputs::reserve(&[path.into()], &[]).expect_err("no such folder");
        assert!(
            !matches!(failure.each(), [ExportError::UnknownEnding(_)]),
            "{ending}"
        );
    }
}

#[test]
fn a_limit_is_raised_by_its_flag() {
    for (limit, flag) in [
        (Limit::Size, "--max-size"),
        (Limit::Memory, "--max-memory"),
        (Limit::File, "--file-limit"),
    ] {
        let fix = advice(&["replay", "x"]).on(&ErrorKind::Limit(limit));
        assert_eq!(fix, Some(format!("{flag} raises the limit")));
    }
}

#[test]
fn a_file_of_the_other_kind_is_opened_by_the_other_command() {
    let fix = advice(&["view", "x"]).on(&ErrorKind::IsRecording);
    assert!(fix.expect("one").contains("`fragscope replay`"));
    let fix = advice(&["replay", "x"]).on(&ErrorKind::IsSession);
    assert!(fix.expect("one").contains("`fragscope view`"));
}

#[test]
fn an_unknown_allocator_is_answered_with_those_that_are_known() {
    let kind = ErrorKind::Allocator(AllocatorProblem::UnknownName);
    let fix = advice(&["replay", "x"]).on(&kind).expect("one");
    assert!(fix.contains("glibc, ") && fix.contains("mimalloc"), "{fix}");
}

#[test]
fn a_static_program_without_symbols_is_not_to_be_recorded_by_preloading() {
    let record = advice(&["record", "--pid", "7", "-o", "x"]);
    let fix = record.on(&ErrorKind::NoSymbols).expect("one");
    assert!(fix.contains("symbols") && !fix.contains("COMMAND"), "{fix}");
}

#[test]
fn the_limit_of_open_files_is_named() {
    let fix = advice(&["doctor"]).on(&ErrorKind::TooManyFiles);
    let limit = host::most_open_files()
        .expect("the kernel says")
        .to_string();
    let fix = fix.expect("one");
    assert!(fix.contains(&limit) && fix.contains("ulimit -n"), "{fix}");
}

#[test]
fn every_flag_that_a_hint_names_is_one_of_the_command_line() {
    let line = Line::command();
    let flags: BTreeSet<String> = line
        .get_subcommands()
        .chain([&line])
        .flat_map(Command::get_arguments)
        .filter_map(|flag| Some(format!("--{}", flag.get_long()?)))
        .collect();
    let commands: BTreeSet<&str> = line.get_subcommands().map(Command::get_name).collect();
    let mut texts: Vec<String> = Hint::ALL
        .iter()
        .map(|hint| hint.words().to_owned())
        .collect();
    texts.push(hints::tree_of(7));
    texts.extend(hints::live_commands(7));
    texts.extend(hints::SAVED_COMMANDS.map(str::to_owned));
    let mut named = 0;
    for text in &texts {
        let is_mark = |c: char| "`(),.;:".contains(c);
        let words: Vec<&str> = text
            .split_whitespace()
            .map(|word| word.trim_matches(is_mark))
            .collect();
        for flag in words.iter().filter(|word| word.starts_with("--")) {
            assert!(flags.contains(*flag), "{flag} in {text}");
            named += 1;
        }
        for pair in words.windows(2).filter(|pair| pair[0] == "fragscope") {
            assert!(commands.contains(pair[1]), "{} in {text}", pair[1]);
            named += 1;
        }
    }
    assert!(named > texts.len() / 2, "{named}");
}

#[test]
fn commands_that_hints_name_whole_are_understood() {
    let whole = hints::live_commands(7).into_iter();
    for command in whole.chain(hints::SAVED_COMMANDS.map(str::to_owned)) {
        let words = command
            .split_whitespace()
            .skip_while(|word| *word == "sudo");
        Line::try_parse_from(words).expect(&command);
    }
}
