//! jemalloc 5, walked from outside without symbols: every extent of every arena, every region of
//! every slab, the contents of thread caches, and jemalloc's own statistics.
//!
//! `arenas[]` is found by shape in the data of the object that holds jemalloc. One slab of an arena
//! leads to the radix tree of all extents, which is in the same data. The tree's leaves name every
//! extent; an extent's structure says what it is used for and which regions are free. Only metadata
//! is read, never the program's blocks.

mod arena;
mod bytes;
mod extent;
mod layout;
mod rtree;
mod snapshot;
mod tcache;

use crate::addr::{AddrRange, RemoteAddr};
use crate::allocator::FoundVersion;
use crate::allocator::jemalloc_classes::BINS;
use crate::completeness::{Confidence, Defect};
use crate::heap::{Allocator, HeapSnapshot};
use crate::memory::{ReadAhead, ReadError, TargetMemory};
use crate::object::{AllocatorObject, OptionAt, OptionKind};
use crate::residency::ResidencyMap;

use arena::State;
use bytes::Bytes;
use extent::Extent;
use layout::Layout;
use rtree::Tree;
use snapshot::Builder;

/// Why a heap was not walked.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotWalked {
    /// The layout of this release is not known.
    #[error(
        "jemalloc {0} is not known to this fragscope, so its heap is not walked; {known} are",
        known = layout::known()
    )]
    UnknownVersion(FoundVersion),
    /// No `arenas[]` in the object's data.
    #[error(
        "the arenas of jemalloc {0} were not found: it is not used yet, is built unlike the release \
         (other page size, debug), or its data is swapped out"
    )]
    NoArenas(FoundVersion),
    /// No radix tree in the object's data.
    #[error(
        "the tree of extents of jemalloc {0} was not found: it is built unlike the release, or its \
         data is swapped out"
    )]
    NoTree(FoundVersion),
}

/// The most writable data of an object that is examined: a program may have much of its own.
const MAX_DATA: u64 = 256 << 20;
/// Extents read; each holds a page of addresses at least.
const MAX_EXTENTS: usize = 1 << 26;
/// The number of defects kept; a badly damaged heap has as many as extents.
const MAX_DEFECTS: usize = 64;

/// Walks the jemalloc in `object`. `memory` reads only resident memory
/// ([`crate::memory::ResidentMemory`]), as of the moment of `residency`.
///
/// # Errors
/// When the version is unknown, or the object's data shows no jemalloc in use. Damage inside the
/// heap is not an error: it is reported in [`HeapSnapshot::defects`].
pub fn walk<M: TargetMemory>(
    memory: &M,
    residency: &ResidencyMap,
    object: &AllocatorObject,
) -> Result<HeapSnapshot, NotWalked> {
    let version = object.identity.version.as_deref();
    let named = || FoundVersion::of(version);
    if layout::candidates(version).next().is_none() {
        return Err(NotWalked::UnknownVersion(named()));
    }
    let data = read_data(memory, &object.data);
    let (layout, states) = layout::candidates(version)
        .find_map(|layout| {
            let places = arena::find(memory, residency, &data, layout)?;
            let states = places.into_iter().map(|p| arena::state(memory, layout, p));
            Some((layout, states.collect::<Vec<_>>()))
        })
        .ok_or_else(|| NotWalked::NoArenas(named()))?;
    let tree = tree(memory, residency, &data, layout, &states)
        .ok_or_else(|| NotWalked::NoTree(named()))?;
    drop(data);

    let mut notes = Notes::default();
    let extents = extents(memory, residency, layout, &tree, &mut notes);
    let firsts = states.iter().map(|state| state.tcaches);
    let cached = tcache::gather(memory, &layout.tcache, firsts.filter(|&first| first != 0));
    let mut heap = HeapSnapshot::new(Allocator::Jemalloc, version.unwrap_or_default());
    let options = object.options.iter();
    heap.settings = options.filter_map(|at| option(memory, at)).collect();
    let has_run = memory.epoch() > 0;
    Ok(Builder::new(heap, &states, notes, has_run).build(extents, cached))
}

/// An option's name, as in `mallctl`, and its value.
fn option<M: TargetMemory>(memory: &M, option: &OptionAt) -> Option<(String, String)> {
    let half = || memory.read_value::<u32>(option.addr).ok();
    let word = || memory.read_value::<u64>(option.addr).ok();
    let value = match option.kind {
        OptionKind::Bool => match memory.read_value::<u8>(option.addr).ok()? {
            0 => "false".to_owned(),
            1 => "true".to_owned(),
            _ => return None,
        },
        OptionKind::Unsigned32 => half()?.to_string(),
        OptionKind::Unsigned64 => word()?.to_string(),
        OptionKind::Signed64 => (word()? as i64).to_string(),
        OptionKind::Words(words) => (*words.get(half()? as usize)?).to_owned(),
    };
    Some((format!("opt.{}", option.name), value))
}

