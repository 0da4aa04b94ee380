//! fragscope, started in one of its modes.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{FlowArg, tcflow};
use nix::unistd::Pid;

use super::cgroup::Cgroup;
use super::processes;
use super::stage::{Expected, Stage};
use super::worker::{self, SMALL};

/// The modes in which fragscope runs.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) enum Mode {
    /// `attach --headless`, in windows of the default budget.
    Headless,
    /// `attach --headless --budget unlimited`: the probes stay.
    Unlimited,
    /// `attach` on a terminal.
    Screen,
    /// `attach --what-if`: the probes stay, and a player runs.
    WhatIf,
    /// `record --pid`.
    RecordProcess,
    /// `record -- COMMAND`.
    RecordCommand,
    /// `replay`.
    Replay,
    /// `snapshot`.
    Snapshot,
    /// `snapshot --objects`.
    Objects,
    /// `snapshot --core`.
    Core,
    /// `doctor --repair`.
    Repair,
    /// `view`, on a terminal.
    View,
    /// `export`.
    Export,
    /// `top`, on a terminal.
    Top,
    /// `serve`.
    Serve,
    /// `attach --headless --black-box`.
    BlackBox,
    /// `attach --tree`, on a terminal.
    AttachTree,
    /// `attach --headless --native`, with probes that stay.
    Native,
    /// `attach --headless --growth-sites`.
    GrowthSites,
    /// `explain --pid`.
    Explain,
    /// `explain --tree`.
    ExplainTree,
    /// `check --pid`.
    Check,
    /// `diff FILE --pid`.
    Diff,
}

/// All of them.
pub(super) const MODES: [Mode; 23] = [
    Mode::Headless,
    Mode::Unlimited,
    Mode::Screen,
    Mode::WhatIf,
    Mode::RecordProcess,
    Mode::RecordCommand,
    Mode::Replay,
    Mode::Snapshot,
    Mode::Objects,
    Mode::Core,
    Mode::Repair,
    Mode::View,
    Mode::Export,
    Mode::Top,
    Mode::Serve,
    Mode::BlackBox,
    Mode::AttachTree,
    Mode::Native,
    Mode::GrowthSites,
    Mode::Explain,
    Mode::ExplainTree,
    Mode::Check,
    Mode::Diff,
];

impl Mode {
    /// Whether it puts breakpoints into the worker.
    pub(super) fn probes(self) -> bool {
        matches!(
            self,
            Self::Headless
                | Self::Unlimited
                | Self::Screen
                | Self::WhatIf
                | Self::RecordProcess
                | Self::BlackBox
                | Self::Native
                | Self::GrowthSites
        )
    }

    /// Whether its breakpoints stay until it ends.
    pub(super) fn keeps_probes(self) -> bool {
        self.probes() && !matches!(self, Self::Headless | Self::BlackBox | Self::GrowthSites)
    }

    /// Whether it looks at an already running worker.
    pub(super) fn attaches(self) -> bool {
        let looks = matches!(self, Self::Repair | Self::AttachTree);
        self.probes() || self.stops_briefly() || looks
    }

    /// Whether all it does is stop a worker and look at it.
    pub(super) fn stops_briefly(self) -> bool {
        matches!(
            self,
            Self::Snapshot
                | Self::Objects
                | Self::Explain
                | Self::ExplainTree
                | Self::Check
                | Self::Diff
        )
    }

    /// Whether it ends by itself.
    pub(super) fn is_brief(self) -> bool {
        let reads_files = matches!(self, Self::Replay | Self::Core | Self::Export);
        self.stops_briefly() || reads_files || self == Self::Repair
    }

    /// Whether it has a screen.
    pub(super) fn has_screen(self) -> bool {
        matches!(
            self,
            Self::Screen | Self::View | Self::Top | Self::AttachTree
        )
    }

