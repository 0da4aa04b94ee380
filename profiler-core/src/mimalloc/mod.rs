//! mimalloc, walked from outside without symbols: every page of every segment, block by block.
//!
//! Segments are recognised by their shape and by a cookie which, once the segment's address is
//! removed from it, is one constant per mimalloc instance. A program with one instance built in
//! (CPython from 3.13) and one preloaded therefore gets a heap for each. 3.x has a map of all pages
//! instead of segments. Sources: `include/mimalloc/types.h`, `src/segment.c`, `src/page.c`,
//! `src/free.c` of mimalloc, and CPython's `Include/internal/mimalloc`.

mod blocks;
mod instance;
mod options;
mod v2;
mod v3;

use crate::addr::RemoteAddr;
use crate::arena::{ArenaFigure, ArenaKind};
use crate::completeness::{Confidence, Defect};
use crate::heap::{Allocator, Arena, CrossCheck, ExtentKind, HeapSnapshot};
use crate::memory::TargetMemory;
use crate::object::AllocatorObject;
use crate::residency::{Mapping, MappingKind, ResidencyMap};
use crate::span::SpanState;

use blocks::Walker;

/// The number of `len` bytes at an offset; 0 beyond the end.
fn number(bytes: &[u8], at: usize, len: usize) -> u64 {
    let mut word = [0; 8];
    if let (Some(from), Some(to)) = (bytes.get(at..at + len), word.get_mut(..len)) {
        to.copy_from_slice(from);
    }
    u64::from_le_bytes(word)
}

/// What is known about the target before the walk.
#[derive(Copy, Clone, Debug, Default)]
pub struct Context<'a> {
    /// Mapped objects with an allocator in them.
    pub objects: &'a [AllocatorObject],
    /// Python's major and minor version.
    pub python: Option<(u8, u8)>,
}

/// Why nothing was walked. Residency and probes are not affected.
#[derive(Copy, Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotWalked {
    /// No segment and no page map was recognised.
    #[error(
        "no segment of mimalloc {} and no page map of {} was found: the target has not allocated with it, or it is of \
         another release",
        v2::known(),
        v3::known()
    )]
    NothingFound,
}

/// Walks all mimallocs in the target.
///
/// `memory` reads only resident memory ([`crate::memory::ResidentMemory`]), as of the moment of
/// `residency`.
///
/// # Errors
/// When there is nothing to walk, and why.
pub fn walk<M: TargetMemory>(
    memory: &M,
    residency: &ResidencyMap,
    context: &Context<'_>,
) -> Result<Vec<HeapSnapshot>, NotWalked> {
    let found = HeapNamer { residency, context };
    let mut heaps = v2::walk(memory, residency, &found);
    let ours = context.objects.iter().filter(|object| {
        let version = object.identity.version.as_deref().unwrap_or("3");
        object.identity.is(Allocator::Mimalloc) && version.starts_with('3')
    });
    heaps.extend(ours.filter_map(|object| v3::walk(memory, residency, &found, object)));
    if heaps.is_empty() {
        return Err(NotWalked::NothingFound);
    }
    Ok(heaps)
}

/// Names heaps.
struct HeapNamer<'a> {
    residency: &'a ResidencyMap,
    context: &'a Context<'a>,
}

impl HeapNamer<'_> {
    /// A heap with its version and settings; `layout` names the releases with this layout.
    fn heap<M: TargetMemory>(
        &self,
        memory: &M,
        object: Option<&AllocatorObject>,
        layout: &str,
    ) -> HeapSnapshot {
        let identity = object.map(|object| &object.identity);
        // If the object states its version, the layout only adds how it was built.
        let mut version = match identity.and_then(|identity| identity.version.as_ref()) {
            Some(version) => match layout.split_once(',') {
                Some((_, build)) => format!("{version},{build}"),
                None => version.clone(),
            },
            None => layout.to_owned(),
        };
        let in_python = identity.is_some_and(|identity| identity.in_python);
        if let Some((major, minor)) = self.context.python.filter(|_| in_python) {
            version = format!("{version} in CPython {major}.{minor}");
        }
        let mut heap = HeapSnapshot::new(Allocator::Mimalloc, version);
        if let Some(object) = object {
            heap.library = object.identity.private_library();
            heap.settings = options::read(memory, self.residency, object);
        }
        heap
    }
}

