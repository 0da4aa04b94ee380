//! The command as a user runs it: help, usage, and errors with their exit codes. Needs no
//! privilege.

mod support;

use std::process::Stdio;

use support::{command, fragscope, stderr, stdout};

/// Ends with `code`, with nothing on stdout and `words` in what it says on stderr.
fn fails(args: &[&str], code: i32, words: &str) {
    let output = fragscope(args);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
    assert!(said.contains(words), "{args:?}: {said}");
    assert_eq!(stdout(&output), "", "{args:?}: errors go to stderr");
}

const COMMANDS: [&str; 16] = [
    "attach",
    "top",
    "serve",
    "snapshot",
    "explain",
    "diff",
    "check",
    "view",
    "record",
    "replay",
    "export",
    "report",
    "doctor",
    "demo",
    "completions",
    "man",
];

#[test]
fn every_help_fits_100_columns_and_has_units_and_examples() {
    for command in COMMANDS {
        let output = fragscope(&[command, "--help"]);
        assert_eq!(output.status.code(), Some(0));
        let help = stdout(&output);
        for line in help.lines() {
            assert!(line.chars().count() <= 100, "{command}: {line}");
        }
        assert!(help.contains("fragscope "), "{command}");
        assert!(help.contains("Example"), "{command} has an example");
    }
}

/// A change of the words or of the wrapping shows here. To take it over: run the command into the
/// file, and cut the blanks at the ends of lines.
#[test]
fn help_reads_as_it_did() {
    let goldens = [
        (&["--help"][..], include_str!("golden/help.txt")),
        (
            &["attach", "--help"],
            include_str!("golden/attach_help.txt"),
        ),
    ];
    for (args, golden) in goldens {
        let help = stdout(&fragscope(args));
        let lines: Vec<_> = help.lines().map(str::trim_end).collect();
        assert_eq!(lines, golden.lines().collect::<Vec<_>>(), "{args:?}");
    }
}

#[test]
fn help_lists_the_commands_there_are_and_the_exit_codes() {
    let help = stdout(&fragscope(&["--help"]));
    let listed: Vec<_> = help
        .lines()
        .skip_while(|line| !line.starts_with("Commands:"))
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect();
    assert_eq!(listed, COMMANDS);
    for code in ["0 ", "1 ", "2 ", "3 ", "4 ", "5 ", "6 ", "130 "] {
        let names = |line: &str| line.trim_start().starts_with(code);
        assert!(help.lines().any(names), "exit code {code}");
    }
}

#[test]
fn every_command_has_a_manual_page_and_every_shell_completes_it() {
    for command in COMMANDS {
        let page = stdout(&fragscope(&["man", command]));
        let title = format!("fragscope\\-{command}");
        assert!(page.starts_with(".ie") && page.contains(&title), "{page}");
    }
    let main = stdout(&fragscope(&["man"]));
    for command in COMMANDS {
        assert!(
            main.contains(&format!("fragscope\\-{command}(1)")),
            "{command}"
        );
    }
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = stdout(&fragscope(&["completions", shell]));
        let all = |command: &&str| script.contains(*command);
        assert!(COMMANDS.iter().all(all), "{shell}");
    }
    fails(&["man", "profile"], 2, "no subcommand profile");
}

#[test]
fn a_number_alone_is_a_process() {
    fails(&["2147483647"], 5, "no process 2147483647");
    for command in ["attach", "snapshot", "explain"] {
        fails(&[command, "2147483647"], 5, "no process 2147483647");
    }
}

#[test]
fn wrong_usage_ends_with_2_and_says_what_is_right() {
    fails(&[], 2, "Commands:");
    fails(&["attach"], 2, "--pid");
    fails(&["snapshot"], 2, "--core");
    fails(&["explain"], 2, "FILE");
    fails(
        &["explain", "a.fragsnap", "--pid", "1"],
        2,
        "cannot be used",
    );
    fails(&["explain", "--pid", "1", "--at", "2"], 2, "cannot be used");
    fails(&["profile"], 2, "unrecognized subcommand");
    fails(&["snapshot", "--pid", "one"], 2, "invalid value 'one'");
    for command in ["attach", "snapshot", "explain", "record", "doctor"] {
        let words = [command, "--pid", "-5", "-o", "x.fragtrace"];
        let words = &words[..if command == "record" { 5 } else { 3 }];
        fails(
            words,
            2,
            "invalid value '-5' for '--pid <PID>': -5 is not in 1..",
        );
    }
    fails(
        &["attach", "--pid", "1", "--budget", "0%"],
        2,
        "above 0 and up to 100",
    );
    fails(
        &["attach", "--pid", "1", "--interval", "1"],
        2,
        "--interval",
    );
    fails(
        &["snapshot", "--pid", "1", "--max-stop", "0s"],
        2,
        "use --no-stop to not stop the target",
    );
    fails(
        &["snapshot", "--pid", "1", "-o", "out.xml"],
        2,
        ".fragsnap, .html, .json, .csv, .hlog, .folded, .speedscope.json or .pb.gz",
    );
}

