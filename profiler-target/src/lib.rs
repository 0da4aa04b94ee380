//! A process or a core file as it is: its memory, mappings, pages, threads, files, control group and
//! family.
//!
//! [`Target`] is a live process, held so that a recycled pid is never read, and learned from `/proc`,
//! ptrace and the pagemap; [`CoreFile`] is what an ELF core kept of one. Both give what walkers want:
//! memory as [`TargetMemory`](profiler_core::memory::TargetMemory), the state of every page, mappings
//! and threads. Nothing here executes code in a target or writes to its memory, and all that is read
//! of one is hostile: bounded, and checked. What is found out is returned; nothing is printed.
//!
//! [`mod@host`] says what this machine and this process's privileges allow. A [`Guard`] is a small process
//! that gives back what must not stay when fragscope is killed or suspended.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use profiler_core::fork::{self, ForkSharing};
use profiler_core::residency::{Mapping, MappingKind, ResidencyMap};
use profiler_core::sample::KernelCount;

mod ahead;
mod allocators;
pub mod auxv;
mod cgroup;
mod core_file;
mod denial;
mod elf;
mod error_kind;
mod guard;
pub mod host;
mod identity;
mod jemalloc_options;
mod maps;
mod memory;
mod open;
mod pagemap;
mod preload;
mod proc_dir;
mod record_ring;
mod residency;
mod stop;
mod tree;

pub use ahead::{Ahead, reading_ahead};
pub use allocators::malloc_in;
pub use auxv::has_borrowed_privileges;
pub use core_file::{CoreError, CoreFile, CoreMemory, CorePages};
pub use denial::{Caller, Denial};
pub use elf::{FILE_LIMIT, set_file_limit};
pub use elf::{Source, file_limit, open_looked_at, open_regular};
pub use error_kind::{Action, ErrorKind};
pub use guard::{Guard, Needed, end_all as end_guards};
pub use host::host;
pub use identity::{Libc, Python};
pub use memory::LiveMemory;
pub use open::OpenError;
pub use preload::not_preloaded;
pub use record_ring::{Next, RecordRing, RingEvent, SUSPENDED};
pub use residency::PageSource;
pub use stop::{EndedEarly, LONGEST_STOP, STOP_DEADLINE, StopError, StopOutcome, Stopped};
pub use tree::{Executed, Member, ProcessTree, children_of};

pub use proc_dir::Gone;
use proc_dir::{ProcDir, field};

/// A process that is looked at. It is held by a pidfd and an open `/proc` directory, so that a
/// recycled pid is never read.
#[derive(Debug)]
pub struct Target {
    dir: Arc<ProcDir>,
    program: Program,
    memory: LiveMemory,
    pages: PageSource,
    identity: identity::Identity,
    allocators: allocators::Known,
    stop_guards: Arc<stop::StopGuards>,
    files: elf::Reader,
}

/// Whether the target is still what it was when it was opened.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum TargetState {
    /// It runs the same program.
    Same,
    /// It has exited; one sentence.
    Exited(String),
    /// It has executed another program (or the same one anew): what was learned of it is void.
    Execed,
}

/// What tells one execution from the next under the same pid.
#[derive(Debug, Default, Eq, PartialEq)]
struct Program {
    /// Device and inode of the executable.
    exe: Option<(u64, u64)>,
    /// The auxiliary vector holds addresses that the kernel draws anew for each execution.
    auxv: Option<Vec<u8>>,
}

impl Program {
    fn of(dir: &ProcDir) -> Self {
        let exe = fs::metadata(dir.path("exe")).ok();
        Self {
            exe: exe.map(|file| (file.dev(), file.ino())),
            auxv: dir.bytes("auxv").ok(),
        }
    }
}

impl Target {
    /// Opens the process with this number.
    ///
    /// # Errors
    /// When there is none, when it has no memory to look at, or when the kernel does not permit it.
    pub fn open(pid: i32) -> Result<Self, OpenError> {
        let (dir, mem) = open::open(pid)?;
        Ok(Self {
            program: Program::of(&dir),
            memory: LiveMemory::new(Arc::new(mem)),
            dir: Arc::new(dir),
            pages: PageSource::of_this_kernel(),
            identity: identity::Identity::default(),
            allocators: allocators::Known::default(),
            stop_guards: stop::StopGuards::shared(),
            files: elf::Reader::default(),
        })
    }

    /// Its number.
    pub fn pid(&self) -> i32 {
        self.dir.pid()
    }