/// Private anonymous memory, which may contain segments.
fn anonymous(mapping: &Mapping) -> bool {
    let kind = matches!(
        mapping.kind,
        MappingKind::Anonymous | MappingKind::NamedAnonymous(_)
    );
    kind && mapping.read && mapping.write && !mapping.shared
}

/// Defects kept at most.
const MAX_DEFECTS: usize = 32;

fn note(heap: &mut HeapSnapshot, addr: Option<u64>, bytes: u64, what: &str) {
    if heap.defects.len() < MAX_DEFECTS {
        heap.defects.push(Defect {
            addr: addr.map(RemoteAddr::new),
            what: what.into(),
            bytes,
            unreadable: false,
        });
    }
}

/// The index of the arena of this owner.
fn arena_of(arenas: &mut Vec<Arena>, kind: ArenaKind, owner: u64) -> u32 {
    let addr = RemoteAddr::new(owner);
    let known = arenas.iter().position(|a| a.kind == kind && a.addr == addr);
    let index = known.unwrap_or_else(|| {
        arenas.push(Arena {
            id: arenas.len() as u32,
            kind,
            addr,
            ..Arena::default()
        });
        arenas.len() - 1
    });
    index as u32
}

/// Computes arenas, checks and confidence from what was laid out.
fn judge<M: TargetMemory>(heap: &mut HeapSnapshot, walker: &Walker<'_, M>, object_known: bool) {
    let totals = &walker.totals;
    let mut retained = vec![(0u64, 0u64); heap.arenas.len()];
    for extent in &heap.extents {
        let index = extent.arena as usize;
        let (Some(arena), Some(retained)) = (heap.arenas.get_mut(index), retained.get_mut(index))
        else {
            continue;
        };
        arena.system_bytes += extent.range.len();
        for span in extent.spans.iter(extent.range.start()) {
            let bytes = span.range.len();
            match span.state {
                SpanState::Live if extent.kind == ExtentKind::LargeMapped => {}
                SpanState::Live => {
                    arena.live_blocks += 1;
                    arena.live_bytes += bytes;
                }
                SpanState::Free => {
                    arena.free_blocks += 1;
                    arena.free_bytes += bytes;
                }
                SpanState::Top => arena.top_bytes += bytes,
                SpanState::Retained => retained.0 += bytes,
                SpanState::Metadata => retained.1 += bytes,
                SpanState::Cached | SpanState::Unknown => {}
            }
        }
    }
    for (arena, (retained, metadata)) in heap.arenas.iter_mut().zip(retained) {
        arena.figures = vec![
            (ArenaFigure::RetainedBytes, retained),
            (ArenaFigure::MetadataBytes, metadata),
        ];
    }
    if let Some(first) = heap.arenas.first_mut() {
        first.figures.extend([
            (ArenaFigure::Pages, totals.pages),
            (ArenaFigure::ThreadFreedBlocks, totals.thread_freed),
        ]);
    }
    for &page in &walker.damaged {
        let what = "a page's blocks in use and free do not add up to all";
        note(heap, Some(page), 0, what);
    }
    heap.unreadable_bytes += totals.unread_bytes;
    let readable = totals.pages - totals.unread;
    heap.checks.push(CrossCheck::new(
        "pages whose blocks add up",
        readable,
        totals.sound,
    ));
    heap.confidence = match heap.checks.iter().all(CrossCheck::holds) {
        true if !object_known || totals.unread > 0 => Confidence::Medium,
        true => Confidence::High,
        false => Confidence::Low,
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_releases_that_are_known_are_said() {
        let sentence = NotWalked::NothingFound.to_string();
        assert!(sentence.contains("2.0.9 to 2.4.1"), "{sentence}");
        assert!(sentence.contains("3.0 to 3.4 was found"), "{sentence}");
    }
}
