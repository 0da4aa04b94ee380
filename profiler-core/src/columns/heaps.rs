//! Columns of the ledger, and of heaps by arena, size class and page.

use super::{Column, TextColumn, up_to};
use crate::report::Finding;
use crate::tables::{
    ArenaReport, HeapReport, HugeOccupancyRow, LedgerRow, OccupancyDeciles, OccupancyRow,
    SizeClassRow,
};
use crate::units::Unit;

impl LedgerRow {
    /// The class.
    pub const CLASS: TextColumn = TextColumn::left("where memory is", 18);
    /// Its share of RSS.
    pub const SHARE: TextColumn = TextColumn::right("of RSS", 8);
    /// Bytes of each class.
    pub const COLUMNS: [Column<Self>; 3] = [
        Column::<Self>::of("resident_bytes", Unit::Bytes, |row| row.resident_bytes).titled(
            "resident",
            10,
            "bytes of the class in memory",
        ),
        Column::<Self>::of("shared_bytes", Unit::Bytes, |row| row.shared_bytes).titled(
            "shared",
            10,
            "of the resident bytes, those still shared with another process",
        ),
        Column::<Self>::of("swapped_bytes", Unit::Bytes, |row| row.swapped_bytes).titled(
            "swapped",
            10,
            "bytes of the class in swap",
        ),
    ];
}

impl HeapReport {
    /// Totals of a heap.
    pub const COLUMNS: [Column<Self>; 9] = [
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
        Column::of(
            "live_resident_bytes",
            Unit::Bytes,
            Self::live_resident_bytes,
        ),
        Column::of("mapped_large_resident_bytes", Unit::Bytes, |heap| {
            heap.mapped_large_resident_bytes
        }),
        Column::maybe("untouched_bytes", Unit::Bytes, |heap| heap.untouched_bytes),
    ];
}

impl ArenaReport {
    const SYSTEM: Column<Self> =
        Column::<Self>::of("system_bytes", Unit::Bytes, |of| of.arena.system_bytes).titled(
            "system",
            10,
            "bytes that the arena has from the kernel",
        );
    /// Live memory is compared with resident memory, here as in every other table.
    const LIVE: Column<Self> = Column::<Self>::of("live_resident_bytes", Unit::Bytes, |of| {
        of.live_resident_bytes
    })
    .titled(
        "live",
        10,
        "bytes in memory of blocks in the program's hands, whatever was asked for",
    );
    const FREE: Column<Self> =
        Column::<Self>::of("free_bytes", Unit::Bytes, |of| of.arena.free_bytes).titled(
            "free",
            10,
            "bytes of free blocks, without the top",
        );
    const CACHED: Column<Self> =
        Column::<Self>::of("cached_bytes", Unit::Bytes, |of| of.arena.cached_bytes).titled(
            "cached",
            10,
            "bytes of freed blocks in caches",
        );
    const TOP: Column<Self> = Column::<Self>::of("top_bytes", Unit::Bytes, |of| of.arena.top_bytes)
        .titled("top", 10, "bytes of the unused end of the arena");
    const RESIDENT: Column<Self> =
        Column::<Self>::of("resident_bytes", Unit::Bytes, |of| of.resident_bytes).titled(
            "resident",
            10,
            "bytes of the arena in memory",
        );
    const TRIMMABLE: Column<Self> =
        Column::<Self>::of("trimmable_bytes", Unit::Bytes, |of| of.trimmable_bytes).titled(
            "trimmable",
            10,
            "bytes that a trim or purge would return",
        );

    /// All figures of an arena, in the order of files.
    pub const COLUMNS: [Column<Self>; 15] = [
        Self::SYSTEM,
        Column::of("live_bytes", Unit::Bytes, |of| of.arena.live_bytes),
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
        Self::LIVE,
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
    /// The row's label: its largest size. In files it is separate from the figures.
    pub const UP_TO: Column<Self> = up_to(11, |row| row.class.upper_bytes());

    /// The figures shown to people, in the order of files.
    pub const SHOWN: [Column<Self>; 4] = [
        Column::<Self>::of("live_blocks", Unit::Blocks, |row| row.live_blocks).titled(
            "blocks",
            10,
            "blocks in the program's hands",
        ),
        Column::<Self>::of("live_bytes", Unit::Bytes, |row| row.live_bytes).titled(
            "live",
            12,
            "their bytes",
        ),
        Column::<Self>::of("free_blocks", Unit::Blocks, |row| row.free_blocks).titled(
            "free",
            9,
            "free and cached blocks",
        ),
        Column::<Self>::of("free_bytes", Unit::Bytes, |row| row.free_bytes).titled(
            "free bytes",
            12,
            "their bytes",
        ),
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
        Column::<Self>::of("resident_pages", Unit::Pages, |row| row.resident_pages).titled(
            "resident",
            10,
            "pages in memory with so many live bytes",
        ),
        Column::<Self>::of("swapped_pages", Unit::Pages, |row| row.swapped_pages).titled(
            "swapped",
            10,
            "pages in swap with so many live bytes",
        ),
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

impl OccupancyDeciles {
    /// One decile; JSON has all of them in an array under this key.
    pub const LIVE_BYTES: Column<u32> =
        Column::of("live_bytes", Unit::Bytes, |&live| u64::from(live));
}

impl Finding {
    /// The finding's bytes.
    pub const COLUMNS: [Column<Self>; 1] =
        [Column::maybe("bytes", Unit::Bytes, |finding| finding.bytes)];
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heap::Arena;

    #[test]
    fn what_is_live_in_an_arena_compares_with_what_is_resident() {
        let arena = ArenaReport {
            arena: Arena {
                live_bytes: 5 << 30,
                ..Arena::default()
            },
            resident_bytes: 3 << 20,
            swapped_bytes: 0,
            live_resident_bytes: 2 << 20,
            trimmable_bytes: 0,
            pinned_free_bytes: 0,
            below_highest_live_bytes: 0,
            top_pinned_bytes: 0,
        };
        let cells = crate::columns::cells(&ArenaReport::SHOWN, &arena, " ");
        let cells: Vec<&str> = cells.split_whitespace().collect();
        assert!(
            cells.starts_with(&["0", "B", "3.0", "MiB", "2.0", "MiB"]),
            "{cells:?}"
        );
    }
}
