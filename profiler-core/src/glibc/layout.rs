//! Where the fields of glibc's malloc lie, by release, as data. x86-64 (LP64) only.
//!
//! Source of every row: `struct malloc_state`, `struct malloc_par`, `tcache_entry` and
//! `tcache_perthread_struct` in `malloc/malloc.c` and `struct _heap_info` in `malloc/arena.c` of the
//! release named in [`Layout::since`], as compiled for x86-64 with the distributions' options
//! (threads, tunables, tcache). A new release is a new row, or only a larger `LAST`.

/// Offsets and sizes of one range of releases, in bytes.
#[derive(Debug)]
pub(super) struct Layout {
    /// The first release with this layout; it is valid until the next row's.
    pub(super) since: (u32, u32),
    /// `malloc_state.fastbinsY`; `None` for releases without fastbins.
    pub(super) fastbins: Option<u64>,
    /// `malloc_state.top`.
    pub(super) top: u64,
    /// `malloc_state.bins`.
    pub(super) bins: u64,
    /// `malloc_state.next`.
    pub(super) next: u64,
    /// `malloc_state.attached_threads`; `None` before 2.23.
    pub(super) attached_threads: Option<u64>,
    /// `malloc_state.system_mem`; `max_system_mem` follows it.
    pub(super) system_mem: u64,
    /// `sizeof (struct malloc_state)`.
    pub(super) state_bytes: u64,
    /// `sizeof (heap_info)`; from 0x30 on it contains `pagesize`.
    pub(super) heap_info_bytes: u64,
    /// Whether links in tcache and fastbins are stored as `next ^ (address >> 12)` (from 2.32).
    pub(super) mangled_links: bool,
    /// The per-thread cache; `None` before 2.26.
    pub(super) tcache: Option<TcacheLayout>,
    /// The settings and totals, `struct malloc_par mp_`.
    pub(super) par: ParLayout,
}

/// `tcache_perthread_struct`.
#[derive(Debug)]
pub(super) struct TcacheLayout {
    /// Size of the chunk that contains it.
    pub(super) chunk_bytes: u64,
    /// Number of bins.
    pub(super) bins: usize,
    /// Of them, those that hold one chunk size each; the rest hold a range of sizes, ascending.
    pub(super) small_bins: usize,
    /// Bytes of each entry of `counts` (or `num_slots`), which is the first field.
    pub(super) count_bytes: usize,
    /// Whether the numbers are free slots, counting down from `mp_.tcache_count` (from 2.42).
    pub(super) counts_free_slots: bool,
    /// `entries`.
    pub(super) entries: u64,
    /// What `tcache_entry.key` of a cached chunk holds.
    pub(super) key: TcacheKey,
}

/// The mark against double frees in a cached chunk.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) enum TcacheKey {
    /// There is none (2.26 to 2.28).
    None,
    /// The address of the thread's tcache (2.29 to 2.33).
    Owner,
    /// One random number for the process (from 2.34).
    Random,
}

/// `struct malloc_par`. `trim_threshold`, `top_pad`, `mmap_threshold`, `arena_test` and `arena_max`
/// are its first five words in every release.
#[derive(Debug)]
pub(super) struct ParLayout {
    /// `thp_pagesize`, followed by `hp_pagesize`; `None` before 2.35.
    pub(super) thp_pagesize: Option<u64>,
    /// `n_mmaps`, an int, followed by the ints `n_mmaps_max`, `max_n_mmaps`, `no_dyn_threshold`.
    pub(super) n_mmaps: u64,
    /// `mmapped_mem`, followed by `max_mmapped_mem`.
    pub(super) mmapped_mem: u64,
    /// `sbrk_base`; the four words of the tcache's settings follow where there is a tcache.
    pub(super) sbrk_base: u64,
    /// The bytes by which the size in an mmapped chunk's header is smaller than its mapping: 0, and
    /// from 2.43 on the 16 bytes of the header itself (`mmap_set_chunk`). Then the lowest bit of
    /// its `prev_size` is a flag for huge pages, and `mremap_chunk` adds those 16 bytes to
    /// `mmapped_mem` each time, so that the counter is slightly too high.
    pub(super) mmapped_header: u64,
}

const PAR_2_17: ParLayout = ParLayout {
    thp_pagesize: None,
    n_mmaps: 0x28,
    mmapped_mem: 0x38,
    sbrk_base: 0x50, // after max_total_mem
    mmapped_header: 0,
};
const PAR_2_24: ParLayout = ParLayout {
    sbrk_base: 0x48,
    ..PAR_2_17
};
const PAR_2_35: ParLayout = ParLayout {
    thp_pagesize: Some(0x28),
    n_mmaps: 0x3c,
    mmapped_mem: 0x50,
    sbrk_base: 0x60,
    mmapped_header: 0,
};
const PAR_2_43: ParLayout = ParLayout {
    thp_pagesize: Some(0x30), // after thp_mode
    n_mmaps: 0x44,
    mmapped_mem: 0x58,
    sbrk_base: 0x68,
    mmapped_header: 16,
};

const TCACHE_2_26: TcacheLayout = TcacheLayout {
    chunk_bytes: 0x250,
    bins: 64,
    small_bins: 64,
    count_bytes: 1,
    counts_free_slots: false,
    entries: 0x40,
    key: TcacheKey::None,
};
const TCACHE_2_29: TcacheLayout = TcacheLayout {
    key: TcacheKey::Owner,
    ..TCACHE_2_26
};
const TCACHE_2_30: TcacheLayout = TcacheLayout {
    chunk_bytes: 0x290,
    count_bytes: 2,
    entries: 0x80,
    ..TCACHE_2_29
};
const TCACHE_2_34: TcacheLayout = TcacheLayout {
    key: TcacheKey::Random,
    ..TCACHE_2_30
};
const TCACHE_2_42: TcacheLayout = TcacheLayout {
    chunk_bytes: 0x300,
    bins: 76,
    counts_free_slots: true,
    entries: 0x98,
    ..TCACHE_2_34
};

