//! Breakpoints in a process's code that may no longer belong to any tool.
//!
//! The kernel leaves one behind when the process that removes a uprobe is killed during the removal
//! (older versions of fragscope, bpftrace, perf). The target then takes a trap each time it passes,
//! for good. Attaching a probe there and removing it again also removes the breakpoint, unless a
//! running tool holds one.

use std::fs;
use std::io;
use std::num::NonZeroU32;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use profiler_common::{Arguments, Cookie, MAX_SITES};
use profiler_core::addr::{AddrRange, PAGE_SIZE, RemoteAddr};
use profiler_core::memory::{ReadError, TargetMemory};
use profiler_core::residency::{Mapping, MappingKind, PageRun};
use profiler_target::{LiveMemory, OpenError, Process, Stat, Target, open_foreign};

use super::error::{ProbeError, attach_failure, remove_failure};
use super::links::GUARD_NAME;
use super::loaded::Loaded;
use super::program::BpfProgram;
use super::traps::Traps;

/// What the kernel writes over the beginning of an instruction: `int3` on x86, and `brk #5` on
/// aarch64, which takes all of it (`BRK64_OPCODE_UPROBES`).
#[cfg(target_arch = "x86_64")]
const BREAKPOINT: [u8; 1] = [0xcc];
#[cfg(target_arch = "aarch64")]
const BREAKPOINT: [u8; 4] = 0xd420_00a0_u32.to_le_bytes();
const WIDTH: usize = BREAKPOINT.len();

/// More than this many are not one tool's probes, but a program that changes its own code.
const MAX_BREAKPOINTS: usize = 4096;

/// The most bytes of code written to by the target that are compared with its files: a breakpoint
/// writes to one page, and a program with more such pages changes its own code.
const MAX_WRITTEN_BYTES: u64 = 64 << 20;
/// The comparison takes no longer than this.
const COMPARED_WITHIN: Duration = Duration::from_secs(2);

/// A ring that nothing is written to.
const RING_BYTES: u32 = 4096;

/// A byte of a process's code that is a breakpoint and is none in the file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Breakpoint {
    /// The file as the target names it.
    pub mapped: String,
    /// A path by which this process reaches the same file.
    pub file: PathBuf,
    /// The offset in the file, in bytes.
    pub offset: u64,
    /// The address in the target.
    pub addr: RemoteAddr,
}

/// Guards of probes that somebody has suspended: they remove what they hold when they are resumed.
pub fn suspended_guards() -> Vec<i32> {
    let name = GUARD_NAME.to_string_lossy();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_suspended_guard = |stat: Stat| stat.name == name && matches!(stat.state, 'T' | 't');
    pids.filter(|pid| Stat::of(*pid).is_some_and(is_suspended_guard))
        .collect()
}

/// What [`find`] found.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Scan {
    /// Breakpoints, by address.
    pub breakpoints: Vec<Breakpoint>,
    /// Bytes of code that were written to but not looked at, because they were too many or could
    /// not be read.
    pub left_out_bytes: u64,
}

/// Finds them, at most `MAX_BREAKPOINTS`, on pages of code that otherwise match the file. Code that
/// was never written to is the file's own page and is not looked at, so that looking makes nothing
/// resident.
///
/// # Errors
/// If the target has exited.
pub fn find(target: &Target) -> io::Result<Scan> {
    let code: Vec<Mapping> = target.mappings()?.into_iter().filter(is_code).collect();
    let residency = target.residency(&code)?;
    let memory = target.memory();
    let mut found = Scan::default();
    let deadline = Instant::now() + COMPARED_WITHIN;
    let mut rest = MAX_WRITTEN_BYTES;
    // Each mapping by itself: one run may continue into the next mapping, which belongs to another
    // file.
    for mapping in &code {
        let MappingKind::File(mapped) = &mapping.kind else {
            continue;
        };
        let written = |run: &PageRun| run.state.is_resident() && !run.state.is_file();
        let mut written = residency.runs_in(mapping.range).filter(written).peekable();
        if written.peek().is_none() {
            continue;
        }
        if rest == 0 {
            found.left_out_bytes += written.map(|run| run.range.len()).sum::<u64>();
            continue;
        }
        let place = target.file_of(mapping);
        let Ok(file) = open_foreign(&place) else {
            continue;
        };
        let path = place.find();
        for page in written.flat_map(|run| pages(run.range)) {
            if Instant::now() >= deadline {
                rest = 0;
            }
            let Some(left) = rest.checked_sub(PAGE_SIZE) else {
                found.left_out_bytes += PAGE_SIZE;
                continue;
            };
            rest = left;
            let offset = mapping.offset + (page.get() - mapping.range.start().get());
            let (mut now, mut in_file) = ([0; PAGE_SIZE as usize], [0; PAGE_SIZE as usize]);
            match memory.read(page, &mut now) {
                Ok(()) => {}
                // The page is there, and may have one.
                Err(ReadError::NotAnswered(_)) => {
                    found.left_out_bytes += PAGE_SIZE;
                    continue;
                }
                // A page that is gone by now has none.
                Err(_) => continue,
            }
            let read = file.read_at(&mut in_file, offset).unwrap_or(0);
            let differ = || {
                let [now, in_file] = [&now, &in_file].map(|all| all[..read].chunks_exact(WIDTH));
                let pairs = now.zip(in_file).enumerate();
                pairs.filter_map(|(nth, (now, in_file))| (now != in_file).then_some(nth * WIDTH))
            };
            // A page that was changed in other ways as well was changed by the program.
            if differ().any(|at| now[at..at + WIDTH] != BREAKPOINT) {
                continue;
            }
            found.breakpoints.extend(differ().map(|at| Breakpoint {
                mapped: mapped.to_string(),
                file: path.clone(),
                offset: offset + at as u64,
                addr: RemoteAddr::new(page.get() + at as u64),
            }));
            if found.breakpoints.len() >= MAX_BREAKPOINTS {
                found.breakpoints.truncate(MAX_BREAKPOINTS);
                return Ok(found);
            }
        }
    }
    Ok(found)
}

