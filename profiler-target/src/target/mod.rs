//! A live process: held so that a recycled pid is never read, and checked to be running the same
//! program.

mod counts;
mod description;
mod pages;
mod stopping;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};

use super::attributes::file_behind;
use super::maps::Cut;
use super::memory::LiveMemory;
use super::open::{self, OpenError};
use super::proc_dir::{Gone, ProcDir};
use super::process::Files;
use super::residency::PageSource;
use super::runs_on::Sharers;
use super::stop::StopGuards;
use super::tmpfs::Devices;
use profiler_core::addr::RemoteAddr;

pub(super) use self::description::words;
pub use self::pages::Reads;

/// A live process, held by a pidfd and an open `/proc` directory, so that a recycled pid is never
/// read.
#[derive(Debug)]
pub struct Target {
    pub(super) dir: Arc<ProcDir>,
    program: Execution,
    memory: LiveMemory,
    pages: PageSource,
    stop_guards: Arc<StopGuards>,
    sharers: Arc<Sharers>,
    files: Files,
    devices: Devices,
    /// What limits left out of its list of mappings when it was last read.
    maps_cut: Mutex<Cut>,
    /// The load order of this execution, once it is known.
    load_order: OnceLock<Vec<RemoteAddr>>,
}

/// Whether the target is still what it was when it was opened.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum TargetState {
    /// It runs the same program.
    Same,
    /// It has exited; one sentence.
    Exited(String),
    /// It has executed another program (or the same one again): what was known about it is no
    /// longer valid.
    Execed,
}

/// What distinguishes one execution from the next under the same pid.
#[derive(Debug, Default, Eq, PartialEq)]
struct Execution {
    /// Device and inode of the executable.
    exe: Option<(u64, u64)>,
    /// The auxiliary vector, which contains addresses that the kernel randomises for each
    /// execution.
    auxv: Option<Vec<u8>>,
}

impl Execution {
    fn of(dir: &ProcDir) -> Self {
        Self {
            exe: file_behind(&dir.path("exe")).ok(),
            auxv: dir.bytes("auxv").ok(),
        }
    }
}

impl Target {
    /// Opens the process with this pid.
    ///
    /// # Errors
    /// When there is none, when it has no memory to inspect, or when the kernel does not permit it.
    pub fn open(pid: i32) -> Result<Self, OpenError> {
        let (dir, mem) = open::open(pid)?;
        let dir = Arc::new(dir);
        let pagemap = dir.file("pagemap").ok();
        Ok(Self {
            program: Execution::of(&dir),
            memory: LiveMemory::new(mem, pagemap),
            sharers: Arc::new(Sharers::of(&dir)),
            dir,
            pages: PageSource::of_this_kernel(),
            stop_guards: StopGuards::shared(),
            files: Files::default(),
            devices: Devices::default(),
            maps_cut: Mutex::default(),
            load_order: OnceLock::new(),
        })
    }

    /// Its pid.
    pub fn pid(&self) -> i32 {
        self.dir.pid()
    }

    /// Its root directory, if that is another than ours (a container's); `None` if it is the same
    /// or not accessible.
    pub fn foreign_root(&self) -> Option<PathBuf> {
        let path = self.dir.path("root");
        let own = file_behind("/proc/self/root".as_ref()).ok()?;
        let its = file_behind(&path).ok()?;
        (own != its).then_some(path)
    }

    /// Whether it still exists and still runs the same program.
    pub fn state(&self) -> TargetState {
        let exited = || TargetState::Exited(format!("process {} has exited", self.pid()));
        if !self.dir.pidfd().is_alive() {
            return exited();
        }
        let program = Execution::of(&self.dir);
        if !self.dir.pidfd().is_alive() || program.exe.is_none() {
            // Without an address space it is exiting; some of its threads may still be ending.
            return exited();
        }
        if program == self.program {
            TargetState::Same
        } else {
            TargetState::Execed
        }
    }

    /// Fails if it is no longer the process and the program that was opened.
    ///
    /// # Errors
    /// [`Gone`].
    pub fn check(&self) -> Result<(), Gone> {
        match self.state() {
            TargetState::Same => Ok(()),
            TargetState::Exited(_) => Err(Gone::Exited(self.pid())),
            TargetState::Execed => Err(Gone::Execed(self.pid())),
        }
    }

    pub(crate) fn gone(&self) -> io::Error {
        Gone::Exited(self.pid()).into()
    }
}
