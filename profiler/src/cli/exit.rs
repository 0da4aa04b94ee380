//! Exit codes, the same for every command.

use std::process::ExitCode;

use profiler_target::{CoreProblem, ErrorKind, ListenProblem, ProgramProblem};

use crate::session::Ending;
use crate::session::doctor::{Check, Fix, Grade};

/// How the command ended.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[repr(u8)]
pub(super) enum Exit {
    /// Done as asked.
    Done = 0,
    /// Something failed.
    Error = 1,
    /// Wrong usage, by what only the command itself can determine; clap ends with the same code.
    Usage = 2,
    /// A threshold was exceeded.
    Exceeded = 3,
    /// Not permitted; the message names the fix.
    NotPermitted = 4,
    /// The target is gone, or of a kind that is not supported.
    TargetGone = 5,
    /// Done, but a file that was read was incomplete.
    Incomplete = 6,
    /// The command to be recorded cannot be started.
    NotStarted = 126,
    /// The command to be recorded was not found.
    NotFound = 127,
    /// Interrupted; what was requested was saved.
    Interrupted = 130,
}

impl Exit {
    /// All of them, by their codes.
    const ALL: [Self; 10] = [
        Self::Done,
        Self::Error,
        Self::Usage,
        Self::Exceeded,
        Self::NotPermitted,
        Self::TargetGone,
        Self::Incomplete,
        Self::NotStarted,
        Self::NotFound,
        Self::Interrupted,
    ];

    /// Its meaning for a command, for people.
    const fn meaning(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Error => "an error; the message says what to do",
            Self::Usage => "wrong usage",
            Self::Exceeded => "a threshold of `check` was exceeded",
            Self::NotPermitted => "not permitted; the message names what is lacking and the fix",
            Self::TargetGone => {
                "the target is gone (its last sample was saved), or is not supported"
            }
            Self::Incomplete => {
                "done, but a file that was read was incomplete, or longer than a limit; the message says why"
            }
            Self::NotStarted => "the command to be recorded cannot be started",
            Self::NotFound => "the command to be recorded was not found",
            Self::Interrupted => "interrupted; what was requested was saved",
        }
    }

    /// All with their meanings, as the help ends with them.
    pub(super) fn help() -> String {
        let codes = Self::ALL.map(|exit| (exit as u8).to_string());
        let width = codes.iter().map(String::len).max().unwrap_or_default();
        let lines = codes.iter().zip(Self::ALL);
        let lines = lines.map(|(code, exit)| format!("  {code:<width$}  {}", exit.meaning()));
        let lines: Vec<String> = lines.collect();
        format!("Exit codes:\n{}", lines.join("\n"))
    }

    /// The code for an error that ended a command.
    pub(super) fn of_error(kind: &ErrorKind) -> Self {
        match kind {
            ErrorKind::NotPermitted { .. }
            | ErrorKind::NoProc
            | ErrorKind::ForeignProc
            | ErrorKind::NoSysfs => Self::NotPermitted,
            ErrorKind::NoSuchProcess
            | ErrorKind::TargetGone
            | ErrorKind::UnsupportedTarget
            | ErrorKind::UnsupportedKernel
            | ErrorKind::TargetNotProbeable
            | ErrorKind::ObjectTooLarge
            | ErrorKind::NoSymbols
            | ErrorKind::Core(CoreProblem::Foreign) => Self::TargetGone,
            ErrorKind::Program(ProgramProblem::Missing | ProgramProblem::Unsearchable) => {
                Self::NotFound
            }
            ErrorKind::Program(
                ProgramProblem::NoInterpreter
                | ProgramProblem::Folder
                | ProgramProblem::NotExecutable
                | ProgramProblem::NotAProgram,
            ) => Self::NotStarted,
            ErrorKind::Interrupted => Self::Interrupted,
            ErrorKind::Usage
            | ErrorKind::UnknownEnding
            | ErrorKind::Listen(ListenProblem::Remote) => Self::Usage,
            ErrorKind::IsThread { .. }
            | ErrorKind::MemoryShared
            | ErrorKind::HostNotProbeable
            | ErrorKind::NoObjects
            | ErrorKind::Busy
            | ErrorKind::TooManyFiles
            | ErrorKind::TooManyProcesses
            | ErrorKind::BreakpointsLeft { .. }
            | ErrorKind::Output(_)
            | ErrorKind::Core(_)
            | ErrorKind::IsSession
            | ErrorKind::IsRecording
            | ErrorKind::Aggregated
            | ErrorKind::Limit(_)
            | ErrorKind::Allocator(_)
            | ErrorKind::NoRuntimeDir { .. }
            | ErrorKind::NoScreen
            | ErrorKind::Listen(_)
            | ErrorKind::PushSettings
            | ErrorKind::Input(_)
            | ErrorKind::Other => Self::Error,
        }
    }

    /// The code for the results of `doctor`: an error if anything is missing, or the code of a
    /// vanished target if that is the reason.
    pub(super) fn of_checks(checks: &[Check]) -> Self {
        let mut missing = checks.iter().filter(|check| check.ok == Grade::Missing);
        let is_gone = |check: &Check| {
            let gone = Fix::Of(ErrorKind::NoSuchProcess);
            check.fix == Some(gone) || check.fix == Some(Fix::Of(ErrorKind::TargetGone))
        };
        if missing.clone().any(is_gone) {
            Self::TargetGone
        } else if missing.next().is_some() {
            Self::Error
        } else {
            Self::Done
        }
    }
}

impl From<Ending> for Exit {
    fn from(ending: Ending) -> Self {
        match ending {
            Ending::Done => Self::Done,
            Ending::Interrupted(_) => Self::Interrupted,
            Ending::TargetGone(_) => Self::TargetGone,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_has_every_code_with_its_meaning() {
        let readme = include_str!("../../../README.md");
        let (_, table) = readme.split_once("| code |").expect("the table of codes");
        let rows = table
            .lines()
            .skip(2)
            .take_while(|line| line.starts_with('|'));
        let rows: Vec<&str> = rows.collect();
        let wanted = Exit::ALL.map(|exit| format!("| {} | {} |", exit as u8, exit.meaning()));
        assert_eq!(rows, wanted);
    }
}
