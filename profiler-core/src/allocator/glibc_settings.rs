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

/// The initial mmap threshold in KiB, as used in sentences.
pub const INITIAL_MMAP_THRESHOLD_KIB: u64 = *MMAP_THRESHOLDS.start() >> 10;

/// glibc's initial trim threshold in bytes, before it adapts (`DEFAULT_TRIM_THRESHOLD`).
pub const INITIAL_TRIM_THRESHOLD: u64 = 128 << 10;

/// The settings of glibc's malloc, and the counters that it keeps in `mp_`.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum GlibcSetting {
    /// Blocks from this size on, in bytes, get a mapping of their own.
    MmapThreshold,
    /// An end of an arena that is larger is given back, in bytes.
    TrimThreshold,
    /// Extra bytes taken from the kernel beyond what a request needs.
    TopPad,
    /// The maximum number of blocks with a mapping of their own.
    MmapMax,
    /// The most arenas.
    ArenaMax,
    /// The number of arenas from which on it is limited.
    ArenaTest,
    /// Blocks of one size that a thread caches.
    TcacheCount,
    /// The largest block that is cached, in bytes.
    TcacheMax,
    /// The maximum number of unsorted chunks examined to fill a cache.
    TcacheUnsortedLimit,
    /// The largest block of fastbins, in bytes.
    Mxfast,
    /// Huge pages: none, by advice, or of the host's pool.
    Hugetlb,
    /// What freed memory is overwritten with.
    Perturb,
    /// What malloc checks.
    Check,
    /// The current number of blocks with a mapping of their own.
    Mmaps,
    /// The most there ever were.
    MaxMmaps,
    /// Whether the thresholds no longer adapt.
    NoDynThreshold,
    /// Bytes of those mappings, now.
    MmappedMem,
    /// The most there ever were.
    MaxMmappedMem,
    /// The unit, in bytes, by which the top is trimmed when huge pages are advised.
    ThpPagesize,
    /// The size, in bytes, of pages from the host's pool, when they are used.
    HpPagesize,
    /// Sizes of block that are cached.
    TcacheBins,
}

/// The names of one setting.
struct Names {
    setting: GlibcSetting,
    /// The name of its tunable, after [`PREFIX`]; `None` if it is not a tunable.
    tunable: Option<&'static str>,
    /// The environment variable that also sets it.
    variable: Option<&'static str>,
    /// The name of its field in `mp_`, under which walks list it; `None` if it has no field there.
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

/// The environment variable that sets the same as a tunable.
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

    /// The setting that a variable of its own sets.
    pub fn of_variable(name: &str) -> Option<Self> {
        let mut rows = ROWS.iter();
        let row = rows.find(|row| row.variable == Some(name))?;
        Some(row.setting)
    }

    /// This setting with a value. It must be a tunable: in a constant anything else does not
    /// compile.
    pub(crate) const fn set(self, value: &'static str) -> Assignment {
        match self.tunable() {
            Some(name) => Assignment { name, value },
            None => panic!("no tunable"),
        }
    }

    /// Its name as a tunable, without the prefix; `None` if it is not one.
    pub const fn tunable(self) -> Option<&'static str> {
        self.names().tunable
    }

    /// The name under which walks list its current value; `None` if it cannot be read.
    pub fn field(self) -> Option<&'static str> {
        self.names().field
    }

    /// Its current value among the settings listed by a walk of glibc's heap.
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
        // In an arena, one of these two words would be usable, so a usable size that gives whole
        // pages is never from an arena.
        const TWO_WORDS: u64 = 16;
        let chunk = usable.saturating_add(TWO_WORDS);
        match chunk.is_multiple_of(PAGE_SIZE) && chunk <= *MMAP_THRESHOLDS.end() {
            true => Some(chunk),
            false => None,
        }
    }

    /// The value that a threshold has adapted to, from the settings in force; `None` if it does not
    /// adapt or still has its initial value (`free` in `malloc/malloc.c`).
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
