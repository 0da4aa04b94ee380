//! The BPF object in the kernel: its programs and maps.

use std::borrow::Cow;
use std::io;
use std::num::NonZeroU32;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray, RingBuf};
use aya::programs::{ProgramError, RawTracePoint, UProbe};
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};
use profiler_common::sampling::{PythonFrames, SamplingCounter};
use profiler_common::{Call, Config};
use profiler_target::{host, page_size};

use super::by_site::SitePrograms;
use super::error::ProbeError;
use super::growth;
use super::links::{Attaching, Link, Links, Programs};
use super::multi::{MultiProgram, Relocated};
use super::program::BpfProgram;
use super::support;

#[cfg(target_arch = "x86_64")]
static OBJECT: &[u8] = include_bytes_aligned!("bpf/fragscope.bpf.o");
#[cfg(target_arch = "aarch64")]
static OBJECT: &[u8] = include_bytes_aligned!("bpf/fragscope-aarch64.bpf.o");

/// The ring of the processes that the kernel's OOM killer chooses: a whole number of the kernel's
/// pages.
pub(super) const VICTIMS: &str = "VICTIMS";

/// Names another object file to load in place of the embedded one. Only for the tests of a freshly
/// built object.
const OBJECT_VARIABLE: &str = "FRAGSCOPE_BPF_OBJECT";

/// Programs that report threads, and the kernel's tracepoints that they belong to.
const THREADS: [(&str, &str); 2] = [
    ("on_thread_end", "sched_process_exit"),
    ("on_exec", "sched_process_exec"),
];

/// Programs and maps, loaded and attached to nothing yet.
pub(super) struct Loaded {
    links: Links,
    programs: Programs,
    config: Array<MapData, [u64; CONFIG_WORDS]>,
    heap_end: Array<MapData, u64>,
    python: Array<MapData, [u64; PYTHON_WORDS]>,
    threads: HashMap<MapData, u64, u64>,
    sampling: PerCpuArray<MapData, u64>,
    hits: PerCpuArray<MapData, u64>,
    lost: Array<MapData, u64>,
    calls: HashMap<MapData, u32, [u64; CALL_WORDS]>,
    pub(super) events: RingBuf<MapData>,
}

const CONFIG_WORDS: usize = size_of::<Config>() / 8;
const PYTHON_WORDS: usize = size_of::<PythonFrames>() / 8;

const CALL_WORDS: usize = size_of::<Call>() / 8;

const _: () = assert!(size_of::<Call>() == 40 && size_of::<Config>() == 32);

impl Loaded {
    /// Loads the object with a ring of `ring_bytes` (a power of two, at least a page).
    pub(super) fn new(ring_bytes: u32) -> Result<Self, ProbeError> {
        // The numbers of processors, which the maps have a place for each of, are read there.
        if !host::has_sysfs() {
            return Err(ProbeError::NoSysfs);
        }
        let object = object()?;
        // A ring has whole pages of the kernel's.
        let page = page_size().bytes() as u32;
        let load = || {
            EbpfLoader::new()
                .map_max_entries("EVENTS", ring_bytes.max(page))
                .map_max_entries(VICTIMS, page)
                .load(&object)
        };
        let mut bpf = match load() {
            // Before Linux 5.11 maps count against the limit on locked memory.
            Err(_) if raise_locked_memory() => load(),
            first => first,
        }
        .map_err(|error| ProbeError::of_load(&error))?;
        let attaching = attaching(&bpf, &object)?;
        if matches!(attaching, Attaching::Events) {
            for program in BpfProgram::ALL {
                uprobe(&mut bpf, program)?
                    .load()
                    .map_err(|error| ProbeError::of_load(&error))?;
            }
        }
        let config = map(&mut bpf, "CONFIG")?;
        let heap_end = map(&mut bpf, "HEAP_END")?;
        let python = map(&mut bpf, "PYTHON")?;
        let threads = map(&mut bpf, "THREADS")?;
        let sampling = map(&mut bpf, "SAMPLING")?;
        let hits = map(&mut bpf, "HITS")?;
        let lost = map(&mut bpf, "LOST")?;
        let calls = map(&mut bpf, "CALLS")?;
        let events = map(&mut bpf, "EVENTS")?;
        let mut programs = Programs { bpf, attaching };
        Ok(Self {
            links: start_guard(&mut programs)?,
            programs,
            config,
            heap_end,
            python,
            threads,
            sampling,
            hits,
            lost,
            calls,
            events,
        })
    }

