//! The command that executes a player.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{self, Command, Stdio};
use std::sync::{Arc, OnceLock};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::Pid;
use profiler_common::program::{CONTROL_VARIABLE, CPUS_VARIABLE, PROGRAM_VARIABLE};
use profiler_core::allocator::PRELOAD;

use super::confine::{LOADER, PlayerGrants};
use super::control::Control;
use super::guard::PlayGuard;
use super::players::players;
use super::preload::Preload;
use super::{PlayError, ReplayProgram, Setup, cores};

/// The player, compiled by the build script.
const PLAYER: &[u8] = include_bytes!(env!("FRAGSCOPE_PLAYER"));

/// How a player is executed, and the limits that apply to it.
pub(super) struct PlayerCommand {
    pub(super) command: Command,
    pub(super) grants: PlayerGrants,
}

pub(super) fn command(
    program: &ReplayProgram,
    setup: &Setup,
    control: &Control,
    preload: Option<&mut Preload>,
) -> Result<PlayerCommand, PlayError> {
    let (for_program, for_control) = (program.for_player()?, control.for_player()?);
    let mut command = Command::new(player().map_err(PlayError::Start)?);
    command
        // The name that `ps` shows.
        .arg0("fragscope-player")
        .env_clear()
        .envs(setup.env.iter().map(|(name, value)| (name, value)))
        .env(name(PROGRAM_VARIABLE), for_program.as_raw_fd().to_string())
        .env(name(CONTROL_VARIABLE), for_control.as_raw_fd().to_string())
        // The terminal's Ctrl-C is for fragscope; and all of its processes end together.
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // It may run on only one of them, but allocators create arenas by their number.
    let cpus = setup.cpus.unwrap_or_else(|| cores() as u32);
    command.env(name(CPUS_VARIABLE), cpus.to_string());
    let mut kept = vec![for_program, for_control];
    if let Some(preload) = preload {
        command.env(PRELOAD, preload.variable());
        kept.extend(preload.take_file());
    }
    let core = setup.core;
    let grants = PlayerGrants { kept, core };
    Ok(PlayerCommand { command, grants })
}

/// Executes a player, and adds it to the list of running ones.
pub(super) fn spawn(command: &mut Command) -> Result<(process::Child, Arc<PlayGuard>), PlayError> {
    // Held until the player is in the list: none is started once all were ended.
    let mut players = players();
    if players.are_over {
        return Err(PlayError::Cancelled);
    }
    players.adopt().map_err(PlayError::Start)?;
    let guard = PlayGuard::shared().map_err(PlayError::Start)?;
    let started = command.spawn();
    let process = started.map_err(|error| match error.kind() {
        // The file is in memory, so its interpreter is missing.
        io::ErrorKind::NotFound if !Path::new(LOADER).exists() => PlayError::NoLoader(LOADER),
        _ => PlayError::Start(error),
    })?;
    players.all.push(Pid::from_raw(process.id() as i32));
    Ok((process, guard))
}

fn name(variable: &std::ffi::CStr) -> String {
    variable.to_string_lossy().into_owned()
}

/// The path of the player, in memory. It is opened for reading only: a file that is open for
/// writing cannot be executed.
fn player() -> io::Result<String> {
    static FILE: OnceLock<File> = OnceLock::new();
    if FILE.get().is_none() {
        let flags = MFdFlags::MFD_CLOEXEC;
        let mut written = File::from(memfd_create(c"fragscope-player", flags)?);
        written.write_all(PLAYER)?;
        let read = File::open(format!("/proc/self/fd/{}", written.as_raw_fd()))?;
        drop(written);
        // Another thread may have been quicker.
        let _ = FILE.set(read);
    }
    let fd = FILE.get().map_or(-1, AsRawFd::as_raw_fd);
    // The new process has the descriptor until it executes the file.
    Ok(format!("/proc/self/fd/{fd}"))
}
