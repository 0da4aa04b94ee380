//! The command line.

mod advice;
mod args;
mod exit;
mod failure;
mod print;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use clap::error::ContextValue;
use profiler_core::text::visible;
use profiler_core::units::bytes;
use profiler_lab::report::Report;
use signal_hook::consts::SIGXFSZ;

use self::advice::Advice;
use self::args::{Command, Line, TraceFormat};
use self::exit::Exit;
use self::failure::{Failure, check_host};
use crate::say;
use crate::session::convert::Converted;
use crate::session::record::RecordEnding;
use crate::session::{self, SessionError};

/// Parses the command line, does what it says, and gives the exit code.
pub fn main() -> ExitCode {
    let line = match Line::try_parse() {
        Ok(line) => line,
        // Help and the version are our own text, and are shown as clap does.
        Err(shown) if !shown.use_stderr() => shown.exit(),
        Err(wrong) => {
            say::line(usage(wrong));
            return Exit::Usage.into();
        }
    };
    profiler_target::set_file_limit(line.file_limit);
    // A file that grows beyond a limit of the shell's (ulimit -f) is an error like a full disk: without a
    // handler the signal would end the process without a word. Commands that are started do not
    // inherit handlers.
    if let Err(why) = signal_hook::flag::register(SIGXFSZ, Arc::default()) {
        say::line(format_args!("fragscope: cannot handle SIGXFSZ: {why}"));
    }
    let code = run_and_report(&line.command);
    // A session that a signal ended leaves them to us.
    profiler_lab::play::end_players(FOR_PLAYERS);
    profiler_target::end_guards(FOR_GUARDS);
    code
}

/// How long players are waited for at the end: they were killed, and need milliseconds.
const FOR_PLAYERS: Duration = Duration::from_millis(150);
/// How long guards are waited for at the end. Removing probes takes some tens of milliseconds, and
/// several hundred on a busy host; a guard that outlives fragscope is a zombie where nobody reaps.
const FOR_GUARDS: Duration = Duration::from_secs(2);

fn run_and_report(command: &Command) -> ExitCode {
    let advice = Advice::of(command);
    match check_host().and_then(|()| run(command, &advice)) {
        Ok(code) => code,
        Err(failure) if failure.is_broken_pipe() => Exit::Done.into(),
        Err(failure) => {
            let kind = failure.kind();
            // A closed terminal shows nothing; the exit code is there all the same.
            say::line(format_args!("fragscope: {failure}"));
            if let Some(fix) = advice.on(&kind) {
                say::line(format_args!("fix: {fix}"));
            }
            Exit::of_error(&kind).into()
        }
    }
}

/// What is wrong with the words of a command line. They are repeated, and some may be names of files
/// that somebody else chose.
fn usage(mut wrong: clap::Error) -> String {
    let given: Vec<_> = wrong
        .context()
        .filter_map(|(kind, value)| {
            let clean = match value {
                ContextValue::String(word) => ContextValue::String(visible(word).to_string()),
                ContextValue::Strings(words) => ContextValue::Strings(
                    words.iter().map(|word| visible(word).to_string()).collect(),
                ),
                _ => return None,
            };
            Some((kind, clean))
        })
        .collect();
    for (kind, clean) in given {
        wrong.insert(kind, clean);
    }
    wrong.render().to_string().trim_end().to_owned()
}

/// Says that a file was not read to its end, and why.
fn not_whole(what: &str, why: &str) -> Exit {
    // The exit code says it, too.
    say::line(format_args!(
        "fragscope: the {what} is not whole: {}",
        visible(why)
    ));
    Exit::NotWhole
}

/// Whether any candidate could not be played; each is named with the reason.
fn failed_to_play(report: &Report) -> bool {
    let mut any = false;
    for row in &report.candidates {
        if let Some(why) = &row.failure {
            any = true;
            let (name, why) = (visible(&row.name), visible(why));
            say::line(format_args!("fragscope: {name} was not played: {why}"));
        }
    }
    any
}

/// How a look at a core file ended of which so much is missing.
fn whole_core(missing_bytes: u64) -> Exit {
    match missing_bytes {
        0 => Exit::Done,
        missing => not_whole(
            "core file",
            &format!("{} are missing at its end", bytes(missing)),
        ),
    }
}

fn run(command: &Command, advice: &Advice) -> Result<ExitCode, Failure> {
    let exit: Exit = match command {
        Command::Attach(args) => session::attach(&args.options())?.into(),
        Command::Demo(args) => session::demo(&args.options())?.into(),
        Command::Snapshot(args) => {
            let look = session::snapshot(&args.options())?;
            print::snapshot(&look.view, args.json)?;
            look.saved.map_err(SessionError::from)?;
            whole_core(look.missing_bytes)
        }
        Command::Explain(args) => {
            let look = session::snapshot(&args.options())?;
            print::explanation(&look.view)?;
            look.saved.map_err(SessionError::from)?;
            whole_core(look.missing_bytes)
        }
        Command::Record(args) => match session::record::record(&args.options())? {
            RecordEnding::Command(code) => return Ok(code.into()),
            RecordEnding::Session(ending) => ending.into(),
        },
        Command::Export(args) => {
            let TraceFormat::Logalloc = args.format;
            match session::convert::to_logalloc(&args.options())? {
                Converted::Whole => Exit::Done,
                Converted::Part(why) => not_whole("recording", &why),
                Converted::Interrupted => Exit::Interrupted,
            }
        }
        Command::Replay(args) => {
            let report = session::replay::run(&args.options(), args.output.as_ref())?;
            print::replay(&report, args.json)?;
            match &report.trace.trouble {
                _ if report.interrupted => Exit::Interrupted,
                _ if args.chooses() && failed_to_play(&report) => Exit::Error,
                Some(why) => not_whole("recording", why),
                None => Exit::Done,
            }
        }
        Command::Doctor(args) => {
            let checks = match args.pid.filter(|_| args.repair) {
                Some(pid) => session::doctor::repair(pid)?,
                None => session::doctor::run(args.pid),
            };
            print::doctor(&checks, advice, args.json)?;
            Exit::of_checks(&checks)
        }
    };
    Ok(exit.into())
}