/// The object's data, with adjacent ranges joined, so that structures across their borders are
/// found.
fn read_data<M: TargetMemory>(memory: &M, ranges: &[AddrRange]) -> Vec<Bytes> {
    let mut sorted = ranges.to_vec();
    sorted.sort_unstable();
    let mut joined: Vec<AddrRange> = Vec::new();
    for range in sorted {
        match joined.last_mut() {
            Some(last) if last.end() == range.start() => {
                *last = AddrRange::new(last.start(), range.end()).unwrap_or(*last);
            }
            _ => joined.push(range),
        }
    }
    let mut rest = MAX_DATA;
    joined
        .into_iter()
        .map(|range| {
            let len = range.len().min(rest);
            rest -= len;
            Bytes::read(memory, range.start().get(), len)
        })
        .collect()
}

/// Finds the tree through the slabs that bins serve from. A slab that is just being made may not be
/// in it yet.
fn tree<M: TargetMemory>(
    memory: &M,
    residency: &ResidencyMap,
    data: &[Bytes],
    layout: &Layout,
    states: &[State],
) -> Option<Tree> {
    let slabs = states.iter().flat_map(|state| &state.slabcur);
    let known = slabs.filter_map(|&slab| {
        let bytes = memory.read_value(RemoteAddr::new(slab)).ok()?;
        let extent = Extent::parse(&layout.bits, &bytes)?;
        (slab != 0 && extent.class < BINS).then_some((slab, extent.range.start().get()))
    });
    known
        .take(4)
        .find_map(|(slab, addr)| rtree::find(memory, residency, data, slab, addr))
}

/// All extents, ascending by address, none overlapping another.
fn extents<M: TargetMemory>(
    memory: &M,
    residency: &ResidencyMap,
    layout: &Layout,
    tree: &Tree,
    notes: &mut Notes,
) -> Vec<Extent> {
    let found = tree.extents(memory, residency, MAX_EXTENTS);
    if found.unreadable > 0 {
        notes.lost(
            None,
            found.unreadable,
            "part of the tree of extents is swapped out",
        );
    }
    let limit = RemoteAddr::new(u64::MAX);
    let mut ahead = ReadAhead::new(memory, limit);
    let mut extents: Vec<Extent> = Vec::new();
    for at in found.extents {
        match ahead.bytes::<{ extent::BYTES }>(RemoteAddr::new(at)) {
            Ok(bytes) => match Extent::parse(&layout.bits, &bytes) {
                Some(extent) => extents.push(extent),
                None => notes.defect(at, 0, "an extent's structure makes no sense"),
            },
            Err(error @ ReadError::Swapped(_)) => {
                notes.lost(
                    Some(at),
                    extent::BYTES as u64,
                    &format!("an extent: {error}"),
                );
            }
            Err(error) => notes.defect(at, 0, format!("an extent could not be read: {error}")),
        }
    }
    let pad = extent::large_pad(&extents);
    extents.retain_mut(|extent| {
        let settled = extent.settle(pad);
        if !settled {
            let what = "a large extent does not fit its size class";
            notes.defect(extent.range.start().get(), extent.range.len(), what);
        }
        settled
    });
    extents.sort_unstable_by_key(|extent| extent.range);
    let mut end = RemoteAddr::default();
    extents.retain(|extent| {
        let fits = extent.range.start() >= end;
        if fits {
            end = extent.range.end();
        } else {
            let what = "an extent overlaps the one before it";
            notes.defect(extent.range.start().get(), extent.range.len(), what);
        }
        fits
    });
    extents
}

/// Defects found during the walk, bounded in number.
#[derive(Debug, Default)]
struct Notes {
    defects: Vec<Defect>,
    unreadable_bytes: u64,
}

impl Notes {
    /// Something wrong at `addr` that makes `bytes` unknown.
    fn defect(&mut self, addr: u64, bytes: u64, what: impl Into<String>) {
        self.push(Some(addr), bytes, what.into(), false);
    }

    /// Bytes of metadata that could not be read.
    fn lost(&mut self, addr: Option<u64>, bytes: u64, what: &str) {
        self.unreadable_bytes = self.unreadable_bytes.saturating_add(bytes);
        self.push(addr, bytes, what.to_owned(), true);
    }

    fn push(&mut self, addr: Option<u64>, bytes: u64, what: String, unreadable: bool) {
        if self.defects.len() < MAX_DEFECTS {
            self.defects.push(Defect {
                addr: addr.map(RemoteAddr::new),
                what,
                bytes,
                unreadable,
            });
        }
    }
}

/// The confidence in a walk, by its checks.
fn confidence(heap: &HeapSnapshot, caches_known: bool) -> Confidence {
    if heap.checks.iter().all(|check| check.holds()) && caches_known && heap.unreadable_bytes == 0 {
        Confidence::High
    } else if heap.unreadable_bytes > 0 {
        Confidence::Medium
    } else {
        Confidence::Low
    }
}
