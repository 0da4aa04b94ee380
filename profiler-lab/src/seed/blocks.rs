//! The walked heap that serves malloc: its blocks and the gaps between them, arena by arena.

use profiler_core::addr::AddrRange;
use profiler_core::allocator::{
    Allocator, GlibcSetting, SettingsInForce, UnknownEnvironment, serving,
};
use profiler_core::arena::ArenaFigure;
use profiler_core::glibc::WHOLE_HEADER;
use profiler_core::heap::{Extent, ExtentKind, HeapSnapshot};
use profiler_core::residency::ResidencyMap;
use profiler_core::sample::Sample;
use profiler_core::span::SpanState;

/// The heap that serves malloc in a sample.
#[derive(Copy, Clone, Debug)]
pub struct WalkedHeap<'a> {
    pub(super) heap: &'a HeapSnapshot,
    pub(super) residency: &'a ResidencyMap,
}

/// A stretch of an extent: a live block, or a gap without any.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) struct Stretch {
    /// Its addresses, headers included.
    pub(super) range: AddrRange,
    /// Its kind.
    pub(super) kind: StretchKind,
}

/// The kind of a stretch.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) enum StretchKind {
    /// In the program's hands.
    Live,
    /// A freed block of exactly this size that a cache keeps.
    Cached,
    /// Free: its former content is unknown.
    Free,
    /// The end of an arena.
    Top,
}

impl<'a> WalkedHeap<'a> {
    /// The heap that serves malloc in a sample; `None` when none that does was walked.
    pub fn of(sample: &'a Sample) -> Option<Self> {
        let present = |heap: &&HeapSnapshot| -> u64 {
            let extents = heap.extents.iter();
            extents.map(|e| sample.residency.data_bytes(e.range)).sum()
        };
        let heap = serving(
            sample.target.malloc.as_ref(),
            sample.heaps.iter(),
            |heap| heap.serves_malloc().then_some(heap.allocator),
            present,
        )?;
        Some(Self {
            heap,
            residency: &sample.residency,
        })
    }

    /// The allocator that it belongs to.
    pub fn allocator(&self) -> Allocator {
        self.heap.allocator
    }

    /// Bytes of its live blocks, headers included.
    pub fn live_bytes(&self) -> u64 {
        self.heap.total(|arena| arena.live_bytes) + self.heap.large_mapped().1
    }

    /// Bytes that its own trim would return.
    pub fn trimmable_bytes(&self) -> u64 {
        let ranges = self.heap.trimmable.iter();
        ranges.map(|range| self.present(*range)).sum()
    }

    /// Bytes of the header of each block, except those with their own mapping.
    pub(super) fn header_bytes(&self) -> u64 {
        let mut extents = self.heap.extents.iter();
        let own = extents.find(|e| e.kind != ExtentKind::LargeMapped);
        own.map_or(0, |extent| extent.block_header_bytes)
    }

    /// Its version, as found in the target.
    pub fn version(&self) -> &str {
        &self.heap.version
    }

    /// The settings of it that the target's environment asked for, `NAME=VALUE` each.
    ///
    /// # Errors
    /// Why they are unknown.
    pub fn requested(&self) -> Result<impl Iterator<Item = &str>, UnknownEnvironment> {
        let requested = self.heap.requested()?.iter();
        Ok(requested.map(|setting| &*setting.request))
    }

    /// The settings that its own structures show in force.
    pub fn settings_in_force(&self) -> SettingsInForce {
        self.heap.settings_in_force()
    }

    /// Bytes of unknown use.
    pub fn unknown_bytes(&self) -> u64 {
        self.heap.unreadable_bytes
    }

    /// A setting in force of glibc's.
    pub fn setting(&self, wanted: GlibcSetting) -> Option<u64> {
        self.of_glibc(&self.heap.settings, wanted)
    }

    /// The same, if it is known to differ from the default.
    pub fn changed_setting(&self, wanted: GlibcSetting) -> Option<u64> {
        let default = self.of_glibc(&self.heap.defaults, wanted)?;
        self.setting(wanted).filter(|value| *value != default)
    }

    fn of_glibc(&self, listed: &[(String, String)], wanted: GlibcSetting) -> Option<u64> {
        let is_glibc = self.heap.allocator == Allocator::Glibc;
        let listed = listed.iter().map(|(name, value)| (&**name, &**value));
        wanted.in_force(listed).filter(|_| is_glibc)
    }

    /// Arenas that have anything, at least one: each is one thread of the program.
    pub fn arenas(&self) -> Vec<u32> {
        let mut arenas: Vec<u32> = self.heap.extents.iter().map(|e| e.arena).collect();
        arenas.push(0);
        arenas.sort_unstable();
        arenas.dedup();
        arenas
    }

    /// The number of threads that use an arena, if its allocator says so; else one.
    pub fn threads_of(&self, arena: u32) -> u32 {
        let mut arenas = self.heap.arenas.iter();
        let known = arenas.find(|one| one.id == arena);
        let threads = known.and_then(|one| one.figure(ArenaFigure::AttachedThreads));
        threads.map_or(1, |threads| {
            u32::try_from(threads).unwrap_or(u32::MAX).max(1)
        })
    }