    /// The files that it may leave.
    pub(super) fn outputs(self) -> &'static [&'static str] {
        match self {
            Self::RecordProcess | Self::RecordCommand => &["out.fragtrace"],
            Self::Export => &["out.txt"],
            Self::Headless
            | Self::Unlimited
            | Self::Screen
            | Self::WhatIf
            | Self::Replay
            | Self::Snapshot
            | Self::Objects
            | Self::Core
            | Self::Native
            | Self::GrowthSites => &["out.json"],
            Self::Repair
            | Self::View
            | Self::Top
            | Self::Serve
            | Self::BlackBox
            | Self::AttachTree
            | Self::Explain
            | Self::ExplainTree
            | Self::Check
            | Self::Diff => &[],
        }
    }

    /// Whether it may leave this file: an output, or one of the folder that it keeps.
    pub(super) fn leaves(self, name: &Path) -> bool {
        let is_output = |output: &&str| Path::new(output) == name;
        let is_kept = self == Self::BlackBox && name.starts_with(BOX);
        is_kept || self.outputs().iter().any(is_output)
    }

    fn arguments(self, worker: i32, trace: &Path) -> Vec<String> {
        let pid = worker.to_string();
        let (session, core) = (trace.with_extension(SESSION), trace.with_extension(CORE));
        let [trace, session, core] = [trace, &session, &core].map(Path::to_string_lossy);
        let words: &[&str] = match self {
            Self::Headless => &["attach", "--headless", "--interval", "200ms"],
            Self::Unlimited => &[
                "attach",
                "--headless",
                "--interval",
                "100ms",
                "--budget",
                "unlimited",
            ],
            Self::Screen => &["attach", "--interval", "200ms"],
            Self::WhatIf => &[
                "attach",
                "--headless",
                "--interval",
                "200ms",
                "--what-if",
                "glibc",
            ],
            Self::RecordProcess | Self::RecordCommand => &["record"],
            Self::Replay => &["replay", &trace, "--allocator", "glibc", "--runs", "2"],
            Self::Snapshot => &["snapshot", "--json"],
            Self::Objects => &["snapshot", "--json", "--objects"],
            Self::Core => &["snapshot", "--json", "--core", &core],
            Self::Repair => &["doctor", "--repair"],
            Self::View => &["view", &session],
            Self::Export => &["export", &trace, "--format", "logalloc"],
            Self::Top => &["top", "--interval", "200ms"],
            Self::Serve => &["serve", "--interval", "200ms", "--listen", "127.0.0.1:0"],
            Self::BlackBox => &[
                "attach",
                "--headless",
                "--interval",
                "200ms",
                "--black-box",
                BOX,
            ],
            Self::AttachTree => &["attach", "--tree", "--interval", "200ms"],
            Self::Native => &[
                "attach",
                "--headless",
                "--interval",
                "200ms",
                "--budget",
                "unlimited",
                "--native",
            ],
            Self::GrowthSites => &[
                "attach",
                "--headless",
                "--interval",
                "200ms",
                "--growth-sites",
            ],
            Self::Explain => &["explain", "--growth", "1s"],
            Self::ExplainTree => &["explain", "--tree"],
            Self::Check => &["check", "--max-growth", "900GiB/h", "--over", "1s"],
            Self::Diff => &["diff", &session],
        };
        let mut words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        if let Some(&output) = self.outputs().first() {
            words.extend(["-o".into(), output.into()]);
        }
        if self.attaches() {
            words.extend(["--pid".into(), pid]);
        }
        words
    }
}

/// The ending of the session to view.
pub(super) const SESSION: &str = "fragsnap";
/// The ending of the core to look at.
pub(super) const CORE: &str = "core";

/// The folder of a black box.
const BOX: &str = "box";

