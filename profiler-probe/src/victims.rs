//! The processes that the kernel kills when out of memory, one by one, as it chooses them
//! (`oom:mark_victim`).

use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use aya::EbpfLoader;
use aya::maps::{MapData, RingBuf};
use aya::programs::TracePoint;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use profiler_target::{host, page_size};

use super::armed::is_in_root_namespace;
use super::error::ProbeError;
use super::loaded::{VICTIMS, map, object};

/// The program, and the kernel's tracepoint.
const PROGRAM: &str = "on_oom_victim";
const TRACEPOINT: (&str, &str) = ("oom", "mark_victim");
/// Where the kernel describes its tracepoints.
const TRACEFS: [&str; 2] = [
    "/sys/kernel/tracing/events",
    "/sys/kernel/debug/tracing/events",
];
const NO_TRACEFS: &str =
    "tracefs is not mounted; as root: mount -t tracefs tracefs /sys/kernel/tracing";
/// The maps of the object that are large, and not needed here.
const OTHERS: [(&str, u32); 2] = [("CALLS", 256), ("THREADS", 256)];

/// The kernel's choices since it was created.
pub struct OomVictims {
    ring: RingBuf<MapData>,
    /// The program is attached as long as this lives.
    _bpf: aya::Ebpf,
}

impl std::fmt::Debug for OomVictims {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OomVictims").finish_non_exhaustive()
    }
}

impl OomVictims {
    /// Begins to watch.
    ///
    /// # Errors
    /// If the kernel does not permit it, or pids here differ from the kernel's.
    pub fn watch() -> Result<Self, ProbeError> {
        if !is_in_root_namespace() {
            return Err(ProbeError::Load(
                "the kernel's numbers of processes are not those of this container".into(),
            ));
        }
        if !host::has_sysfs() {
            return Err(ProbeError::NoSysfs);
        }
        let object = object()?;
        let mut loader = EbpfLoader::new();
        let page = page_size().bytes() as u32;
        let rings = [("EVENTS", page), (VICTIMS, page)];
        for (map, entries) in OTHERS.into_iter().chain(rings) {
            loader.map_max_entries(map, entries);
        }
        let loaded = loader.load(&object);
        let mut bpf = loaded.map_err(|error| ProbeError::of_load(&error))?;
        let missing = || ProbeError::Load(format!("the object has no {PROGRAM}"));
        let program = bpf.program_mut(PROGRAM).ok_or_else(missing)?;
        let program: &mut TracePoint = program
            .try_into()
            .map_err(|error| ProbeError::of_load(&error))?;
        program
            .load()
            .map_err(|error| ProbeError::of_load(&error))?;
        program
            .attach(TRACEPOINT.0, TRACEPOINT.1)
            .map_err(
                |error| match TRACEFS.iter().any(|at| Path::new(at).exists()) {
                    true => ProbeError::of_load(&error),
                    false => ProbeError::Load(NO_TRACEFS.into()),
                },
            )?;
        Ok(Self {
            ring: map(&mut bpf, VICTIMS)?,
            _bpf: bpf,
        })
    }

    /// Waits at most `most` for victims and returns the pids of those chosen; none after a timeout.
    ///
    /// # Errors
    /// If the kernel does not let it wait.
    pub fn wait(&mut self, most: Duration) -> io::Result<Vec<i32>> {
        let timeout = PollTimeout::try_from(most).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(self.ring.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut victims = Vec::new();
        while let Some(item) = self.ring.next() {
            let number = item.get(..4).and_then(|bytes| bytes.try_into().ok());
            victims.extend(number.map(i32::from_ne_bytes));
        }
        Ok(victims)
    }
}