    /// Whether it is still there and still the same program.
    pub fn state(&self) -> TargetState {
        let exited = || TargetState::Exited(format!("process {} has exited", self.pid()));
        if !self.dir.pidfd().is_alive() {
            return exited();
        }
        let program = Program::of(&self.dir);
        if !self.dir.pidfd().is_alive() || program.exe.is_none() {
            // Without an address space it is exiting, threads of it perhaps still ending.
            return exited();
        }
        if program == self.program {
            TargetState::Same
        } else {
            TargetState::Execed
        }
    }

    /// Fails when it is not the process and the program any more that was opened.
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

    /// The kernel's own count of its memory.
    ///
    /// Of a stopped target, [`Self::residency`] adds up to the same bytes, with one exception: swap
    /// counts swapped pages of shared memory too, of which the page table knows nothing.
    ///
    /// # Errors
    /// When it has exited.
    pub fn kernel_count(&self) -> io::Result<KernelCount> {
        let quick = self.quick_count()?;
        let Ok(rollup) = self.dir.text("smaps_rollup") else {
            return Ok(quick);
        };
        let bytes = |name| field(&rollup, name).map(|kib| kib << 10);
        Ok(KernelCount {
            rss_bytes: bytes("Rss").unwrap_or(quick.rss_bytes),
            swap_bytes: bytes("Swap").unwrap_or(quick.swap_bytes),
            peak_rss_bytes: quick.peak_rss_bytes,
            pss_bytes: bytes("Pss"),
            lazy_free_bytes: bytes("LazyFree"),
            anon_huge_bytes: bytes("AnonHugePages"),
            ksm_bytes: bytes("KSM"),
            is_core: false,
        })
    }

    /// The kernel's running counters, which cost nothing to read and may lag by some pages.
    ///
    /// # Errors
    /// When it has exited.
    pub fn quick_count(&self) -> io::Result<KernelCount> {
        let status = self.dir.text("status")?;
        let bytes = |name| field(&status, name).map(|kib| kib << 10);
        let rss_bytes = bytes("VmRSS").ok_or_else(|| self.gone())?;
        Ok(KernelCount {
            rss_bytes,
            swap_bytes: bytes("VmSwap").unwrap_or(0),
            peak_rss_bytes: bytes("VmHWM").unwrap_or(rss_bytes),
            ..KernelCount::default()
        })
    }

    /// Its mappings, ascending.
    ///
    /// # Errors
    /// When it has exited.
    pub fn mappings(&self) -> io::Result<Vec<Mapping>> {
        Ok(maps::parse(&self.dir.text("maps")?))
    }

    /// The state of every page of `mappings`.
    ///
    /// # Errors
    /// When it has exited.
    pub fn residency(&self, mappings: &[Mapping]) -> io::Result<ResidencyMap> {
        self.residency_from(mappings, self.pages)
    }

    /// The same by a source of the caller's choice, for tests and comparisons.
    ///
    /// # Errors
    /// When it has exited, or when the kernel has no such source.
    pub fn residency_from(
        &self,
        mappings: &[Mapping],
        source: PageSource,
    ) -> io::Result<ResidencyMap> {
        residency::read(&self.dir, mappings, source)
    }

    /// What it still shares with its parent, which must run the same program; `residency` is its
    /// own. `None` when the parent runs another one, or cannot be read.
    pub fn fork_sharing(&self, residency: &ResidencyMap) -> Option<ForkSharing> {
        let parent = self.dir.stat().ok()?.ppid;
        let (dir, _) = open::open(parent).ok()?;
        // A fork inherits the auxiliary vector, an exec gets a new one: then nothing was shared.
        if Program::of(&dir) != self.program {
            return None;
        }
        let mappings = maps::parse(&dir.text("maps").ok()?);
        let of_parent = residency::read(&dir, &mappings, self.pages).ok()?;
        Some(fork::sharing(parent, &of_parent, residency))
    }

    /// Its memory, by address.
    pub fn memory(&self) -> LiveMemory {
        self.memory.clone()
    }

    /// Its memory while it is stopped: faster, and only right as long as the stop lasts.
    pub fn memory_of(&self, stopped: &Stopped) -> LiveMemory {
        if self.has_merged_pages() {
            return self.memory();
        }
        self.memory.while_stopped(self.pid(), stopped.state())
    }

    /// Whether KSM may have merged pages of it: unless the kernel says that there are none.
    fn has_merged_pages(&self) -> bool {
        // Linux 6.1 and later; an older kernel's KSM is off for all, or not to be trusted.
        let merged = self.dir.text("ksm_merging_pages").ok();
        let none = merged.is_some_and(|pages| pages.trim() == "0");
        let off = || {
            let run = std::fs::read_to_string("/sys/kernel/mm/ksm/run");
            match run {
                Ok(run) => run.trim() == "0",
                Err(error) => error.kind() == io::ErrorKind::NotFound,
            }
        };
        !none && !off()
    }

