//! The allocators and settings that the programs really run under.

use std::path::PathBuf;

use super::programs::library;

/// One allocator with its settings.
pub(super) struct Setting {
    /// As `--allocator` names it.
    pub(super) name: &'static str,
    /// The shared object of Debian's that is preloaded, if it is not the C library's own malloc.
    preload: Option<&'static str>,
    /// A variable and its value.
    pub(super) env: Option<(&'static str, &'static str)>,
    /// The same as `replay --tunable` takes it.
    pub(super) tunable: Option<&'static str>,
}

impl Setting {
    /// The shared object that is preloaded.
    pub(super) fn preload(&self) -> Option<PathBuf> {
        self.preload.map(library)
    }
}

const fn tuned(
    name: &'static str,
    env: (&'static str, &'static str),
    tunable: &'static str,
) -> Setting {
    Setting {
        name,
        preload: None,
        env: Some(env),
        tunable: Some(tunable),
    }
}

const fn other(name: &'static str, object: &'static str) -> Setting {
    Setting {
        name,
        preload: Some(object),
        env: None,
        tunable: None,
    }
}

/// All of them; the first is the one that the programs are recorded under.
pub(super) const SETTINGS: [Setting; 6] = [
    Setting {
        name: "glibc",
        preload: None,
        env: None,
        tunable: None,
    },
    tuned(
        "glibc-mmap-threshold",
        ("MALLOC_MMAP_THRESHOLD_", "131072"),
        "mmap_threshold=131072",
    ),
    tuned(
        "glibc-no-tcache",
        ("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0"),
        "tcache_count=0",
    ),
    other("jemalloc", "libjemalloc.so.2"),
    other("mimalloc", "libmimalloc.so.2.0"),
    other("tcmalloc", "libtcmalloc_minimal.so.4"),
];
