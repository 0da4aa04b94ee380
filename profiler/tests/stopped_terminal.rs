//! A terminal that was stopped (Ctrl-S) takes nothing in: neither a recorded program nor a signal waits
//! for it.

mod support;

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{FlowArg, tcflow};
use nix::unistd::Pid;
use profiler_testing::child::{KillOnDrop, eventually};
use profiler_trace::limits::{Limits, Meter};
use profiler_trace::snapshot::{Reader, Record};
use support::{command, text};

/// Python that allocates for ever, and writes each million of its allocations as a line.
const PROGRAM: &str = "\
import sys
for million in range(10_000):
    for _ in range(100):
        kept = [bytes(600) for _ in range(10_000)]
    with open(sys.argv[1], 'w') as out:
        out.write(str(million + 1))
";

/// fragscope with all streams on a terminal that was stopped.
struct Stopped {
    child: KillOnDrop,
    _terminal: OwnedFd,
}

impl Stopped {
    fn start(words: &[&str]) -> Self {
        let terminal = openpty(None, None).expect("a terminal");
        tcflow(&terminal.slave, FlowArg::TCOOFF).expect("it stops");
        let end = || Stdio::from(terminal.slave.try_clone().expect("a descriptor"));
        let child = command(words)
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .expect("fragscope starts");
        Self {
            child: KillOnDrop(child),
            _terminal: terminal.master,
        }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).expect("it is there");
    }

    /// The code with which it ends.
    fn ends(&mut self) -> Option<i32> {
        eventually("fragscope's end", || self.child.try_wait().expect("ours")).code()
    }
}

/// Walks in a session that is being saved.
fn walks(session: &Path) -> Option<u64> {
    let meter = Meter::new(Limits::new(None, None, 1 << 30), Arc::default());
    let mut reader = Reader::new(File::open(session).ok()?, meter).ok()?;
    let mut walks = 0;
    // Its end may be half written.
    while let Ok(Some(record)) = reader.next_record() {
        walks += u64::from(matches!(record, Record::Walk { .. }));
    }
    Some(walks)
}

#[test]
fn a_recorded_program_goes_on_and_a_signal_ends_it_well() {
    let folder = tempfile::tempdir().expect("a folder");
    let trace = folder.path().join("out.fragtrace");
    let counted = folder.path().join("count");
    let command = ["record", "-o", text(&trace), "--", "python3", "-c", PROGRAM];
    let mut running = Stopped::start(&[&command[..], &[text(&counted)]].concat());
    // The ring has room for a million events, and each allocation is two; progress would be shown
    // several times meanwhile.
    eventually("more allocations than the ring has room for", || {
        let count: u32 = std::fs::read_to_string(&counted).ok()?.parse().ok()?;
        (count >= 10).then_some(())
    });
    running.signal(Signal::SIGTERM);
    assert_eq!(running.ends(), Some(128 + Signal::SIGTERM as i32));
    assert!(std::fs::metadata(&trace).expect("a trace").len() > 1 << 20);
}

#[test]
fn a_session_ends_by_a_signal_and_saves_what_it_saw() {
    let folder = tempfile::tempdir().expect("a folder");
    let (saved, grows) = (
        folder.path().join("out.json"),
        folder.path().join("out.fragsnap"),
    );
    let mut target = Command::new("sleep").arg("1000").spawn().expect("sleep");
    let pid = target.id().to_string();
    let words = ["attach", "--headless", "--no-probes", "--interval", "100ms"];
    // A walk each interval, which is in the file at once.
    let words = [&words[..], &["--budget", "unlimited", "--pid", &pid]].concat();
    let outputs = ["-o", text(&saved), "-o", text(&grows)];
    let mut running = Stopped::start(&[&words[..], &outputs].concat());
    // Many lines more than wait for their reader (16), and than the terminal takes in before.
    eventually("more walks than lines can wait", || {
        (walks(&grows)? >= 30).then_some(())
    });
    running.signal(Signal::SIGTERM);
    assert_eq!(running.ends(), Some(130));
    assert!(saved.is_file());
    assert!(walks(&grows).expect("a session") >= 30);
    target.kill().expect("it is ours");
    target.wait().expect("it is ours");
}

#[test]
fn a_key_of_the_terminal_reaches_the_recorded_command_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let (trace, ready) = (
        folder.path().join("it.fragtrace"),
        folder.path().join("ready"),
    );
    let terminal = openpty(None, None).expect("a terminal");
    let end = || Stdio::from(terminal.slave.try_clone().expect("a descriptor"));
    let script = "trap 'exit 3' INT; trap 'exit 4' TERM; : > \"$0\"; while :; do sleep 0.01; done";
    let child = Command::new("setsid")
        .args(["--ctty", env!("CARGO_BIN_EXE_fragscope")])
        .args(["record", "-o", text(&trace), "--", "sh", "-c", script])
        .arg(&ready)
        .stdin(end())
        .stdout(end())
        .stderr(end())
        .spawn()
        .expect("setsid, of util-linux");
    let mut running = Stopped {
        child: KillOnDrop(child),
        _terminal: terminal.master.try_clone().expect("a descriptor"),
    };
    eventually("the command's beginning", || ready.exists().then_some(()));
    std::fs::File::from(terminal.master)
        .write_all(b"\x03")
        .expect("it takes keys");
    assert_eq!(running.ends(), Some(3));
}
