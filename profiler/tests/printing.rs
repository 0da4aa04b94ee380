//! Output of commands where it cannot be written. Needs no privilege.

mod support;

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use support::record::record_python;
use support::{command, fragscope, idle_python, stderr, text};

/// A target, and a recording and a saved session of it.
struct Files {
    target: profiler_testing::child::Child,
    _folder: tempfile::TempDir,
    trace: String,
    session: String,
}

impl Files {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (trace, session) = (
            folder.path().join("it.fragtrace"),
            folder.path().join("it.fragsnap"),
        );
        let target = idle_python();
        let pid = target.pid().to_string();
        let program = "kept = [bytes(i) for i in range(2000)]";
        for words in [
            &record_python(&trace, program)[..],
            &["snapshot", "--pid", &pid, "-o", text(&session)],
        ] {
            let made = fragscope(words);
            assert_eq!(made.status.code(), Some(0), "{}", stderr(&made));
        }
        Self {
            target,
            trace: text(&trace).to_owned(),
            session: text(&session).to_owned(),
            _folder: folder,
        }
    }

    /// Every command that prints, in every form that it prints in.
    fn commands(&self) -> Vec<Vec<String>> {
        let (pid, trace, session) = (self.target.pid().to_string(), &*self.trace, &*self.session);
        let watch = ["--duration", "200ms", "--interval", "100ms", "--no-probes"];
        let mut commands: Vec<Vec<&str>> = vec![
            vec!["--help"],
            vec!["--version"],
            vec!["help", "record"],
            vec!["record", "--help"],
            vec!["top", "--once"],
            vec!["top", "--once", "--json"],
            vec![
                "top",
                "--json",
                "--duration",
                "200ms",
                "--interval",
                "100ms",
            ],
            [&["attach", "--headless", "--pid", &pid][..], &watch].concat(),
            [&["attach", "--json", "--pid", &pid][..], &watch].concat(),
            vec!["explain", "--pid", &pid, "--growth", "0s", "--no-predict"],
            vec!["diff", session, "--pid", &pid],
            vec!["export", trace, "--format", "logalloc"],
        ];
        for format in ["json", "csv", "hlog", "text"] {
            commands.push(vec!["export", session, "--format", format]);
        }
        commands.push(vec!["explain", session, "--no-predict"]);
        for words in [
            &["snapshot", "--pid", &pid][..],
            &["doctor"],
            &["diff", session, session],
            &["replay", trace, "--allocator", "glibc", "--runs", "1"],
        ] {
            commands.push(words.to_vec());
            commands.push([words, &["--json"]].concat());
        }
        let owned = |words: Vec<&str>| words.into_iter().map(str::to_owned).collect();
        commands.into_iter().map(owned).collect()
    }
}

/// Runs it with the streams as a shell makes them.
fn redirected(words: &[String], to: &str) -> Output {
    Command::new("sh")
        .args(["-c", &format!("exec \"$@\" {to}"), "sh"])
        .arg(env!("CARGO_BIN_EXE_fragscope"))
        .args(words)
        .stdin(Stdio::null())
        .output()
        .expect("a shell")
}

#[test]
fn what_cannot_be_printed_is_an_error_of_every_command() {
    let files = Files::new();
    for words in files.commands() {
        for (to, why) in [
            (">&-", "Bad file descriptor"),
            ("1</dev/null", "Bad file descriptor"),
            (">/dev/full", "No space left on device"),
        ] {
            let ended = redirected(&words, to);
            let said = stderr(&ended);
            assert_eq!(ended.status.code(), Some(1), "{words:?} {to}: {said}");
            let expected = format!("cannot write to the standard output: {why}");
            assert!(said.contains(&expected), "{words:?} {to}: {said}");
        }
    }
}

#[test]
fn a_reader_that_leaves_is_no_error_of_any_command() {
    let files = Files::new();
    for words in files.commands() {
        let mut running = command(&words)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it runs");
        drop(running.stdout.take());
        let ended = running.wait_with_output().expect("it ends");
        let said = stderr(&ended);
        // `doctor` may find something missing.
        let is_doctor = words[0] == "doctor";
        let is_fine = ended.status.code() == Some(0) || is_doctor;
        assert!(
            is_fine && !said.contains("standard output"),
            "{words:?}: {said}"
        );
    }
}

#[test]
fn a_reader_that_leaves_ends_a_session_before_its_next_line() {
    let target = idle_python();
    let pid = target.pid().to_string();
    // The next line would come after everybody has given up.
    let rare = ["--interval", "1h"];
    for words in [
        &["attach", "--headless", "--no-probes", "--pid", &pid][..],
        &["attach", "--json", "--no-probes", "--pid", &pid],
        &["attach", "--tree", "--headless", "--pid", &pid],
        &["top", "--json"],
    ] {
        let mut running = command(&[words, &rare].concat())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it runs");
        let mut line = String::new();
        let mut lines = BufReader::new(running.stdout.take().expect("a pipe"));
        lines.read_line(&mut line).expect("a line");
        drop(lines);
        let ended = running.wait_with_output().expect("it ends");
        assert_eq!(
            ended.status.code(),
            Some(0),
            "{words:?}: {}",
            stderr(&ended)
        );
    }
}

#[test]
fn nothing_is_printed_into_a_file_that_is_read() {
    let files = Files::new();
    for words in files.commands() {
        for input in [&files.trace, &files.session] {
            if !words.contains(input) {
                continue;
            }
            let before = fs::read(input).expect("there");
            let second = Path::new(input).with_extension("second");
            fs::hard_link(input, &second).expect("linked");
            let open = || OpenOptions::new().append(true).open(&second).expect("ours");
            let out = command(&words).stdout(open()).output().expect("it runs");
            let said = stderr(&out);
            assert_eq!(out.status.code(), Some(1), "{words:?}: {said}");
            assert!(
                said.contains("which is also an input: nothing was run"),
                "{said}"
            );
            let out = command(&words).stderr(open()).output().expect("it runs");
            assert_eq!(out.status.code(), Some(1), "{words:?}");
            assert!(out.stdout.is_empty());
            assert_eq!(fs::read(input).expect("there"), before, "{words:?}");
            fs::remove_file(&second).expect("ours");
        }
    }
    // What is read from stdin is the same file by another name.
    let trace = || {
        File::options()
            .read(true)
            .write(true)
            .open(&files.trace)
            .expect("ours")
    };
    let out = command(&["export", "/dev/stdin", "--format", "logalloc"])
        .stdin(trace())
        .stdout(trace())
        .output();
    assert_eq!(out.expect("it runs").status.code(), Some(1));
}
