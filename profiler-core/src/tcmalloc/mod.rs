//! gperftools' tcmalloc, walked from outside without symbols: spans by the page map, blocks of
//! spans, and free blocks in central free lists, transfer caches and thread caches.
//!
//! The page map in the page heap has every span, so nothing else has to be searched. Sources:
//! gperftools 2.10.

mod caches;
mod layout;
mod spans;

use crate::addr::{AddrRange, RemoteAddr};
use crate::allocator::{FoundVersion, known_of};
use crate::arena::{ArenaFigure, ArenaKind};
use crate::completeness::{Confidence, Defect};
use crate::heap::{Allocator, Arena, CrossCheck, Extent, ExtentKind, HeapSnapshot};
use crate::memory::{PageCache, TargetMemory};
use crate::object::AllocatorObject;
use crate::residency::ResidencyMap;
use crate::span::{SpanList, SpanState};

use caches::Caches;
use layout::{PAGE, Statics};
use spans::{PageSpan, Spans, Use};

/// Releases whose layout is known.
const KNOWN: [&str; 1] = ["2.10"];

/// Why a heap was not walked. Residency and probes are not affected.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotWalked {
    /// A release of unknown layout.
    #[error(
        "gperftools {0} is not known to this fragscope, which can walk {known}",
        known = known_of(KNOWN.into_iter())
    )]
    UnknownVersion(FoundVersion),
    /// The object has no page heap.
    #[error(
        "tcmalloc's page heap was not found in {0}: the target has not called its malloc, or it is \
         built with other options (page size), or its data is swapped out"
    )]
    NoPageHeap(String),
}

/// Walks the heap of the tcmalloc in `object`. `memory` reads only resident memory
/// ([`crate::memory::ResidentMemory`]), as of the moment of `residency`.
///
/// # Errors
/// When there is no tcmalloc with a known layout, and why. Damage inside the heap is not an error:
/// it is reported in [`HeapSnapshot::defects`].
pub fn walk<M: TargetMemory>(
    memory: &M,
    residency: &ResidencyMap,
    object: &AllocatorObject,
) -> Result<HeapSnapshot, NotWalked> {
    let version = object.identity.version.as_deref();
    let unknown = || NotWalked::UnknownVersion(FoundVersion::of(version));
    let known = version.filter(|version| KNOWN.contains(version));
    let version = known.ok_or_else(unknown)?;
    let statics = layout::find(memory, &object.data)
        .ok_or_else(|| NotWalked::NoPageHeap(object.identity.object.clone()))?;
    let caches = Caches::read(memory, &statics);
    let spans = Spans::read(memory, residency, &statics);
    let mut layer = Layer {
        memory: PageCache::new(memory),
        statics: &statics,
        caches: &caches,
        totals: Totals::default(),
    };
    let mut heap = HeapSnapshot::new(Allocator::Tcmalloc, version);
    layer.lay_out(&spans, &mut heap);
    let totals = layer.totals;
    heap.unreadable_bytes = spans.unreadable;
    heap.defects = defects(&spans, &caches, &totals);
    heap.checks = checks(&statics, &caches, &totals);
    heap.settings = vec![
        ("page size".into(), PAGE.to_string()),
        (
            "TCMALLOC_AGGRESSIVE_DECOMMIT".into(),
            statics.aggressive_decommit.to_string(),
        ),
    ];
    heap.confidence = confidence(&heap);
    heap.arenas.push(arena(&statics, &caches, &totals, &spans));
    Ok(heap)
}

/// The damage found, with a count for each kind.
fn defects(spans: &Spans, caches: &Caches, totals: &Totals) -> Vec<Defect> {
    let placed = totals.thread.0 + totals.transfer.0;
    let lost = caches.blocks.len() as u64 - placed;
    let counts = [
        (
            spans.damaged,
            "entries of the page map name no possible span",
        ),
        (
            totals.damaged,
            "spans whose size class or list of free blocks is damaged",
        ),
        (caches.damaged, "damaged lists in caches"),
        (lost, "blocks in caches that lie in no span of their class"),
    ];
    let found = counts.into_iter().filter(|(count, _)| *count > 0);
    found
        .map(|(count, what)| Defect::of_all(format!("{count} {what}")))
        .collect()
}

