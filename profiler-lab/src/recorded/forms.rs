//! The settings of allocators that are taken from a recording, and the forms of their values.

use crate::candidates::is_tunable;

/// What is kept of a variable.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct Kept {
    /// The settings of known names and forms; empty when there are none.
    pub(super) value: String,
    /// The others.
    pub(super) rest: Option<String>,
}

/// Variables of glibc's malloc (`elf/dl-tunables.list`) with a number.
const GLIBC: [&str; 8] = [
    "MALLOC_ARENA_MAX",
    "MALLOC_ARENA_TEST",
    "MALLOC_CHECK_",
    "MALLOC_MMAP_MAX_",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_PERTURB_",
    "MALLOC_TOP_PAD_",
    "MALLOC_TRIM_THRESHOLD_",
];

/// Settings of jemalloc 3 to 5 (`src/jemalloc.c`, `malloc_conf_init_helper`): none of those that
/// profile, print or dump.
const JEMALLOC: [&str; 53] = [
    "abort",
    "background_thread",
    "bin_shards",
    "cache_oblivious",
    "calloc_madvise_threshold",
    "decay_time",
    "dirty_decay_ms",
    "disable_large_size_classes",
    "dss",
    "experimental_hpa_max_purge_nhp",
    "experimental_hpa_start_huge_if_thp_always",
    "hpa",
    "hpa_dirty_mult",
    "hpa_hugification_threshold_ratio",
    "hpa_hugify_delay_ms",
    "hpa_min_purge_interval_ms",
    "hpa_sec_bytes_after_flush",
    "hpa_sec_max_alloc",
    "hpa_sec_max_bytes",
    "hpa_sec_nshards",
    "hpa_slab_max_alloc",
    "junk",
    "lg_chunk",
    "lg_dirty_mult",
    "lg_extent_max_active_fit",
    "lg_tcache_flush_large_div",
    "lg_tcache_flush_small_div",
    "lg_tcache_gc_sweep",
    "lg_tcache_max",
    "lg_tcache_nslots_mul",
    "max_background_threads",
    "metadata_thp",
    "muzzy_decay_ms",
    "narenas",
    "oversize_threshold",
    "percpu_arena",
    "purge",
    "quarantine",
    "redzone",
    "remote_free_max",
    "remote_free_max_batch",
    "retain",
    "slab_sizes",
    "tcache",
    "tcache_gc_delay_bytes",
    "tcache_gc_incr_bytes",
    "tcache_max",
    "tcache_nslots_large",
    "tcache_nslots_small_max",
    "tcache_nslots_small_min",
    "thp",
    "trust_madvise",
    "zero",
];

/// Options of mimalloc 1 to 3 (`src/options.c`), after `MIMALLOC_`: none of those that print, and none
/// that takes huge pages from the host's pool.
const MIMALLOC: [&str; 41] = [
    "ABANDONED_PAGE_PURGE",
    "ABANDONED_PAGE_RESET",
    "ABANDONED_RECLAIM_ON_FREE",
    "ALLOW_DECOMMIT",
    "ALLOW_THP",
    "ARENA_EAGER_COMMIT",
    "ARENA_MAX_OBJECT_SIZE",
    "ARENA_PURGE_MULT",
    "ARENA_RESERVE",
    "DECOMMIT_DELAY",
    "DECOMMIT_EXTEND_DELAY",
    "DESTROY_ON_EXIT",
    "DISALLOW_ARENA_ALLOC",
    "DISALLOW_OS_ALLOC",
    "EAGER_COMMIT",
    "EAGER_COMMIT_DELAY",
    "EAGER_REGION_COMMIT",
    "GENERIC_COLLECT",
    "LIMIT_OS_ALLOC",
    "MAX_PAGE_CANDIDATES",
    "MAX_SEGMENT_RECLAIM",
    "MINIMAL_PURGE_SIZE",
    "OS_TAG",
    "PAGEMAP_COMMIT",
    "PAGE_COMMIT_ON_DEMAND",
    "PAGE_CROSS_THREAD_MAX_RECLAIM",
    "PAGE_FULL_RETAIN",
    "PAGE_MAX_CANDIDATES",
    "PAGE_MAX_RECLAIM",
    "PAGE_RECLAIM_ON_FREE",
    "PAGE_RESET",
    "PURGE_DECOMMITS",
    "PURGE_DELAY",
    "PURGE_EXTEND_DELAY",
    "RESET_DECOMMITS",
    "RESET_DELAY",
    "SEGMENT_CACHE",
    "SEGMENT_RESET",
    "TARGET_SEGMENTS_PER_THREAD",
    "USE_NUMA_NODES",
    "VISIT_ABANDONED",
];

/// Variables of gperftools' tcmalloc (`docs/tcmalloc.html`): none that opens files or devices.
const TCMALLOC: [&str; 12] = [
    "TCMALLOC_AGGRESSIVE_DECOMMIT",
    "TCMALLOC_DISABLE_MEMORY_RELEASE",
    "TCMALLOC_HEAP_LIMIT_MB",
    "TCMALLOC_MAX_PER_CPU_CACHE_SIZE",
    "TCMALLOC_MAX_TOTAL_THREAD_CACHE_BYTES",
    "TCMALLOC_MIN_PER_THREAD_CACHE_BYTES",
    "TCMALLOC_OVERRIDE_PAGESIZE",
    "TCMALLOC_RELEASE_RATE",
    "TCMALLOC_SKIP_MMAP",
    "TCMALLOC_SKIP_SBRK",
    "TCMALLOC_SPAN_PRE_ALLOC",
    "TCMALLOC_TRANSFER_NUM_OBJ",
];

