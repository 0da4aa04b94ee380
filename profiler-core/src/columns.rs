//! The columns of the tables that text, screen, CSV and JSON share: each is declared here once, with
//! its key in files, its title for people, its unit, and how to get it from a row.

use crate::activity::{Activity, ClassActivity, ProbeCost};
use crate::completeness::Completeness;
use crate::fork::ForkSharing;
use crate::objects::{AllocatorShare, Holder, NativeRow, TypeRow};
use crate::prediction::{Prediction, SelfCheck};
use crate::report::{
    ArenaReport, HeapReport, HugeOccupancyRow, LedgerRow, OccupancyRow, PackedClass, Packing,
    SizeClassRow,
};
use crate::sample::KernelCount;
use crate::units::{Unit, Value, milliseconds};
use crate::view::{Point, View};

/// One column of figures.
#[derive(Debug)]
pub struct Column<Row> {
    /// Its key in JSON, and its field in CSV.
    pub key: &'static str,
    /// Its unit.
    pub unit: Unit,
    get: Get<Row>,
    /// Its title in text and on the screen; none where it stands in files alone.
    pub title: &'static str,
    /// Characters that it takes there.
    pub width: usize,
}

/// How a column's value is got from a row.
#[derive(Debug)]
enum Get<Row> {
    Known(fn(&Row) -> u64),
    Maybe(fn(&Row) -> Option<u64>),
    Fraction(fn(&Row) -> Option<f64>),
}

impl<Row> Column<Row> {
    /// A column whose value is always known.
    const fn of(key: &'static str, unit: Unit, get: fn(&Row) -> u64) -> Self {
        Self {
            key,
            unit,
            get: Get::Known(get),
            title: "",
            width: 0,
        }
    }

    /// A column whose value may be unknown.
    const fn maybe(key: &'static str, unit: Unit, get: fn(&Row) -> Option<u64>) -> Self {
        Self {
            key,
            unit,
            get: Get::Maybe(get),
            title: "",
            width: 0,
        }
    }

    /// A column whose values have fractions, and may be unknown.
    const fn fraction(key: &'static str, unit: Unit, get: fn(&Row) -> Option<f64>) -> Self {
        Self {
            key,
            unit,
            get: Get::Fraction(get),
            title: "",
            width: 0,
        }
    }

    /// The same, seen by people under a title.
    const fn titled(mut self, title: &'static str, width: usize) -> Self {
        self.title = title;
        self.width = width;
        self
    }

    /// Its value in a row; `None` is unknown.
    pub fn value(&self, row: &Row) -> Option<Value> {
        match self.get {
            Get::Known(get) => Some(Value::Whole(get(row))),
            Get::Maybe(get) => get(row).map(Value::Whole),
            Get::Fraction(get) => get(row).map(Value::Fraction),
        }
    }

    /// The same where it is a whole number.
    pub fn amount(&self, row: &Row) -> Option<u64> {
        match self.value(row)? {
            Value::Whole(value) => Some(value),
            Value::Fraction(_) => None,
        }
    }

    /// Its value in a row as people read it; `None` is unknown.
    pub fn text(&self, row: &Row) -> Option<String> {
        self.value(row).map(|value| self.unit.text(value))
    }

    /// Its title, aligned, with a mark behind it.
    pub fn heading(&self, mark: &str) -> String {
        let title = format!("{}{mark}", self.title);
        format!("{title:>0$}", self.width)
    }

    /// Its value in a row as people read it, aligned; `-` is unknown.
    pub fn cell(&self, row: &Row) -> String {
        let value = self.text(row).unwrap_or_else(|| "-".into());
        format!("{value:>0$}", self.width)
    }
}

/// The titles of columns, each after a gap.
pub fn headings<Row>(columns: &[Column<Row>], gap: &str) -> String {
    columns
        .iter()
        .map(|column| format!("{gap}{}", column.heading("")))
        .collect()
}