    /// Whether the guard is still there, not ended by somebody.
    pub(super) fn is_held(&self) -> bool {
        self.links.is_held()
    }

    /// Starts another guard after somebody ended one.
    pub(super) fn restart_guard(&mut self) -> Result<(), ProbeError> {
        self.links = start_guard(&mut self.programs)?;
        Ok(())
    }

    /// Whether one link may have several sites.
    pub(super) fn is_multi(&self) -> bool {
        matches!(self.programs.attaching, Attaching::Multi(_))
    }

    /// Attaches one program in process `pid` at `points`: offsets in the file at `path`, with
    /// their cookies. Just one of them unless [`Loaded::is_multi`].
    pub(super) fn attach(
        &mut self,
        program: BpfProgram,
        path: &Path,
        pid: NonZeroU32,
        points: &[(u64, u64)],
    ) -> io::Result<Link> {
        self.links.attach(program, path, pid, points)
    }

    /// Removes probes, which are gone from the target within tens of milliseconds.
    pub(super) fn remove(&mut self, links: &[Link]) -> io::Result<()> {
        self.links.remove(links)
    }

    /// Makes the ring record when threads end and when the process executes another program, from
    /// the next window on, until this is dropped.
    pub(super) fn watch_threads(&mut self) -> Result<(), ProgramError> {
        for (name, tracepoint) in THREADS {
            let program = self.programs.bpf.program_mut(name);
            let program: &mut RawTracePoint = program.expect("it is in the object").try_into()?;
            program.load()?;
            program.attach(tracepoint)?;
        }
        Ok(())
    }

    /// Makes the ring record growth of the target's memory, as [`Config::growth_mean_bytes`] says,
    /// until this is dropped. `heap_end` is where the heap that `brk` moves ends; 0 if there is
    /// none. Returns what cannot be watched, and why.
    pub(super) fn watch_growth(&mut self, heap_end: u64) -> io::Result<Vec<String>> {
        self.heap_end
            .set(0, heap_end, 0)
            .map_err(io::Error::other)?;
        Ok(growth::attach(&mut self.programs.bpf))
    }

    /// Ends that.
    pub(super) fn end_growth(&mut self) {
        growth::detach(&mut self.programs.bpf);
    }

    /// Sets for the programs whose events count, and whether a window is open.
    pub(super) fn configure(&mut self, config: Config) -> io::Result<()> {
        let words: [u64; CONFIG_WORDS] = zerocopy::transmute!(config);
        self.config.set(0, words, 0).map_err(io::Error::other)
    }

    /// Sets where the target's Python has its frames, and the known thread states, each by the
    /// value of `pthread_self` there.
    pub(super) fn set_python(
        &mut self,
        frames: PythonFrames,
        threads: &[(u64, u64)],
    ) -> io::Result<()> {
        let words: [u64; PYTHON_WORDS] = zerocopy::transmute!(frames);
        self.python.set(0, words, 0).map_err(io::Error::other)?;
        for (id, state) in threads {
            let set = self.threads.insert(id, state, 0);
            set.map_err(io::Error::other)?;
        }
        Ok(())
    }

    /// What sampling has cost and yielded so far, by [`SamplingCounter`].
    pub(super) fn sampling(&self) -> io::Result<[u64; SamplingCounter::COUNT as usize]> {
        let mut counts = [0; SamplingCounter::COUNT as usize];
        for (index, count) in counts.iter_mut().enumerate() {
            *count = sum(&self.sampling, index as u32)?;
        }
        Ok(counts)
    }

    /// Hits of the site at `index` so far, on all CPUs.
    pub(super) fn hits(&self, index: u32) -> io::Result<u64> {
        sum(&self.hits, index)
    }

    /// Events lost so far for lack of room in the ring.
    pub(super) fn lost(&self) -> io::Result<u64> {
        self.lost.get(&0, 0).map_err(io::Error::other)
    }

