//! The plan of what will be probed and where, made before anything is attached.

use std::fmt;
use std::path::PathBuf;

use profiler_core::allocator::AllocatorIdentity;
use profiler_core::text::visible;
use profiler_target::ErrorKind;

/// One function of the allocator's interface.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub enum Function {
    /// `void *malloc(size_t size)`
    Malloc,
    /// `void *calloc(size_t count, size_t size)`
    Calloc,
    /// `void *realloc(void *old, size_t size)`
    Realloc,
    /// `void *reallocarray(void *old, size_t count, size_t size)`
    Reallocarray,
    /// `void *memalign(size_t alignment, size_t size)`
    Memalign,
    /// `int posix_memalign(void **result, size_t alignment, size_t size)`
    PosixMemalign,
    /// `void *aligned_alloc(size_t alignment, size_t size)`
    AlignedAlloc,
    /// `void *valloc(size_t size)`
    Valloc,
    /// `void free(void *old)`
    Free,
}

impl Function {
    /// All of them, in the order in which they are planned and shown.
    pub const ALL: [Self; 9] = [
        Self::Malloc,
        Self::Calloc,
        Self::Realloc,
        Self::Reallocarray,
        Self::Memalign,
        Self::PosixMemalign,
        Self::AlignedAlloc,
        Self::Valloc,
        Self::Free,
    ];

    /// Whether glibc's calls none of the others.
    pub(super) const fn is_leaf_of_glibc(self) -> bool {
        matches!(self, Self::Malloc | Self::Calloc)
    }

    /// The symbol's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Malloc => "malloc",
            Self::Calloc => "calloc",
            Self::Realloc => "realloc",
            Self::Reallocarray => "reallocarray",
            Self::Memalign => "memalign",
            Self::PosixMemalign => "posix_memalign",
            Self::AlignedAlloc => "aligned_alloc",
            Self::Valloc => "valloc",
            Self::Free => "free",
        }
    }
}

impl fmt::Display for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Everything to attach in one target.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ProbePlan {
    /// The object that serves the target's malloc calls.
    pub object: MallocObject,
    /// The probes, no two at the same function address.
    pub probes: Vec<PlannedProbe>,
    /// Functions that are not probed, and why.
    pub skipped: Vec<(Function, String)>,
    /// The sizes that the events have.
    pub sizes: Sizes,
    /// Whether to watch which functions get memory from the kernel. That slows all system calls on
    /// the host, so it is only done on request.
    pub watches_growth: bool,
    /// Whether samples have native functions, too. Each costs the target more then, and fragscope itself several times
    /// as much.
    pub native_stacks: bool,
}

/// Which size of an allocation is recorded.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Sizes {
    /// As given, if the allocator keeps that before the block ([`MallocObject::chunk_header`]),
    /// else as requested. The cheapest.
    Given,
    /// As requested, with alignments.
    Requested,
}

/// Why nothing can be probed. Walks and residency do not need probes.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// Its maps or its auxiliary vector could not be read.
    #[error("cannot read what process {pid} has loaded: {source}")]
    Process {
        /// The target.
        pid: i32,
        /// The kernel's error.
        source: std::io::Error,
    },
    /// No loaded object defines malloc.
    #[error("no loaded object of the target defines malloc")]
    NoMalloc,
    /// A fully static program whose malloc has no symbol.
    #[error(
        "{} is statically linked and stripped, so its malloc cannot be found",
        visible(path)
    )]
    StaticWithoutSymbols {
        /// The program, as the target sees it.
        path: String,
    },
    /// The file of an object could not be read or understood.
    #[error("cannot look for malloc in {}: {}", visible(path), visible(why))]
    Unreadable {
        /// The file, as the target sees it.
        path: String,
        /// What is wrong.
        why: String,
        /// Whether the problem is its size.
        is_too_large: bool,
    },
}

impl PlanError {
    /// The kind of the error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Process { source, .. } => match ErrorKind::of_io(source) {
                ErrorKind::Other => ErrorKind::TargetNotProbeable,
                kind => kind,
            },
            Self::StaticWithoutSymbols { .. } => ErrorKind::NoSymbols,
            Self::Unreadable {
                is_too_large: true, ..
            } => ErrorKind::ObjectTooLarge,
            Self::NoMalloc | Self::Unreadable { .. } => ErrorKind::TargetNotProbeable,
        }
    }
}

/// The object that serves the target's malloc calls.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MallocObject {
    /// Which allocator it is, and its path as the target sees it.
    pub identity: AllocatorIdentity,
    /// A path by which this process can open the very same file.
    pub host_path: PathBuf,
}

impl MallocObject {
    /// Its path as the target sees it.
    pub fn target_path(&self) -> &str {
        &self.identity.object
    }

    /// Whether the word before a block holds its chunk's size ([`AllocatorRow::chunk_header`]).
    ///
    /// [`AllocatorRow::chunk_header`]: profiler_core::allocator::AllocatorRow::chunk_header
    pub fn chunk_header(&self) -> bool {
        let kind = self.identity.kind;
        kind.is_some_and(|kind| kind.row().chunk_header)
    }
}

/// One function to probe.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PlannedProbe {
    /// The function; of several functions at one address, the first in the order of
    /// [`Function::ALL`].
    pub function: Function,
    /// Other functions at the same address, which this probe also sees.
    pub aliases: Vec<Function>,
    /// Where the arguments are read; `None` if only the result is needed.
    pub entry: Option<Site>,
    /// Where the result is read.
    pub result: ResultSite,
}

/// One instruction to put a breakpoint on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Site {
    /// Offset of the instruction in the file, in bytes: a uprobe is attached to it.
    pub file_offset: u64,
    /// Bytes from the function's first instruction. Parts of a function that the compiler moved
    /// below it wrap around: read it as an `i64`.
    pub offset_in_function: u64,
    /// The instruction as text, e.g. `push r12`.
    pub instruction: String,
    /// Whether the kernel emulates it rather than single-stepping a copy (ten times more
    /// expensive).
    pub emulated: bool,
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let offset = self.offset_in_function.cast_signed();
        let sign = if offset < 0 { '-' } else { '+' };
        let how = if self.emulated {
            "emulated"
        } else {
            "single-stepped"
        };
        write!(
            f,
            "{sign}{:#x} {}, {how}",
            offset.unsigned_abs(),
            self.instruction
        )
    }
}

/// Where a function's result is read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ResultSite {
    /// Not needed (`free`).
    None,
    /// At these jumps in the body: `rax` holds the result, and every call that returns a non-null
    /// pointer passes exactly one of them. A call that fails may pass one too, with a null `rax`.
    Jumps(Vec<Site>),
    /// With a return probe set at this instruction, where `rsp` points at the return address.
    Return(Site),
}
