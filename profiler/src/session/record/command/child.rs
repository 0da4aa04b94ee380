//! The command's own process: starting it, asking it to end, and its end.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use profiler_common::ring::{OBJECTS_VARIABLE, RING_VARIABLE};
use profiler_core::allocator::PRELOAD;
use profiler_target::{RecordRing, has_ended, not_started};

use super::IDLE_SLEEP;
use crate::session::record::RecordError;
use crate::session::signals::Signals;

/// How long to wait for a command that was asked to end, to report how it ended.
pub(super) const END_TIMEOUT: Duration = Duration::from_millis(200);

pub(super) fn start(
    command: &[OsString],
    object: &str,
    ring: &RecordRing,
    objects: bool,
) -> Result<Child, RecordError> {
    let (program, arguments) = command
        .split_first()
        .ok_or_else(|| std::io::Error::other("name a command to record"))?;
    let mut preload = OsString::from(object);
    if let Some(others) = std::env::var_os(PRELOAD).filter(|others| !others.is_empty()) {
        preload.push(":");
        preload.push(others);
    }
    let mut child = Command::new(program);
    child
        .args(arguments)
        .env(PRELOAD, preload)
        .env(RING_VARIABLE, ring.place()?)
        .env_remove(OBJECTS_VARIABLE);
    if objects {
        child.env(OBJECTS_VARIABLE, "1");
    }
    child.spawn().map_err(|why| RecordError::Start {
        program: program.to_string_lossy().into_owned(),
        why: not_started(why),
    })
}

/// The program's file, if the command names one: a name without a slash is looked up on the PATH.
pub(super) fn program_file(command: &[OsString]) -> Vec<&Path> {
    let program = command.first().map(Path::new).into_iter();
    let is_path = |program: &&Path| program.as_os_str().as_bytes().contains(&b'/');
    program.filter(is_path).collect()
}

/// How the command has ended, if it has.
pub(super) fn end_of(child: &mut Child) -> io::Result<Option<ExitStatus>> {
    match has_ended(child.id() as i32) {
        true => child.try_wait(),
        false => Ok(None),
    }
}

/// Whether the command ends within a moment, and before a signal comes.
pub(super) async fn ends_soon(child: &mut Child, signals: &mut Signals) -> bool {
    let until = Instant::now() + END_TIMEOUT;
    loop {
        if !matches!(end_of(child), Ok(None)) {
            return true;
        }
        if Instant::now() >= until {
            return false;
        }
        tokio::select! {
            biased;
            _ = signals.next() => return false,
            () = tokio::time::sleep(IDLE_SLEEP) => {}
        }
    }
}

/// Asks the command to end, as a user ending a recording would. It may already be ending.
pub(super) fn ask_to_end(child: &Child) {
    let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM);
}

/// Whether the command received this signal too: one from a terminal key, which goes to all
/// foreground processes. All others are passed on to it, as SIGTERM.
pub(super) fn reached_command(name: &str, signals: &Signals) -> bool {
    name == "SIGINT" && !signals.interrupt_was_sent()
}

/// The exit code that a shell would use.
pub(super) fn exit_code(status: ExitStatus) -> u8 {
    let code = match (status.code(), status.signal()) {
        (Some(code), _) => code,
        (None, signal) => 128 + signal.unwrap_or_default(),
    };
    code as u8
}