fn confidence(heap: &HeapSnapshot) -> Confidence {
    let holds = heap.checks.iter().all(CrossCheck::holds);
    match (holds, heap.defects.is_empty()) {
        (true, true) => Confidence::High,
        (true, false) | (false, true) => Confidence::Medium,
        (false, false) => Confidence::Low,
    }
}

/// Numbers of blocks and their bytes.
#[derive(Copy, Clone, Default)]
struct Totals {
    live: (u64, u64),
    /// In spans' own lists.
    central: (u64, u64),
    transfer: (u64, u64),
    thread: (u64, u64),
    /// Spans in the page heap's lists.
    normal: (u64, u64),
    returned: (u64, u64),
    unknown_bytes: u64,
    /// Bytes at the ends of spans that are too few for a block.
    overhead: u64,
    small_spans: u64,
    damaged: u64,
}

fn add(total: &mut (u64, u64), bytes: u64) {
    total.0 += 1;
    total.1 += bytes;
}

struct Layer<'a, M> {
    memory: PageCache<M>,
    statics: &'a Statics,
    caches: &'a Caches,
    totals: Totals,
}

impl<M: TargetMemory> Layer<'_, M> {
    /// All spans, those that touch in one extent.
    fn lay_out(&mut self, spans: &Spans, heap: &mut HeapSnapshot) {
        for span in &spans.spans {
            if heap.extents.last().map(|extent| extent.range.end()) != Some(span.range.start()) {
                heap.extents.push(Extent {
                    range: span.range,
                    kind: ExtentKind::Region,
                    arena: 0,
                    block_header_bytes: 0,
                    spans: SpanList::default(),
                });
            }
            if let Some(extent) = heap.extents.last_mut() {
                extent.range =
                    AddrRange::new(extent.range.start(), span.range.end()).unwrap_or(extent.range);
                self.lay(span, &mut extent.spans);
            }
            if span.used == Use::Normal {
                heap.trimmable.push(span.range);
            }
        }
    }

    fn lay(&mut self, span: &PageSpan, list: &mut SpanList) {
        let bytes = span.range.len();
        let state = match span.used {
            Use::Large => {
                add(&mut self.totals.live, bytes);
                SpanState::Live
            }
            Use::Normal => {
                add(&mut self.totals.normal, bytes);
                SpanState::Free
            }
            Use::Returned => {
                add(&mut self.totals.returned, bytes);
                SpanState::Retained
            }
            Use::Small(class) if self.blocks(span, class, list).is_some() => return,
            Use::Small(_) | Use::Unknown => {
                self.totals.damaged += 1;
                self.totals.unknown_bytes += bytes;
                SpanState::Unknown
            }
        };
        list.push(bytes, state);
    }

    /// The blocks of a span of a size class; `None` when the class cannot be.
    fn blocks(&mut self, span: &PageSpan, number: u8, list: &mut SpanList) -> Option<()> {
        let class = self.statics.classes.get(usize::from(number))?;
        let bytes = span.range.len();
        if class.size == 0 || bytes != class.pages * PAGE {
            return None;
        }
        let start = span.range.start().get();
        let count = bytes / class.size;
        let index = |addr: u64| {
            let offset = addr.checked_sub(start)?;
            let index = offset / class.size;
            (offset.is_multiple_of(class.size) && index < count).then_some(index as usize)
        };
        let mut states = vec![SpanState::Live; count as usize];
        let mut at = span.objects;
        let mut free = 0;
        while let Some(state) = index(at).and_then(|i| states.get_mut(i))
            && *state == SpanState::Live
        {
            *state = SpanState::Free;
            free += 1;
            let next = self.memory.read_value::<u64>(RemoteAddr::new(at));
            // An address without a block ends the list, but differs from its proper end.
            at = next.unwrap_or(u64::MAX);
        }
        self.totals.damaged += u64::from(at != 0 || free + span.refcount != count);
        let blocks = &self.caches.blocks;
        let first = blocks.partition_point(|block| block.addr < start);
        for block in blocks.get(first..).unwrap_or_default() {
            if block.addr >= span.range.end().get() {
                break;
            }
            let state = index(block.addr).and_then(|i| states.get_mut(i));
            if let Some(state) = state
                && *state == SpanState::Live
                && block.class == number
            {
                *state = SpanState::Cached;
                let total = match block.transfer {
                    true => &mut self.totals.transfer,
                    false => &mut self.totals.thread,
                };
                add(total, class.size);
            }
        }
        for state in states {
            match state {
                SpanState::Live => add(&mut self.totals.live, class.size),
                SpanState::Free => add(&mut self.totals.central, class.size),
                _ => {}
            }
            list.push(class.size, state);
        }
        let overhead = bytes % class.size;
        list.push(overhead, SpanState::Metadata);
        self.totals.overhead += overhead;
        self.totals.small_spans += 1;
        Some(())
    }
}

