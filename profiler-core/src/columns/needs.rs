//! What the live blocks would need elsewhere: packed, and as played.

use super::Column;
use crate::prediction::{Prediction, SelfCheck};
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
