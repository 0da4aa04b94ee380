//! The declaration of every metric: its names in files and for people, its unit, its meaning.

use crate::units::{Unit, Value};

/// The declaration of a metric.
struct Declaration {
    key: &'static str,
    unit: Unit,
    label: &'static str,
    help: &'static str,
}

/// Declares [`MetricId`], one row for each metric: its variant, key, unit, label and help.
macro_rules! metrics {
    ($($id:ident, $key:literal, $unit:ident, $label:literal, $help:literal;)*) => {
        /// A metric: one figure of a report, or of a session. `docs/metrics.md` has the formulas.
        #[derive(Copy, Clone, Debug, Eq, PartialEq, Ord, PartialOrd, Hash)]
        pub enum MetricId {
            $(#[doc = $help] $id,)*
        }

        impl MetricId {
            /// All of them, the most informative first; those over a session last.
            pub const ALL: &'static [Self] = &[$(Self::$id,)*];

            const fn declaration(self) -> &'static Declaration {
                match self {
                    $(Self::$id => &Declaration {
                        key: $key,
                        unit: Unit::$unit,
                        label: $label,
                        help: $help,
                    },)*
                }
            }
        }
    };
}

metrics! {
    Utilisation, "utilisation", Share, "heap utilisation",
        "live bytes per resident heap byte; below 0.7 something wastes pages";
    FragmentationBytes, "fragmentation_bytes", Bytes, "fragmentation",
        "resident heap bytes that hold nothing live: all that a perfect allocator could save";
    PinnedFreeBytes, "pinned_free_bytes", Bytes, "pinned free memory",
        "free bytes on pages kept by live blocks; only another allocator or shorter-lived \
             blocks reduce it";
    TrimReturnableBytes, "trim_returnable_bytes", Bytes, "returned by a trim",
        "whole pages that a trim or purge would return now; if large, trim after each peak";
    StuckFreeBytes, "stuck_free_bytes", Bytes, "stuck free pages",
        "whole free pages that no trim returns";
    CachedBytes, "cached_bytes", Bytes, "cached blocks",
        "freed blocks kept in the allocator's caches; small unless there are many threads";
    CompactionFloorBytes, "compaction_floor_bytes", Bytes, "compaction floor",
        "the fewest whole pages that hold the same live bytes: no allocator gets below it";
    CompactionFloor2mBytes, "compaction_floor_2m_bytes", Bytes, "compaction floor (2 MiB)",
        "the same in huge pages of 2 MiB";
    PurgeFloorBytes, "purge_floor_bytes", Bytes, "purge floor",
        "resident pages that hold anything live: what is left when every free page is \
             returned and no block moves";
    PurgeFloor2mBytes, "purge_floor_2m_bytes", Bytes, "purge floor (2 MiB)",
        "the same when memory can only be returned 2 MiB at a time (huge pages)";
    LargeFreeBytes, "large_free_bytes", Bytes, "large free chunks",
        "resident in free chunks above 128 KiB, glibc's first mmap threshold: with the threshold \
             fixed they would have gone back when they were freed";
    HugeBackedBytes, "huge_backed_bytes", Bytes, "heap in huge pages",
        "resident heap bytes in huge pages; with much free memory in them, try \
             transparent_hugepage=madvise";
    BlankBytes, "blank_bytes", Bytes, "zeros in huge pages",
        "whole pages of live blocks that hold nothing but zeros and are resident as part of a huge \
             page: most likely never written";
    BelowHighestLiveBytes, "below_highest_live_bytes", Bytes, "free below highest block",
        "free bytes below the highest live block of brk and thread heaps: an automatic trim \
             never reaches them";
    TopPinnedBytes, "top_pinned_bytes", Bytes, "free below a pinned top",
        "free pages that would return by themselves, were it not for a few blocks (4 KiB in \
             all) above them";
    HeldBy64BytesPages, "held_by_64_bytes_pages", Pages, "held by 64 bytes or fewer",
        "resident pages kept by 64 live bytes or fewer; many of them are the cheapest to free";
    HeldBy512BytesPages, "held_by_512_bytes_pages", Pages, "held by 512 bytes or fewer",
        "resident pages kept by 512 live bytes or fewer";
    HeldByOneBlockPages, "held_by_one_block_pages", Pages, "pages held by one block",
        "resident pages kept by one block that fills less than half";
    PymallocUtilisation, "pymalloc_utilisation", Share, "pymalloc utilisation",
        "live bytes per resident byte of Python's small-object arenas; jemalloc does not \
             change it";
    HeapShareOfRss, "heap_share_of_rss", Share, "heap's share of RSS",
        "how much of RSS is heap at all; below 0.5 look at files and libraries first";
    MallocResidentBytes, "malloc_resident_bytes", Bytes, "malloc's resident memory",
        "what malloc has resident, by a definition that holds under every allocator: the \
             figure by which replays are compared";
    SwapFragmentationBytes, "swap_fragmentation_bytes", Bytes, "fragmentation in swap",
        "bytes in swap known to hold nothing live: harmless to leave there";
    SwapUnknownBytes, "swap_unknown_bytes", Bytes, "swap not read",
        "bytes in swap that were not read, so that any part of them may be fragmentation too";
    ForkSharedBytes, "fork_shared_bytes", Bytes, "shared since the fork",
        "resident anonymous bytes still shared with the parent since the fork";
    ForkCopiedBytes, "fork_copied_bytes", Bytes, "copied since the fork",
        "resident anonymous bytes of which parent and child have separate copies, because one of \
             them wrote (gc.freeze() before forking keeps more shared)";
    MemFragmentationRatio, "mem_fragmentation_ratio", Ratio, "memory fragmentation",
        "Redis's name: RSS ÷ live bytes; above 1.5 look at the ledger";
    AllocatorFragRatio, "allocator_frag_ratio", Ratio, "allocator fragmentation",
        "Redis's name, jemalloc's active ÷ allocated: pages in use ÷ live bytes; what only \
             moving blocks reduces";
    AllocatorRssRatio, "allocator_rss_ratio", Ratio, "allocator residency",
        "Redis's name, jemalloc's resident ÷ active: heap pages ÷ pages in use; what a purge \
             or trim returns";
    RssOverheadRatio, "rss_overhead_ratio", Ratio, "RSS overhead",
        "Redis's name: RSS ÷ heap pages; far above 1, the memory is not the heap's";
    MallocArenas, "malloc_arenas", Arenas, "malloc's arenas",
        "arenas of malloc; far more than busy threads: have threads share them";
    LargestIdleArenaBytes, "largest_idle_arena_bytes", Bytes, "largest idle arena",
        "resident bytes that are not live in the idlest thread arena";
    InternalSlopBytes, "internal_slop_bytes", Bytes, "internal slop",
        "usable bytes in live blocks beyond the requested size: unknown, a walk does not see requests";
    JohnstoneWilson1, "johnstone_wilson_1", Ratio, "Johnstone-Wilson 1, mean over time",
        "heap ÷ live bytes, averaged over the time of the session";
    JohnstoneWilson2, "johnstone_wilson_2", Ratio, "Johnstone-Wilson 2, at most live",
        "heap ÷ live bytes at the moment of the most live bytes";
    JohnstoneWilson3, "johnstone_wilson_3", Ratio, "Johnstone-Wilson 3, at the largest heap",
        "heap ÷ live bytes at the moment of the largest heap";
    JohnstoneWilson4, "johnstone_wilson_4", Ratio, "Johnstone-Wilson 4, largest to most live",
        "largest heap ÷ most live bytes, whenever each was: what the session really needed";
}

