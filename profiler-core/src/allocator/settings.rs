//! Allocator settings: their names and how an environment sets them.
//!
//! Only settings for sizes, counts, times and thresholds are listed. Settings that open files,
//! print, or take huge pages from the host's pool are left out: recordings pass these settings on
//! to players, and a recording may come from anyone.

use super::{Allocator, ROWS, glibc_settings};

/// The settings of one allocator.
#[derive(Debug)]
pub struct Settings {
    /// The variable that lists several settings, if there is one.
    pub list: Option<List>,
    /// The prefix of each name: in the list, or without a list, in the name of the variable.
    pub prefix: &'static str,
    /// Their names without the prefix.
    pub names: &'static [&'static str],
    /// The separate variable of a setting that is also in the list, if it has one.
    pub own_variable: fn(&str) -> Option<&'static str>,
    /// What their values look like.
    pub form: ValueForm,
}

/// One setting of an allocator with a value.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Assignment {
    /// Its name without prefix, as in [`Settings::names`].
    pub name: &'static str,
    /// Its value, as the allocator reads it.
    pub value: &'static str,
}

/// A variable that holds several settings, such as `MALLOC_CONF=narenas:1,tcache:false`.
#[derive(Debug)]
pub struct List {
    /// Its name.
    pub variable: &'static str,
    /// The character between two settings.
    pub separator: char,
    /// The character between a name and its value.
    pub assignment: char,
}

/// What values look like.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum ValueForm {
    /// A number: decimal, octal or hexadecimal, as `strtoul` reads it.
    Number,
    /// A number with a unit, a word, or a list of them.
    Plain,
    /// A word in lower case.
    Word,
}

impl Settings {
    /// Of an allocator that reads nothing.
    pub(super) const NONE: Self = Self {
        list: None,
        prefix: "",
        names: &[],
        own_variable: |_| None,
        form: ValueForm::Word,
    };

    /// Whether `name`, in full, is the name of a setting in the list or of a setting's variable.
    pub fn has(&self, name: &str) -> bool {
        let short = name.strip_prefix(self.prefix);
        short.is_some_and(|short| self.names.contains(&short))
    }

    /// Whether a variable holds one setting.
    pub fn is_variable_of_one(&self, name: &str) -> bool {
        match self.list {
            Some(_) => {
                let mut own = self.names.iter().filter_map(|one| (self.own_variable)(one));
                own.any(|own| own == name)
            }
            None => self.has(name),
        }
    }
}

/// How the variables begin that any allocator reads, each once; whole names end in `=`.
pub fn environment_beginnings() -> impl Iterator<Item = &'static str> {
    let all = || ROWS.iter().flat_map(|row| row.variables);
    let is_covered = move |one: &str, at: usize| {
        let mut others = all().enumerate();
        others.any(|(place, other)| place != at && one.starts_with(other))
    };
    all()
        .enumerate()
        .filter(move |(at, one)| !is_covered(one, *at))
        .map(|(_, one)| *one)
}

/// The allocator that reads a variable of the environment.
pub fn reader_of(variable: &str) -> Option<Allocator> {
    let entry = format!("{variable}=");
    let beginnings = ROWS
        .iter()
        .flat_map(|row| row.variables.iter().map(|begin| (begin, row.kind)));
    let matching = beginnings.filter(|(begin, _)| entry.starts_with(**begin));
    // `MALLOC_CONF` is jemalloc's, other variables with `MALLOC_` are glibc's.
    let (_, kind) = matching.max_by_key(|(begin, _)| begin.len())?;
    Some(kind)
}

/// glibc (`elf/dl-tunables.list`).
pub(super) const GLIBC: Settings = Settings {
    list: Some(List {
        variable: "GLIBC_TUNABLES",
        separator: ':',
        assignment: '=',
    }),
    prefix: glibc_settings::PREFIX,
    names: &glibc_settings::TUNABLE_NAMES,
    own_variable: glibc_settings::own_variable,
    form: ValueForm::Number,
};

/// jemalloc 3 to 5 (`src/jemalloc.c`, `malloc_conf_init_helper`).
pub(super) const JEMALLOC: Settings = Settings {
    list: Some(List {
        variable: "MALLOC_CONF",
        separator: ',',
        assignment: ':',
    }),
    names: &[
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
    ],
    form: ValueForm::Plain,
    ..Settings::NONE
};

/// mimalloc 1 to 3 (`src/options.c`).
pub(super) const MIMALLOC: Settings = Settings {
    prefix: "MIMALLOC_",
    names: &[
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
    ],
    form: ValueForm::Plain,
    ..Settings::NONE
};

/// gperftools' tcmalloc (`docs/tcmalloc.html`).
pub(super) const TCMALLOC: Settings = Settings {
    prefix: "TCMALLOC_",
    names: &[
        "AGGRESSIVE_DECOMMIT",
        "DISABLE_MEMORY_RELEASE",
        "HEAP_LIMIT_MB",
        "MAX_PER_CPU_CACHE_SIZE",
        "MAX_TOTAL_THREAD_CACHE_BYTES",
        "MIN_PER_THREAD_CACHE_BYTES",
        "OVERRIDE_PAGESIZE",
        "RELEASE_RATE",
        "SKIP_MMAP",
        "SKIP_SBRK",
        "SPAN_PRE_ALLOC",
        "TRANSFER_NUM_OBJ",
    ],
    form: ValueForm::Plain,
    ..Settings::NONE
};

/// Which allocator serves Python (`Objects/obmalloc.c`, `_PyMem_GetAllocatorName`).
pub(super) const PYMALLOC: Settings = Settings {
    names: &["PYTHONMALLOC"],
    form: ValueForm::Word,
    ..Settings::NONE
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_variable_has_one_reader() {
        for (variable, reader) in [
            ("MALLOC_ARENA_MAX", Some(Allocator::Glibc)),
            ("GLIBC_TUNABLES", Some(Allocator::Glibc)),
            ("MALLOC_CONF", Some(Allocator::Jemalloc)),
            ("MIMALLOC_PURGE_DELAY", Some(Allocator::Mimalloc)),
            ("TCMALLOC_RELEASE_RATE", Some(Allocator::Tcmalloc)),
            ("PYTHONMALLOC", Some(Allocator::Pymalloc)),
            ("PYTHONMALLOCSTATS", None),
            ("PATH", None),
        ] {
            assert_eq!(reader_of(variable), reader, "{variable}");
        }
    }

    #[test]
    fn a_setting_stands_in_a_variable_that_its_allocator_reads() {
        for row in ROWS {
            let list = row
                .settings
                .list
                .iter()
                .map(|list| list.variable.to_owned());
            let own = row.settings.names.iter();
            let own = own.filter_map(|name| (row.settings.own_variable)(name));
            let own = own.map(str::to_owned);
            let prefix = row.settings.prefix;
            let alone = match row.settings.list {
                Some(_) => &[],
                None => row.settings.names,
            };
            let alone = alone.iter().map(|name| format!("{prefix}{name}"));
            for variable in list.chain(own).chain(alone) {
                assert_eq!(reader_of(&variable), Some(row.kind), "{variable}");
            }
        }
    }

    #[test]
    fn no_variable_is_looked_for_twice() {
        let all: Vec<_> = environment_beginnings().collect();
        assert_eq!(
            all,
            [
                "MALLOC_",
                "GLIBC_TUNABLES=",
                "MIMALLOC_",
                "TCMALLOC_",
                "PYTHONMALLOC="
            ]
        );
    }
}
