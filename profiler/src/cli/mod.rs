//! The command line.

mod advice;
mod args;
mod exit;
mod failure;
mod pages;
mod print;
mod words;

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use clap::error::ContextValue;
use profiler_core::text::visible;
use profiler_core::units::bytes;
use profiler_core::view::View;
use profiler_lab::report::Report;
use profiler_trace::limits::Incomplete;
use signal_hook::consts::{SIGUSR1, SIGUSR2, SIGXFSZ};

use self::advice::Advice;
use self::args::{CheckArgs, Command, ExplainArgs, Export, ExportArgs, Line, ReplayArgs, TopArgs};
use self::exit::Exit;
use self::failure::{Failure, check_host};
use crate::say::{self, Stream};
use crate::session::convert::Converted;
use crate::session::options::SnapshotOptions;
use crate::session::record::RecordEnding;
use crate::session::top::TreeOptions;
use crate::session::{self, Ending, SessionError};

/// Parses the command line, executes it, and returns the exit code.
pub fn main() -> ExitCode {
    let line = match Line::try_parse_from(words::meant(
        std::env::args_os().collect(),
        say::has_screen(),
    )) {
        Ok(line) => line,
        Err(shown) if !shown.use_stderr() => return help(&shown),
        Err(wrong) => {
            say::line(usage(wrong));
            return Exit::Usage.into();
        }
    };
    // Before there are threads.
    profiler_target::share_arena_where_addresses_are_short();
    profiler_target::set_file_limit(line.file_limit);
    if !line.command.outlives_want_of_memory() {
        profiler_target::host::offer_to_oom_killer();
    }
    // Writing a file beyond a shell limit (ulimit -f) is an error like a full disk: without a
    // handler the signal would silently end the process. `record` takes a checkpoint on SIGUSR1;
    // sent to another command, it must not end the command with the terminal in raw mode. Commands
    // that are started do not inherit handlers.
    for signal in [SIGXFSZ, SIGUSR1, SIGUSR2] {
        if let Err(why) = signal_hook::flag::register(signal, Arc::default()) {
            say::line(format_args!(
                "fragscope: cannot handle signal {signal}: {why}"
            ));
        }
    }
    if line.command.reads_files_alone() {
        // With the file's capabilities they would read files that the caller may not read.
        if let Err(why) = profiler_target::give_up_borrowed_privileges() {
            say::line(format_args!(
                "fragscope: cannot give up the privileges of its file: {why}"
            ));
            return Exit::Error.into();
        }
    }
    // A panic leaves no processes either.
    let ran = catch_unwind(AssertUnwindSafe(|| run_and_report(&line.command)));
    // A session that a signal ended leaves them to us.
    profiler_lab::play::end_players(FOR_PLAYERS);
    for guard in profiler_target::end_forked(FOR_GUARDS) {
        say::line(format_args!(
            "fragscope: process {guard}, which gives back what was done to the target, does not end: \
             somebody suspended or froze it, or the kernel is busy with it. Until it goes on, \
             breakpoints may stay in the target; `fragscope doctor --pid` checks"
        ));
    }
    say::finish();
    ran.unwrap_or_else(|panicked| resume_unwind(panicked))
}

/// Prints the help or the version that was asked for.
fn help(shown: &clap::Error) -> ExitCode {
    let text = shown.render();
    let printed = match say::has_colours() {
        true => say::print_coloured(&text.ansi().to_string()),
        false => say::print(&text.to_string()),
    };
    let code = match unless_closed(printed) {
        Ok(()) => Exit::Done,
        Err(why) => {
            say::line(format_args!("fragscope: {why}"));
            Exit::Error
        }
    };
    say::finish();
    code.into()
}

/// How long to wait for players at the end. They were killed and need milliseconds; half a second
/// was too short on a host that compiled and wrote to its disk, and for players with gigabytes. A
/// player that outlives fragscope is a zombie where nobody reaps.
const FOR_PLAYERS: Duration = Duration::from_millis(1500);
/// How long to wait for guards at the end. Removing probes takes some tens of milliseconds, and
/// several hundred on a busy host. A guard that outlives fragscope is a zombie where nobody reaps.
const FOR_GUARDS: Duration = Duration::from_secs(2);

fn run_and_report(command: &Command) -> ExitCode {
    let advice = Advice::of(command);
    let inputs = command.inputs();
    let ended = match say::stream_into(&inputs) {
        // A message about it would damage the file.
        Some((Stream::Error, _)) => return Exit::Error.into(),
        Some((Stream::Output, file)) => Err(Failure::PrintsIntoInput(file.to_owned())),
        None => check_host().and_then(|()| run(command, &advice)),
    };
    match ended {
        Ok(code) => code,
        Err(failure) if failure.is_broken_pipe() => Exit::Done.into(),
        Err(failure) => {
            // A closed terminal shows nothing, but the exit code is still returned.
            for (what, kind) in failure.parts() {
                say::line(format_args!("fragscope: {what}"));
                advice.print(&kind);
            }
            Exit::of_error(&failure.kind()).into()
        }
    }
}