/// The cells of a row, each after a gap.
pub fn cells<Row>(columns: &[Column<Row>], row: &Row, gap: &str) -> String {
    columns
        .iter()
        .map(|column| format!("{gap}{}", column.cell(row)))
        .collect()
}

impl KernelCount {
    /// The kernel's account.
    pub const COLUMNS: [Column<Self>; 7] = [
        Column::maybe("rss_bytes", Unit::Bytes, |kernel| kernel.known()[0]),
        Column::maybe("swap_bytes", Unit::Bytes, |kernel| kernel.known()[1]),
        Column::maybe("peak_rss_bytes", Unit::Bytes, |kernel| kernel.known()[2]),
        Column::maybe("pss_bytes", Unit::Bytes, |kernel| kernel.pss_bytes),
        Column::maybe("lazy_free_bytes", Unit::Bytes, |kernel| {
            kernel.lazy_free_bytes
        }),
        Column::maybe("anon_huge_bytes", Unit::Bytes, |kernel| {
            kernel.anon_huge_bytes
        }),
        Column::maybe("ksm_bytes", Unit::Bytes, |kernel| kernel.ksm_bytes),
    ];

    /// What stands in its place where the target is a core file.
    pub const CORE: Column<Self> = Column::maybe("core_bytes", Unit::Bytes, |kernel| {
        kernel.is_core.then_some(kernel.rss_bytes)
    });
}

impl Completeness {
    /// How long a walk took, and what it lacks.
    pub const COLUMNS: [Column<Self>; 4] = [
        Column::of("unreadable_bytes", Unit::Bytes, |of| of.unreadable_bytes),
        Column::of("threads_in_allocator", Unit::Threads, |of| {
            of.threads_in_allocator as u64
        }),
        Column::fraction("stop_ms", Unit::Milliseconds, |of| {
            Some(milliseconds(of.stop_ns))
        }),
        Column::fraction("walk_ms", Unit::Milliseconds, |of| {
            Some(milliseconds(of.walk_ns))
        }),
    ];
}

impl Activity {
    /// What was counted while probes were armed.
    pub const COUNTS: [Column<Self>; 8] = [
        Column::of("elapsed_ns", Unit::Nanoseconds, |of| of.elapsed_ns),
        Column::of("armed_ns", Unit::Nanoseconds, |of| of.armed_ns),
        Column::of("allocs", Unit::Calls, |of| of.allocs),
        Column::of("alloc_bytes", Unit::Bytes, |of| of.alloc_bytes),
        Column::of("frees", Unit::Calls, |of| of.frees),
        Column::of("frees_of_older", Unit::Calls, |of| of.frees_of_older),
        Column::of("tracked_blocks", Unit::Blocks, |of| of.tracked_blocks),
        Column::of("tracked_bytes", Unit::Bytes, |of| of.tracked_bytes),
    ];

    /// Allocations a second.
    pub const ALLOC_RATE: Column<Self> =
        Column::<Self>::fraction("allocs_per_second", Unit::PerSecond, |of| {
            Some(of.alloc_rate)
        });

    /// What the last interval came to.
    pub const RATES: [Column<Self>; 3] = [
        Self::ALLOC_RATE,
        Column::fraction("frees_per_second", Unit::PerSecond, |of| Some(of.free_rate)),
        Column::fraction("alloc_bytes_per_second", Unit::BytesPerSecond, |of| {
            Some(of.alloc_byte_rate)
        }),
    ];
}

impl ProbeCost {
    /// The share of one core that probes took.
    pub const SHARE: Column<Self> =
        Column::<Self>::fraction("share", Unit::Share, |cost| Some(cost.share));

    /// What probes cost.
    pub const COLUMNS: [Column<Self>; 4] = [
        Column::of("hits", Unit::Hits, |cost| cost.hits),
        Column::fraction("ns_per_hit", Unit::Nanoseconds, |cost| {
            Some(cost.ns_per_hit)
        }),
        Self::SHARE,
        Column::fraction("budget_share", Unit::Share, |cost| cost.budget),
    ];
}

