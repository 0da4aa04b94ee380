//! A stopped terminal (Ctrl-S) accepts no output: neither a recorded program nor a signal waits for
//! it.

mod support;

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{FlowArg, tcflow};
use profiler_testing::child::{Child, KillOnDrop, wait_for_handler};
use profiler_testing::wait::eventually;
use support::{FRAGSCOPE, command, text};

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
        kill(self.child.pid(), signal).expect("it is there");
    }

    /// The code with which it ends.
    fn ends(&mut self) -> Option<i32> {
        self.child.ended().code()
    }
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
    let saved = folder.path().join("out.json");
    let session = folder.path().join("out.fragsnap");
    let mut target = Command::new("sleep").arg("1000").spawn().expect("sleep");
    let pid = target.id().to_string();
    // Without a budget every interval has a walk.
    let words = [
        "attach",
        "--headless",
        "--no-probes",
        "--budget",
        "unlimited",
    ];
    let every = ["--interval", "100ms"];
    let outputs = ["-o", text(&saved), "-o", text(&session)];
    let mut running = Stopped::start(&[&words[..], &every, &["--pid", &pid], &outputs].concat());
    // From then on SIGTERM ends it well.
    wait_for_handler(running.child.pid().as_raw(), Signal::SIGTERM);
    // Each is a line, and no more than 64 wait for their reader.
    let (mut bytes, mut walks) = (0, 0);
    eventually("many walks", || {
        let now = std::fs::metadata(&session).map_or(0, |file| file.len());
        walks += u32::from(now > bytes);
        bytes = now;
        (walks > 64).then_some(())
    });
    running.signal(Signal::SIGTERM);
    assert_eq!(running.ends(), Some(130));
    assert!(saved.is_file());
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
        .args(["--ctty", FRAGSCOPE])
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

#[test]
fn a_terminal_that_is_closed_is_no_key() {
    let target = Child::python("import sys\nprint('ready', flush=True)\nsys.stdin.read()");
    assert_eq!(target.first_line(), "ready");
    let pid = target.pid().to_string();
    let attach = ["attach", "--no-probes", "--pid", &pid];
    // It is no controlling terminal: no signal comes of it, and none would where it is ignored.
    for (args, ignored) in [
        (&attach[..], ""),
        (&["top"], ""),
        (&attach[..], "HUP"),
        (&["top"], "HUP"),
    ] {
        let terminal = openpty(None, None).expect("a terminal");
        // Else fragscope keeps it open itself.
        let own = FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC);
        fcntl(&terminal.master, own).expect("a descriptor");
        let end = || Stdio::from(terminal.slave.try_clone().expect("a descriptor"));
        let child = Command::new("env")
            .arg(format!("--ignore-signal={ignored}"))
            .arg(FRAGSCOPE)
            .args(args)
            .env("TERM", "xterm")
            .stdin(end())
            .stdout(end())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = KillOnDrop(child.expect("it runs"));
        let mut master = std::fs::File::from(terminal.master);
        let mut shown = [0; 1];
        master.read_exact(&mut shown).expect("it draws");
        drop((master, terminal.slave));
        let mut said = String::new();
        let errors = child.stderr.as_mut().expect("piped");
        errors.read_to_string(&mut said).expect("text");
        assert_eq!(child.ended().code(), Some(130), "{said}");
        assert!(said.contains("ended by the end of its terminal"), "{said}");
    }
}