    /// How many processors its main thread may run on, which allocators ask for at their start.
    ///
    /// # Errors
    /// When it has exited.
    pub fn allowed_cpus(&self) -> io::Result<u32> {
        let allowed = sched_getaffinity(Pid::from_raw(self.pid()))?;
        let cpus = (0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu) == Ok(true));
        Ok(cpus.count() as u32)
    }

    /// When it began, in clock ticks since the host did: with its number, it tells it from any other.
    ///
    /// # Errors
    /// When it has exited.
    pub fn began_ticks(&self) -> io::Result<u64> {
        Ok(self.dir.stat()?.starttime)
    }

    /// The processor time that it took so far, in user and kernel mode.
    ///
    /// # Errors
    /// When it has exited.
    pub fn cpu_time(&self) -> io::Result<Duration> {
        let stat = self.dir.stat()?;
        let ticks = stat.utime + stat.stime;
        // USER_HZ, which is 100 on every architecture that fragscope runs on.
        Ok(Duration::from_millis(ticks * 10))
    }

    /// The numbers of its threads, ascending.
    ///
    /// # Errors
    /// When it has exited.
    pub fn tids(&self) -> io::Result<Vec<i32>> {
        let mut tids = self.dir.tids()?;
        tids.sort_unstable();
        Ok(tids)
    }

    /// Its auxiliary vector, as the kernel filled it in at its start.
    ///
    /// # Errors
    /// When it has exited, or when the kernel does not permit it.
    pub fn auxv(&self) -> io::Result<Vec<u8>> {
        self.dir.bytes("auxv")
    }

    /// Stops all its threads until the guard is dropped, for at most [`LONGEST_STOP`].
    ///
    /// # Errors
    /// When another tracer holds it, when a thread does not stop within [`STOP_DEADLINE`], or when
    /// the kernel does not permit it. It runs on in every case.
    pub fn stop(&self) -> Result<Stopped, StopError> {
        self.stop_for(LONGEST_STOP)
    }

    /// The same for at most `longest`: then the target runs on, and the guard says so.
    ///
    /// # Errors
    /// As [`Self::stop`].
    pub fn stop_for(&self, longest: Duration) -> Result<Stopped, StopError> {
        stop::stop(&self.dir, &self.stop_guards, STOP_DEADLINE, longest)
    }

    /// [`Self::stop`] with a deadline of the caller's choice for coming to a stop.
    ///
    /// # Errors
    /// As [`Self::stop`].
    pub fn stop_within(&self, limit: Duration) -> Result<Stopped, StopError> {
        stop::stop(&self.dir, &self.stop_guards, limit, LONGEST_STOP)
    }

    /// Why it cannot be stopped at the moment, when another tracer holds a thread of it.
    pub fn traced(&self) -> Option<StopError> {
        let tracer_of = |tid: i32| {
            let status = self.dir.text(&format!("task/{tid}/status")).ok()?;
            field(&status, "TracerPid").filter(|tracer| *tracer != 0)
        };
        let tracer = self.dir.tids().ok()?.into_iter().find_map(tracer_of)?;
        Some(stop::already_traced(tracer))
    }

    /// Its root directory as a path of ours.
    pub fn root(&self) -> PathBuf {
        self.dir.path("root")
    }

    /// A path of ours to a file that it maps: the very inode where the kernel shows it (the file
    /// may be deleted or replaced since), else the path through the target's root.
    pub fn host_path(&self, mapped: &str) -> PathBuf {
        let mappings = self.mappings().unwrap_or_default();
        let mapping = mappings
            .iter()
            .find(|m| matches!(&m.kind, MappingKind::File(path) if path == mapped));
        self.file_of(mapping, mapped)
    }

    /// The same of the file behind one mapping: others may map another file by the same path.
    pub fn file_of(&self, mapping: Option<&Mapping>, mapped: &str) -> PathBuf {
        let linked = mapping.map(|m| {
            let (start, end) = (m.range.start().get(), m.range.end().get());
            self.dir.path(&format!("map_files/{start:x}-{end:x}"))
        });
        // Whether the kernel follows it, without asking the file itself for anything.
        let is_shown = |path: &PathBuf| {
            let mut place = fs::OpenOptions::new();
            place.read(true).custom_flags(libc::O_PATH);
            place.open(path).is_ok()
        };
        linked
            .filter(is_shown)
            .unwrap_or_else(|| self.root().join(mapped.trim_start_matches('/')))
    }

    fn gone(&self) -> io::Error {
        Gone::Exited(self.pid()).into()
    }
}