/// How a mode is started.
pub(super) struct Setting<'a> {
    /// The worker to attach to.
    pub(super) worker: i32,
    /// The trace to replay and to export; beside it are a saved session and a core, with
    /// [`SESSION`] and [`CORE`] as endings instead.
    pub(super) trace: &'a Path,
    /// A group to be in.
    pub(super) cgroup: Option<&'a Cgroup>,
    /// Where its output goes, if that is not its screen.
    pub(super) streams: Streams,
}

impl<'a> Setting<'a> {
    /// In no separate group, with files for the output.
    pub(super) fn of(worker: i32, trace: &'a Path) -> Self {
        Self {
            worker,
            trace,
            cgroup: None,
            streams: Streams::Files,
        }
    }
}

/// Where stdout and stderr go.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) enum Streams {
    /// Both into files.
    Files,
    /// Stdout into a pipe that is not read.
    Pipe,
    /// All three lead to a terminal that was stopped (Ctrl-S) and takes nothing in.
    StoppedTerminal,
}

/// A running fragscope. When this is dropped, it is killed and its directory removed.
pub(super) struct Running {
    pub(super) mode: Mode,
    pub(super) pid: i32,
    /// Its working directory: its outputs, and nothing else.
    pub(super) folder: PathBuf,
    /// The counters of the worker that it records.
    pub(super) counters: Option<PathBuf>,
    child: Child,
    printed: PathBuf,
    errors: PathBuf,
    terminal: Option<Terminal>,
    pipe: Option<ChildStdout>,
    streams: Streams,
    expected: Expected,
}

/// The command that begins a session, in the group if one is given.
fn in_a_session(cgroup: Option<&Cgroup>) -> Command {
    let Some(cgroup) = cgroup else {
        return Command::new("setsid");
    };
    let mut shell = Command::new("sh");
    shell.args(["-c", "echo 0 > \"$0\" && exec setsid \"$@\""]);
    shell.arg(cgroup.entrance());
    shell
}

/// Connects the streams. With a terminal, returns our end of it.
fn connect(
    command: &mut Command,
    mode: Mode,
    streams: Streams,
    printed: &Path,
) -> Result<Option<Terminal>> {
    match streams {
        Streams::StoppedTerminal => {
            let (terminal, end) = Terminal::open()?;
            tcflow(&end, FlowArg::TCOOFF).context("a terminal that stops")?;
            let end = || end.try_clone();
            command.stdin(end()?).stdout(end()?).stderr(end()?);
            return Ok(Some(terminal));
        }
        _ if mode.has_screen() => {
            let (terminal, end) = Terminal::open()?;
            command.stdin(end.try_clone()?).stdout(end);
            return Ok(Some(terminal));
        }
        Streams::Pipe => command.stdout(Stdio::piped()),
        Streams::Files => command.stdout(File::create(printed)?),
    };
    Ok(None)
}

impl Running {
    /// Starts it in a separate session.
    pub(super) fn start(stage: &Stage, mode: Mode, setting: &Setting<'_>) -> Result<Self> {
        let folder = stage.fresh_folder("outputs")?;
        let (printed, errors) = (stage.fresh("stdout"), stage.fresh("stderr"));
        let mut command = in_a_session(setting.cgroup);
        if mode.has_screen() {
            command.arg("--ctty");
        }
        command.arg(&stage.fragscope);
        command.args(mode.arguments(setting.worker, setting.trace));
        let counters = (mode == Mode::RecordCommand).then(|| stage.fresh("counters"));
        if let Some(counters) = &counters {
            command.arg("--");
            command.args(worker::command_line(stage, SMALL, counters)?);
        }
        command
            .current_dir(&folder)
            .env("TERM", "xterm-256color")
            .env("TMPDIR", "/tmp")
            .env_remove("XDG_RUNTIME_DIR")
            .stdin(Stdio::null())
            .stderr(File::create(&errors)?);
        let terminal = connect(&mut command, mode, setting.streams, &printed)?;
        let mut child = command.spawn().context("setsid, of util-linux")?;
        // Our copies of the terminal's other end go with the command.
        drop(command);
        let pid = child.id() as i32;
        stage.expected.borrow_mut().insert(pid);
        Ok(Self {
            mode,
            pid,
            folder,
            counters,
            pipe: child.stdout.take(),
            child,
            printed,
            errors,
            terminal,
            streams: setting.streams,
            expected: stage.expected.clone(),
        })
    }