impl SelfCheck {
    /// The heap as it is and as played.
    pub const COLUMNS: [Column<Self>; 2] = [
        Column::of("measured_bytes", Unit::Bytes, |check| check.measured_bytes),
        Column::of("predicted_bytes", Unit::Bytes, |check| {
            check.predicted_bytes
        }),
    ];
}

impl Prediction {
    /// What a candidate would need.
    pub const COLUMNS: [Column<Self>; 3] = [
        Column::maybe("rest_bytes", Unit::Bytes, |of| Some(of.needs?.bytes)),
        Column::maybe("low_bytes", Unit::Bytes, |of| Some(of.needs?.low_bytes)),
        Column::maybe("high_bytes", Unit::Bytes, |of| Some(of.needs?.high_bytes)),
    ];
}

impl LedgerRow {
    /// Bytes of each class.
    pub const COLUMNS: [Column<Self>; 3] = [
        Column::<Self>::of("resident_bytes", Unit::Bytes, |row| row.resident_bytes)
            .titled("resident", 10),
        Column::<Self>::of("shared_bytes", Unit::Bytes, |row| row.shared_bytes)
            .titled("shared", 10),
        Column::<Self>::of("swapped_bytes", Unit::Bytes, |row| row.swapped_bytes)
            .titled("swapped", 10),
    ];
}

impl HeapReport {
    /// Totals of a heap.
    pub const COLUMNS: [Column<Self>; 6] = [
        Column::of("live_bytes", Unit::Bytes, |heap| heap.live_bytes),
        Column::of("live_blocks", Unit::Blocks, |heap| heap.live_blocks),
        Column::of("free_bytes", Unit::Bytes, |heap| heap.free_bytes),
        Column::of("cached_bytes", Unit::Bytes, |heap| heap.cached_bytes),
        Column::of("mapped_large_bytes", Unit::Bytes, |heap| {
            heap.mapped_large_bytes
        }),
        Column::of("mapped_large_blocks", Unit::Blocks, |heap| {
            heap.mapped_large_blocks
        }),
    ];
}

impl ArenaReport {
    const SYSTEM: Column<Self> =
        Column::<Self>::of("system_bytes", Unit::Bytes, |of| of.arena.system_bytes)
            .titled("system", 10);
    const LIVE: Column<Self> =
        Column::<Self>::of("live_bytes", Unit::Bytes, |of| of.arena.live_bytes).titled("live", 10);
    const FREE: Column<Self> =
        Column::<Self>::of("free_bytes", Unit::Bytes, |of| of.arena.free_bytes).titled("free", 10);
    const CACHED: Column<Self> =
        Column::<Self>::of("cached_bytes", Unit::Bytes, |of| of.arena.cached_bytes)
            .titled("cached", 10);
    const TOP: Column<Self> =
        Column::<Self>::of("top_bytes", Unit::Bytes, |of| of.arena.top_bytes).titled("top", 10);
    const RESIDENT: Column<Self> =
        Column::<Self>::of("resident_bytes", Unit::Bytes, |of| of.resident_bytes)
            .titled("resident", 10);
    const TRIMMABLE: Column<Self> =
        Column::<Self>::of("trimmable_bytes", Unit::Bytes, |of| of.trimmable_bytes)
            .titled("trimmable", 10);

    /// All figures of an arena, in the order of files.
    pub const COLUMNS: [Column<Self>; 14] = [
        Self::SYSTEM,
        Self::LIVE,
        Column::of("live_blocks", Unit::Blocks, |of| of.arena.live_blocks),
        Self::FREE,
        Column::of("free_blocks", Unit::Blocks, |of| of.arena.free_blocks),
        Self::CACHED,
        Column::of("cached_blocks", Unit::Blocks, |of| of.arena.cached_blocks),
        Self::TOP,
        Self::RESIDENT,
        Column::of("swapped_bytes", Unit::Bytes, |of| of.swapped_bytes),
        Self::TRIMMABLE,
        Column::of("pinned_free_bytes", Unit::Bytes, |of| of.pinned_free_bytes),
        Column::of("below_highest_live_bytes", Unit::Bytes, |of| {
            of.below_highest_live_bytes
        }),
        Column::of("top_pinned_bytes", Unit::Bytes, |of| of.top_pinned_bytes),
    ];