    /// Whether several threads use it.
    pub fn has_several_threads(&self) -> bool {
        let arenas = self.arenas().into_iter();
        arenas
            .map(|arena| u64::from(self.threads_of(arena)))
            .sum::<u64>()
            > 1
    }

    /// Extents of one arena by address, without blocks that have their own mapping.
    pub(super) fn extents(&self, arena: u32) -> impl Iterator<Item = &'a Extent> {
        let extents = self.heap.extents.iter();
        extents.filter(move |e| e.arena == arena && e.kind != ExtentKind::LargeMapped)
    }

    /// Blocks with their own mapping, with the most bytes that were requested for each.
    pub(super) fn large_mapped(&self) -> impl Iterator<Item = (AddrRange, u64)> {
        let extents = self.heap.extents.iter();
        let large = extents.filter(|e| e.kind == ExtentKind::LargeMapped);
        large.flat_map(|extent| {
            // glibc: requested again, it must not take one page more (`sysmalloc_mmap`).
            let header = match self.allocator() {
                Allocator::Glibc => WHOLE_HEADER,
                _ => 0,
            };
            let live = extent.live_blocks();
            live.map(move |block| (block, block.len().saturating_sub(header)))
        })
    }

    /// Blocks and gaps of an extent, by address. Neighbouring free spans are one gap.
    pub(super) fn stretches(&self, extent: &'a Extent) -> impl Iterator<Item = Stretch> + use<'a> {
        let spans = extent.spans.iter(extent.range.start());
        spans.filter_map(|span| {
            let kind = match span.state {
                SpanState::Live => StretchKind::Live,
                SpanState::Cached => StretchKind::Cached,
                SpanState::Free => StretchKind::Free,
                SpanState::Top => StretchKind::Top,
                SpanState::Metadata | SpanState::Retained | SpanState::Unknown => return None,
            };
            Some(Stretch {
                range: span.range,
                kind,
            })
        })
    }

    /// The share of all gaps that consists of gaps of `bytes` to `most`.
    pub(super) fn share_of_free(&self, bytes: u64, most: u64) -> f64 {
        self.share_of_gaps(bytes, most) / self.share_of_gaps(0, u64::MAX).max(f64::MIN_POSITIVE)
    }

    /// The share of its size that consists of gaps of `bytes` to `most`.
    pub(super) fn share_of_gaps(&self, bytes: u64, most: u64) -> f64 {
        let extents = self.heap.extents.iter();
        let extents = extents.filter(|e| e.kind != ExtentKind::LargeMapped);
        let (mut gaps, mut all) = (0u64, 0u64);
        for extent in extents {
            all += self.present(extent.range);
            let large = self.stretches(extent);
            let large = large
                .filter(|s| s.kind != StretchKind::Live && (bytes..=most).contains(&s.range.len()));
            gaps += large.map(|s| self.present(s.range)).sum::<u64>();
        }
        gaps as f64 / all.max(1) as f64
    }

    /// Bytes of a block's pages that are resident or in swap, without those that are so only
    /// because of a huge page.
    pub(super) fn written(&self, block: AddrRange) -> u64 {
        let blank = self.residency.blank_bytes(block);
        self.present(block).saturating_sub(blank)
    }

    /// Bytes of its pages that are resident only because of huge pages.
    pub(crate) fn blank_bytes(&self) -> u64 {
        let extents = self.heap.extents.iter();
        extents.map(|e| self.residency.blank_bytes(e.range)).sum()
    }

    /// Bytes that it does not return to the kernel for a while, in pages that are resident or in
    /// swap: jemalloc's dirty and muzzy pages.
    pub(crate) fn unpurged_bytes(&self) -> u64 {
        let extents = self.heap.extents.iter();
        let kept = |extent: &Extent| {
            let spans = extent.spans.iter(extent.range.start());
            let retained = spans.filter(|span| span.state == SpanState::Retained);
            let present = retained.map(|span| self.present(span.range)).sum::<u64>();
            present.min(self.present(extent.range))
        };
        extents.map(kept).sum()
    }

    /// Bytes of the pages of a range that are resident or in swap.
    pub(super) fn present(&self, range: AddrRange) -> u64 {
        self.residency.data_bytes(range)
    }
}

/// The size of the heap that serves malloc: bytes of its extents that are resident or in swap,
/// except those that it does not return to the kernel for a while (jemalloc's dirty and muzzy
/// pages). `None` if no such heap was walked.
pub fn measured_bytes(sample: &Sample) -> Option<u64> {
    let heap = WalkedHeap::of(sample)?;
    let extents = heap.heap.extents.iter();
    let present: u64 = extents.map(|e| heap.present(e.range)).sum();
    Some(present.saturating_sub(heap.unpurged_bytes()))
}
