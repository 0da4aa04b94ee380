//! The process of one player.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{self, Command, Stdio};
use std::sync::OnceLock;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use profiler_common::program::{
    AT_CHECKPOINT, AT_END, AT_FAILURE, AT_START, CONTROL_VARIABLE, CPUS_VARIABLE, PROGRAM_VARIABLE,
};

use super::control::Control;
use super::{PlayError, Program, Setup};

/// The player, compiled by the build script.
const PLAYER: &[u8] = include_bytes!(env!("FRAGSCOPE_PLAYER"));

/// How long to listen before progress is looked at, in ms.
const LISTEN_MS: u8 = 50;

/// A player that runs. It is ended when this is dropped.
#[derive(Debug)]
pub(super) struct Child {
    process: process::Child,
    control: Control,
    /// The allocator that should have been loaded, until that was seen.
    to_be_loaded: Option<std::path::PathBuf>,
    memory: Option<File>,
}

/// What a player tells.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) enum Heard {
    /// Nothing for a while.
    Nothing,
    /// It waits before the first operation.
    Start,
    /// It waits at a checkpoint.
    Checkpoint,
    /// It has played everything, and waits.
    End,
}

impl Child {
    /// Starts a player.
    pub(super) fn start(program: &Program, setup: &Setup) -> Result<Self, PlayError> {
        let control = Control::new(setup)?;
        let mut command = Command::new(player().map_err(PlayError::Start)?);
        command
            .env_clear()
            .envs(setup.env.iter().map(|(name, value)| (name, value)))
            .env(name(PROGRAM_VARIABLE), program.path())
            .env(name(CONTROL_VARIABLE), control.path())
            // The terminal's Ctrl-C is for fragscope.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(cpus) = setup.cpus {
            command.env(name(CPUS_VARIABLE), cpus.to_string());
        }
        if let Some(preload) = &setup.preload {
            command.env("LD_PRELOAD", preload);
        }
        let process = command.spawn().map_err(PlayError::Start)?;
        if let Some(core) = setup.core {
            let mut only = CpuSet::new();
            // On a core that is not there it plays anywhere.
            let _ = only.set(core);
            let _ = sched_setaffinity(Pid::from_raw(process.id() as i32), &only);
        }
        if setup.background {
            crate::process::give_way(process.id());
        }
        let memory = File::open(format!("/proc/{}/statm", process.id())).ok();
        Ok(Self {
            process,
            control,
            to_be_loaded: setup.preload.clone(),
            memory,
        })
    }

    /// Its number.
    pub(super) fn pid(&self) -> i32 {
        self.process.id() as i32
    }

    /// Its control block.
    pub(super) fn control(&self) -> &Control {
        &self.control
    }

    /// Resident bytes of the first process, by the kernel's quick account.
    pub(super) fn resident_bytes(&mut self) -> u64 {
        let Some(memory) = &mut self.memory else {
            return 0;
        };
        let mut text = [0; 128];
        let read = std::os::unix::fs::FileExt::read_at(memory, &mut text, 0).unwrap_or(0);
        let text = String::from_utf8_lossy(&text[..read]);
        let mut words = text.split(' ').map(|word| word.parse::<u64>().unwrap_or(0));
        let resident = words.nth(1).unwrap_or(0);
        // Without what is shared: the program itself and the player's tables.
        resident.saturating_sub(words.next().unwrap_or(0)) * profiler_core::addr::PAGE_SIZE
    }

    /// Listens for a while.
    pub(super) fn listen(&mut self) -> Result<Heard, PlayError> {
        let Some(told) = &mut self.process.stdout else {
            return Err(PlayError::Io(io::ErrorKind::BrokenPipe.into()));
        };
        let mut waiting = [PollFd::new(told.as_fd(), PollFlags::POLLIN)];
        match poll(&mut waiting, PollTimeout::from(LISTEN_MS)) {
            Ok(0) => {
                // Other processes of it may keep the pipe open.
                return match self.process.try_wait()? {
                    Some(status) => Err(self.why_it_ended(status)),
                    None => Ok(Heard::Nothing),
                };
            }
            Err(nix::errno::Errno::EINTR) => return Ok(Heard::Nothing),
            Err(error) => return Err(PlayError::Io(error.into())),
            Ok(_) => {}
        }
        let mut what = [0];
        let read = told.read(&mut what)?;
        if read == 0 {
            let status = self.process.wait()?;
            return Err(self.why_it_ended(status));
        }
        // One that failed may be gone before its mappings can be read.
        if what[0] != AT_FAILURE {
            self.check_loaded()?;
        }
        match what[0] {
            AT_START => Ok(Heard::Start),
            AT_CHECKPOINT => Ok(Heard::Checkpoint),
            AT_END => Ok(Heard::End),
            AT_FAILURE => Err(self.control.failure()?),
            other => Err(PlayError::Player(format!("it told {other}"))),
        }
    }

    /// Lets a player that waits go on.
    pub(super) fn go_on(&mut self) -> io::Result<()> {
        match &mut self.process.stdin {
            Some(answers) => answers.write_all(b"."),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// The loader goes on without what it cannot load, and only says so.
    fn check_loaded(&mut self) -> Result<(), PlayError> {
        let Some(path) = self.to_be_loaded.take() else {
            return Ok(());
        };
        let is_mapped = fs::metadata(&path).is_ok_and(|file| {
            use std::os::unix::fs::MetadataExt;
            let maps = fs::read_to_string(format!("/proc/{}/maps", self.pid()));
            let inode = file.ino().to_string();
            maps.is_ok_and(|maps| {
                maps.lines()
                    .any(|line| line.split_ascii_whitespace().nth(4) == Some(&inode))
            })
        });
        if is_mapped {
            return Ok(());
        }
        let why = self.last_words();
        Err(PlayError::NotLoaded { path, why })
    }

    fn why_it_ended(&mut self, status: process::ExitStatus) -> PlayError {
        if let Some(signal) = status.signal() {
            let name = Signal::try_from(signal).map_or("an unknown signal", Signal::as_str);
            let said = self.last_words();
            let said = if said.is_empty() {
                String::new()
            } else {
                format!(": {said}")
            };
            return PlayError::Crashed(format!("{name}{said}"));
        }
        if let Ok(told) = self.control.failure()
            && !matches!(told, PlayError::Player(_))
        {
            return told;
        }
        let said = self.last_words();
        PlayError::Player(format!("it ended by itself ({status}) {said}"))
    }

    /// The last line that it wrote on stderr, of those there are.
    fn last_words(&mut self) -> String {
        let Some(said) = &mut self.process.stderr else {
            return String::new();
        };
        let mut waiting = [PollFd::new(said.as_fd(), PollFlags::POLLIN)];
        let mut text = [0; 4096];
        let read = match poll(&mut waiting, PollTimeout::ZERO) {
            Ok(1) => said.read(&mut text).unwrap_or(0),
            _ => 0,
        };
        let text = String::from_utf8_lossy(&text[..read]);
        text.lines().last().unwrap_or_default().to_owned()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // One that has ended cannot be killed, and needs no waiting for its end.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn name(variable: &std::ffi::CStr) -> String {
    variable.to_string_lossy().into_owned()
}

/// The path of the player, in memory. It is opened for reading only: a file that is open for
/// writing is not executed.
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
    Ok(format!("/proc/{}/fd/{fd}", process::id()))
}