/// Removes those that no tool holds. Returns those that remain because a running tool holds them.
///
/// # Errors
/// If probes are not permitted here, the target has exited, or there are `MAX_BREAKPOINTS` or more,
/// which means that they are the target's own.
pub fn repair(target: &Target, found: &[Breakpoint]) -> Result<Vec<Breakpoint>, ProbeError> {
    if found.len() >= MAX_BREAKPOINTS {
        let what = format!("it has {MAX_BREAKPOINTS} or more: a program that changes its own code");
        return Err(ProbeError::Attach(what));
    }
    let pid = target.pid();
    let number = u32::try_from(pid).ok().and_then(NonZeroU32::new);
    let number = number.ok_or(ProbeError::Gone(pid))?;
    let mut loaded = Loaded::new(RING_BYTES)?;
    // No window is open: the hits are counted, at a place that nothing else uses.
    let cookie = Cookie::new(MAX_SITES as u16 - 1, u16::MAX, Arguments::Size);
    let mut links = Vec::new();
    for breakpoint in found {
        let point = (breakpoint.offset, cookie.0);
        match loaded.attach(BpfProgram::Free, &breakpoint.file, number, &[point]) {
            Ok(link) => links.push(link),
            // A breakpoint that cannot be set stays, and is reported as such.
            Err(error) => {
                if let Some(error) = attach_failure(pid, &error) {
                    return Err(error);
                }
            }
        }
    }
    loaded.remove(&links).map_err(remove_failure)?;
    let sites = Sites {
        memory: target.memory(),
        addrs: found.iter().map(|one| one.addr).collect(),
    };
    sites.wait_until_clear();
    target.check().map_err(|_| ProbeError::Gone(pid))?;
    let left = found.iter().zip(&sites.addrs);
    let left = left.filter(|(_, addr)| sites.is_set(**addr));
    Ok(left.map(|(one, _)| one.clone()).collect())
}

/// How long the kernel takes at most to remove breakpoints; a loaded host takes tenths of a second.
const REMOVED_WITHIN: Duration = Duration::from_secs(1);
/// The time between two checks whether they are gone.
const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// Places in a target's code where probes are set, except those where others had already set one.
pub(super) struct Sites {
    memory: LiveMemory,
    addrs: Vec<RemoteAddr>,
}

impl Sites {
    /// The places of `traps` in the process, before they are set.
    ///
    /// # Errors
    /// If they cannot be found: at the end nobody could say whether breakpoints are left.
    pub(super) fn of(pid: NonZeroU32, traps: &Traps) -> Result<Self, ProbeError> {
        let number = pid.get().cast_signed();
        let failed = |source| ProbeError::Host {
            what: "find the places of the probes in the target",
            source,
        };
        let target = match Target::open(number) {
            Ok(target) => target,
            Err(
                OpenError::Gone(_) | OpenError::NoSuchProcess { .. } | OpenError::Zombie { .. },
            ) => {
                return Err(ProbeError::Gone(number));
            }
            Err(error) => return Err(failed(io::Error::other(error))),
        };
        let mut code = target.mappings().map_err(failed)?;
        let inode = fs::metadata(traps.path()).map_err(failed)?.ino();
        code.retain(|mapping| is_code(mapping) && mapping.inode == inode);
        let addrs = traps.offsets().filter_map(|offset| {
            let holds = |m: &&Mapping| (m.offset..m.offset + m.range.len()).contains(&offset);
            let mapping = code.iter().find(holds)?;
            mapping.range.start().checked_add(offset - mapping.offset)
        });
        let mut sites = Self {
            addrs: addrs.collect(),
            memory: target.memory(),
        };
        let free = |addr: &RemoteAddr| !sites.is_set(*addr);
        sites.addrs = sites.addrs.iter().copied().filter(free).collect();
        Ok(sites)
    }

    /// Whether there is a breakpoint, or that can no longer be checked.
    fn is_set(&self, addr: RemoteAddr) -> bool {
        let mut bytes = [0; WIDTH];
        match self.memory.read(addr, &mut bytes) {
            Ok(()) => bytes == BREAKPOINT,
            // It went away with its code.
            Err(ReadError::Gone | ReadError::Unmapped(_) | ReadError::Swapped(_)) => false,
            // The page of a breakpoint is in memory. A page of a FUSE or network file may be in
            // memory too, and is not looked at.
            Err(ReadError::NotRead(_) | ReadError::OutOfTime) => false,
            // It may be.
            Err(ReadError::NotAnswered(_) | ReadError::NotPermitted | ReadError::Failed(_)) => true,
        }
    }

    /// Whether there is a breakpoint at any of them.
    pub(super) fn are_set(&self) -> bool {
        self.addrs.iter().any(|addr| self.is_set(*addr))
    }

    /// Waits until there is none, or for as long as the kernel can take.
    pub(super) fn wait_until_clear(&self) {
        let deadline = Instant::now() + REMOVED_WITHIN;
        while self.are_set() && Instant::now() < deadline {
            thread::sleep(POLL_INTERVAL);
        }
    }
}

fn is_code(mapping: &Mapping) -> bool {
    mapping.execute && matches!(mapping.kind, MappingKind::File(_))
}

fn pages(range: AddrRange) -> impl Iterator<Item = RemoteAddr> {
    let starts = range.start().get()..range.end().get();
    starts.step_by(PAGE_SIZE as usize).map(RemoteAddr::new)
}
