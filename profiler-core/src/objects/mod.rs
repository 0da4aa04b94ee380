//! Python's objects: what each live block is, and which name in the program holds it.
//!
//! The walked heaps give the live blocks. A first pass over them finds the objects by their types,
//! and the storage that each object has in other blocks. Then the names of modules, classes and
//! running functions are found. A second pass reads the references; the dominator tree of their
//! graph says what each name alone keeps in memory. The contents of objects are never shown: only
//! types, names and lengths.

mod attributes;
mod blocks;
mod census;
mod deque;
mod dict;
mod dominators;
mod doubtful;
mod edges;
mod fold;
mod found;
mod frames;
mod graph;
mod growth;
mod holder;
mod holders;
mod interpreter;
mod kinds;
mod late;
mod layout;
mod lengths;
mod mapped;
mod names;
mod nesting;
mod page_owners;
mod pins;
mod retention;
mod scan;
pub mod stacks;
mod tally;
mod text;
mod tracing;
mod types;
mod words;

use std::sync::{Mutex, PoisonError};

use self::blocks::BlockIndex;
use self::edges::Resolver;
use self::found::references;
use self::holders::{Holders, Origins};
use self::layout::Layout;
use self::mapped::Mapped;
use self::names::Names;
use self::retention::Retention;
use self::scan::{DEBUG_HEAD, Source, scan};
use self::tally::{add_by_type, count};
use self::types::{Type, TypeTable};
use crate::addr::AddrRange;
use crate::heap::HeapSnapshot;
use crate::memory::TargetMemory;
use crate::residency::ResidencyMap;
use crate::sample::PythonMalloc;

pub use self::census::{
    AllocatorShare, Amount, Binding, Branch, Calls, Census, Copied, Dropped, Holder, LayoutBasis,
    NameKind, NativeRow, NoCensus, PackageRow, PageOwner, PathStep, TypeRow, Via,
};
pub(crate) use self::growth::ranked;
pub use self::growth::{
    Gain, Growth, GrowthStep, HolderGain, HolderGrowth, NativeGrowth, Rate, TypeGrowth,
};
pub use self::lengths::{Container, Course, LengthAt, Lengths, Pace};
pub use self::names::Root;

/// What is known about the target beforehand.
#[derive(Copy, Clone, Debug, Default)]
pub struct Context<'a> {
    /// Python's major and minor version; `None` if the target is not a Python process.
    pub python: Option<(u8, u8)>,
    /// The allocator of its objects.
    pub serves: PythonMalloc,
    /// Whether the target is stopped.
    pub stopped: bool,
    /// Pages of a forked target that were copied by writes since.
    pub copied: &'a [AddrRange],
}