#[test]
fn outputs_are_checked_before_the_target() {
    // No such process, and yet it is the path that is complained of.
    let args = ["snapshot", "--pid", "2147483647", "-o", "/nowhere/out.csv"];
    fails(&args, 1, "there is no folder /nowhere");
    fails(&args[..3], 5, "no process 2147483647");
}

#[test]
fn a_kernel_thread_is_not_supported() {
    // kthreadd is there on every host; in a container's pid namespace it is not.
    let kthreadd = std::fs::read_to_string("/proc/2/comm");
    let expected = match kthreadd.as_deref() {
        Ok("kthreadd\n") => "kernel thread",
        _ => "2",
    };
    fails(&["snapshot", "--pid", "2"], 5, expected);
}

#[test]
fn without_a_terminal_attach_says_what_to_use() {
    let pid = std::process::id().to_string();
    fails(&["attach", "--pid", &pid], 1, "--headless");
}

#[test]
fn doctor_prints_one_document() {
    let output = fragscope(&["doctor", "--json"]);
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(document["schema"], "fragscope.doctor/1");
    let checks = document["checks"].as_array().expect("a list");
    assert!(!checks.is_empty());
    let missing = checks.iter().any(|check| check["grade"] == "missing");
    assert_eq!(output.status.code(), Some(i32::from(missing)));
    for check in checks {
        assert_eq!(check["grade"] == "ok", check["fix"].is_null(), "{check}");
    }
}

#[test]
fn a_reader_that_leaves_ends_it_quietly() {
    let mut child = command(&["doctor"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(stderr(&output), "");
    assert_eq!(output.status.code(), Some(0));
}

/// Ends with 1, and has `fix` in the line after the error.
fn is_fixed(args: &[&str], fix: &str) {
    ends_with(1, args, fix);
}

fn ends_with(code: i32, args: &[&str], fix: &str) {
    let output = fragscope(args);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
    let line = said.lines().find_map(|line| line.strip_prefix("fix: "));
    assert!(
        line.is_some_and(|line| line.contains(fix)),
        "{args:?}: {said}"
    );
}

#[test]
fn what_does_not_exist_is_answered_with_how_one_comes_to_be() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let (none, below) = (path("none"), path("none/below"));
    let session = "fragscope snapshot --pid PID -o";
    for missing in [&*none, &below, &path("")] {
        is_fixed(&["explain", missing], session);
        is_fixed(&["diff", missing, missing], session);
        is_fixed(&["export", missing, "--format", "text"], session);
        let recording = "fragscope record -o FILE.fragtrace -- COMMAND";
        is_fixed(&["replay", missing], recording);
        is_fixed(&["export", missing, "--format", "logalloc"], recording);
    }
    for missing in [&none, &below] {
        is_fixed(&["snapshot", "--core", missing], "`gcore PID`");
        is_fixed(&["explain", "--core", missing], "`gcore PID`");
    }
}

#[test]
fn a_command_that_cannot_be_started_is_answered_with_how_it_can() {
    let folder = tempfile::tempdir().expect("a folder");
    let make = |name: &str, content: &str, mode: u32| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).expect("written");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(&path, mode).expect("ours");
        path.to_string_lossy().into_owned()
    };
    let trace = folder.path().join("it.fragtrace");
    let trace = trace.to_string_lossy();
    let place = folder.path().to_string_lossy();
    for (program, code, fix) in [
        ("no-such-program", 127, "`command -v NAME`"),
        ("/no/such/program", 127, "`command -v NAME`"),
        (
            &*make("orphan", "#!/no/such/interpreter\n", 0o755),
            126,
            "names its interpreter",
        ),
        (&make("plain", "#!/bin/sh\n", 0o644), 126, "chmod +x"),
        (&make("text", "no program", 0o755), 126, "`sh FILE`"),
        (&place, 126, "this is a folder"),
    ] {
        ends_with(code, &["record", "-o", &trace, "--", program], fix);
    }
}
