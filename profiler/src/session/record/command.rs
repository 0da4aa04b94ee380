//! `record -- COMMAND`: a program started under the preloaded recorder.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use profiler_common::ring::RING_VARIABLE;
use profiler_trace::trace::Description;
use tokio::signal::unix::{SignalKind, signal};

use super::checkpoint::Occasion;
use super::describe::{Recorder, describe};
use super::preloaded::Preloaded;
use super::recording::Recording;
use super::{RecordError, RecordOptions, create, monotonic_ns};
use crate::process::{RecordRing, Target};
use crate::say;
use crate::session::Ending;
use crate::session::signals::Signals;

/// The recorder, compiled by the build script.
const RECORDER: &[u8] = include_bytes!(env!("FRAGSCOPE_RECORDER"));

/// A program says who it is once it has run so long: until then it may still execute another one.
const SETTLED: Duration = Duration::from_millis(100);
/// Events taken before signals and the clock are looked at.
const BATCH: usize = 1 << 16;
/// How long the reader sleeps when there is nothing to read.
const NAP: Duration = Duration::from_millis(1);

/// Runs the command under the recorder until it ends, the duration is over or a signal ends it.
///
/// # Errors
/// When the command cannot be started or the file not be written.
pub(super) fn record(options: &RecordOptions, command: &[OsString]) -> Result<Ending, RecordError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(run(options, command))
}

async fn run(options: &RecordOptions, command: &[OsString]) -> Result<Ending, RecordError> {
    let mut signals = Signals::new()?;
    let mut asked = signal(SignalKind::user_defined1())?;
    let file = create(&options.output)?;
    let object = Object::new()?;
    let ring = RecordRing::new()?;
    let began_ns = monotonic_ns()?;
    let started_at = jiff::Timestamp::now();
    let mut child = start(command, &object, &ring)?;
    let began = Instant::now();

    // The ring holds what the program tells meanwhile.
    let mut status = None;
    while status.is_none() && began.elapsed() < SETTLED {
        tokio::time::sleep(NAP).await;
        status = child.try_wait()?;
    }
    let pid = child.id() as i32;
    let recorder = Recorder::Preload {
        listed: &object.path,
        mapped: MAPPED_AS,
    };
    let description = match Target::open(pid) {
        Ok(target) => describe(&target, &[], recorder, started_at),
        Err(_) => of_command(command, started_at),
    };
    let recording = Recording::begin(file, &options.output, &description)?;
    let mut stream = Preloaded::new(ring, recording, began_ns, options.manner);

    let deadline = options.duration.map(|duration| began + duration);
    let mut ending = Ending::Done;
    while status.is_none() {
        let idle = stream.take(BATCH)? == 0;
        stream.look_if_due()?;
        stream.progress();
        tokio::select! {
            biased;
            name = signals.next() => {
                // The terminal sends its signals to the command as well.
                stream.look(Occasion::Last)?;
                if ending != Ending::Done {
                    break;
                }
                ending = Ending::Interrupted(name);
                if name != "SIGINT" {
                    end(&child);
                }
            }
            _ = asked.recv() => stream.look(Occasion::Asked)?,
            () = tokio::time::sleep(if idle { NAP } else { Duration::ZERO }) => {}
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            stream.look(Occasion::Last)?;
            end(&child);
            break;
        }
        if stream.is_given_up() {
            let what = "the command did not hear of fragscope for 2 s and goes on unrecorded";
            say::line(what);
            break;
        }
        status = child.try_wait()?;
    }
    stream.drain()?;
    if stream.heard_nothing() {
        let what = "the command told of no allocation: it is linked statically, drops LD_PRELOAD, or \
                    is of another user; record it while it runs by `fragscope record --pid`";
        say::line(what);
    }
    stream.finish()?;
    if let Some(status) = status {
        tell(status);
    }
    Ok(ending)
}

/// The recorder's file, in memory, under a name that the command can preload.
struct Object {
    _file: File,
    path: String,
}

/// How `/proc/PID/maps` names it.
const MAPPED_AS: &str = "/memfd:fragscope-record";

impl Object {
    fn new() -> io::Result<Self> {
        let name = c"fragscope-record";
        let mut file = File::from(memfd_create(name, MFdFlags::MFD_CLOEXEC)?);
        file.write_all(RECORDER)?;
        let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
        Ok(Self { _file: file, path })
    }
}

/// What can be said of a command that ended before it could be looked at.
fn of_command(command: &[OsString], started_at: jiff::Timestamp) -> Description {
    let words: Vec<_> = command.iter().map(|word| word.to_string_lossy()).collect();
    let named = |name: &str, value: String| (name.to_owned(), value);
    Description(vec![
        named("command", words.join(" ")),
        named("recorder", "preload".to_owned()),
        named("started_at", started_at.to_string()),
    ])
}

fn start(command: &[OsString], object: &Object, ring: &RecordRing) -> Result<Child, RecordError> {
    let (program, arguments) = command
        .split_first()
        .ok_or_else(|| io::Error::other("name a command to record"))?;
    let mut preload = OsString::from(&object.path);
    if let Some(others) = std::env::var_os("LD_PRELOAD").filter(|others| !others.is_empty()) {
        preload.push(":");
        preload.push(others);
    }
    Command::new(program)
        .args(arguments)
        .env("LD_PRELOAD", preload)
        .env(RING_VARIABLE, ring.path())
        .spawn()
        .map_err(|why| RecordError::Start {
            program: program.to_string_lossy().into_owned(),
            why,
        })
}

/// Asks the command to end, as whoever ends a recording would.
fn end(child: &Child) {
    // It may have ended by itself.
    let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM);
}

fn tell(status: ExitStatus) {
    let how = match (status.code(), status.signal()) {
        (Some(0), _) => return,
        (Some(code), _) => format!("ended with exit code {code}"),
        (_, Some(signal)) => format!("was ended by signal {signal}"),
        _ => return,
    };
    say::line(format_args!("the command {how}"));
}