/// Takes a census of the live blocks of these heaps, inner ones after outer ones.
///
/// `memory` must reject what is not resident (see [`crate::memory::ResidentMemory`]). It may be
/// from a later moment than the heaps and `residency`; changes since are counted.
///
/// # Errors
/// When there is nothing to examine, and why.
pub fn census<M: TargetMemory + Sync>(
    memory: &M,
    residency: &ResidencyMap,
    heaps: &[HeapSnapshot],
    context: Context<'_>,
) -> Result<Census, NoCensus> {
    let version = context.python.ok_or(NoCensus::NotPython)?;
    let layout = Layout::of(version).ok_or(NoCensus::UnknownVersion(version.0, version.1))?;
    let index = BlockIndex::of(heaps);
    if index.len() == 0 {
        return Err(NoCensus::NoBlocks);
    }
    let types = TypeTable::find(memory, residency, &layout).ok_or(NoCensus::NoTypes)?;
    let types = Mutex::new(types);
    let source = Source {
        memory,
        layout: &layout,
        index: &index,
        leads: match context.serves {
            PythonMalloc::PymallocDebug
            | PythonMalloc::MallocDebug
            | PythonMalloc::MimallocDebug => &[DEBUG_HEAD, 0],
            _ => &[0],
        },
    };
    let mut scanned = scan(&source, &types);
    let known = all_types(&types);
    let extents = extents(heaps);
    let (names, mut references) =
        references(&source, residency, &extents, &scanned, &types, &known);
    let compared = std::mem::take(&mut scanned.prints).len() as u64;
    let mapped = Mapped::of(&scanned.mapped, &extents, residency);
    let held = Retention::of(
        &mut references,
        &names,
        &mut scanned.kinds,
        &source,
        &known,
        &mapped,
    );
    let mut census = count(&index, &scanned, &known);
    let holders = Holders {
        source: &source,
        kinds: &scanned.kinds,
        types: &known,
        names: &names,
        folded: &held.folded,
        tree: &held.tree,
        weak: &references.weak,
        heaps,
        residency,
        copied: context.copied,
        mapped: &mapped,
        origins: Origins::of(names.modules()),
    };
    let by_type = holders.report(&mut census);
    let unreached = held.unreached(index.len() as u32);
    drop(held.tree);
    let resolve = Resolver {
        source: &source,
        kinds: &scanned.kinds,
    };
    let without_root = unreached.len();
    let unreached = edges::unreached(&resolve, &scanned, &known, &names, &unreached);
    let is_compared = unreached.is_some();
    let unreached = unreached.unwrap_or_default();
    (census.cycles, census.held_unseen) = (unreached.cycles, unreached.held);
    add_by_type(&mut census.types, &known, &by_type);
    census.tracing = (references.is_tracing_known).then(|| of_tracing(&names, &index));
    for (_, of) in mapped.all() {
        census.mapped.add(of.all);
    }
    census.copied = (!context.copied.is_empty()).then_some(by_type.copied.sums);
    census.python = version;
    census.layout = layout.basis;
    census.exact = context.stopped;
    census.changed = references.changed;
    if !context.stopped {
        census.changed += references.moved;
    }
    census.compared = compared;
    census.replaced = references.replaced;
    census.references = held.edges;
    let not_compared = (!is_compared).then_some(without_root);
    census.gaps = gaps(index.left_out(), held.left_out);
    census.gaps.extend(newer(&layout));
    census.gaps.extend(unknown(census.tracing, not_compared));
    Ok(census)
}

/// What `tracemalloc` has for itself.
fn of_tracing(names: &Names, index: &BlockIndex) -> Amount {
    let mut tracing = Amount::default();
    let blocks = names.of_root(Root::Tracing).iter();
    blocks.for_each(|block| tracing.add(index.bytes(*block)));
    tracing
}

/// What could not be determined: which native blocks belong to tracemalloc, and which of
/// `not_compared` blocks without a root are cycles.
fn unknown(tracing: Option<Amount>, not_compared: Option<usize>) -> impl Iterator<Item = String> {
    let of_tracing = tracing.is_none().then(|| {
        "what tracemalloc has for itself, if it is on, could not be told from other native blocks".to_owned()
    });
    let of_cycles = not_compared.map(|without_root| {
        format!("{without_root} blocks have no root: whether they are cycles was not looked up")
    });
    of_tracing.into_iter().chain(of_cycles)
}

/// What the census lacks: the blocks and references for which there was no number.
fn gaps(blocks: u64, references: u64) -> Vec<String> {
    let counts = [(blocks, "blocks"), (references, "references")];
    let left_out = counts.into_iter().filter(|(count, _)| *count > 0);
    left_out
        .map(|(count, what)| format!("{count} {what} beyond the largest number were left out"))
        .collect()
}

/// What is unknown for a version without a layout of its own.
fn newer(layout: &Layout) -> Option<String> {
    let (major, minor) = layout.version;
    (layout.basis == LayoutBasis::Newest).then(|| {
        format!(
            "CPython {major}.{minor} is newer than those whose layout is known, so that of the newest was \
             used: variables of running functions have no names, and what holds what may be wrong"
        )
    })
}

fn all_types<M>(types: &Mutex<TypeTable<M>>) -> Vec<Type> {
    let types = types.lock().unwrap_or_else(PoisonError::into_inner);
    types.types.clone()
}

/// The ranges of all extents, ascending; overlapping ones are merged.
fn extents(heaps: &[HeapSnapshot]) -> Vec<AddrRange> {
    let extents = heaps.iter().flat_map(|heap| &heap.extents);
    let mut extents: Vec<AddrRange> = extents.map(|extent| extent.range).collect();
    extents.sort_unstable_by_key(AddrRange::start);
    let mut all: Vec<AddrRange> = Vec::with_capacity(extents.len());
    for range in extents {
        match all.last_mut() {
            Some(last) if range.start() <= last.end() => {
                let end = last.end().max(range.end());
                *last = AddrRange::new(last.start(), end).unwrap_or(*last);
            }
            _ => all.push(range),
        }
    }
    all
}