impl MetricId {
    /// The key in JSON and CSV.
    pub const fn key(self) -> &'static str {
        self.declaration().key
    }

    /// The unit of its values.
    pub const fn unit(self) -> Unit {
        self.declaration().unit
    }

    /// Its name for people, in a few words.
    pub const fn label(self) -> &'static str {
        self.declaration().label
    }

    /// One line: what it means and when to act.
    pub const fn help(self) -> &'static str {
        self.declaration().help
    }
}

/// A metric with its value.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Metric {
    /// Which.
    pub id: MetricId,
    /// Its value, an integer if its unit has only integers; `None` means unknown.
    pub value: Option<Value>,
}

impl Metric {
    /// Its value as text for people.
    pub fn text(&self) -> String {
        match (self.value, self.id.unit()) {
            (None, _) => "unknown".into(),
            (Some(value), Unit::Pages) => format!("{} pages", Unit::Pages.text(value)),
            (Some(value), unit) => unit.text(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn keys_and_labels_are_unique_and_a_key_ends_in_its_unit() {
        let keys: BTreeSet<_> = MetricId::ALL.iter().map(|id| id.key()).collect();
        let labels: BTreeSet<_> = MetricId::ALL.iter().map(|id| id.label()).collect();
        assert_eq!(keys.len(), MetricId::ALL.len());
        assert_eq!(labels.len(), MetricId::ALL.len());
        for id in MetricId::ALL {
            let ends = |end: &str| id.key().ends_with(end);
            assert_eq!(ends("_bytes"), id.unit() == Unit::Bytes, "{id:?}");
            assert_eq!(ends("_pages"), id.unit() == Unit::Pages, "{id:?}");
        }
    }

    /// Rows of the tables in `docs/metrics.md` whose first column is a key and whose second is a unit.
    fn documented() -> BTreeSet<(&'static str, &'static str)> {
        let document = include_str!("../../../docs/metrics.md");
        let (_, metrics) = document.split_once("## Figures").expect("a chapter");
        let (metrics, _) = metrics.split_once("## Page occupancy").expect("a chapter");
        let rows = metrics.lines().filter_map(|line| {
            let mut cells = line.split('|').map(str::trim).skip(1);
            let key = cells.next()?.strip_prefix('`')?.strip_suffix('`')?;
            Some((key, cells.next()?))
        });
        rows.collect()
    }

    #[test]
    fn the_document_has_every_metric_with_its_unit_and_no_other() {
        let declared: BTreeSet<_> = MetricId::ALL
            .iter()
            .map(|id| (id.key(), id.unit().name()))
            .collect();
        let documented = documented();
        let missing: Vec<_> = declared.difference(&documented).collect();
        let unknown: Vec<_> = documented.difference(&declared).collect();
        assert!(missing.is_empty(), "not documented: {missing:?}");
        assert!(unknown.is_empty(), "documented only: {unknown:?}");
    }

    #[test]
    fn values_are_shown_by_their_unit() {
        let shown = |id, value: Value| {
            Metric {
                id,
                value: Some(value),
            }
            .text()
        };
        assert_eq!(shown(MetricId::CachedBytes, Value::Whole(4096)), "4.0 KiB");
        assert_eq!(
            shown(MetricId::HeldBy64BytesPages, Value::Whole(7)),
            "7 pages"
        );
        assert_eq!(shown(MetricId::Utilisation, Value::Fraction(0.5)), "50.0 %");
        assert_eq!(
            shown(MetricId::RssOverheadRatio, Value::Fraction(1.5)),
            "1.50"
        );
        assert_eq!(shown(MetricId::MallocArenas, Value::Whole(3)), "3");
    }
}
