//! What to do about an error, by its kind and by the command line that met it.

use std::path::Path;

use profiler_core::text::visible;
use profiler_lab::allocators;
use profiler_target::host::{self, Capability};
use profiler_target::{
    Action, AllocatorProblem, Caller, CoreProblem, Denial, ErrorKind, InputProblem, Limit,
    OutputProblem, Packer, ProgramProblem,
};

use super::args::{Command, Export};
use crate::{export, say};

/// The command line, as far as advice repeats it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Advice {
    /// The subcommand.
    command: &'static str,
    /// The process that it names.
    pid: Option<i32>,
    /// What else it cannot do without.
    flags: String,
    /// Whether it wants probes.
    probes: bool,
    /// How to do without a screen.
    without_screen: &'static str,
    /// How to go on without probes, where that can be.
    without_probes: Option<&'static str>,
    /// The file that it reads, and how one comes to be.
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

    /// What to do about an error of this kind; `None` when its sentence is all there is to say.
    pub(super) fn on(&self, kind: &ErrorKind) -> Option<String> {
        Some(match kind {
            ErrorKind::NotPermitted { action, denial } => self.permission(*action, denial),
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
                format!("name a user process of 64-bit x86 (x86-64): {CANDIDATES}")
            }
            ErrorKind::UnsupportedKernel => "upgrade the kernel to 5.8 or later".into(),
            ErrorKind::TargetNotProbeable => self.without_probes?.into(),
            ErrorKind::HostNotProbeable => {
                self.or_without_probes("`fragscope doctor` names what is missing")
            }
            ErrorKind::NoSymbols => "build the program with symbols, and it can be probed".into(),
            ErrorKind::BreakpointsLeft { pid } => format!(
                "`fragscope doctor --pid {pid} --repair` removes breakpoints that nobody holds"
            ),
            ErrorKind::Busy => "end that one first".into(),
            ErrorKind::TooManyFiles => match host::most_open_files() {
                Ok(limit) => format!(
                    "no more than {limit} files may be open at a time (ulimit -n): raise that, \
                     e.g. ulimit -n 1024"
                ),
                Err(_) => "raise the limit of open files: ulimit -n 1024".into(),
            },
            ErrorKind::Output(problem) => on_output(*problem),
            ErrorKind::UnknownEnding => format!("name a file that ends in {}", export::ENDINGS),
            ErrorKind::Core(problem) => on_core(*problem).into(),
            ErrorKind::IsSession => {
                "`fragscope view` shows a saved session, and `fragscope export` \
                writes it as json, csv, hlog or text"
                    .into()
            }
            ErrorKind::IsRecording => {
                "`fragscope replay` plays a recording, and `fragscope export \
                --format logalloc` writes it as text"
                    .into()
            }
            ErrorKind::Aggregated => "record with memray without --aggregate".into(),
            ErrorKind::Limit(limit) => format!("{} raises the limit", flag_of(*limit)),
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

    fn permission(&self, action: Action, denial: &Denial) -> String {
        let sudo = self.sudo();
        let fix = match denial {
            Denial::NotRoot { .. } | Denial::HiddenProc | Denial::NotDumpable => sudo,
            Denial::PtraceScope(1) => format!(
                "{sudo}, or for all of your own processes: sudo sysctl kernel.yama.ptrace_scope=0"
            ),
            Denial::PtraceScope(2) => sudo,
            Denial::PtraceScope(_) => "it cannot be lowered while the system runs: remove \
                kernel.yama.ptrace_scope from /etc/sysctl.d and reboot"
                .into(),
            Denial::UserNamespace => format!(
                "leave the user namespace (of unshare --user, a rootless container, or docker's \
                 userns-remap: docker run --userns=host ...); on the host: {sudo}"
            ),
            Denial::MissingCapability { caller, lacking } => {
                let mut lacking = lacking.clone();
                if self.probes && action == Action::Inspect {
                    lacking.extend(host::lacking(host::TO_PROBE));
                }
                match caller {
                    Caller::Root => add_to_container(&lacking),
                    Caller::WithCapabilities => add_to_file(&lacking),
                    Caller::User(_) => sudo,
                }
            }
            Denial::Refused { .. } => match action {
                Action::Inspect => {
                    "name another process, as a module may protect single ones, or run fragscope on \
                    the host, outside of any container; sudo dmesg | grep -i denied may say more"
                        .into()
                }
                Action::Probe => "allow bpf(2) in the container's seccomp profile: docker run \
                    --security-opt seccomp=unconfined ..., or run fragscope on the host"
                    .into(),
            },
        };
        match action {
            Action::Inspect => fix,
            Action::Probe => self.or_without_probes(&fix),
        }
    }

    /// The same command line as root.
    fn sudo(&self) -> String {
        let pid = self
            .pid
            .map_or_else(String::new, |pid| format!(" --pid {pid}"));
        format!("sudo fragscope {}{pid}{}", self.command, self.flags)
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

/// How to go on without probes, where that can be.
fn without_probes(command: &Command) -> Option<&'static str> {
    match command {
        // Without --what-if it goes on by itself.
        Command::Attach(_) | Command::Demo(_) => Some("leave --what-if out, and use --no-probes"),
        Command::Record(_) => Some(
            "record it from its start by `fragscope record -o FILE -- COMMAND`, which needs no probes",
        ),
        _ => None,
    }
}

/// What a command reads, and how one comes to be.
fn input(command: &Command) -> &'static str {
    const SESSION: &str = "a saved session that is there: `fragscope snapshot --pid PID -o \
                           FILE.fragsnap` saves one";
    const RECORDING: &str =
        "a recording that is there: `fragscope record -o FILE.fragtrace -- COMMAND` makes one";
    const CORE: &str = "a core file that is there: `gcore PID` of gdb writes one";
    match command {
        Command::Snapshot(_) => CORE,
        Command::Explain(args) if args.source.is_core() => CORE,
        Command::Explain(_)
        | Command::Diff(_)
        | Command::Check(_)
        | Command::View(_)
        | Command::Report(_) => SESSION,
        Command::Replay(_) => RECORDING,
        Command::Export(args) => match args.options() {
            Export::Session(_) => SESSION,
            Export::Recording(_) => RECORDING,
        },
        _ => "a file that is there",
    }
}

/// How to get a program started.
fn on_program(problem: ProgramProblem) -> &'static str {
    match problem {
        ProgramProblem::Missing => {
            "name a program that is in a folder of PATH (`command -v NAME` finds it), or its path"
        }
        ProgramProblem::NoInterpreter => {
            "install what runs it: a script's first line names its interpreter, and `file PROGRAM` a \
             binary's loader"
        }
        ProgramProblem::NotExecutable => {
            "make it executable by `chmod +x PROGRAM`, or name what runs it before it, e.g. `python3 FILE`"
        }
        ProgramProblem::NotAProgram => "name what runs it before it, e.g. `sh FILE`",
    }
}