    /// Those that people see, in their order.
    pub const SHOWN: [Column<Self>; 7] = [
        Self::SYSTEM,
        Self::RESIDENT,
        Self::LIVE,
        Self::FREE,
        Self::CACHED,
        Self::TOP,
        Self::TRIMMABLE,
    ];
}

impl SizeClassRow {
    /// What a row is called by: its largest size. In files it stands apart from the figures.
    pub const UP_TO: Column<Self> =
        Column::<Self>::of("upper_bytes", Unit::Bytes, |row| row.class.upper_bytes())
            .titled("up to", 11);

    /// Those of its figures that people see, in the order of files.
    pub const SHOWN: [Column<Self>; 4] = [
        Column::<Self>::of("live_blocks", Unit::Blocks, |row| row.live_blocks).titled("blocks", 10),
        Column::<Self>::of("live_bytes", Unit::Bytes, |row| row.live_bytes).titled("live", 12),
        Column::<Self>::of("free_blocks", Unit::Blocks, |row| row.free_blocks).titled("free", 9),
        Column::<Self>::of("free_bytes", Unit::Bytes, |row| row.free_bytes)
            .titled("free bytes", 12),
    ];

    /// All figures of a size class.
    pub const COLUMNS: [Column<Self>; 5] = {
        let [live_blocks, live_bytes, free_blocks, free_bytes] = Self::SHOWN;
        [
            live_blocks,
            live_bytes,
            free_blocks,
            free_bytes,
            Column::of("pinned_free_bytes", Unit::Bytes, |row| {
                row.pinned_free_bytes
            }),
        ]
    };
}

impl OccupancyRow {
    /// Pages of a range of live bytes.
    pub const COLUMNS: [Column<Self>; 2] = [
        Column::<Self>::of("resident_pages", Unit::Pages, |row| row.resident_pages)
            .titled("resident", 10),
        Column::<Self>::of("swapped_pages", Unit::Pages, |row| row.swapped_pages)
            .titled("swapped", 10),
    ];
}

impl HugeOccupancyRow {
    /// Ranges of 2 MiB of a live share.
    pub const COLUMNS: [Column<Self>; 3] = [
        Column::of("ranges", Unit::Ranges, |row| row.ranges),
        Column::of("resident_bytes", Unit::Bytes, |row| row.resident_bytes),
        Column::of("huge_bytes", Unit::Bytes, |row| row.huge_bytes),
    ];
}

impl TypeRow {
    /// Figures of a type, in the order of files.
    pub const COLUMNS: [Column<Self>; 8] = {
        let [objects, bytes, storage] = Self::SHOWN;
        [
            objects,
            bytes,
            storage,
            Column::of("storage_blocks", Unit::Blocks, |row| row.storage.blocks),
            Column::of("tracked", Unit::Objects, |row| row.tracked),
            Column::of("pinned_free_bytes", Unit::Bytes, |row| {
                row.pinned_free_bytes
            }),
            Column::of("copied_bytes", Unit::Bytes, |row| row.copied_bytes),
            Column::of("entries", Unit::Objects, |row| row.entries),
        ]
    };

    /// Those that people see.
    pub const SHOWN: [Column<Self>; 3] = [
        Column::<Self>::of("objects", Unit::Objects, |row| row.objects.blocks)
            .titled("objects", 10),
        Column::<Self>::of("bytes", Unit::Bytes, |row| row.objects.bytes).titled("bytes", 10),
        Column::<Self>::of("storage_bytes", Unit::Bytes, |row| row.storage.bytes)
            .titled("storage", 10),
    ];
}

