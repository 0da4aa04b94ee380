//! Columns for the kernel's account of a process, how reliable a walk is, and the history.

use super::Column;
use crate::completeness::Completeness;
use crate::fork::ForkSharing;
use crate::sample::KernelCount;
use crate::trend::{Point, Trend};
use crate::units::{Unit, milliseconds};
use crate::view::View;

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

    /// Replaces RSS if the target is a core file.
    pub const CORE: Column<Self> = Column::maybe("core_bytes", Unit::Bytes, |kernel| {
        kernel.is_core.then_some(kernel.rss_bytes)
    });
}

impl Completeness {
    /// The duration of a walk, and what it lacks.
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

impl ForkSharing {
    /// What a child and its parent share.
    pub const COLUMNS: [Column<Self>; 3] = [
        Column::of("shared_bytes", Unit::Bytes, |fork| fork.shared_bytes),
        Column::of("copied_bytes", Unit::Bytes, |fork| fork.copied_bytes),
        Column::of("own_bytes", Unit::Bytes, |fork| fork.own_bytes),
    ];
}

impl View {
    /// Whether all threads of the target were stopped throughout the walk.
    pub const STOPPED: Column<Self> = Column::<Self>::of("stopped", Unit::Flag, |view| {
        view.report.completeness.stand_still.is_throughout().into()
    });

    /// Events that the probes lost since attaching.
    pub const EVENTS_LOST: Column<Self> =
        Column::<Self>::of("events_lost", Unit::Events, Self::events_lost).titled(
            "lost",
            6,
            "events for which the ring buffer had no room since attaching",
        );

    /// Defects that the walk found. JSON lists them under this key.
    pub const DEFECTS: Column<Self> = Column::<Self>::of("defects", Unit::Defects, |view| {
        view.report.completeness.defects.len() as u64
    });

    /// What a view lacks, in numbers.
    pub const LACKS: [Column<Self>; 3] = [Self::STOPPED, Self::EVENTS_LOST, Self::DEFECTS];
}

impl Point {
    /// What is kept of a past moment.
    pub const COLUMNS: [Column<Self>; 5] = [
        Column::of("rss_bytes", Unit::Bytes, |point| point.rss_bytes),
        Column::of("swap_bytes", Unit::Bytes, |point| point.swap_bytes),
        Column::maybe("live_bytes", Unit::Bytes, |point| point.live_bytes),
        Column::maybe("heap_bytes", Unit::Bytes, |point| point.heap_bytes),
        Column::maybe("live_resident_bytes", Unit::Bytes, |point| {
            point.live_resident_bytes
        }),
    ];
}

impl Trend {
    /// Its figures in JSON.
    pub const COLUMNS: [Column<Self>; 3] = [
        Column::fraction("seconds", Unit::Seconds, |of| {
            Some(of.rss.elapsed_ns as f64 / 1e9)
        }),
        Column::fraction("rss_bytes_per_second", Unit::BytesPerSecond, |of| {
            Some(of.rss.bytes_per_second)
        }),
        Column::fraction("live_bytes_per_second", Unit::BytesPerSecond, |of| {
            of.live_bytes_per_second
        }),
    ];
}