    /// Forgets which calls threads were inside of.
    pub(super) fn forget_calls(&mut self) {
        let threads: Vec<u32> = self.calls.keys().flatten().collect();
        for thread in threads {
            // A thread that is gone by now is forgotten as well.
            let _gone = self.calls.remove(&thread);
        }
    }
}

/// How programs are attached here: the best that the kernel offers.
fn attaching(bpf: &Ebpf, object: &[u8]) -> Result<Attaching, ProbeError> {
    let maps = bpf.maps().filter_map(|(name, map)| match map {
        Map::Array(data) | Map::PerCpuArray(data) | Map::LruHashMap(data) | Map::RingBuf(data) => {
            Some((name, data.fd().as_fd().as_raw_fd()))
        }
        _ => None,
    });
    let maps: Vec<_> = maps.collect();
    let may_read = support::reads_kernel_memory();
    let relocated = Relocated::new(object, &maps);
    let relocated = match may_read {
        true => relocated,
        false => relocated.map(Relocated::without_kernel_reads),
    };
    if let Some(programs) = relocated.as_ref().and_then(load_multi) {
        return Ok(Attaching::Multi(programs));
    }
    // Programs that aya loads are those of the unmodified object.
    if may_read && support::has_cookies() {
        return Ok(Attaching::Events);
    }
    let relocated = relocated.ok_or_else(|| ProbeError::Load("the object is damaged".into()))?;
    let maps = maps.iter().map(|(_, descriptor)| *descriptor).collect();
    let programs = SitePrograms::new(relocated, maps);
    Ok(Attaching::BySite(Box::new(programs)))
}

/// The programs for links of several sites, if the kernel has such links.
fn load_multi(relocated: &Relocated) -> Option<Vec<MultiProgram>> {
    let programs = BpfProgram::ALL.map(|p| relocated.load(p.name(), p == BpfProgram::Return));
    let programs: Vec<MultiProgram> = programs.into_iter().collect::<Option<_>>()?;
    programs[0].is_usable().then_some(programs)
}

fn start_guard(programs: &mut Programs) -> Result<Links, ProbeError> {
    Links::start(programs).map_err(|source| ProbeError::Host {
        what: "start the process that holds the probes",
        source,
    })
}

fn sum(map: &PerCpuArray<MapData, u64>, index: u32) -> io::Result<u64> {
    let values = map.get(&index, 0).map_err(io::Error::other)?;
    Ok(values.iter().sum())
}

pub(super) fn object() -> Result<Cow<'static, [u8]>, ProbeError> {
    // Users who run a fragscope with file capabilities have none of their own to load it with.
    let named =
        std::env::var_os(OBJECT_VARIABLE).filter(|_| !profiler_target::has_borrowed_privileges());
    let Some(path) = named else {
        return Ok(Cow::Borrowed(OBJECT));
    };
    let read = std::fs::read(&path).map_err(|source| ProbeError::Host {
        what: "read the BPF object that FRAGSCOPE_BPF_OBJECT names",
        source,
    })?;
    Ok(Cow::Owned(read))
}

fn uprobe(bpf: &mut Ebpf, program: BpfProgram) -> Result<&mut UProbe, ProbeError> {
    let name = program.name();
    let found = bpf.program_mut(name);
    let found = found.ok_or_else(|| ProbeError::Load(format!("the object has no {name}")))?;
    found
        .try_into()
        .map_err(|error| ProbeError::of_load(&error))
}

pub(super) fn map<T: TryFrom<Map, Error = aya::maps::MapError>>(
    bpf: &mut Ebpf,
    name: &str,
) -> Result<T, ProbeError> {
    let found = bpf.take_map(name);
    let found = found.ok_or_else(|| ProbeError::Load(format!("the object has no map {name}")))?;
    T::try_from(found).map_err(|error| ProbeError::of_load(&error))
}

/// Raises the soft limit to the hard one; whether that changed anything.
fn raise_locked_memory() -> bool {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_MEMLOCK) else {
        return false;
    };
    soft < hard && setrlimit(Resource::RLIMIT_MEMLOCK, hard, hard).is_ok()
}
