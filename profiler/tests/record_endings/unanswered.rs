//! Programs that end when fragscope is gone or suspended.

use std::fs::{self, OpenOptions};
use std::path::Path;

use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::support::record::{Recording, held, record};
use crate::support::text;
use crate::{MIB, checkpoints};

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

/// Frees all that it has as it ends, and then is busy for a while.
const TAKES_APART: &str = "
import sys, time
kept = [b'x' * 8000 for _ in range(8000)]
class Last:
    def __del__(self, kept=kept, clock=time.monotonic, say=sys.stdout):
        del kept[100:]
        say.write('freed\\n')
        say.flush()
        until = clock() + 4
        while clock() < until: pass
last = Last()
time.sleep(0.5)
print('ready', flush=True)
open(sys.argv[1]).read()
";

#[test]
fn what_a_program_has_left_when_it_did_not_wait_is_not_called_final() {
    let folder = tempfile::tempdir().expect("a folder");
    let trace = folder.path().join("trace");
    let gate = folder.path().join("gate");
    mkfifo(&gate, Mode::S_IRWXU).expect("a FIFO");
    let mut command = record(&trace, &["python3", "-S", "-c", TAKES_APART, text(&gate)]);
    let mut recording = Recording::start(&mut command);
    assert_eq!(recording.command_line(), "ready");
    recording.signal(Signal::SIGSTOP);
    drop(OpenOptions::new().write(true).open(&gate).expect("a FIFO"));
    // It waits for half a second in vain.
    assert_eq!(recording.command_line(), "freed");
    recording.signal(Signal::SIGCONT);
    let (code, said) = recording.end();
    assert_eq!(code, 0, "{said}");
    let all = checkpoints(&trace);
    assert!(all.iter().all(|one| !one.figures.is_final), "{all:?}");
    let last = all.last().expect("checkpoints");
    assert!(last.figures.live_bytes < Some(8 * MIB), "{last:?}");
}
