//! Columns of Python objects by type and by holder, and of blocks without an owner.

use super::{Column, up_to};
use crate::objects::{
    AllocatorShare, Census, Copied, Gain, Growth, Holder, NativeRow, PackageRow, TypeRow,
};
use crate::units::{Unit, milliseconds};

impl TypeRow {
    /// Figures of a type, in the order of files.
    pub const COLUMNS: [Column<Self>; 9] = {
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
            Column::of("unreached_bytes", Unit::Bytes, |row| row.unreached.bytes),
        ]
    };

    /// Those that people see.
    pub const SHOWN: [Column<Self>; 3] = [
        Column::<Self>::of("objects", Unit::Objects, |row| row.objects.blocks).titled(
            "objects",
            10,
            "live objects of the type",
        ),
        Column::<Self>::of("bytes", Unit::Bytes, |row| row.objects.bytes).titled(
            "bytes",
            10,
            "bytes of the objects themselves",
        ),
        Column::<Self>::of("storage_bytes", Unit::Bytes, |row| row.storage.bytes).titled(
            "storage",
            10,
            "bytes of what belongs to them: items, keys, buffers",
        ),
    ];
}

impl NativeRow {
    /// The row's label: its largest size. In files it is separate from the figures.
    pub const UP_TO: Column<Self> = up_to(10, |row| row.class.upper_bytes());

    /// Figures of a size class of native blocks.
    pub const COLUMNS: [Column<Self>; 2] = [
        Column::<Self>::of("blocks", Unit::Blocks, |row| row.native.blocks).titled(
            "blocks",
            10,
            "live blocks that no Python object owns",
        ),
        Column::<Self>::of("bytes", Unit::Bytes, |row| row.native.bytes).titled(
            "bytes",
            10,
            "their bytes",
        ),
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
    pub const COLUMNS: [Column<Self>; 12] = [
        Column::maybe("length", Unit::Objects, |holder| holder.length),
        Column::of("retained_bytes", Unit::Bytes, |holder| {
            holder.retained_bytes
        }),
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
        Column::maybe("shared_bytes", Unit::Bytes, |holder| holder.shared_bytes),
        Column::maybe("inner_bytes", Unit::Bytes, |holder| holder.inner_bytes),
        Column::maybe("untouched_bytes", Unit::Bytes, |holder| {
            holder.dropped?.untouched.known()
        }),
        Column::maybe("mapped_bytes", Unit::Bytes, |holder| holder.mapped_bytes),
        Column::maybe("mapped_shared_bytes", Unit::Bytes, |holder| {
            holder.mapped_shared_bytes
        }),
        Column::maybe("mapped_kept_bytes", Unit::Bytes, |holder| {
            holder.mapped_kept_bytes
        }),
    ];

    /// The figure shown to people: it includes memory mapped by `mmap` objects.
    pub const HELD: Column<Self> = Column::<Self>::of("held_bytes", Unit::Bytes, Self::held_bytes)
        .titled(
            "retained",
            10,
            "bytes that would be freed, or unmapped, if the name went",
        );
}

impl Census {
    /// Its totals.
    pub const COLUMNS: [Column<Self>; 20] = [
        Column::fraction("read_ms", Unit::Milliseconds, |of| {
            Some(milliseconds(of.took_ns))
        }),
        Column::of("live_bytes", Unit::Bytes, |of| of.live.bytes),
        Column::of("live_blocks", Unit::Blocks, |of| of.live.blocks),
        Column::of("typed_bytes", Unit::Bytes, Self::typed_bytes),
        Column::of("untyped_bytes", Unit::Bytes, Self::untyped_bytes),
        Column::of("spare_bytes", Unit::Bytes, |of| of.spare.bytes),
        Column::of("unreadable_bytes", Unit::Bytes, |of| of.unreadable.bytes),
        Column::of("changed_objects", Unit::Objects, |of| of.changed),
        Column::of("compared_objects", Unit::Objects, |of| of.compared),
        Column::of("replaced_objects", Unit::Objects, |of| of.replaced),
        Column::of("is_unsteady", Unit::Flag, |of| of.is_unsteady().into()),
        Column::of("references", Unit::Count, |of| of.references),
        Column::of("held_by_names_bytes", Unit::Bytes, |of| {
            of.held_by_names.bytes
        }),
        Column::of("unreached_bytes", Unit::Bytes, |of| of.unreached.bytes),
        Column::of("cycle_bytes", Unit::Bytes, |of| of.cycles.bytes),
        Column::of("held_unseen_bytes", Unit::Bytes, |of| of.held_unseen.bytes),
        Column::of("unlisted_bytes", Unit::Bytes, |of| of.unlisted.bytes),
        Column::of("mapped_bytes", Unit::Bytes, |of| of.mapped.bytes),
        Column::of("mapped_objects", Unit::Objects, |of| of.mapped.blocks),
        Column::maybe("tracemalloc_bytes", Unit::Bytes, |of| {
            of.tracing.map(|tracing| tracing.bytes)
        }),
    ];
}

impl PackageRow {
    /// What a package's modules hold besides what is in rows.
    pub const COLUMNS: [Column<Self>; 2] = [
        Column::of("bytes", Unit::Bytes, |of| of.unlisted.bytes),
        Column::of("blocks", Unit::Blocks, |of| of.unlisted.blocks),
    ];
}

impl Copied {
    /// Memory on pages that were copied since the fork.
    pub const COLUMNS: [Column<Self>; 2] = [
        Column::of("bytes", Unit::Bytes, |of| of.bytes),
        Column::of("collector_bytes", Unit::Bytes, |of| of.collector_bytes),
    ];
}

impl Growth {
    /// Total growth since the previous census.
    pub const COLUMNS: [Column<Self>; 10] = [
        Column::fraction("elapsed_ms", Unit::Milliseconds, |of| {
            Some(milliseconds(of.elapsed_ns))
        }),
        Column::of("is_growing", Unit::Flag, |of| of.is_growing.into()),
        Column::fraction("live_bytes_per_second", Unit::BytesPerSecond, |of| {
            Some(of.live.bytes)
        }),
        Column::fraction("live_blocks_per_second", Unit::PerSecond, |of| {
            Some(of.live.blocks)
        }),
        Column::fraction("typed_bytes_per_second", Unit::BytesPerSecond, |of| {
            Some(of.typed.bytes)
        }),
        Column::fraction("typed_objects_per_second", Unit::PerSecond, |of| {
            Some(of.typed.blocks)
        }),
        Column::fraction("steady_bytes_per_second", Unit::BytesPerSecond, |of| {
            Some(of.steady_bytes)
        }),
        Column::fraction("unreached_bytes_per_second", Unit::BytesPerSecond, |of| {
            Some(of.unreached.bytes)
        }),
        Column::fraction("cycle_bytes_per_second", Unit::BytesPerSecond, |of| {
            Some(of.cycles.bytes)
        }),
        Column::fraction("held_unseen_bytes_per_second", Unit::BytesPerSecond, |of| {
            Some(of.held_unseen.bytes)
        }),
    ];
}

impl Gain {
    /// The gain of a type, a size class of native blocks, or a holder.
    pub const COLUMNS: [Column<Self>; 2] = [
        Column::fraction("growth_bytes_per_second", Unit::BytesPerSecond, |of| {
            of.bytes
        }),
        Column::fraction("growth_objects_per_second", Unit::PerSecond, |of| {
            of.objects
        }),
    ];
}
