//! The table: one row for each allocator.

use super::in_force::{self, AsSettings};
use super::settings::{self, Settings};
use super::{
    Allocator, AllocatorRow, BuildId, Home, Listed, Margins, PageReturn, ReturnTime, Signs, version,
};

/// All rows. If several match (a library with several allocators inside), the first counts.
pub static ROWS: [&AllocatorRow; Allocator::COUNT] =
    [&GLIBC, &JEMALLOC, &MIMALLOC, &TCMALLOC, &MUSL, &PYMALLOC];

impl Allocator {
    /// Its row.
    pub fn row(self) -> &'static AllocatorRow {
        match self {
            Self::Glibc => &GLIBC,
            Self::Pymalloc => &PYMALLOC,
            Self::Jemalloc => &JEMALLOC,
            Self::Mimalloc => &MIMALLOC,
            Self::Tcmalloc => &TCMALLOC,
            Self::Musl => &MUSL,
        }
    }
}

/// glibc's call that returns whole free pages, as written in C.
pub(crate) const MALLOC_TRIM_IN_C: &str = "malloc_trim(0)";

/// What `mtrim` (`malloc/malloc.c`, 2.17 to 2.43) leaves alone next to a chunk in use: the word
/// before its span (`prev_size`), which belongs to the chunk, and after the span the header of a
/// free chunk (48 bytes), which begins with the last word of the span. A test compares the walker's
/// own rule with these.
const MTRIM_MARGINS: Margins = Margins {
    before: 8,
    behind: 40,
};

static GLIBC: AllocatorRow = AllocatorRow {
    kind: Allocator::Glibc,
    name: "glibc",
    home: Home::CLibrary,
    signs: Signs {
        // A static program contains `gnu_get_libc_version` only if it calls it, but has malloc's
        // internal functions in its symbols.
        functions: &[&["gnu_get_libc_version"], &["_int_malloc", "__libc_malloc"]],
        text: b"",
        files: &["libc.so.6", "libc-2."],
    },
    version: version::glibc,
    variables: &["MALLOC_", "GLIBC_TUNABLES="],
    settings: settings::GLIBC,
    listed: Listed {
        bytes: &[
            "mmap_threshold",
            "trim_threshold",
            "top_pad",
            "tcache_max_bytes",
            "mmapped_mem",
            "max_mmapped_mem",
            "thp_pagesize",
            "hp_pagesize",
        ],
        counters: &["n_mmaps", "max_n_mmaps", "mmapped_mem", "max_mmapped_mem"],
        lost_by_fork: &[],
        as_settings: AsSettings::NONE,
    },
    builds: &[BuildId::Glibc],
    chunk_header: true,
    page_return: PageReturn::PagesBetween(MTRIM_MARGINS),
    return_time: ReturnTime::ByPlace,
    gives_back: Some(MALLOC_TRIM_IN_C),
    caches: "tcache and fastbins",
};

static JEMALLOC: AllocatorRow = AllocatorRow {
    kind: Allocator::Jemalloc,
    name: "jemalloc",
    home: Home::AnyObject,
    signs: Signs {
        functions: &[&["mallctl"], &["je_mallctl"], &["_rjem_mallctl"]],
        // The prefix of its messages (`src/malloc_io.c`).
        text: b"<jemalloc>: ",
        files: &[],
    },
    version: version::jemalloc,
    variables: &["MALLOC_CONF="],
    settings: settings::JEMALLOC,
    listed: Listed {
        bytes: &["opt.oversize_threshold", "opt.tcache_max"],
        counters: &["arenas"],
        // `background_thread_postfork_child` (`src/background_thread.c`, 5.0 and later).
        lost_by_fork: &["opt.background_thread"],
        as_settings: in_force::JEMALLOC,
    },
    builds: &[BuildId::Jemalloc],
    chunk_header: false,
    page_return: PageReturn::Other,
    return_time: ReturnTime::InCalls,
    gives_back: Some("a purge"),
    caches: "thread caches (tcache)",
};

static MIMALLOC: AllocatorRow = AllocatorRow {
    kind: Allocator::Mimalloc,
    name: "mimalloc",
    home: Home::AnyObject,
    signs: Signs {
        functions: &[&["mi_malloc"], &["mi_version"]],
        text: b"mimalloc: warning: ",
        files: &[],
    },
    version: version::mimalloc,
    variables: &["MIMALLOC_"],
    settings: settings::MIMALLOC,
    listed: Listed {
        bytes: &[],
        counters: &[],
        lost_by_fork: &[],
        as_settings: in_force::MIMALLOC,
    },
    builds: &[BuildId::Mimalloc3, BuildId::Mimalloc2],
    chunk_header: false,
    page_return: PageReturn::Other,
    return_time: ReturnTime::WithLaterCalls,
    gives_back: Some("mi_collect(true)"),
    caches: "the allocator's caches",
};

static TCMALLOC: AllocatorRow = AllocatorRow {
    kind: Allocator::Tcmalloc,
    name: "tcmalloc",
    home: Home::AnyObject,
    signs: Signs {
        functions: &[&["tc_malloc"], &["MallocExtension_GetNumericProperty"]],
        text: version::GPERFTOOLS,
        files: &[],
    },
    version: version::tcmalloc,
    variables: &["TCMALLOC_"],
    settings: settings::TCMALLOC,
    listed: Listed {
        bytes: &["page size"],
        counters: &[],
        lost_by_fork: &[],
        as_settings: in_force::TCMALLOC,
    },
    builds: &[BuildId::Tcmalloc],
    chunk_header: false,
    page_return: PageReturn::Other,
    return_time: ReturnTime::Never,
    gives_back: Some("MallocExtension_ReleaseFreeMemory()"),
    caches: "thread, transfer and central caches",
};

static MUSL: AllocatorRow = AllocatorRow {
    kind: Allocator::Musl,
    name: "musl",
    home: Home::CLibrary,
    signs: Signs {
        functions: &[],
        // `musl libc (x86_64)` (`ldso/dynlink.c`).
        text: b"musl libc (",
        files: &["ld-musl-", "libc.musl-", "libc.so"],
    },
    version: version::musl,
    variables: &[],
    settings: Settings::NONE,
    listed: Listed {
        bytes: &["MMAP_THRESHOLD"],
        counters: &[],
        lost_by_fork: &[],
        as_settings: AsSettings::NONE,
    },
    builds: &[],
    chunk_header: false,
    page_return: PageReturn::Other,
    return_time: ReturnTime::Unknown,
    gives_back: None,
    caches: "the allocator's caches",
};

static PYMALLOC: AllocatorRow = AllocatorRow {
    kind: Allocator::Pymalloc,
    name: "pymalloc",
    home: Home::Python,
    signs: Signs {
        functions: &[],
        text: b"",
        files: &[],
    },
    // It has no version of its own: Python's applies.
    version: |_| None,
    variables: &["PYTHONMALLOC="],
    settings: settings::PYMALLOC,
    listed: Listed {
        bytes: &["pool_size", "arena_size"],
        counters: &[],
        lost_by_fork: &[],
        as_settings: AsSettings::NONE,
    },
    builds: &[],
    chunk_header: false,
    page_return: PageReturn::WholeExtents,
    return_time: ReturnTime::Unknown,
    gives_back: Some("the end of an arena"),
    caches: "the allocator's caches",
};
