//! The command line.

mod args;
mod exit;
mod print;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use self::args::{Command, Line, TraceFormat};
use self::exit::Exit;
use crate::session;
use crate::session::record::RecordEnding;

/// Parses the command line, does what it says, and gives the exit code.
pub fn main() -> ExitCode {
    let line = Line::parse();
    match run(&line.command) {
        Ok(code) => code,
        Err(error) => {
            if exit::is_broken_pipe(&*error) {
                return Exit::Done.into();
            }
            // A closed terminal hears nothing; the exit code still tells.
            let _ = writeln!(std::io::stderr(), "fragscope: {error}");
            Exit::of_error(&*error).into()
        }
    }
}

type Failure = Box<dyn std::error::Error>;

fn run(command: &Command) -> Result<ExitCode, Failure> {
    let exit: Exit = match command {
        Command::Attach(args) => session::attach(&args.options())?.into(),
        Command::Demo(args) => session::demo(&args.options())?.into(),
        Command::Snapshot(args) => {
            let look = session::snapshot(&args.options())?;
            print::snapshot(&look.view, args.json)?;
            look.saved?;
            Exit::Done
        }
        Command::Explain(args) => {
            let look = session::snapshot(&args.options())?;
            print::explanation(&look.view)?;
            look.saved?;
            Exit::Done
        }
        Command::Record(args) => match session::record::record(&args.options())? {
            RecordEnding::Command(code) => return Ok(code.into()),
            RecordEnding::Session(ending) => ending.into(),
        },
        Command::Export(args) => {
            let TraceFormat::Logalloc = args.format;
            session::convert::to_logalloc(&args.recording, args.output.as_deref())?;
            Exit::Done
        }
        Command::Replay(args) => {
            let report = session::replay::run(&args.options(), args.output.as_ref())?;
            print::replay(&report, args.json)?;
            if report.interrupted {
                Exit::Interrupted
            } else {
                Exit::Done
            }
        }
        Command::Doctor(args) => {
            let checks = session::doctor::run(args.pid);
            print::doctor(&checks, args.json)?;
            Exit::of_checks(&checks)
        }
    };
    Ok(exit.into())
}