const STATE_2_17: Layout = Layout {
    since: (2, 17),
    fastbins: Some(0x08),
    top: 0x58,
    bins: 0x68,
    next: 0x868,
    attached_threads: None,
    system_mem: 0x878,
    state_bytes: 0x888,
    heap_info_bytes: 0x20,
    mangled_links: false,
    tcache: None,
    par: PAR_2_17,
};
const STATE_2_23: Layout = Layout {
    since: (2, 23),
    attached_threads: Some(0x878),
    system_mem: 0x880,
    state_bytes: 0x890,
    ..STATE_2_17
};
const STATE_2_27: Layout = Layout {
    since: (2, 27),
    fastbins: Some(0x10), // after have_fastchunks
    top: 0x60,
    bins: 0x70,
    next: 0x870,
    attached_threads: Some(0x880),
    system_mem: 0x888,
    state_bytes: 0x898,
    par: PAR_2_24,
    tcache: Some(TCACHE_2_26),
    ..STATE_2_23
};
const STATE_2_32: Layout = Layout {
    since: (2, 32),
    mangled_links: true,
    tcache: Some(TCACHE_2_30),
    ..STATE_2_27
};
const STATE_2_35: Layout = Layout {
    since: (2, 35),
    heap_info_bytes: 0x30,
    par: PAR_2_35,
    tcache: Some(TCACHE_2_34),
    ..STATE_2_32
};

/// All rows, ascending.
pub(super) static LAYOUTS: [Layout; 12] = [
    STATE_2_17,
    STATE_2_23,
    Layout {
        since: (2, 24),
        par: PAR_2_24,
        ..STATE_2_23
    },
    Layout {
        since: (2, 26),
        par: PAR_2_24,
        tcache: Some(TCACHE_2_26),
        ..STATE_2_23
    },
    STATE_2_27,
    Layout {
        since: (2, 29),
        tcache: Some(TCACHE_2_29),
        ..STATE_2_27
    },
    Layout {
        since: (2, 30),
        tcache: Some(TCACHE_2_30),
        ..STATE_2_27
    },
    STATE_2_32,
    Layout {
        since: (2, 34),
        tcache: Some(TCACHE_2_34),
        ..STATE_2_32
    },
    STATE_2_35,
    Layout {
        since: (2, 42),
        tcache: Some(TCACHE_2_42),
        ..STATE_2_35
    },
    // Read in the development tree (2.42.9000, commit 04e750e75b73), run on the release.
    Layout {
        since: (2, 43),
        fastbins: None,
        top: 0x08,
        bins: 0x18,
        next: 0x818,
        attached_threads: Some(0x828),
        system_mem: 0x830,
        state_bytes: 0x840,
        par: PAR_2_43,
        tcache: Some(TCACHE_2_42),
        ..STATE_2_35
    },
];

/// The last release known to have the last row's layout.
const LAST: (u32, u32) = (2, 43);

/// The layouts to try for a release: its own, and the next one's, because a development build of
/// X.Y+1 calls itself X.Y.9000. Empty for an unknown release.
pub(super) fn candidates(version: (u32, u32)) -> impl Iterator<Item = &'static Layout> {
    let known = LAYOUTS[0].since <= version && version <= LAST;
    let own = LAYOUTS.iter().rfind(|row| row.since <= version);
    let next = LAYOUTS
        .iter()
        .find(|row| row.since == (version.0, version.1 + 1));
    own.into_iter().chain(next).filter(move |_| known)
}

/// The releases that are known, in words.
pub(super) fn known() -> String {
    let ((major, minor), (last_major, last_minor)) = (LAYOUTS[0].since, LAST);
    format!("{major}.{minor} to {last_major}.{last_minor}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_release_has_a_row_and_the_rows_ascend() {
        assert!(LAYOUTS.windows(2).all(|w| w[0].since < w[1].since));
        for minor in 17..=43 {
            let own = candidates((2, minor)).next().map(|row| row.since);
            assert!(
                own.is_some_and(|since| since <= (2, minor)),
                "2.{minor}: {own:?}"
            );
        }
        assert_eq!(candidates((2, 16)).count(), 0);
        assert_eq!(candidates((2, 44)).count(), 0);
        assert_eq!(candidates((3, 0)).count(), 0);
    }

    #[test]
    fn the_releases_that_are_known_are_said() {
        assert_eq!(known(), "2.17 to 2.43");
    }

    #[test]
    fn the_fields_of_malloc_state_follow_one_another_as_declared() {
        for row in &LAYOUTS {
            if let Some(fastbins) = row.fastbins {
                assert_eq!(row.top, fastbins + 80, "{:?}", row.since);
            }
            assert_eq!(row.bins, row.top + 16, "{:?}", row.since);
            assert_eq!(row.next, row.bins + 0x800, "{:?}", row.since);
            let attached = row.attached_threads.map_or(0, |at| {
                assert_eq!(at, row.next + 16);
                8
            });
            assert_eq!(row.system_mem, row.next + 16 + attached, "{:?}", row.since);
            assert_eq!(row.state_bytes, row.system_mem + 16, "{:?}", row.since);
            if let Some(tcache) = &row.tcache {
                let counts = (tcache.bins * tcache.count_bytes) as u64;
                assert_eq!(tcache.entries, counts.next_multiple_of(8));
                let bytes = tcache.entries + 8 * tcache.bins as u64;
                assert_eq!(tcache.chunk_bytes, (bytes + 8).next_multiple_of(16));
            }
        }
    }
}