    /// Sends it a signal, unless it has ended.
    pub(super) fn signal(&mut self, signal: Signal) {
        if self.ended().is_none() {
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }

    /// How it ended, if it has.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.try_wait().ok().flatten();
        if status.is_some() {
            self.expected.borrow_mut().remove(&self.pid);
        }
        status
    }

    /// How it ends, if it does so within `limit`.
    pub(super) fn wait(&mut self, stage: &Stage, limit: Duration) -> Result<Option<ExitStatus>> {
        stage.wait_for(limit, Duration::from_millis(1), || Ok(self.ended()))
    }

    /// Whether it handles this signal itself by now.
    pub(super) fn catches(&self, signal: Signal) -> bool {
        processes::catches(self.pid, signal as i32)
    }

    /// Its processes that `pkill fragscope` would find.
    pub(super) fn by_name(&self, stage: &Stage) -> Vec<i32> {
        let mut found = processes::all();
        found.retain(|process| {
            process.name.contains("fragscope")
                && (process.pid == self.pid || stage.runs_fragscope(process.pid))
        });
        found.iter().map(|process| process.pid).collect()
    }

    /// All processes of its group and of its session.
    pub(super) fn group_and_session(&self) -> Vec<i32> {
        let mut found = processes::all();
        found.retain(|process| process.group == self.pid || process.session == self.pid);
        found.iter().map(|process| process.pid).collect()
    }

    /// Whether its stderr can be read.
    pub(super) fn is_heard(&self) -> bool {
        self.streams != Streams::StoppedTerminal
    }

    /// Closes its terminal, or the pipe of its output.
    pub(super) fn close(&mut self) {
        self.terminal = None;
        self.pipe = None;
    }

    /// Its output so far, if that goes into a file.
    pub(super) fn printed(&self) -> String {
        let bytes = fs::read(&self.printed).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Its stderr so far.
    pub(super) fn errors(&self) -> String {
        let bytes = fs::read(&self.errors).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.expected.borrow_mut().remove(&self.pid);
        let _ = fs::remove_dir_all(&self.folder);
        let _ = fs::remove_file(&self.printed);
        let _ = fs::remove_file(&self.errors);
    }
}

/// A terminal whose screen nobody looks at: the output is read and dropped. It closes when this is
/// dropped.
struct Terminal {
    over: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl Terminal {
    /// A terminal, and its end for the program.
    fn open() -> Result<(Self, File)> {
        let size = Winsize {
            ws_row: 40,
            ws_col: 120,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pair = openpty(&size, None).context("a pseudo-terminal")?;
        let over = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&over);
        let mut screen = File::from(pair.master);
        // Children of other rounds must not keep it open.
        nix::fcntl::fcntl(
            &screen,
            nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC),
        )?;
        nix::fcntl::fcntl(
            &pair.slave,
            nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC),
        )?;
        let reader = thread::spawn(move || {
            let mut drawn = [0; 1 << 16];
            while !is_over.load(Ordering::SeqCst) {
                let mut ready = [PollFd::new(screen.as_fd(), PollFlags::POLLIN)];
                let readable = poll(&mut ready, PollTimeout::from(5u8));
                // EIO: nobody has the other end open.
                if readable == Ok(1) && !matches!(screen.read(&mut drawn), Ok(1..)) {
                    return;
                }
            }
        });
        let terminal = Self {
            over,
            reader: Some(reader),
        };
        Ok((terminal, File::from(pair.slave)))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        // The descriptor closes with the thread.
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}