/// What is kept of the variable `name`.
pub(super) fn kept(name: &str, value: &str) -> Kept {
    let whole = |is_kept: bool| match is_kept {
        true => Kept {
            value: value.to_owned(),
            rest: None,
        },
        false => Kept {
            value: String::new(),
            rest: Some(value.to_owned()),
        },
    };
    match name {
        "GLIBC_TUNABLES" => list(value, ':', |one| {
            let setting = one.split_once('=');
            setting.is_some_and(|(name, value)| {
                is_tunable(name) && is_number(value) && !takes_pool(name, value)
            })
        }),
        "MALLOC_CONF" => list(value, ',', |one| {
            let setting = one.split_once(':');
            setting.is_some_and(|(name, value)| JEMALLOC.contains(&name) && is_plain(value))
        }),
        // Which allocator serves Python; a player only shows it.
        "PYTHONMALLOC" => whole(is_word(value)),
        _ if GLIBC.contains(&name) => whole(is_number(value)),
        _ if TCMALLOC.contains(&name) => whole(is_plain(value)),
        _ => {
            let option = name.strip_prefix("MIMALLOC_");
            whole(option.is_some_and(|option| MIMALLOC.contains(&option) && is_plain(value)))
        }
    }
}

/// Keeps the members of a list that are known.
fn list(value: &str, separator: char, is_known: impl Fn(&str) -> bool) -> Kept {
    let members = value.split(separator).filter(|one| !one.is_empty());
    let (known, others): (Vec<&str>, Vec<&str>) = members.partition(|one| is_known(one));
    let mut between = [0; 4];
    let between: &str = separator.encode_utf8(&mut between);
    Kept {
        value: known.join(between),
        rest: (!others.is_empty()).then(|| others.join(between)),
    }
}

/// Whether a setting of glibc's takes huge pages from the host's pool, which others may have been
/// promised: `hugetlb` other than 0, and 1, which is advice (`malloc/malloc.c`, `ptmalloc_init`).
fn takes_pool(name: &str, value: &str) -> bool {
    name == "glibc.malloc.hugetlb" && !["0", "1"].contains(&value)
}

/// No setting is longer.
const LONGEST: usize = 128;

/// A number: decimal, octal or hexadecimal, as `strtoul` reads it.
fn is_number(value: &str) -> bool {
    let value = value.strip_prefix('-').unwrap_or(value);
    let digits = value.strip_prefix("0x").unwrap_or(value);
    let of_digits = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    !digits.is_empty() && value.len() <= LONGEST && of_digits
}

/// A number with a unit, a word, or a list of them: nothing in which a path fits.
fn is_plain(value: &str) -> bool {
    let is_one = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.|:".contains(&byte);
    !value.is_empty() && value.len() <= LONGEST && value.bytes().all(is_one)
}

fn is_word(value: &str) -> bool {
    let is_one = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
    !value.is_empty() && value.len() <= LONGEST && value.bytes().all(is_one)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_of(name: &str, value: &str) -> bool {
        let kept = kept(name, value);
        kept.value == value && kept.rest.is_none()
    }

    #[test]
    fn settings_that_recordings_have_are_kept() {
        for (name, value) in [
            ("MALLOC_ARENA_MAX", "2"),
            ("MALLOC_MMAP_THRESHOLD_", "0x20000"),
            (
                "GLIBC_TUNABLES",
                "glibc.malloc.tcache_count=0:glibc.malloc.arena_max=1",
            ),
            (
                "MALLOC_CONF",
                "background_thread:true,dirty_decay_ms:-1,narenas:4",
            ),
            ("MALLOC_CONF", "slab_sizes:1-4096:17|100-200:1,dss:primary"),
            ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"),
            ("MIMALLOC_PURGE_DELAY", "0"),
            ("MIMALLOC_ARENA_RESERVE", "1GiB"),
            ("TCMALLOC_RELEASE_RATE", "2.5"),
            ("PYTHONMALLOC", "malloc"),
        ] {
            assert!(all_of(name, value), "{name}={value}");
        }
    }

    #[test]
    fn what_has_another_name_or_form_is_not() {
        for (name, value) in [
            ("MALLOC_ARENA_MAX", "2;sh"),
            ("MALLOC_ARENA_MAX", ""),
            ("MALLOC_TRACE", "trace"),
            ("MALLOC_CONF", "prof_prefix:jeprof"),
            ("MALLOC_CONF", "stats_print:true"),
            ("MALLOC_CONF", "narenas:/x"),
            ("MIMALLOC_VERBOSE", "1"),
            ("MIMALLOC_RESERVE_HUGE_OS_PAGES", "9999"),
            ("MIMALLOC_ALLOW_LARGE_OS_PAGES", "1"),
            ("MIMALLOC_LARGE_OS_PAGES", "1"),
            ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=2"),
            ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=0x2"),
            ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1073741824"),
            ("MIMALLOC_PURGE_DELAY", "$(id)"),
            ("TCMALLOC_MEMFS_MALLOC_PATH", "x"),
            ("HEAPPROFILE", "x"),
            ("CPUPROFILE", "x"),
            ("LD_AUDIT", "x"),
            ("GCONV_PATH", "x"),
            ("GLIBC_TUNABLES", "glibc.malloc.arena_max=x"),
            ("GLIBC_TUNABLES", "glibc.mem.tagging=1"),
        ] {
            assert_eq!(kept(name, value).value, "", "{name}={value}");
        }
    }
}