impl NativeRow {
    /// What a row is called by: its largest size. In files it stands apart from the figures.
    pub const UP_TO: Column<Self> =
        Column::<Self>::of("upper_bytes", Unit::Bytes, |row| row.class.upper_bytes())
            .titled("up to", 10);

    /// Figures of a size class of native blocks.
    pub const COLUMNS: [Column<Self>; 2] = [
        Column::<Self>::of("blocks", Unit::Blocks, |row| row.native.blocks).titled("blocks", 10),
        Column::<Self>::of("bytes", Unit::Bytes, |row| row.native.bytes).titled("bytes", 10),
    ];
}

impl AllocatorShare {
    /// How much of an allocator's live blocks is named.
    pub const COLUMNS: [Column<Self>; 4] = [
        Column::of("live_bytes", Unit::Bytes, |share| share.live.bytes),
        Column::of("live_blocks", Unit::Blocks, |share| share.live.blocks),
        Column::of("named_bytes", Unit::Bytes, |share| share.named.bytes),
        Column::of("named_blocks", Unit::Blocks, |share| share.named.blocks),
    ];
}

impl Holder {
    /// Figures of a holder, in the order of files.
    pub const COLUMNS: [Column<Self>; 6] = [
        Column::maybe("length", Unit::Objects, |holder| holder.length),
        Self::RETAINED,
        Column::of("retained_blocks", Unit::Blocks, |holder| {
            holder.retained_blocks
        }),
        Column::of("pinned_free_bytes", Unit::Bytes, |holder| {
            holder.pinned_free_bytes
        }),
        Column::maybe("returned_live_bytes", Unit::Bytes, |holder| {
            Some(holder.dropped?.live_bytes)
        }),
        Column::maybe("returned_unpinned_bytes", Unit::Bytes, |holder| {
            Some(holder.dropped?.unpinned_bytes)
        }),
    ];

    /// The one that people see.
    pub const RETAINED: Column<Self> =
        Column::<Self>::of("retained_bytes", Unit::Bytes, |holder| {
            holder.retained_bytes
        })
        .titled("retained", 10);
}

impl ForkSharing {
    /// What a child and its parent share.
    pub const COLUMNS: [Column<Self>; 3] = [
        Column::of("shared_bytes", Unit::Bytes, |fork| fork.shared_bytes),
        Column::of("copied_bytes", Unit::Bytes, |fork| fork.copied_bytes),
        Column::of("own_bytes", Unit::Bytes, |fork| fork.own_bytes),
    ];
}

impl Packing {
    /// Its totals.
    pub const COLUMNS: [Column<Self>; 5] = [
        Column::of("packed_bytes", Unit::Bytes, |packing| packing.packed_bytes),
        Column::of("present_bytes", Unit::Bytes, |packing| {
            packing.present_bytes
        }),
        Column::of("rounding_bytes", Unit::Bytes, |packing| {
            packing.rounding_bytes
        }),
        Column::of("live_bytes", Unit::Bytes, |packing| packing.live_bytes),
        Column::of("live_blocks", Unit::Blocks, |packing| packing.blocks),
    ];
}

impl PackedClass {
    /// Figures of one of jemalloc's size classes.
    pub const COLUMNS: [Column<Self>; 2] = [
        Column::of("live_blocks", Unit::Blocks, |class| class.blocks),
        Column::of("packed_bytes", Unit::Bytes, |class| class.bytes),
    ];
}

impl ClassActivity {
    /// What a row is called by: its largest size. In files it stands apart from the figures.
    pub const UP_TO: Column<Self> =
        Column::<Self>::of("upper_bytes", Unit::Bytes, |row| row.class.upper_bytes())
            .titled("up to", 10);

