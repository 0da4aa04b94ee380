//! Columns of allocation call sites and of sums over them.

use super::Column;
use crate::sites::SiteRow;
use crate::units::{Unit, Value};

impl SiteRow {
    /// Figures in the order of files. Those that come from a walk are unknown if no walk was
    /// matched.
    pub const COLUMNS: [Column<Self>; 20] = {
        let [bytes, error, _, live, at_walk, pinned, grown] = Self::SHOWN;
        [
            Column::of("samples", Unit::Count, |row| row.figures.samples),
            bytes,
            error,
            Column::of("allocations", Unit::Calls, |row| {
                row.figures.allocations.rounded()
            }),
            Column::of("allocations_error", Unit::Calls, |row| {
                row.figures.allocations.rounded_error()
            }),
            live,
            Column::of("live_bytes_error", Unit::Bytes, |row| {
                row.figures.live_bytes.rounded_error()
            }),
            Column::of("live_blocks", Unit::Blocks, |row| {
                row.figures.live_blocks.rounded()
            }),
            at_walk,
            Column::maybe("walk_live_bytes_error", Unit::Bytes, |row| {
                row.at_walk(row.figures.at_walk.bytes.rounded_error())
            }),
            Column::maybe("walk_live_blocks", Unit::Blocks, |row| {
                row.at_walk(row.figures.at_walk.blocks.rounded())
            }),
            pinned,
            Column::maybe("pinned_free_bytes_error", Unit::Bytes, |row| {
                row.at_walk(row.figures.at_walk.pinned_free_bytes.rounded_error())
            }),
            Column::maybe("growth_samples", Unit::Count, |row| {
                row.growth(row.figures.growth.samples)
            }),
            grown,
            Column::maybe("grown_bytes_error", Unit::Bytes, |row| {
                row.growth(row.figures.growth.grown.rounded_error())
            }),
            Column::maybe("returned_bytes", Unit::Bytes, |row| {
                row.growth(row.figures.growth.returned.rounded())
            }),
            Column::maybe("returned_bytes_error", Unit::Bytes, |row| {
                row.growth(row.figures.growth.returned.rounded_error())
            }),
            Column::maybe("touched_bytes", Unit::Bytes, |row| {
                row.growth(row.figures.growth.touched.rounded())
            }),
            Column::maybe("touched_bytes_error", Unit::Bytes, |row| {
                row.growth(row.figures.growth.touched.rounded_error())
            }),
        ]
    };

    /// Those that people see.
    pub const SHOWN: [Column<Self>; 7] = [
        Column::<Self>::of("allocated_bytes", Unit::Bytes, |row| {
            row.figures.bytes.rounded()
        })
        .titled("alloc", 6, "bytes allocated while the probes were attached")
        .short(0),
        Column::<Self>::of("allocated_bytes_error", Unit::Bytes, |row| {
            row.figures.bytes.rounded_error()
        })
        .titled("error", 6, "sampling error (one standard deviation)")
        .written(|row| {
            let error = Value::Whole(row.figures.bytes.rounded_error());
            format!("±{}", Unit::Bytes.short_text(error))
        }),
        Column::<Self>::fraction("allocated_share", Unit::Share, |row| {
            (row.whole_bytes > 0.0).then(|| row.figures.bytes.value / row.whole_bytes)
        })
        .titled("share", 6, "of the bytes that all sites allocated")
        .short(0),
        Column::<Self>::of("live_bytes", Unit::Bytes, |row| {
            row.figures.live_bytes.rounded()
        })
        .titled("unfreed", 8, "bytes that were not seen being freed")
        .short(0),
        Column::<Self>::maybe("walk_live_bytes", Unit::Bytes, |row| {
            row.at_walk(row.figures.at_walk.bytes.rounded())
        })
        .titled("live", 6, "bytes that the last walk found live")
        .short(0),
        Column::<Self>::maybe("pinned_free_bytes", Unit::Bytes, |row| {
            row.at_walk(row.figures.at_walk.pinned_free_bytes.rounded())
        })
        .titled("pins", 5, "free bytes on the pages of what is live")
        .short(0),
        Column::<Self>::maybe("grown_bytes", Unit::Bytes, |row| {
            row.growth(row.figures.growth.grown.rounded())
        })
        .titled(
            "grew",
            5,
            "bytes got from the kernel, whether the probes were attached or not",
        )
        .short(0),
    ];

    /// A figure of the growth.
    fn growth(&self, value: u64) -> Option<u64> {
        self.is_growth_watched.then_some(value)
    }

    /// A figure of the last walk's.
    fn at_walk(&self, value: u64) -> Option<u64> {
        self.is_known_of_walk().then_some(value)
    }
}
