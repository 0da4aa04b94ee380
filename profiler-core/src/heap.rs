//! A heap as one allocator sees it at one moment.

use crate::addr::{AddrRange, RemoteAddr};
pub use crate::allocator::Allocator;
use crate::allocator::{SettingsInForce, UnknownEnvironment};
use crate::arena::{ArenaFigure, ArenaKind};
use crate::completeness::{Confidence, Defect};
use crate::span::{SpanList, SpanState};

/// The origin of an extent's memory.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum ExtentKind {
    /// glibc's main arena: brk or its non-contiguous substitute.
    Brk,
    /// A thread arena's heap (`heap_info`).
    ThreadHeap,
    /// A mapping for one large block alone (glibc: an mmapped chunk).
    LargeMapped,
    /// A pymalloc arena.
    PoolArena,
    /// A run that slabs and large blocks are carved from (jemalloc: extent, mimalloc: segment,
    /// tcmalloc: span, musl: group).
    Region,
}

/// A range that an allocator obtained from the kernel or from an outer allocator, and the use of
/// its bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Extent {
    /// Its addresses. The spans tile it from its start; bytes that they do not cover at the end are
    /// unknown.
    pub range: AddrRange,
    /// Its origin.
    pub kind: ExtentKind,
    /// Index into [`HeapSnapshot::arenas`] of the owner.
    pub arena: u32,
    /// Bytes of header at the start of a block's span (glibc: a chunk's size word; the word before
    /// it belongs to the previous block while that is in use).
    pub block_header_bytes: u64,
    /// The use of each byte.
    pub spans: SpanList,
}

impl Extent {
    /// An extent of the first arena that these spans tile, with no header before a block; `None` beyond the end
    /// of the addresses.
    pub fn of_spans(kind: ExtentKind, start: RemoteAddr, spans: SpanList) -> Option<Self> {
        Some(Self {
            range: AddrRange::with_len(start, spans.bytes())?,
            kind,
            arena: 0,
            block_header_bytes: 0,
            spans,
        })
    }

    /// The address range of each live block without its header, ascending.
    pub fn live_blocks(&self) -> impl Iterator<Item = AddrRange> + '_ {
        let live = self.spans.iter(self.range.start());
        let live = live.filter(|span| span.state == SpanState::Live);
        live.filter_map(|span| {
            let start = span.range.start().checked_add(self.block_header_bytes)?;
            AddrRange::new(start, span.range.end())
        })
    }
}

/// An arena's own totals. All `*_bytes` are in bytes as the allocator counts blocks, including
/// headers if it has them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Arena {
    /// 0 is the main arena.
    pub id: u32,
    /// Its role in the allocator.
    pub kind: ArenaKind,
    /// The address of its state.
    pub addr: RemoteAddr,
    /// Bytes got from the kernel, by the allocator's own count (glibc: `system_mem`).
    pub system_bytes: u64,
    /// Blocks in the program's hands.
    pub live_blocks: u64,
    /// Their bytes.
    pub live_bytes: u64,
    /// Free blocks in bins or free lists.
    pub free_blocks: u64,
    /// Their bytes, without the top.
    pub free_bytes: u64,
    /// Blocks in caches (glibc: tcache and fastbins).
    pub cached_blocks: u64,
    /// Their bytes.
    pub cached_bytes: u64,
    /// Bytes of the top.
    pub top_bytes: u64,
    /// Further figures, by the allocator's own names.
    pub figures: Vec<(ArenaFigure, u64)>,
}

impl Arena {
    /// One of its additional figures; `None` if it does not have it.
    pub fn figure(&self, wanted: ArenaFigure) -> Option<u64> {
        let mut figures = self.figures.iter();
        figures
            .find(|(figure, _)| *figure == wanted)
            .map(|(_, value)| *value)
    }
}

/// A comparison of the walk with the allocator's own account.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CrossCheck {
    /// What was compared, by the allocator's own name.
    pub name: String,
    /// The value in the allocator's account.
    pub expected: u64,
    /// The value found by the walk.
    pub found: u64,
}

impl CrossCheck {
    /// A check with this name, the allocator's value and the walk's.
    pub fn new(name: impl Into<String>, expected: u64, found: u64) -> Self {
        Self {
            name: name.into(),
            expected,
            found,
        }
    }

    /// Whether both agree.
    pub fn holds(&self) -> bool {
        self.expected == self.found
    }
}

/// A setting requested by the target's environment, compared with the setting in force.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RequestedSetting {
    /// Its text in the environment, e.g. `MALLOC_ARENA_MAX=2`.
    pub request: String,
    /// Whether it is in effect; `None` if that cannot be determined.
    pub in_force: Option<bool>,
    /// What is in force instead, and why.
    pub note: String,
}

