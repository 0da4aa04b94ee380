//! The control block of one player, written and read as a file.

use std::fs::File;
use std::io;
use std::mem::offset_of;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use nix::sys::memfd::{MFdFlags, memfd_create};
use profiler_common::program::{Control as Layout, MAX_PROCESSES, STACKS_BYTES, failure};
use profiler_core::addr::{AddrRange, RemoteAddr};

use super::{GapFill, PlayError, Setup, Touch};

/// The control block.
#[derive(Debug)]
pub(super) struct Control(File);

impl Control {
    /// A control block with the values of the setup.
    pub(super) fn new(setup: &Setup, executes: bool) -> io::Result<Self> {
        let file = File::from(memfd_create(c"fragscope-control", MFdFlags::MFD_CLOEXEC)?);
        file.set_len(size_of::<Layout>() as u64)?;
        let control = Self(file);
        let trim_every = setup.trim_every.map_or(0, |every| every.as_nanos() as u64);
        control.put(offset_of!(Layout, trim_every_ns), &trim_every.to_ne_bytes())?;
        let phase = setup.trim_phase.as_nanos() as u64;
        control.put(offset_of!(Layout, trim_phase_ns), &phase.to_ne_bytes())?;
        let at_checkpoints = u32::from(setup.trim_at_checkpoints);
        let at = offset_of!(Layout, trim_at_checkpoints);
        control.put(at, &at_checkpoints.to_ne_bytes())?;
        let least = u32::from(setup.touch == Touch::Least);
        control.put(offset_of!(Layout, least), &least.to_ne_bytes())?;
        let fill = u32::from(setup.fill == GapFill::Second);
        control.put(offset_of!(Layout, fill), &fill.to_ne_bytes())?;
        let objects = u32::from(setup.objects);
        control.put(offset_of!(Layout, objects), &objects.to_ne_bytes())?;
        let other = u32::from(setup.preload.is_some());
        control.put(offset_of!(Layout, other), &other.to_ne_bytes())?;
        let executes = u32::from(executes);
        control.put(offset_of!(Layout, executes), &executes.to_ne_bytes())?;
        Ok(control)
    }

    /// A descriptor for the player.
    pub(super) fn for_player(&self) -> io::Result<OwnedFd> {
        Ok(self.0.try_clone()?.into())
    }

    /// Operations played.
    pub(super) fn played(&self) -> io::Result<u64> {
        self.word(offset_of!(Layout, played))
    }

    /// Processor time in ns, and page faults, of the process that reported last.
    pub(super) fn usage(&self) -> io::Result<(u64, u64)> {
        let cpu_ns = self.word(offset_of!(Layout, cpu_ns))?;
        Ok((cpu_ns, self.word(offset_of!(Layout, faults))?))
    }

    /// The pid of a process, as reported by the player; `None` if it does not run.
    pub(super) fn pid(&self, process: u32) -> io::Result<Option<i32>> {
        let at = offset_of!(Layout, pids) + process as usize * size_of::<u32>();
        let pid = self.half_word(at)? as i32;
        Ok((pid > 0).then_some(pid))
    }

    /// Where the stacks of a process's threads are, as reported by the player: that memory is not
    /// the allocator's.
    pub(super) fn stacks(&self, process: u32) -> io::Result<AddrRange> {
        let at = offset_of!(Layout, stacks) + process as usize * size_of::<u64>();
        let stacks = AddrRange::with_len(RemoteAddr::new(self.word(at)?), STACKS_BYTES as u64);
        Ok(stacks.unwrap_or_default())
    }

    /// The pids of all running processes, each with its number in the program.
    pub(super) fn pids(&self) -> io::Result<Vec<(u32, i32)>> {
        let mut bytes = [0; size_of::<u32>() * MAX_PROCESSES as usize];
        self.0
            .read_exact_at(&mut bytes, offset_of!(Layout, pids) as u64)?;
        let (words, _) = bytes.as_chunks::<4>();
        let pids = words.iter().map(|word| i32::from_ne_bytes(*word));
        Ok((0..).zip(pids).filter(|&(_, pid)| pid > 0).collect())
    }

    /// Why the player failed, as it reports.
    pub(super) fn failure(&self) -> io::Result<PlayError> {
        let detail = self.word(offset_of!(Layout, detail))?;
        let player = |what: &str| PlayError::Player(what.to_owned());
        Ok(match self.half_word(offset_of!(Layout, failure))? {
            failure::NO_MEMORY => PlayError::NoMemory { bytes: detail },
            failure::NO_THREAD => player("a thread or process of it could not be started"),
            failure::NO_MAPPING => player("it got no memory for its own tables"),
            failure::CHILD_ENDED => {
                PlayError::Crashed(format!("process {detail} of the recording, as it began"))
            }
            failure::BAD_PROGRAM => {
                PlayError::Player(format!("it does not know operation {detail}"))
            }
            _ => player("it does not say why"),
        })
    }

    fn put(&self, at: usize, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, at as u64)
    }

    fn word(&self, at: usize) -> io::Result<u64> {
        let mut bytes = [0; 8];
        self.0.read_exact_at(&mut bytes, at as u64)?;
        Ok(u64::from_ne_bytes(bytes))
    }

    fn half_word(&self, at: usize) -> io::Result<u32> {
        let mut bytes = [0; 4];
        self.0.read_exact_at(&mut bytes, at as u64)?;
        Ok(u32::from_ne_bytes(bytes))
    }
}
