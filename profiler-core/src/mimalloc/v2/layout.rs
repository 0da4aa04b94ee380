//! Offsets in mimalloc 2.x's segments, pages and heaps, by release and build (`types.h`, LP64).

/// Bytes of a slice (`MI_SEGMENT_SLICE_SIZE`).
pub(super) const SLICE: u64 = 64 << 10;
/// Bytes of a normal segment, and the alignment of every segment.
pub(super) const SEGMENT: u64 = 32 << 20;
/// Slices of a normal segment, and the most that a segment describes.
pub(super) const SLICES: u64 = SEGMENT / SLICE;
/// `xblock_size` of a block whose size only its slices give.
pub(super) const HUGE_BLOCK: u64 = 2 << 30;

/// Offsets of the fields of `mi_segment_t`.
#[derive(Debug)]
pub(super) struct SegmentLayout {
    pub(super) used: usize,
    pub(super) cookie: usize,
    pub(super) segment_slices: usize,
    pub(super) info_slices: usize,
    pub(super) kind: usize,
    pub(super) slice_entries: usize,
    pub(super) thread_id: usize,
    /// The array of slices, which are `mi_page_t`.
    pub(super) slices: usize,
}

/// The position of a page's first block.
#[derive(Copy, Clone, Debug)]
pub(super) enum Start {
    /// The page has it in a field at this offset.
    Field(usize),
    /// 384 bytes into its memory for blocks up to 1 KiB.
    Fixed,
    /// Three blocks into its memory up to 64 bytes, one up to 512.
    Blocks,
}

/// A layout: its name and all offsets.
#[derive(Debug)]
pub(super) struct Layout {
    /// The releases with this layout, and the build if it is a special one.
    pub(super) name: &'static str,
    /// The first and the last of these releases.
    pub(super) releases: ([u32; 3], [u32; 3]),
    pub(super) segment: &'static SegmentLayout,
    /// Bytes of `mi_page_t`.
    pub(super) page: usize,
    /// The offset of `used` and its size in bytes.
    pub(super) used: (usize, usize),
    /// The offset of `block_size` or `xblock_size`, and its size in bytes.
    pub(super) block_size: (usize, usize),
    pub(super) local_free: usize,
    /// The page's keys, in builds that encode lists.
    pub(super) keys: Option<usize>,
    pub(super) thread_free: usize,
    pub(super) heap: usize,
    pub(super) start: Start,
    /// `thread_delayed_free` of `mi_heap_t`.
    pub(super) heap_delayed: usize,
    /// The heap's keys.
    pub(super) heap_keys: usize,
}

/// 2.0.9 to 2.1.7.
static EARLY: SegmentLayout = SegmentLayout {
    used: 208,
    cookie: 216,
    segment_slices: 224,
    info_slices: 232,
    kind: 240,
    slice_entries: 248,
    thread_id: 256,
    slices: 264,
};

/// From 2.1.8.
static LATE: SegmentLayout = SegmentLayout {
    used: 216,
    cookie: 224,
    segment_slices: 248,
    info_slices: 256,
    kind: 264,
    slice_entries: 272,
    thread_id: 280,
    slices: 288,
};

const LATE_RELEASES: ([u32; 3], [u32; 3]) = ([2, 1, 8], [2, 4, u32::MAX]);

const OLD_PAGE: Layout = Layout {
    name: "2.1.0 to 2.1.2",
    releases: ([2, 1, 0], [2, 1, 3]),
    segment: &EARLY,
    page: 80,
    used: (24, 4),
    block_size: (28, 4),
    local_free: 32,
    keys: None,
    thread_free: 40,
    heap: 48,
    start: Start::Blocks,
    heap_delayed: 2840,
    heap_keys: 2872,
};

const OLD_PAGE_SECURE: Layout = Layout {
    name: "2.1.0 to 2.1.2, secure or debug",
    page: 96,
    keys: Some(40),
    thread_free: 56,
    heap: 64,
    heap_delayed: 2848,
    heap_keys: 2880,
    ..OLD_PAGE
};

const NEW_PAGE: Layout = Layout {
    name: "2.1.4 to 2.1.7",
    releases: ([2, 1, 4], [2, 1, 7]),
    segment: &EARLY,
    page: 96,
    used: (32, 2),
    block_size: (40, 8),
    local_free: 24,
    keys: None,
    thread_free: 56,
    heap: 64,
    start: Start::Field(48),
    heap_delayed: 8,
    heap_keys: 40,
};

const NEW_PAGE_SECURE: Layout = Layout {
    name: "2.1.4 to 2.1.7, secure or debug",
    page: 112,
    keys: Some(56),
    thread_free: 72,
    heap: 80,
    ..NEW_PAGE
};

/// All known layouts. CPython 3.13 contains 2.1.2, with three more words in each page in builds
/// without the GIL.
pub(super) static LAYOUTS: [Layout; 10] = [
    OLD_PAGE,
    Layout {
        name: "2.0.9",
        releases: ([2, 0, 8], [2, 0, 9]),
        start: Start::Fixed,
        ..OLD_PAGE
    },
    NEW_PAGE,
    Layout {
        name: "2.1.8 to 2.4.1",
        releases: LATE_RELEASES,
        segment: &LATE,
        ..NEW_PAGE
    },
    Layout {
        name: "2.1.2, free-threaded",
        page: 96,
        ..OLD_PAGE
    },
    OLD_PAGE_SECURE,
    Layout {
        name: "2.0.9, secure or debug",
        releases: ([2, 0, 8], [2, 0, 9]),
        start: Start::Fixed,
        heap_delayed: 2840,
        heap_keys: 2872,
        ..OLD_PAGE_SECURE
    },
    Layout {
        name: "2.1.2, free-threaded, debug",
        page: 112,
        ..OLD_PAGE_SECURE
    },
    NEW_PAGE_SECURE,
    Layout {
        name: "2.1.8 to 2.4.1, secure or debug",
        releases: LATE_RELEASES,
        segment: &LATE,
        ..NEW_PAGE_SECURE
    },
];

impl Layout {
    /// Whether a release, such as `2.1.2`, has this layout.
    pub(super) fn is_of(&self, version: &str) -> bool {
        let mut numbers = version.split('.').map(|n| n.parse().unwrap_or(0));
        let release = std::array::from_fn(|_| numbers.next().unwrap_or(0));
        (self.releases.0..=self.releases.1).contains(&release)
    }
}
