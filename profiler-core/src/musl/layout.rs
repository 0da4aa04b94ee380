//! Offsets in mallocng's structures (`src/malloc/mallocng/meta.h` of musl 1.2.1 to 1.2.6, LP64).
//! They are the same in all of these releases: musl gives mallocng a constant page size.

/// Bytes of an allocation unit (`UNIT`) and of a group's header.
pub(super) const UNIT: u64 = 16;
/// Bytes at the end of each slot that belong to the next one's header (`IB`).
pub(super) const IN_BAND: u64 = 4;
/// Bytes of a meta area, and its alignment.
pub(super) const AREA: u64 = 4096;
/// `struct meta_area` before its slots: check, next, nslots.
pub(super) const AREA_HEADER: usize = 24;
/// `struct meta`.
pub(super) const META: usize = 40;
/// Slots of a meta area.
pub(super) const METAS_PER_AREA: u64 = 101;
/// `sizeclass` of an allocation with a mapping of its own.
pub(super) const MAPPED: u8 = 63;
/// What `MMAP_THRESHOLD` is compiled to, in bytes.
pub(super) const MMAP_THRESHOLD: u64 = 131_052;

/// Slot sizes by class, in units (`size_classes` in `malloc.c`).
pub(super) const SIZE_CLASSES: [u16; 48] = [
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 18, 20, 25, 31, 36, 42, 50, 63, 72, 84, 102, 127, 146,
    170, 204, 255, 292, 340, 409, 511, 584, 682, 818, 1023, 1169, 1364, 1637, 2047, 2340, 2730,
    3276, 4095, 4680, 5460, 6552, 8191,
];

/// Bytes of `struct malloc_context`.
pub(super) const CONTEXT: usize = 928;
/// In it: `init_done`, an `int`.
pub(super) const INIT_DONE: usize = 8;
/// `free_meta_head`, a ring.
pub(super) const FREE_META_HEAD: usize = 16;
/// `avail_meta_count`: slots of the last area never used.
pub(super) const AVAIL_META_COUNT: usize = 32;
/// `meta_area_head`.
pub(super) const META_AREA_HEAD: usize = 56;
/// `meta_area_tail`.
pub(super) const META_AREA_TAIL: usize = 64;
/// `usage_by_class`: slots of the groups of each class.
pub(super) const USAGE_BY_CLASS: usize = 464;
