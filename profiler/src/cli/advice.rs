//! What to do about an error, by its kind and by the command line that caused it.

mod doctor;
mod files;
mod permission;
#[cfg(test)]
mod tests;

use profiler_lab::allocators;
use profiler_target::{AllocatorProblem, ErrorKind, InputProblem, Limit, ListenProblem, host};

use self::files::{input, on_core, on_output, on_program, raises_limit, word};
use super::args::{Command, session_formats};
use crate::{export, say};

/// The parts of the command line that advice repeats.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Advice {
    /// The subcommand.
    command: &'static str,
    /// The process that it names.
    pid: Option<i32>,
    /// Other flags that it needs.
    flags: String,
    /// Whether it needs probes.
    probes: bool,
    /// How to do without a screen.
    without_screen: &'static str,
    /// How to continue without probes, if possible.
    without_probes: Option<&'static str>,
    /// The file that it reads, and how to make one.
    input: &'static str,
}

impl Advice {
    /// For this command line.
    pub(super) fn of(command: &Command) -> Self {
        let advice = |name, pid| Self {
            command: name,
            pid,
            flags: String::new(),
            probes: false,
            without_screen: without_screen(command),
            without_probes: without_probes(command),
            input: input(command),
        };
        match command {
            Command::Attach(args) => {
                let options = args.options();
                Self {
                    probes: options.probes,
                    ..advice("attach", Some(options.pid))
                }
            }
            Command::Top(_) => advice("top", None),
            Command::Serve(_) => advice("serve", None),
            Command::Snapshot(args) => advice("snapshot", args.source.pid),
            Command::Explain(args) => advice("explain", args.source.pid),
            Command::Diff(args) => advice("diff", args.pid),
            Command::Check(args) => advice("check", args.pid),
            Command::View(_) => advice("view", None),
            Command::Record(args) => Self {
                flags: format!(" -o {}", word(&args.output)),
                probes: true,
                ..advice("record", args.pid)
            },
            Command::Replay(_) => advice("replay", None),
            Command::Export(_) => advice("export", None),
            Command::Report(_) => advice("report", None),
            Command::Doctor(args) => Self {
                flags: if args.repair { " --repair" } else { "" }.into(),
                probes: args.repair,
                ..advice("doctor", args.pid)
            },
            Command::Demo(_) => advice("demo", None),
            Command::Completions { .. } => advice("completions", None),
            Command::Man { .. } => advice("man", None),
        }
    }

    /// What to do about an error of this kind; `None` if its message says everything.
    pub(super) fn on(&self, kind: &ErrorKind) -> Option<String> {
        Some(match kind {
            ErrorKind::NotPermitted { action, denial } => self.permission(*action, denial),
            ErrorKind::ForeignProc => {
                "mount the one of this PID namespace, e.g. by `unshare --pid --fork --mount-proc`".into()
            }
            ErrorKind::NoProc => "sudo mount -t proc proc /proc".into(),
            ErrorKind::NoSysfs => self.or_without_probes("sudo mount -t sysfs sysfs /sys"),
            ErrorKind::NoSuchProcess | ErrorKind::TargetGone => {
                self.pid?;
                format!("name a process that runs: {CANDIDATES}")
            }
            ErrorKind::IsThread { pid } => {
                format!("fragscope {} --pid {pid}{}", self.command, self.flags)
            }
            ErrorKind::UnsupportedTarget => {
                self.pid?;
                format!("name a user process of 64 bits: {CANDIDATES}")
            }
            ErrorKind::MemoryShared => {
                "`--no-stop` reads it while it runs, where who has its memory is to be trusted".into()
            }
            ErrorKind::UnsupportedKernel => "upgrade the kernel to 5.8 or later".into(),
            ErrorKind::TargetNotProbeable => self.without_probes?.into(),
            ErrorKind::HostNotProbeable => {
                self.or_without_probes("`fragscope doctor` names what is missing")
            }
            ErrorKind::ObjectTooLarge => raises_limit(Limit::File),
            ErrorKind::NoObjects => {
                "`fragscope snapshot --objects -o FILE` and `fragscope attach -o FILE` save objects".into()
            }
            ErrorKind::NoSymbols => "build the program with symbols, and it can be probed".into(),
            ErrorKind::BreakpointsLeft { pid } => format!(
                "`fragscope doctor --pid {pid} --repair` removes breakpoints that no running tool holds"
            ),
            ErrorKind::Busy => "end that one first".into(),
            ErrorKind::TooManyFiles => match host::most_open_files() {
                Ok(limit) => format!(
                    "no more than {limit} files may be open at a time (ulimit -n): raise that, \
                     e.g. ulimit -n 1024"
                ),
                Err(_) => "raise the limit of open files: ulimit -n 1024".into(),
            },
            ErrorKind::TooManyProcesses => {
                format!("{}: raise that, or end some", host::limit_of_processes())
            }
            ErrorKind::Output(problem) => on_output(*problem),
            ErrorKind::UnknownEnding => format!("name a file that ends in {}", export::ENDINGS),
            ErrorKind::Core(problem) => on_core(*problem).into(),
            ErrorKind::IsSession => format!(
                "`fragscope view` shows a saved session, and `fragscope export` writes it as {}",
                session_formats()
            ),
            ErrorKind::IsRecording => {
                "`fragscope replay` plays a recording, and `fragscope export \
                --format logalloc` writes it as text"
                    .into()
            }
            ErrorKind::Aggregated => "record with memray without --aggregate".into(),
            ErrorKind::Limit(limit) => raises_limit(*limit),
            ErrorKind::Allocator(problem) => on_allocator(*problem),
            // Its root is not the host's, whose directories belong to nobody there.
            ErrorKind::NoRuntimeDir { .. } if !host::is_real_root_namespace() => {
                "run fragscope outside of this user namespace, where the directories on the way belong to \
                 users that it does not know"
                    .into()
            }
            ErrorKind::NoRuntimeDir { root: true } => {
                "make one of them a directory that only root can write to".into()
            }
            ErrorKind::NoRuntimeDir { root: false } => {
                "set XDG_RUNTIME_DIR or XDG_CACHE_HOME to a directory of your own".into()
            }
            ErrorKind::Listen(problem) => on_listener(*problem),
            ErrorKind::PushSettings => {
                "mend what is named; docs/serve.md has an example of the file for --push-config".into()
            }
            ErrorKind::NoScreen => self.without_screen.into(),
            ErrorKind::Input(InputProblem::Missing | InputProblem::Folder) => {
                format!("name {}", self.input)
            }
            ErrorKind::Input(InputProblem::Denied) => {
                "name a file that you may read, or run this as its owner or root".into()
            }
            ErrorKind::Program(problem) => on_program(*problem).into(),
            ErrorKind::Interrupted | ErrorKind::Usage | ErrorKind::Other => return None,
        })
    }

