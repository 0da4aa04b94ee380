//! glibc's settings: one row for each, with all its names.
//!
//! Sources: `elf/dl-tunables.list` (the tunables and the environment variables that they replace) and
//! `struct malloc_par` and the `do_set_*` functions of `malloc/malloc.c`, 2.17 to 2.43.

use std::ops::RangeInclusive;

use super::Assignment;
use crate::addr::PAGE_SIZE;

/// What glibc's mmap threshold is at first and can grow to, in bytes (`DEFAULT_MMAP_THRESHOLD_MIN` and
/// `_MAX` in `malloc/malloc.c`, on 64 bits).
pub const MMAP_THRESHOLDS: RangeInclusive<u64> = 128 << 10..=32 << 20;

/// What the mmap threshold is at first, in KiB, as sentences have it.
pub const INITIAL_MMAP_THRESHOLD_KIB: u64 = *MMAP_THRESHOLDS.start() >> 10;

/// What glibc's trim threshold is before it adapts, in bytes (`DEFAULT_TRIM_THRESHOLD`).
pub const INITIAL_TRIM_THRESHOLD: u64 = 128 << 10;

/// What can be set of glibc's malloc, and what it keeps in `mp_`.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum GlibcSetting {
    /// From this block size on a block gets a mapping of its own, in bytes.
    MmapThreshold,
    /// An end of an arena that is larger is given back, in bytes.
    TrimThreshold,
    /// Extra bytes taken from the kernel beyond what a request needs.
    TopPad,
    /// The most blocks with a mapping of their own.
    MmapMax,
    /// The most arenas.
    ArenaMax,
    /// Arenas from which on their number is limited.
    ArenaTest,
    /// Blocks of one size that a thread caches.
    TcacheCount,
    /// The largest block that is cached, in bytes.
    TcacheMax,
    /// Blocks of the unsorted list that are looked at to fill a cache.
    TcacheUnsortedLimit,
    /// The largest block of fastbins, in bytes.
    Mxfast,
    /// Huge pages: none, by advice, or of the host's pool.
    Hugetlb,
    /// What freed memory is overwritten with.
    Perturb,
    /// What is checked.
    Check,
    /// Blocks with a mapping of their own, now.
    Mmaps,
    /// The most there ever were.
    MaxMmaps,
    /// Whether the thresholds no longer adapt.
    NoDynThreshold,
    /// Bytes of those mappings, now.
    MmappedMem,
    /// The most there ever were.
    MaxMmappedMem,
    /// Size that the top is trimmed by, where huge pages are advised, in bytes.
    ThpPagesize,
    /// Size of the pages of the host's pool, where these are used, in bytes.
    HpPagesize,
    /// Sizes of block that are cached.
    TcacheBins,
}

/// The names of one setting.
struct Names {
    setting: GlibcSetting,
    /// As a tunable, after [`PREFIX`]; `None` where it is none.
    tunable: Option<&'static str>,
    /// The variable of its own that it has in the environment besides.
    variable: Option<&'static str>,
    /// In `mp_`, by which walks list it; `None` where it does not stand there.
    field: Option<&'static str>,
}

/// How a tunable of malloc's begins in `GLIBC_TUNABLES`.
pub(super) const PREFIX: &str = "glibc.malloc.";

impl Names {
    const fn tunable(
        setting: GlibcSetting,
        tunable: &'static str,
        variable: Option<&'static str>,
        field: Option<&'static str>,
    ) -> Self {
        Self {
            setting,
            tunable: Some(tunable),
            variable,
            field,
        }
    }

    const fn state(setting: GlibcSetting, field: &'static str) -> Self {
        Self {
            setting,
            tunable: None,
            variable: None,
            field: Some(field),
        }
    }
}

/// Tunables.
const TUNABLES: usize = 13;