/// How to get a file written.
fn on_output(problem: OutputProblem) -> String {
    let fix = match problem {
        OutputProblem::NoFolder => "create the folder, or name another place",
        OutputProblem::Unfit => "name another place",
        OutputProblem::Link => "name what the link leads to",
        OutputProblem::Descriptor => {
            "name the file itself, or leave -o out and let the shell write what is printed (> FILE)"
        }
        OutputProblem::Foreign => "remove what lies there, or name another place",
        OutputProblem::InUse => "end the other one first, or name another place",
        OutputProblem::NamedTwice => "name it once, or another place",
        OutputProblem::TooLarge => "raise the limit of the size of files, e.g. ulimit -f unlimited",
        OutputProblem::NoSpace => "free some space, or name another place",
        OutputProblem::Denied => "name a place that you may write to",
        OutputProblem::Replaced => "write it again",
        OutputProblem::Temporary => {
            return format!(
                "make room in {}, or name another folder for temporary files by TMPDIR",
                visible(std::env::temp_dir().display())
            );
        }
    };
    fix.to_owned()
}

/// The flag by which a limit is set.
fn flag_of(limit: Limit) -> &'static str {
    match limit {
        Limit::Size => "--max-size",
        Limit::Memory => "--max-memory",
        Limit::File => "--file-limit",
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

/// How to get a core file read.
fn on_core(problem: CoreProblem) -> &'static str {
    match problem {
        CoreProblem::NotACore => {
            "name the file that the kernel, gcore or `coredumpctl dump -o FILE PID` wrote"
        }
        CoreProblem::Packed(packer) => match packer {
            Packer::Zstd => "unpack it with `zstd -d` first",
            Packer::Gzip => "unpack it with gunzip first",
            Packer::Xz => "unpack it with unxz first",
            Packer::Lz4 => "unpack it with `lz4 -d` first",
        },
        CoreProblem::Foreign => "read it with a debugger instead",
        CoreProblem::Damaged => {
            "take another core, with `ulimit -c unlimited`, room on the disk, and for \
             systemd-coredump ProcessSizeMax= and ExternalSizeMax= above the process's size"
        }
        CoreProblem::NoMemory => "take another core after `echo 0x33 > /proc/PID/coredump_filter`",
        CoreProblem::OtherProgram => "use --exe with the file that really ran, or leave it out",
    }
}

/// How to find a target.
const CANDIDATES: &str = "`pgrep -af python` lists candidates";

/// How root gets capabilities: who lacks them is in a container.
fn add_to_container(lacking: &[Capability]) -> String {
    let names: Vec<_> = lacking
        .iter()
        .map(|one| &one.name()["CAP_".len()..])
        .collect();
    let flags: Vec<_> = names
        .iter()
        .map(|name| format!("--cap-add={name}"))
        .collect();
    format!(
        "start the container with {} (Kubernetes: securityContext.capabilities.add: [{}]), or run \
         fragscope on the host",
        flags.join(" "),
        names.join(", ")
    )
}

/// How fragscope's file gets capabilities: those that it has, and these.
fn add_to_file(lacking: &[Capability]) -> String {
    let mut all = host::held();
    all.extend(lacking);
    let names: Vec<_> = all.iter().map(|one| one.name().to_lowercase()).collect();
    let exe = std::env::current_exe().unwrap_or_else(|_| "fragscope".into());
    format!(
        "sudo setcap {}=ep {}",
        names.join(","),
        visible(exe.display())
    )
}

/// A file as a word of a command line; one that would have to be quoted is named by what it is.
fn word(file: &Path) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
    match file.to_str() {
        Some(name) if name.chars().all(plain) => name.to_owned(),
        _ => "FILE".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::args::Line;
    use super::*;
    use crate::export::ExportError;
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
}