    const ALLOCS: Column<Self> =
        Column::<Self>::of("allocs", Unit::Calls, |class| class.allocs).titled("allocs", 10);
    const BYTES: Column<Self> =
        Column::<Self>::of("alloc_bytes", Unit::Bytes, |class| class.alloc_bytes)
            .titled("bytes", 12);
    const FREES: Column<Self> =
        Column::<Self>::of("frees", Unit::Calls, |class| class.frees).titled("freed", 10);
    const P50: Column<Self> =
        Column::<Self>::maybe("lifetime_p50_ns", Unit::Nanoseconds, |class| {
            class.lifetime(class.lifetime_p50_ns)
        })
        .titled("life p50", 11);
    const P90: Column<Self> =
        Column::<Self>::maybe("lifetime_p90_ns", Unit::Nanoseconds, |class| {
            class.lifetime(class.lifetime_p90_ns)
        })
        .titled("p90", 11);
    const P99: Column<Self> =
        Column::<Self>::maybe("lifetime_p99_ns", Unit::Nanoseconds, |class| {
            class.lifetime(class.lifetime_p99_ns)
        })
        .titled("p99", 11);

    /// All figures of a size class, in the order of files.
    pub const COLUMNS: [Column<Self>; 6] = [
        Self::ALLOCS,
        Self::BYTES,
        Self::FREES,
        Self::P50,
        Self::P90,
        Self::P99,
    ];

    /// The same in the order in which people see them.
    pub const SHOWN: [Column<Self>; 6] = [
        Self::ALLOCS,
        Self::FREES,
        Self::BYTES,
        Self::P50,
        Self::P90,
        Self::P99,
    ];

    /// A class none of whose blocks was seen to die has no lifetimes, rather than short ones.
    fn lifetime(&self, ns: u64) -> Option<u64> {
        (self.frees > 0).then_some(ns)
    }
}

impl View {
    /// Whether all threads of the target were stopped throughout the walk.
    pub const STOPPED: Column<Self> = Column::<Self>::of("stopped", Unit::Flag, |view| {
        view.report.completeness.stand_still.is_throughout().into()
    });

    /// Events that the probes lost since attaching.
    pub const EVENTS_LOST: Column<Self> =
        Column::<Self>::of("events_lost", Unit::Events, Self::events_lost).titled("lost", 6);

    /// Defects that the walk found. JSON lists them under this key.
    pub const DEFECTS: Column<Self> = Column::<Self>::of("defects", Unit::Defects, |view| {
        view.report.completeness.defects.len() as u64
    });

    /// What a view lacks, in numbers.
    pub const LACKS: [Column<Self>; 3] = [Self::STOPPED, Self::EVENTS_LOST, Self::DEFECTS];
}

impl Point {
    /// What is kept of a moment of the past.
    pub const COLUMNS: [Column<Self>; 4] = [
        Column::of("rss_bytes", Unit::Bytes, |point| point.rss_bytes),
        Column::of("swap_bytes", Unit::Bytes, |point| point.swap_bytes),
        Column::maybe("live_bytes", Unit::Bytes, |point| point.live_bytes),
        Column::maybe("heap_bytes", Unit::Bytes, |point| point.heap_bytes),
    ];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_is_as_wide_as_it_says_and_marks_are_aligned_with_its_title() {
        let row = LedgerRow {
            class: crate::report::LedgerClass::Top,
            resident_bytes: 4096,
            shared_bytes: 0,
            swapped_bytes: 12,
        };
        let shown = cells(&LedgerRow::COLUMNS, &row, " ");
        assert_eq!(shown, "    4.0 KiB        0 B       12 B");
        let heading = headings(&LedgerRow::COLUMNS, " ");
        assert_eq!(heading, "   resident     shared    swapped");
        assert_eq!(LedgerRow::COLUMNS[0].heading("*"), " resident*");
    }

    #[test]
    fn lifetimes_of_which_none_was_seen_are_unknown() {
        let class = ClassActivity {
            class: crate::size_class::SizeClass::of(64),
            allocs: 1,
            frees: 0,
            alloc_bytes: 64,
            lifetime_p50_ns: 0,
            lifetime_p90_ns: 0,
            lifetime_p99_ns: 0,
        };
        let [.., last] = ClassActivity::COLUMNS;
        assert_eq!(last.value(&class), None);
        assert_eq!(last.cell(&class).trim(), "-");
    }
}