/// All of them, in the order of [`GlibcSetting`], tunables first.
static ROWS: [Names; 21] = {
    use GlibcSetting as S;
    [
        Names::tunable(
            S::MmapThreshold,
            "mmap_threshold",
            Some("MALLOC_MMAP_THRESHOLD_"),
            Some("mmap_threshold"),
        ),
        Names::tunable(
            S::TrimThreshold,
            "trim_threshold",
            Some("MALLOC_TRIM_THRESHOLD_"),
            Some("trim_threshold"),
        ),
        Names::tunable(
            S::TopPad,
            "top_pad",
            Some("MALLOC_TOP_PAD_"),
            Some("top_pad"),
        ),
        Names::tunable(
            S::MmapMax,
            "mmap_max",
            Some("MALLOC_MMAP_MAX_"),
            Some("n_mmaps_max"),
        ),
        Names::tunable(
            S::ArenaMax,
            "arena_max",
            Some("MALLOC_ARENA_MAX"),
            Some("arena_max"),
        ),
        Names::tunable(
            S::ArenaTest,
            "arena_test",
            Some("MALLOC_ARENA_TEST"),
            Some("arena_test"),
        ),
        Names::tunable(S::TcacheCount, "tcache_count", None, Some("tcache_count")),
        Names::tunable(S::TcacheMax, "tcache_max", None, Some("tcache_max_bytes")),
        Names::tunable(
            S::TcacheUnsortedLimit,
            "tcache_unsorted_limit",
            None,
            Some("tcache_unsorted_limit"),
        ),
        Names::tunable(S::Mxfast, "mxfast", None, None),
        Names::tunable(S::Hugetlb, "hugetlb", None, None),
        Names::tunable(S::Perturb, "perturb", Some("MALLOC_PERTURB_"), None),
        Names::tunable(S::Check, "check", Some("MALLOC_CHECK_"), None),
        Names::state(S::Mmaps, "n_mmaps"),
        Names::state(S::MaxMmaps, "max_n_mmaps"),
        Names::state(S::NoDynThreshold, "no_dyn_threshold"),
        Names::state(S::MmappedMem, "mmapped_mem"),
        Names::state(S::MaxMmappedMem, "max_mmapped_mem"),
        Names::state(S::ThpPagesize, "thp_pagesize"),
        Names::state(S::HpPagesize, "hp_pagesize"),
        Names::state(S::TcacheBins, "tcache_bins"),
    ]
};

/// The names of the tunables without [`PREFIX`].
pub(super) static TUNABLE_NAMES: [&str; TUNABLES] = {
    let mut names = [""; TUNABLES];
    let mut at = 0;
    while at < TUNABLES {
        if let Some(name) = ROWS[at].tunable {
            names[at] = name;
        }
        at += 1;
    }
    names
};

/// The variable of its own that a tunable has.
pub(super) fn own_variable(tunable: &str) -> Option<&'static str> {
    GlibcSetting::of_tunable(tunable)?.names().variable
}

impl GlibcSetting {
    /// The setting of a tunable's name without its prefix.
    pub fn of_tunable(name: &str) -> Option<Self> {
        let mut rows = ROWS.iter();
        let row = rows.find(|row| row.tunable == Some(name))?;
        Some(row.setting)
    }

    /// The setting of a variable that holds it alone.
    pub fn of_variable(name: &str) -> Option<Self> {
        let mut rows = ROWS.iter();
        let row = rows.find(|row| row.variable == Some(name))?;
        Some(row.setting)
    }

    /// The setting with a value, of those that are tunables: in a constant any other does not compile.
    pub(crate) const fn set(self, value: &'static str) -> Assignment {
        match self.tunable() {
            Some(name) => Assignment { name, value },
            None => panic!("no tunable"),
        }
    }

