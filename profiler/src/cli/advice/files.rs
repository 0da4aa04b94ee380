//! What to do about files that a command reads, writes or runs.

use std::path::Path;

use profiler_core::text::visible;
use profiler_target::{CoreProblem, Limit, OutputProblem, Packer, ProgramProblem};

use super::super::args::{Command, Export};

/// What a command reads, and how to make one.
pub(super) fn input(command: &Command) -> &'static str {
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
            Ok(Export::Session(_)) | Err(_) => SESSION,
            Ok(Export::Recording(_)) => RECORDING,
        },
        _ => "a file that is there",
    }
}

/// How to get a program started.
pub(super) fn on_program(problem: ProgramProblem) -> &'static str {
    match problem {
        ProgramProblem::Missing => {
            "name a program that is in a folder of PATH (`command -v NAME` finds it), or its path"
        }
        ProgramProblem::NoInterpreter => {
            "install what runs it: a script's first line names its interpreter, and `file PROGRAM` a \
             binary's loader"
        }
        ProgramProblem::Folder => "name a program: this is a folder",
        ProgramProblem::NotExecutable => {
            "make it executable by `chmod +x PROGRAM`, or name what runs it before it, e.g. `python3 FILE`"
        }
        ProgramProblem::Unsearchable => {
            "name its path (`command -v NAME` finds it), or leave folders that this user may not search \
             out of PATH"
        }
        ProgramProblem::NotAProgram => "name what runs it before it, e.g. `sh FILE`",
    }
}

/// How to get a file written.
pub(super) fn on_output(problem: OutputProblem) -> String {
    let fix = match problem {
        OutputProblem::NoFolder => "create the folder, or name another place",
        OutputProblem::Unfit => "name another place",
        OutputProblem::Link => "name what the link leads to",
        OutputProblem::Descriptor => {
            "name the file itself; what a command prints without -o, the shell can write (> FILE)"
        }
        OutputProblem::Foreign => "remove what lies there, or name another place",
        OutputProblem::SharedFolder => {
            "name a folder that you alone can write to, or one that is not there yet"
        }
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

/// The flag that sets a limit.
pub(super) fn raises_limit(limit: Limit) -> String {
    let flag = match limit {
        Limit::Size => "--max-size",
        Limit::Memory => "--max-memory",
        Limit::File => "--file-limit",
    };
    format!("{flag} raises the limit")
}

/// How to get a core file read.
pub(super) fn on_core(problem: CoreProblem) -> &'static str {
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

/// A file as a word of a command line; a name that would need quotes is replaced by a description.
pub(super) fn word(file: &Path) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
    match file.to_str() {
        Some(name) if name.chars().all(plain) => name.to_owned(),
        _ => "FILE".to_owned(),
    }
}
