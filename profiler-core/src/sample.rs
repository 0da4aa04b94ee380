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
    /// The page size of its kernel.
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

    /// Its name, as in `PYTHONMALLOC`, or `unknown`.
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

    /// Whether pymalloc's pools are expected.
    pub const fn may_be_pymalloc(self) -> bool {
        matches!(self, Self::Pymalloc | Self::PymallocDebug | Self::Unknown)
    }
}

/// Why none of a process's threads runs, whoever looks at it.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Halted {
    /// A signal stopped it (`SIGSTOP`, or one of a terminal's).
    Stopped,
    /// Another program traces it, as a debugger does, and has stopped it.
    Traced,
    /// Its control group is frozen.
    Frozen,
}

impl Halted {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Stopped, Self::Traced, Self::Frozen];

    /// Its name in files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Traced => "traced",
            Self::Frozen => "frozen",
        }
    }

    /// What it is, as the beginning of a sentence.
    pub(crate) const fn words(self) -> &'static str {
        match self {
            Self::Stopped => "It is stopped by a signal (SIGSTOP, or a terminal's; state T)",
            Self::Traced => "It is stopped by a program that traces it, as a debugger (state t)",
            Self::Frozen => "Its control group is frozen",
        }
    }

    /// What lets it go on.
    pub(crate) const fn remedy(self) -> &'static str {
        match self {
            Self::Stopped => "Continue it with SIGCONT",
            Self::Traced => "Let that program continue it",
            Self::Frozen => "Thaw the group",
        }
    }
}

/// The target.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Target {
    /// Process id in fragscope's own pid namespace.
    pub pid: i32,
    /// The kernel's name for it.
    pub comm: String,
    /// Its command line.
    pub cmdline: Vec<String>,
    /// Python's version, e.g. `CPython 3.11.2`; `None` if it is not a Python process.
    pub python: Option<String>,
    /// The allocator of its objects according to its tables; `None` if it is not a Python process.
    pub python_malloc: Option<PythonMalloc>,
    /// The C library, e.g. `glibc 2.36`; `None` if it has none (static).
    pub libc: Option<String>,
    /// The allocator that serves its malloc calls, e.g. `glibc 2.36` or `jemalloc`.
    pub malloc: Option<AllocatorTitle>,
    /// Threads at that moment.
    pub threads: u32,
    /// Its start time, in clock ticks since the host's boot (`/proc/PID/stat`, `starttime`); `None`
    /// for a core.
    pub began_ticks: Option<u64>,
    /// The host's boot (`/proc/sys/kernel/random/boot_id`); `None` if unknown.
    pub boot_id: Option<String>,
    /// Why none of its threads ran before it was looked at; `None` if they did, and of a core.
    pub halted: Option<Halted>,
}

impl Target {
    /// Whether both may be the same process: everything known about both is equal.
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
    /// Resident set (Rss of `smaps_rollup` if readable, else VmRSS of `status`).
    pub rss_bytes: u64,
    /// Swap (`smaps_rollup` Swap, else `status` VmSwap).
    pub swap_bytes: u64,
    /// Peak resident set (`status` VmHWM).
    pub peak_rss_bytes: u64,
    /// Proportional set size, if readable.
    pub pss_bytes: Option<u64>,
    /// The part of the resident bytes that is marked free and that the kernel takes when it needs
    /// memory (`MADV_FREE`: jemalloc's muzzy pages; LazyFree of `smaps_rollup`).
    pub lazy_free_bytes: Option<u64>,
    /// Of the resident bytes, those in transparent huge pages (`smaps_rollup` AnonHugePages).
    pub anon_huge_bytes: Option<u64>,
    /// Of the resident bytes, those that KSM merged with equal pages (`smaps_rollup` KSM, Linux
    /// 6.8 or later).
    pub ksm_bytes: Option<u64>,
    /// The target is a core file, for which there are no kernel counts. Then `rss_bytes` is not RSS
    /// but the bytes of the pages in the core, to which shares refer; peak and swap are unknown.
    pub is_core: bool,
}

impl KernelCount {
    /// The counts used if the target is a core file that contains pages of `bytes` in total.
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

    /// RSS, swap and peak, as far as known.
    pub fn known(&self) -> [Option<u64>; 3] {
        let figures = [self.rss_bytes, self.swap_bytes, self.peak_rss_bytes];
        figures.map(|bytes| (!self.is_core).then_some(bytes))
    }
}

/// Everything observed at one moment. A [`crate::report::FragReport`] is a pure function of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    /// Nanoseconds since 1970-01-01 UTC.
    pub taken_at_ns: u64,
    /// The host.
    pub host: Host,
    /// The process.
    pub target: Target,
    /// The kernel's account.
    pub kernel: KernelCount,
    /// Mappings and the state of their pages.
    pub residency: ResidencyMap,
    /// The heaps that were walked, inner allocators after outer ones.
    pub heaps: Vec<HeapSnapshot>,
    /// Memory still shared with the process that it was forked from; `None` if the parent runs
    /// another program, or could not be read.
    pub fork: Option<ForkSharing>,
    /// How sure all this is.
    pub completeness: Completeness,
    /// The memory control group that limits it; `None` if none is known, as for a core.
    pub group: Option<GroupAccount>,
}

impl Sample {
    /// Whether it is known to still run what it was forked with, without its parent's other
    /// threads: its parent is alive, and neither has executed another program since.
    pub fn is_forked(&self) -> bool {
        self.fork.is_some()
    }
}
