//! Targets that end or become another program while fragscope begins. Needs no privilege.

mod support;

use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use profiler_testing::wait::WAIT_LIMIT;
use support::{stderr, stdout};

/// A process that has started running, and that ends or executes another program after `after`.
fn short_lived(how: &str, after: Duration) -> std::process::Child {
    let program = format!(
        "import os, sys, time\nprint(1, flush=True)\ntime.sleep({})\n{how}",
        after.as_secs_f64()
    );
    let mut command = Command::new("python3");
    command.args(["-S", "-c", &program]);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3");
    let mut line = String::new();
    let mut out = std::io::BufReader::new(child.stdout.take().expect("piped"));
    std::io::BufRead::read_line(&mut out, &mut line).expect("a line");
    child
}

#[test]
fn a_target_that_goes_at_the_start_ends_every_command_with_5_and_a_sentence() {
    let folder = tempfile::tempdir().expect("a folder");
    let commands: [&[&str]; 5] = [
        &["snapshot"],
        &["snapshot", "--no-stop"],
        &["explain"],
        &["attach", "--headless", "--no-probes"],
        &["attach", "--json", "--no-probes", "--no-stop"],
    ];
    let exec = "os.execv('/bin/sleep', ['sleep', '1'])";
    let mut gone = 0;
    let began = Instant::now();
    for round in 0.. {
        // On a host that is fast or slow just now, other rounds are those that meet the moment.
        if round >= 10 && gone > 10 {
            break;
        }
        let late = format!("only {gone} went before fragscope had begun");
        assert!(began.elapsed() < WAIT_LIMIT, "{late}");
        for (i, command) in commands.iter().enumerate() {
            // From before fragscope has begun until after it is done, at other instants each round.
            let after = Duration::from_micros(round % 10 * 4_000 + i as u64 * 300);
            let how = ["os._exit(0)", exec][usize::from(round % 2 == 1)];
            let mut target = short_lived(how, after);
            let pid = target.id().to_string();
            // We reap it ourselves: until then it is a zombie, then it is gone.
            let reaper = (round % 4 < 2).then(|| thread::spawn(move || target.wait()));
            let output = support::command(command)
                .args(["--pid", &pid])
                .current_dir(folder.path())
                .output()
                .expect("it runs");
            let said = stderr(&output);
            let code = output.status.code();
            let of = format!("{command:?}, {how} after {after:?} ended with {code:?}: {said}");
            assert!(matches!(code, Some(0 | 5)), "{of}");
            for raw in [
                "entity not found",
                "os error",
                "No such process",
                "panicked",
            ] {
                assert!(!said.contains(raw), "{of}");
            }
            if code == Some(5) {
                gone += 1;
                let words = [
                    "has exited",
                    "has executed",
                    "executed another",
                    "no process",
                    "zombie",
                ];
                assert!(words.iter().any(|word| said.contains(word)), "{of}");
            }
            if let Some(reaper) = reaper {
                reaper.join().expect("reaped").expect("ours");
            }
        }
    }
}

#[test]
fn doctor_of_a_process_that_is_gone_ends_with_5() {
    let mut target = short_lived("pass", Duration::ZERO);
    let pid = target.id().to_string();
    target.wait().expect("it ends");
    let output = support::command(&["doctor", "--pid", &pid]).output();
    let output = output.expect("it runs");
    assert_eq!(output.status.code(), Some(5), "{}", stderr(&output));
}

#[test]
fn the_demo_starts_no_worker_where_there_is_no_screen() {
    let output = support::command(&["demo"]).output().expect("it runs");
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("must be a terminal"), "{said}");
    assert!(!said.contains("starting a Python worker"), "{said}");
}

#[test]
fn a_target_that_ends_while_its_growth_is_waited_for_is_explained_as_it_was() {
    for seconds in [2, 4, 8, 16, 32] {
        let lives = Duration::from_secs(seconds);
        let mut target = short_lived("", lives);
        let pid = target.id().to_string();
        let explain = ["explain", "--no-predict", "--growth", "60s", "--pid", &pid];
        let output = support::command(&explain).output().expect("it runs");
        target.wait().expect("it was started");
        assert_eq!(output.status.code(), Some(5));
        assert!(
            stderr(&output).contains("has exited"),
            "{}",
            stderr(&output)
        );
        // On a busy host it was gone before it was walked.
        if stdout(&output).contains("TOP HOLDERS") {
            return;
        }
    }
    panic!("its walk was lost each time");
}