    /// Its name as a tunable, without the prefix; `None` where it is none.
    pub const fn tunable(self) -> Option<&'static str> {
        self.names().tunable
    }

    /// By what name walks list what is in force; `None` where it cannot be read.
    pub fn field(self) -> Option<&'static str> {
        self.names().field
    }

    /// What is in force, of the settings that a walk of glibc's heap lists.
    pub fn in_force<'s>(
        self,
        settings: impl IntoIterator<Item = (&'s str, &'s str)>,
    ) -> Option<u64> {
        let field = self.field()?;
        let mut settings = settings.into_iter();
        let (_, value) = settings.find(|(name, _)| *name == field)?;
        value.parse().ok()
    }

    /// The value that freeing a block with `usable` bytes raises an adaptive mmap threshold to: the
    /// size of its mmapped chunk (`free` in `malloc/malloc.c`). `None` for a block without a
    /// mapping of its own.
    pub const fn threshold_raised_to(usable: u64) -> Option<u64> {
        // Of a chunk in an arena one word of these is usable: none is of whole pages then.
        const TWO_WORDS: u64 = 16;
        let chunk = usable.saturating_add(TWO_WORDS);
        match chunk.is_multiple_of(PAGE_SIZE) && chunk <= *MMAP_THRESHOLDS.end() {
            true => Some(chunk),
            false => None,
        }
    }

    /// What a threshold has grown to by itself, of the settings in force; `None` where it does not adapt or
    /// is what it was at first (`free` in `malloc/malloc.c`).
    pub fn grown(self, in_force: impl Fn(Self) -> Option<u64>) -> Option<u64> {
        let (initial, most) = match self {
            Self::MmapThreshold => (*MMAP_THRESHOLDS.start(), *MMAP_THRESHOLDS.end()),
            Self::TrimThreshold => (INITIAL_TRIM_THRESHOLD, 2 * MMAP_THRESHOLDS.end()),
            _ => return None,
        };
        let adapts = in_force(Self::NoDynThreshold) == Some(0);
        in_force(self).filter(|bytes| adapts && *bytes > initial && *bytes <= most)
    }

    const fn names(self) -> &'static Names {
        &ROWS[self as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_listed_values_is_said_of_fields() {
        let listed = &crate::allocator::Allocator::Glibc.row().listed;
        for name in listed.bytes.iter().chain(listed.counters) {
            assert!(ROWS.iter().any(|row| row.field == Some(name)), "{name}");
        }
    }

    #[test]
    fn each_setting_has_its_own_row_and_tunables_come_first() {
        for (at, row) in ROWS.iter().enumerate() {
            assert_eq!(row.setting as usize, at);
            assert_eq!(row.tunable.is_some(), at < TUNABLES, "{:?}", row.setting);
            assert!(row.tunable.is_some() || row.field.is_some());
        }
    }

    #[test]
    fn a_threshold_has_grown_where_it_adapts_and_is_beyond_what_it_was_at_first() {
        let grown = |setting: GlibcSetting, fixed: u64, bytes: u64| {
            setting.grown(|wanted| match wanted {
                GlibcSetting::NoDynThreshold => Some(fixed),
                _ => Some(bytes),
            })
        };
        let mmap = GlibcSetting::MmapThreshold;
        assert_eq!(grown(mmap, 0, 503_808), Some(503_808));
        assert_eq!(grown(mmap, 1, 503_808), None);
        assert_eq!(grown(mmap, 0, 128 << 10), None);
        assert_eq!(grown(mmap, 0, 33 << 20), None);
        assert_eq!(
            grown(GlibcSetting::TrimThreshold, 0, 64 << 20),
            Some(64 << 20)
        );
        assert_eq!(grown(GlibcSetting::ArenaMax, 0, 503_808), None);
    }

    #[test]
    fn blocks_with_a_mapping_of_their_own_raise_the_threshold_to_their_chunks() {
        let raised_to = GlibcSetting::threshold_raised_to;
        assert_eq!(raised_to(503_808 - 16), Some(503_808));
        // The same chunk in an arena.
        assert_eq!(raised_to(503_808 - 8), None);
        assert_eq!(raised_to((33 << 20) - 16), None);
        assert_eq!(raised_to(u64::MAX), None);
    }

    #[test]
    fn what_is_in_force_is_found_by_the_name_in_mp() {
        let settings = [("n_mmaps_max", "7"), ("mmap_threshold", "many")];
        assert_eq!(GlibcSetting::MmapMax.in_force(settings), Some(7));
        assert_eq!(GlibcSetting::MmapThreshold.in_force(settings), None);
        assert_eq!(GlibcSetting::Hugetlb.in_force(settings), None);
    }
}
