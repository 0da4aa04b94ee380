//! What becomes of programs that end while fragscope is no more, or stands still.

use std::fs::{self, OpenOptions};
use std::path::Path;

use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::support::record::{Recording, held, record};

/// A program that is worth waiting for, and that ends in this way with this code when it is let.
const ENDS: &str = "
import os, sys, time
gate, how, code = sys.argv[1:]
kept = [b'x' * 8000 for _ in range(4000)]
time.sleep(0.3)
print('ready', flush=True)
open(gate).read()
(os._exit if how == '_exit' else sys.exit)(int(code))
";

/// Programs that end in these ways with the codes 11, 12 and so on, after this happens to fragscope. A shell starts all
/// of them, and says how each has ended.
fn ends(folder: &Path, ways: &[&str], signal: Signal) -> Recording {
    let (mut script, mut gates) = (String::new(), Vec::new());
    for (way, number) in ways.iter().zip(1..) {
        let gate = folder.join(format!("gate-{number}"));
        let _ = fs::remove_file(&gate);
        mkfifo(&gate, Mode::S_IRWXU).expect("a FIFO");
        let (path, code) = (gate.display(), 10 + number);
        script += &format!("python3 -S -c \"$0\" '{path}' {way} {code} & p{number}=$!\n");
        gates.push(gate);
    }
    for number in 1..=ways.len() {
        script += &format!("wait $p{number}; echo ended $?\n");
    }
    let mut command = record(&folder.join("trace"), &["sh", "-c", &script, ENDS]);
    let mut recording = Recording::start(&mut command);
    for _ in ways {
        assert_eq!(recording.command_line(), "ready");
    }
    recording.signal(signal);
    for gate in gates {
        // It is opened once the program stands there.
        drop(OpenOptions::new().write(true).open(gate).expect("a FIFO"));
    }
    for (_, code) in ways.iter().zip(11..) {
        assert_eq!(recording.command_line(), format!("ended {code}"));
    }
    recording
}

#[test]
fn a_program_that_ends_when_fragscope_was_killed_ends_as_it_would() {
    let folder = tempfile::tempdir().expect("a folder");
    for ways in [&["exit"][..], &["_exit"], &["exit", "_exit"]] {
        ends(folder.path(), ways, Signal::SIGKILL);
    }
}

#[test]
fn a_program_that_ends_while_fragscope_stands_still_ends_as_it_would_and_is_recorded() {
    let folder = tempfile::tempdir().expect("a folder");
    for ways in [&["exit"][..], &["_exit"], &["_exit", "exit"]] {
        let recording = ends(folder.path(), ways, Signal::SIGSTOP);
        recording.signal(Signal::SIGCONT);
        let (code, said) = recording.end();
        assert_eq!(code, 0, "{said}");
        let held = held(&folder.path().join("trace"), 0);
        assert!(
            held.whole && held.events > 4000 && held.lost == 0,
            "{held:?}: {said}"
        );
    }
}
