//! Columns for what the live blocks would need elsewhere: by the packing bound, and as replayed.

use super::{Column, TextColumn};
use crate::prediction::{NeedsRow, SelfCheck};
use crate::tables::{PackedClass, Packing};
use crate::units::Unit;

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

impl SelfCheck {
    /// The heap as measured and as replayed.
    pub const COLUMNS: [Column<Self>; 2] = [
        Column::of("measured_bytes", Unit::Bytes, |check| check.measured_bytes),
        Column::of("predicted_bytes", Unit::Bytes, |check| {
            check.predicted_bytes
        }),
    ];
}

impl NeedsRow {
    /// The first column: what was replayed.
    pub const NAME: TextColumn = TextColumn::left("malloc with", 26);
    /// The middle of the band.
    const MALLOC: Column<Self> = Column::maybe("rest_bytes", Unit::Bytes, |row: &Self| row.bytes)
        .titled("malloc", 10, "what malloc's heap would need");
    const LOW: Column<Self> = Column::maybe("low_bytes", Unit::Bytes, |row: &Self| {
        Some(row.band?.low_bytes)
    });
    const HIGH: Column<Self> = Column::maybe("high_bytes", Unit::Bytes, |row: &Self| {
        Some(row.band?.high_bytes)
    });
    /// Both ends of the band; empty if there is only one figure.
    pub const BAND: Column<Self> = Column::maybe("", Unit::Bytes, |row: &Self| row.bytes)
        .titled(
            "low to high",
            19,
            "the least and the most that is plausible",
        )
        .written(|row| row.band.map_or_else(String::new, |needs| needs.band()));
    /// RSS with the middle.
    pub const RSS: Column<Self> =
        Column::maybe("rss_bytes", Unit::Bytes, |row: &Self| row.rss_bytes).titled(
            "RSS",
            10,
            "what RSS would be with that, if all else stays",
        );
    /// Its meaning, in a word.
    pub const EFFECT: Column<Self> =
        Column::words("effect", |row: &Self| Some(row.effect?.name().to_owned()))
            .titled("effect", 13, "at both ends of the band")
            .written(|row| {
                row.effect
                    .map_or_else(String::new, |effect| effect.words().to_owned())
            });

    /// The figures of the table in text and HTML, after what was replayed. The effect follows them.
    pub const SHOWN: [Column<Self>; 3] = [Self::MALLOC, Self::BAND, Self::RSS];
    /// Of the table, in CSV.
    pub const COLUMNS: [Column<Self>; 3] = [Self::MALLOC, Self::LOW, Self::HIGH];
    /// In JSON.
    pub const IN_JSON: [Column<Self>; 4] = [Self::MALLOC, Self::LOW, Self::HIGH, Self::RSS];
}