/// The error message for a wrong command line. It repeats the words, some of which may be file
/// names chosen by others.
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

/// Reports that a file was not read to its end, and why.
fn incomplete_input(what: &str, incomplete: &Incomplete, advice: &Advice) -> Exit {
    // The exit code says it, too.
    say::line(format_args!(
        "fragscope: the {what} is incomplete: {}",
        visible(&incomplete.why)
    ));
    advice.print(&session::kinds::of_incomplete(incomplete));
    Exit::Incomplete
}

/// The result of printing: a reader that went away is not an error, and other messages of the
/// command are still printed.
fn unless_closed(printed: io::Result<()>) -> io::Result<()> {
    match printed {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => printed,
    }
}

/// Whether candidates could not be played: any, if they were `chosen`, else all; each is named with the
/// reason.
fn failed_to_play(report: &Report, chosen: bool, advice: &Advice) -> bool {
    let mut failed = report
        .candidates
        .iter()
        .filter_map(|row| Some((&row.name, row.failure.as_ref()?)));
    let none_played = report.candidates.iter().all(|row| row.measured.is_none());
    if !chosen && !none_played {
        return false;
    }
    let first = failed.next();
    for (name, failure) in first.into_iter().chain(failed) {
        let (name, why) = (visible(name), visible(&failure.why));
        say::line(format_args!("fragscope: {name} was not replayed: {why}"));
        advice.print(&failure.kind);
    }
    none_played || first.is_some()
}

/// The exit code for reading a saved session, with the reason why it could not be read completely.
fn whole_session(trouble: Option<Incomplete>, advice: &Advice) -> Exit {
    match trouble {
        None => Exit::Done,
        Some(incomplete) => incomplete_input("saved session", &incomplete, advice),
    }
}

/// The exit code of a snapshot: a core file may lack memory, and a signal may have interrupted the
/// predictions.
fn whole_snapshot(missing_bytes: u64, interrupted: bool, advice: &Advice) -> Exit {
    match missing_bytes {
        0 if interrupted => {
            say::line("fragscope: interrupted: what was still to be read or predicted is left out");
            Exit::Interrupted
        }
        0 => Exit::Done,
        missing => {
            let why = format!("{} are missing at its end", bytes(missing));
            incomplete_input("core file", &why.into(), advice)
        }
    }
}

fn top(args: &TopArgs) -> Result<Exit, Failure> {
    if !args.once {
        return Ok(session::top::top(&args.options())?.into());
    }
    let view = session::top::once(&args.options())?;
    unless_closed(print::host(&view, &args.options()))?;
    // An empty list does not mean that there are no processes.
    let is_denied = view.rows.is_empty() && view.unreadable > 0;
    Ok(match is_denied {
        true => {
            say::line(format_args!(
                "fragscope: {} processes cannot be read, and no Python process was found among the others: as root, or \
                 with CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH, all are",
                view.unreadable
            ));
            Exit::NotPermitted
        }
        false => Exit::Done,
    })
}

/// Inspects a tree and prints it.
fn tree(options: &TreeOptions, json: bool) -> Result<Exit, Failure> {
    let seen = session::top::tree(options)?;
    unless_closed(print::tree(&seen, json))?;
    Ok(match seen.interrupted {
        true => Exit::Interrupted,
        false => Exit::Done,
    })
}

/// Takes a snapshot and prints the result of `print`.
fn snapshot(
    options: &SnapshotOptions,
    print: impl FnOnce(&View) -> io::Result<()>,
    advice: &Advice,
) -> Result<Exit, Failure> {
    let taken = session::snapshot(options)?;
    unless_closed(print(&taken.view))?;
    // Also if an output fails.
    let exit = whole_snapshot(taken.missing_bytes, taken.interrupted, advice);
    taken.saved.map_err(SessionError::from)?;
    match taken.not_again {
        Some(why) => Err(why.into()),
        None => Ok(exit),
    }
}

fn explain(args: &ExplainArgs, advice: &Advice) -> Result<Exit, Failure> {
    if let Some(options) = args.tree() {
        return tree(&options, false);
    }
    let saved = match args.options() {
        Ok(saved) => saved,
        Err(source) => return snapshot(&source, print::explanation, advice),
    };
    let saved = match args.no_predict {
        true => session::saved::load(&saved)?,
        false => session::saved::load_predicted(&saved)?,
    };
    unless_closed(print::explanation(&saved.view))?;
    Ok(whole_session(saved.trouble, advice))
}

