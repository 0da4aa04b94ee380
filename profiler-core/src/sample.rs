//! Everything observed of a target at one moment: the input of metrics and files.

use crate::addr::PageSize;
use crate::allocator::AllocatorTitle;
use crate::completeness::Completeness;
use crate::fork::ForkSharing;
use crate::group_account::GroupAccount;
use crate::heap::HeapSnapshot;
use crate::residency::ResidencyMap;

/// The host.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Host {
    /// Kernel release.
    pub kernel: String,
    /// Machine architecture.
    pub arch: String,
    /// Processors online.
    pub cpus: u32,
    /// Total memory in bytes.
    pub memory_bytes: u64,
    /// The size of its kernel's pages.
    pub page_size: PageSize,
}

/// The allocator that serves Python's objects (the domain obj of its C API).
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub enum PythonMalloc {
    /// CPython's own, for blocks up to 512 bytes.
    Pymalloc,
    /// pymalloc below the debug hooks, which add 24 bytes or more to each block.
    PymallocDebug,
    /// The C library's malloc.
    Malloc,
    /// malloc below the debug hooks.
    MallocDebug,
    /// The mimalloc that CPython has in itself since 3.13.
    Mimalloc,
    /// mimalloc below the debug hooks.
    MimallocDebug,
    /// It could not be determined.
    #[default]
    Unknown,
}

impl PythonMalloc {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Pymalloc,
        Self::PymallocDebug,
        Self::Malloc,
        Self::MallocDebug,
        Self::Mimalloc,
        Self::MimallocDebug,
        Self::Unknown,
    ];

    /// Its name, as `PYTHONMALLOC` has it, or `unknown`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pymalloc => "pymalloc",
            Self::PymallocDebug => "pymalloc_debug",
            Self::Malloc => "malloc",
            Self::MallocDebug => "malloc_debug",
            Self::Mimalloc => "mimalloc",
            Self::MimallocDebug => "mimalloc_debug",
            Self::Unknown => "unknown",
        }
    }

    /// Whether pymalloc's pools are to be expected.
    pub const fn may_be_pymalloc(self) -> bool {
        matches!(self, Self::Pymalloc | Self::PymallocDebug | Self::Unknown)
    }
}

/// The target.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Target {
    /// Process id in fragscope's own pid namespace.
    pub pid: i32,
    /// Kernel's name for it.
    pub comm: String,
    /// Its command line.
    pub cmdline: Vec<String>,
    /// Python's version, e.g. `CPython 3.11.2`; `None` when it is no Python process.
    pub python: Option<String>,
    /// What serves its objects, as its tables say; `None` when it is no Python process.
    pub python_malloc: Option<PythonMalloc>,
    /// The C library, e.g. `glibc 2.36`; `None` when it has none (static).
    pub libc: Option<String>,
    /// The allocator that serves its malloc calls, e.g. `glibc 2.36` or `jemalloc`.
    pub malloc: Option<AllocatorTitle>,
    /// Threads at that moment.
    pub threads: u32,
    /// When it began, in clock ticks since its host did (`/proc/PID/stat`, `starttime`); `None` of a core.
    pub began_ticks: Option<u64>,
    /// Which start of the host that was (`/proc/sys/kernel/random/boot_id`); `None` where it is not known.
    pub boot_id: Option<String>,
}

impl Target {
    /// Whether both may be the same process: what is known of both is equal.
    pub fn may_be(&self, other: &Self) -> bool {
        fn agree<T: PartialEq>(a: Option<&T>, b: Option<&T>) -> bool {
            a.zip(b).is_none_or(|(a, b)| a == b)
        }
        self.pid == other.pid
            && agree(self.began_ticks.as_ref(), other.began_ticks.as_ref())
            && agree(self.boot_id.as_ref(), other.boot_id.as_ref())
    }
}

impl Target {
    /// Whether it is a Python process, so that it has objects to read.
    pub fn is_python(&self) -> bool {
        self.python.is_some()
    }
}

/// The kernel's own count of the target's memory at the moment of the sample, in bytes.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct KernelCount {
    /// Resident set (`smaps_rollup` Rss where readable, else `status` VmRSS).
    pub rss_bytes: u64,
    /// Swap (`smaps_rollup` Swap, else `status` VmSwap).
    pub swap_bytes: u64,
    /// Peak resident set (`status` VmHWM).
    pub peak_rss_bytes: u64,
    /// Proportional set size, where readable.
    pub pss_bytes: Option<u64>,
    /// Of the resident bytes, those marked free that the kernel takes when it needs memory
    /// (`MADV_FREE`: jemalloc's muzzy pages; `smaps_rollup` LazyFree).
    pub lazy_free_bytes: Option<u64>,
    /// Of the resident bytes, those in transparent huge pages (`smaps_rollup` AnonHugePages).
    pub anon_huge_bytes: Option<u64>,
    /// Of the resident bytes, those that KSM merged with equal pages (`smaps_rollup` KSM, Linux
    /// 6.8 or later).
    pub ksm_bytes: Option<u64>,
    /// The target is a core file, of which no kernel can be asked. Then `rss_bytes` are those of the
    /// pages that it holds, which shares are of, and no RSS; peak and swap are unknown.
    pub is_core: bool,
}

impl KernelCount {
    /// The count that stands in for the kernel's where the target is a core file that holds pages of
    /// `bytes`.
    pub fn of_core(bytes: u64) -> Self {
        Self {
            rss_bytes: bytes,
            is_core: true,
            ..Self::default()
        }
    }

    /// What `rss_bytes` is, in a word.
    pub fn name(&self) -> &'static str {
        if self.is_core { "the core" } else { "RSS" }
    }

    /// RSS, swap and peak as far as they are known.
    pub fn known(&self) -> [Option<u64>; 3] {
        let figures = [self.rss_bytes, self.swap_bytes, self.peak_rss_bytes];
        figures.map(|bytes| (!self.is_core).then_some(bytes))
    }
}

/// What was seen at one moment. A [`crate::report::FragReport`] is a pure function of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    /// Nanoseconds since 1970-01-01 UTC.
    pub taken_at_ns: u64,
    /// Where.
    pub host: Host,
    /// The process.
    pub target: Target,
    /// The kernel's account.
    pub kernel: KernelCount,
    /// Mappings and the state of their pages.
    pub residency: ResidencyMap,
    /// The heaps that were walked, inner allocators after outer ones.
    pub heaps: Vec<HeapSnapshot>,
    /// What it still shares with the process that it was forked from; `None` when the parent runs
    /// another program, or could not be read.
    pub fork: Option<ForkSharing>,
    /// How sure all this is.
    pub completeness: Completeness,
    /// The memory control group that limits it; `None` where none is known, as of a core.
    pub group: Option<GroupAccount>,
}

impl Sample {
    /// Whether it is known to run on what it was forked with, without threads but its own: its parent lives and
    /// executed no other program meanwhile, and neither did it.
    pub fn is_forked(&self) -> bool {
        self.fork.is_some()
    }
}