/// One allocator's heap at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct HeapSnapshot {
    /// Whose heap.
    pub allocator: Allocator,
    /// Its version as found in the target, e.g. `2.36`; empty if unknown.
    pub version: String,
    /// Its arenas, by id.
    pub arenas: Vec<Arena>,
    /// Its extents, ascending by address and not overlapping.
    pub extents: Vec<Extent>,
    /// Whole pages that the allocator's own trim (glibc: `malloc_trim(0)`) would give back if they
    /// are resident, ascending.
    pub trimmable: Vec<AddrRange>,
    /// Settings in force, name and value as the allocator names them (`mmap_threshold`, …).
    pub settings: Vec<(String, String)>,
    /// Their defaults in this release, as far as known.
    pub defaults: Vec<(String, String)>,
    /// What the environment of the target requests of it; empty where [`Self::environment_unknown`] says why that is
    /// unknown. [`Self::requested`] gives both.
    pub requested: Vec<RequestedSetting>,
    /// The walk against the allocator's own account.
    pub checks: Vec<CrossCheck>,
    /// How sure the layout is.
    pub confidence: Confidence,
    /// Threads that were inside an operation on it, as far as its state shows (glibc: arenas whose
    /// mutex is held; pymalloc: pools in which a block is being taken or freed).
    pub threads_inside: u32,
    /// What was damaged or unreadable.
    pub defects: Vec<Defect>,
    /// Bytes wanted and not readable.
    pub unreadable_bytes: u64,
    /// The path, as seen by the target, of the library that has this allocator for itself; `None`
    /// if it serves malloc or Python.
    pub library: Option<String>,
    /// Why it is unknown what the environment of the target requests.
    pub environment_unknown: Option<UnknownEnvironment>,
}

impl HeapSnapshot {
    /// An empty heap of `allocator`.
    pub fn new(allocator: Allocator, version: impl Into<String>) -> Self {
        Self {
            allocator,
            version: version.into(),
            arenas: Vec::new(),
            extents: Vec::new(),
            trimmable: Vec::new(),
            settings: Vec::new(),
            defaults: Vec::new(),
            requested: Vec::new(),
            checks: Vec::new(),
            confidence: Confidence::None,
            threads_inside: 0,
            defects: Vec::new(),
            unreadable_bytes: 0,
            library: None,
            environment_unknown: None,
        }
    }

    /// What the environment of the target requests of it, or why that is unknown.
    ///
    /// # Errors
    /// When it is unknown.
    pub fn requested(&self) -> Result<&[RequestedSetting], UnknownEnvironment> {
        match self.environment_unknown {
            Some(reason) => Err(reason),
            None => Ok(&self.requested),
        }
    }

    /// The settings that its own structures show in force, under the names by which an environment sets them.
    pub fn settings_in_force(&self) -> SettingsInForce {
        let listed = self.settings.iter();
        SettingsInForce::of(
            self.allocator,
            listed.map(|(name, value)| (&**name, &**value)),
        )
    }

    /// Whether it serves malloc calls, so that other allocators and malloc settings would affect
    /// it.
    pub fn serves_malloc(&self) -> bool {
        self.allocator.serves_malloc(self.library.as_deref())
    }

    /// The sum of one figure over all arenas.
    pub fn total(&self, figure: impl Fn(&Arena) -> u64) -> u64 {
        self.arenas.iter().map(figure).sum()
    }

    /// Blocks with a mapping of their own: their number and the bytes of the mappings.
    pub fn large_mapped(&self) -> (u64, u64) {
        let large = self
            .extents
            .iter()
            .filter(|e| e.kind == ExtentKind::LargeMapped);
        large.fold((0, 0), |(n, bytes), e| (n + 1, bytes + e.range.len()))
    }

    /// Checks the conservation laws; returns a sentence for each violation.
    pub fn check(&self) -> Vec<String> {
        let mut broken = Vec::new();
        let mut end = RemoteAddr::default();
        for extent in &self.extents {
            if extent.range.start() < end {
                broken.push(format!(
                    "the extent at {} overlaps the one before",
                    extent.range
                ));
            }
            end = extent.range.end();
            if extent.spans.bytes() > extent.range.len() {
                broken.push(format!("the spans of {} are longer than it", extent.range));
            }
            if extent.arena as usize >= self.arenas.len() {
                broken.push(format!(
                    "the extent at {} belongs to no arena",
                    extent.range
                ));
            }
        }
        for arena in &self.arenas {
            let mut live = (0u64, 0u64);
            for extent in self.extents.iter().filter(|e| {
                self.arenas
                    .get(e.arena as usize)
                    .is_some_and(|a| a.id == arena.id)
                    && e.kind != ExtentKind::LargeMapped
            }) {
                for span in extent.spans.iter(extent.range.start()) {
                    if span.state == SpanState::Live {
                        live = (live.0 + 1, live.1 + span.range.len());
                    }
                }
            }
            if live != (arena.live_blocks, arena.live_bytes) {
                broken.push(format!(
                    "arena {} counts {} live blocks of {} bytes, its spans {} of {}",
                    arena.id, arena.live_blocks, arena.live_bytes, live.0, live.1
                ));
            }
        }
        for pair in self.trimmable.windows(2) {
            if pair[1].start() < pair[0].end() {
                broken.push(format!(
                    "trimmable ranges {} and {} overlap",
                    pair[0], pair[1]
                ));
            }
        }
        broken
    }
}