fn check(args: &CheckArgs, advice: &Advice) -> Result<Exit, Failure> {
    let outcome = session::check::check(&args.options())?;
    unless_closed(print::checked(&outcome))?;
    let (mut is_exceeded, mut is_unknown) = (false, false);
    for one in &outcome.checked {
        is_exceeded |= one.is_exceeded();
        is_unknown |= one.value.is_none();
        if let Some(sentence) = one.trouble() {
            say::line(format_args!("fragscope: {sentence}"));
        }
    }
    // Everything is reported, and the most serious problem determines the code.
    let whole = whole_session(outcome.trouble, advice);
    Ok(match () {
        () if is_exceeded => Exit::Exceeded,
        () if is_unknown => Exit::Error,
        () => whole,
    })
}

fn export(args: &ExportArgs, advice: &Advice) -> Result<Exit, Failure> {
    let recording = match args.options()? {
        Export::Session(options) => {
            let trouble = session::saved::export(&options)?;
            return Ok(whole_session(trouble, advice));
        }
        Export::Recording(options) => options,
    };
    Ok(match session::convert::to_logalloc(&recording)? {
        Converted::Whole => Exit::Done,
        Converted::Part(incomplete) => incomplete_input("recording", &incomplete, advice),
        Converted::Interrupted => Exit::Interrupted,
    })
}

fn replay(args: &ReplayArgs, advice: &Advice) -> Result<Exit, Failure> {
    let report = session::replay::run(&args.options(), args.output.as_ref())?;
    unless_closed(print::replay(&report, args.json))?;
    if let Some(kind) = report
        .trace
        .not_loaded
        .as_ref()
        .map(|failure| &failure.kind)
    {
        advice.print(kind);
    }
    if report.interrupted {
        return Ok(Exit::Interrupted);
    }
    // Both are reported, and the more serious one determines the code.
    let has_failed = failed_to_play(&report, args.chooses(), advice);
    let trouble = report.trace.trouble.as_ref();
    let incomplete = trouble.map(|incomplete| incomplete_input("recording", incomplete, advice));
    Ok(match incomplete {
        _ if has_failed => Exit::Error,
        Some(exit) => exit,
        None if report.trace.lacks_events() => Exit::Incomplete,
        None => Exit::Done,
    })
}

fn run(command: &Command, advice: &Advice) -> Result<ExitCode, Failure> {
    let exit: Exit = match command {
        Command::Attach(args) => match args.tree() {
            Some((master, options)) => session::top::watch_tree(&options, master)?.into(),
            None => session::attach(&args.options())?.into(),
        },
        Command::Top(args) => top(args)?,
        Command::Serve(args) => session::serve::serve(&args.options())?.into(),
        Command::Demo(args) => session::demo(&args.options())?.into(),
        Command::Snapshot(args) => match args.tree() {
            Some(options) => tree(&options, args.json)?,
            None => {
                let print = |view: &View| print::snapshot(view, args.json);
                snapshot(&args.options(), print, advice)?
            }
        },
        Command::Explain(args) => explain(args, advice)?,
        Command::Diff(args) => {
            let compared = session::diff::diff(&args.options())?;
            unless_closed(print::difference(&compared, args.json))?;
            whole_session(compared.trouble(), advice)
        }
        Command::Check(args) => check(args, advice)?,
        Command::View(args) => {
            let (ending, trouble) = session::saved::view(&args.options())?;
            match ending {
                Ending::Done => whole_session(trouble, advice),
                interrupted => interrupted.into(),
            }
        }
        Command::Record(args) => match session::record::record(&args.options())? {
            RecordEnding::Command(code) => return Ok(code.into()),
            RecordEnding::Session(ending) => ending.into(),
        },
        Command::Export(args) => export(args, advice)?,
        Command::Report(args) => whole_session(session::saved::export(&args.options())?, advice),
        Command::Replay(args) => replay(args, advice)?,
        Command::Completions { shell } => page(&pages::completions(*shell))?,
        Command::Man { subcommand } => match pages::manual(subcommand.as_deref())? {
            Some(manual) => page(&manual)?,
            None => {
                return Err(Failure::NoSuchCommand(
                    subcommand.clone().unwrap_or_default(),
                ));
            }
        },
        Command::Doctor(args) => {
            let checks = match args.pid.filter(|_| args.repair) {
                Some(pid) => session::doctor::repair(pid)?,
                None => session::doctor::run(args.pid),
            };
            unless_closed(print::doctor(&checks, advice, args.json))?;
            Exit::of_checks(&checks)
        }
    };
    Ok(exit.into())
}

/// Prints a script or a page.
fn page(page: &[u8]) -> Result<Exit, Failure> {
    unless_closed(say::print(&String::from_utf8_lossy(page)))?;
    Ok(Exit::Done)
}