    /// Prints what to do about an error of this kind, if there is anything.
    pub(super) fn print(&self, kind: &ErrorKind) {
        if let Some(fix) = self.on(kind) {
            say::line(format_args!("fix: {fix}"));
        }
    }

    fn or_without_probes(&self, fix: &str) -> String {
        match self.without_probes {
            Some(way) => format!("{fix}; or {way}"),
            None => fix.to_owned(),
        }
    }
}

/// How to do without a screen.
fn without_screen(command: &Command) -> &'static str {
    match command {
        Command::View(_) => "use `explain FILE` or `export FILE --format text`",
        Command::Top(_) => "use --once, or --json",
        _ => "use --headless (or --json), or `snapshot` for one report",
    }
}

/// How to continue without probes, if possible.
fn without_probes(command: &Command) -> Option<&'static str> {
    match command {
        // Without --what-if it continues by itself.
        Command::Attach(_) | Command::Demo(_) => Some("leave --what-if out, and use --no-probes"),
        Command::Record(_) => Some(
            "record it from its start by `fragscope record -o FILE -- COMMAND`, which needs no probes",
        ),
        _ => None,
    }
}

/// How to listen.
fn on_listener(problem: ListenProblem) -> String {
    match problem {
        ListenProblem::InUse { port } => format!(
            "name another port with --listen, or end what `ss -ltnp 'sport = :{port}'` shows"
        ),
        ListenProblem::Denied => "name a port above 1023 with --listen, or run this as root".into(),
        ListenProblem::NotHere => {
            "name an address of this host with --listen: `ip address` lists them".into()
        }
        ListenProblem::Remote => {
            "name a file with a certificate and passwords with --web-config, or add \
            --allow-remote if everybody who reaches that address may know which programs run here"
                .into()
        }
        ListenProblem::WebConfig => {
            "mend what is named; docs/serve.md has an example of the file".into()
        }
    }
}

/// How to get an allocator to play under.
fn on_allocator(problem: AllocatorProblem) -> String {
    match problem {
        AllocatorProblem::UnknownName => format!(
            "name one of {}, or the path of a shared object",
            allocators::names()
        ),
        AllocatorProblem::NotFound => {
            "name a path with a slash in it, such as ./libNAME.so for a file in this folder".into()
        }
        AllocatorProblem::NotInstalled { package } => {
            format!("install it: on Debian, apt-get install {package}")
        }
        AllocatorProblem::OnlyRecorded => "--allow-recorded-allocator loads the recording's \
            allocator, if nobody but root and you can have changed its file"
            .into(),
    }
}

/// How to find a target.
const CANDIDATES: &str = "`pgrep -af python` lists candidates";