fn checks(statics: &Statics, caches: &Caches, totals: &Totals) -> Vec<CrossCheck> {
    let sum = |of: fn(&layout::Class) -> u64| {
        let figures = statics.classes.iter().map(of);
        figures.fold(0, u64::saturating_add)
    };
    let central = sum(|class| class.free.saturating_mul(class.size));
    let transfer = sum(|class| class.slots.len() as u64 * class.batch * class.size);
    let found = totals.live.1
        + totals.central.1
        + totals.transfer.1
        + totals.thread.1
        + totals.normal.1
        + totals.returned.1
        + totals.overhead
        + totals.unknown_bytes;
    vec![
        CrossCheck::new("system_bytes", statics.stats.system, found),
        CrossCheck::new("pageheap free_bytes", statics.stats.free, totals.normal.1),
        CrossCheck::new(
            "pageheap unmapped_bytes",
            statics.stats.unmapped,
            totals.returned.1,
        ),
        CrossCheck::new(
            "num_spans of central free lists",
            sum(|class| class.spans),
            totals.small_spans,
        ),
        CrossCheck::new("bytes in central free lists", central, totals.central.1),
        CrossCheck::new("bytes in transfer caches", transfer, totals.transfer.1),
        CrossCheck::new(
            "bytes in threads' caches",
            caches.thread_bytes,
            totals.thread.1,
        ),
    ]
}

fn arena(statics: &Statics, caches: &Caches, totals: &Totals, spans: &Spans) -> Arena {
    Arena {
        id: 0,
        kind: ArenaKind::Tcmalloc,
        addr: statics.addr,
        system_bytes: statics.stats.system,
        live_blocks: totals.live.0,
        live_bytes: totals.live.1,
        free_blocks: totals.central.0 + totals.normal.0,
        free_bytes: totals.central.1 + totals.normal.1,
        cached_blocks: totals.transfer.0 + totals.thread.0,
        cached_bytes: totals.transfer.1 + totals.thread.1,
        top_bytes: 0,
        figures: vec![
            (ArenaFigure::PageheapFreeBytes, totals.normal.1),
            (ArenaFigure::PageheapUnmappedBytes, totals.returned.1),
            (
                ArenaFigure::CentralCacheFreeBytes,
                totals.central.1 + totals.overhead,
            ),
            (ArenaFigure::TransferCacheFreeBytes, totals.transfer.1),
            (ArenaFigure::CurrentTotalThreadCacheBytes, totals.thread.1),
            (ArenaFigure::ThreadCaches, caches.threads),
            (ArenaFigure::Spans, spans.spans.len() as u64),
        ],
    }
}
