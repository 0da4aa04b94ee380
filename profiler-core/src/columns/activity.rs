//! Columns for what the probes count and what they cost.

use super::{Column, up_to};
use crate::activity::{Activity, ClassActivity, ProbeCost};
use crate::units::Unit;

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

    /// Allocations a second; unknown once the probes have ended, as all rates are.
    pub const ALLOC_RATE: Column<Self> =
        Column::<Self>::fraction("allocs_per_second", Unit::PerSecond, |of| {
            of.while_probed(of.alloc_rate)
        });

    /// Rates of the last interval.
    pub const RATES: [Column<Self>; 3] = [
        Self::ALLOC_RATE,
        Column::fraction("frees_per_second", Unit::PerSecond, |of| {
            of.while_probed(of.free_rate)
        }),
        Column::fraction("alloc_bytes_per_second", Unit::BytesPerSecond, |of| {
            of.while_probed(of.alloc_byte_rate)
        }),
    ];

    /// A value that describes the present while there are probes, and the past after they have
    /// ended.
    pub fn while_probed(&self, value: f64) -> Option<f64> {
        self.ended.is_none().then_some(value)
    }
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

impl ClassActivity {
    /// The row's label: its largest size. In files it is separate from the figures.
    pub const UP_TO: Column<Self> = up_to(10, |row| row.class.upper_bytes());

    const ALLOCS: Column<Self> = Column::<Self>::of("allocs", Unit::Calls, |class| class.allocs)
        .titled("allocs", 10, "allocations seen while sampled");
    const BYTES: Column<Self> =
        Column::<Self>::of("alloc_bytes", Unit::Bytes, |class| class.alloc_bytes).titled(
            "bytes",
            12,
            "their bytes",
        );
    const FREES: Column<Self> = Column::<Self>::of("frees", Unit::Calls, |class| class.frees)
        .titled(
            "freed",
            10,
            "frees seen of blocks whose allocation was seen too",
        );
    const P50: Column<Self> =
        Column::<Self>::maybe("lifetime_p50_ns", Unit::Nanoseconds, |class| {
            class.lifetime(class.lifetime_p50_ns)
        })
        .titled(
            "life p50",
            11,
            "median lifetime of blocks that were allocated and freed while sampled",
        );
    const P90: Column<Self> =
        Column::<Self>::maybe("lifetime_p90_ns", Unit::Nanoseconds, |class| {
            class.lifetime(class.lifetime_p90_ns)
        })
        .titled("p90", 11, "90th percentile of those lifetimes");
    const P99: Column<Self> =
        Column::<Self>::maybe("lifetime_p99_ns", Unit::Nanoseconds, |class| {
            class.lifetime(class.lifetime_p99_ns)
        })
        .titled("p99", 11, "99th percentile of those lifetimes");

    /// All figures of a size class, in the order of files.
    pub const COLUMNS: [Column<Self>; 6] = [
        Self::ALLOCS,
        Self::BYTES,
        Self::FREES,
        Self::P50,
        Self::P90,
        Self::P99,
    ];

    /// The same in the order shown to people.
    pub const SHOWN: [Column<Self>; 6] = [
        Self::ALLOCS,
        Self::FREES,
        Self::BYTES,
        Self::P50,
        Self::P90,
        Self::P99,
    ];

    /// A class none of whose blocks was seen being freed has no lifetimes, rather than short ones.
    fn lifetime(&self, ns: u64) -> Option<u64> {
        (self.frees > 0).then_some(ns)
    }
}
