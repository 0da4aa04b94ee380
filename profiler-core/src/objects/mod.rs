//! Python's objects: what each live block is, and which name in the program holds it.
//!
//! The walked heaps say where the live blocks are. A first pass over them finds the objects by their
//! types, and the storage that they have besides; then the names of modules, classes and running
//! functions are found; a second pass reads the references, and the dominator tree of their graph says
//! what each name alone keeps in memory. Nothing that an object contains is shown: types, names and
//! lengths alone.

mod attributes;
mod blocks;
mod census;
mod deque;
mod dict;
mod dominators;
mod doubtful;
mod edges;
mod fold;
mod frames;
mod graph;
mod growth;
mod holders;
mod interpreter;
mod kinds;
mod late;
mod layout;
mod mapped;
mod names;
mod page_owners;
mod pins;
mod scan;
pub mod stacks;
mod text;
mod tracing;
mod types;
mod words;

use std::sync::{Mutex, PoisonError};

use hashbrown::HashMap;

use self::blocks::BlockIndex;
use self::dominators::Dominators;
use self::doubtful::Doubtful;
use self::edges::{References, Resolver, references_of};
use self::fold::Folded;
use self::graph::{Graph, NONE};
use self::holders::{ByType, Holders, Origins};
use self::kinds::{Content, Kind, PackedKind};
use self::layout::Layout;
use self::mapped::Mapped;
use self::names::{Name, Names};
use self::scan::{Counts, DEBUG_HEAD, Scanned, Source, scan};
use self::types::{Role, Type, TypeTable};
use crate::addr::AddrRange;
use crate::allocator::Allocator;
use crate::data;
use crate::heap::HeapSnapshot;
use crate::memory::TargetMemory;
use crate::residency::ResidencyMap;
use crate::sample::PythonMalloc;
use crate::size_class::SizeClass;

pub use self::census::{
    AllocatorShare, Amount, Branch, Census, Copied, Dropped, Holder, LayoutBasis, NativeRow,
    NoCensus, PackageRow, PageOwner, PathStep, TypeRow, Via,
};
pub(crate) use self::growth::ranked;
pub use self::growth::{Gain, Growth, GrowthStep, HolderGrowth, NativeGrowth, Rate, TypeGrowth};
pub use self::names::Root;

/// What is known of the target before.
#[derive(Copy, Clone, Debug, Default)]
pub struct Context<'a> {
    /// Python's major and minor version; `None` when the target is no Python process.
    pub python: Option<(u8, u8)>,
    /// What serves its objects.
    pub serves: PythonMalloc,
    /// Whether the target stands still.
    pub stopped: bool,
    /// Pages of a forked target of which a write has made a copy since.
    pub copied: &'a [AddrRange],
}

/// Takes a census of the live blocks of these heaps, inner ones after outer ones.
///
/// `memory` must refuse what is not resident (see [`crate::memory::ResidentMemory`]). It may be of a
/// later moment than the heaps and `residency`; what has changed since is counted.
///
/// # Errors
/// When there is nothing to look at, and why.
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
    census.tracing = references.is_tracing_known.then(|| {
        let mut tracing = Amount::default();
        let blocks = names.of_root(Root::Tracing).iter();
        blocks.for_each(|block| tracing.add(index.bytes(*block)));
        tracing
    });
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
    census.gaps = gaps(index.left_out(), held.left_out);
    census.gaps.extend(newer(&layout));
    census.gaps.extend(census.tracing.is_none().then(|| {
        "what tracemalloc has for itself, if it is on, could not be told from other native blocks".to_owned()
    }));
    census.gaps.extend((!is_compared).then(|| {
        format!("{without_root} blocks have no root: whether they are cycles was not looked up")
    }));
    Ok(census)
}

/// Who holds what: the dominator tree of what is left when blocks are folded into what refers to them.
struct Retention {
    folded: Folded,
    tree: Dominators,
    /// References there were.
    edges: u64,
    /// References that there was no number for.
    left_out: u64,
}

impl Retention {
    /// Of the references between blocks. Native blocks that only objects refer to become their storage.
    fn of<M: TargetMemory>(
        references: &mut References,
        names: &Names,
        kinds: &mut [PackedKind],
        source: &Source<'_, M>,
        types: &[Type],
        mapped: &Mapped,
    ) -> Self {
        let index = source.index;
        let mut graph = std::mem::take(&mut references.graph);
        let roots = add_names(&mut graph, names);
        late::add_inside(&mut graph, std::mem::take(&mut references.inside));
        let of_tracing = names.of_root(Root::Tracing);
        tracing::cut(&mut graph, of_tracing, names.node_of_root(Root::Tracing));
        own_reached(kinds, &graph, index);
        let edges = graph.edges() as u64;
        let interned = interpreter::interned(source, kinds, types, names);
        interpreter::give_interned(&mut graph, &interned, kinds, names);
        doubtful::drop(
            &mut graph,
            &roots[0],
            &Doubtful {
                source,
                kinds,
                types,
                names,
                interned: &interned,
            },
        );
        let of_classes = std::mem::take(&mut references.of_classes);
        let first_root = names.first_root();
        late::give(&mut graph, of_classes, |node| {
            node < first_root && !doubtful::is(node, kinds, types)
        });
        let blocks = index.len() as u32;
        let weight = |node: u32| match node < blocks {
            true => index.bytes(node).saturating_add(mapped.bytes(node)),
            false => 0,
        };
        // What a name or a module refers to stays what it is, so that it can be shown.
        let may = |node: u32, into: u32| {
            node < blocks && into < blocks && !names.is_space(node) && !names.is_space(into)
        };
        let folded = Folded::of(&graph, &roots[0], weight, may);
        let left = folded.left();
        let graph = folded.graph(&std::mem::take(&mut graph), &left);
        let left_out = graph.left_out();
        let places = |roots: &Vec<u32>| roots.iter().map(|root| folded.place(*root)).collect();
        let roots: Vec<Vec<u32>> = roots.iter().map(places).collect();
        let mut tree = Dominators::of(graph, &roots);
        tree.rename(&left);
        Self {
            folded,
            tree,
            edges,
            left_out: left_out + references.left_out,
        }
    }

    /// The number of what a block is folded into, or [`NONE`].
    fn number(&self, block: u32) -> u32 {
        let (into, _) = self.folded.within(block);
        self.tree.number[self.folded.place(into) as usize]
    }

    /// Those of so many blocks that no root was found for.
    fn unreached(&self, blocks: u32) -> Vec<u32> {
        let blocks = 0..blocks;
        blocks.filter(|block| self.number(*block) == NONE).collect()
    }
}

/// What is not in the census, by how many blocks and references there was no number for.
fn gaps(blocks: u64, references: u64) -> Vec<String> {
    let counts = [(blocks, "blocks"), (references, "references")];
    let left_out = counts.into_iter().filter(|(count, _)| *count > 0);
    left_out
        .map(|(count, what)| format!("{count} {what} beyond the largest number were left out"))
        .collect()
}

/// What is not known of a version whose layout is not.
fn newer(layout: &Layout) -> Option<String> {
    let (major, minor) = layout.version;
    (layout.basis == LayoutBasis::Newest).then(|| {
        format!(
            "CPython {major}.{minor} is newer than those whose layout is known, so that of the newest was \
             used: variables of running functions have no names, and what holds what may be wrong"
        )
    })
}

/// Adds what blocks of each type pin, what was copied of them, and what nobody holds of them to the rows by
/// their names.
fn add_by_type(rows: &mut [TypeRow], types: &[Type], all: &ByType) {
    let mut by_name: HashMap<&str, (u64, u64, Amount)> = HashMap::new();
    for (at, of) in types.iter().enumerate() {
        let (pinned, copied, unreached) = by_name.entry(&of.name).or_default();
        *pinned += all.pinned[at];
        *copied += all.copied.by_type[at];
        unreached.blocks += all.unreached[at].blocks;
        unreached.bytes += all.unreached[at].bytes;
    }
    for row in rows {
        let all = by_name.get(row.name.as_str()).copied();
        (row.pinned_free_bytes, row.copied_bytes, row.unreached) = all.unwrap_or_default();
    }
}

fn all_types<M>(types: &Mutex<TypeTable<M>>) -> Vec<Type> {
    let types = types.lock().unwrap_or_else(PoisonError::into_inner);
    types.types.clone()
}

/// The ranges of all extents, ascending; those that overlap are one.
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

/// The names, and the references between blocks.
fn references<M: TargetMemory + Sync>(
    source: &Source<'_, M>,
    residency: &ResidencyMap,
    extents: &[AddrRange],
    scanned: &Scanned,
    types: &Mutex<TypeTable<&M>>,
    known: &[Type],
) -> (Names, References) {
    let resolve = Resolver {
        source,
        kinds: &scanned.kinds,
    };
    let is_dict = |of: u32| {
        let of = known.get(of as usize);
        of.is_some_and(|of| of.facts.role == Role::Dict)
    };
    let mut names = Names::find(&resolve, &scanned.noted, types, is_dict);
    let running = frames::running(&resolve, residency, &scanned.noted, known);
    for (variable, value) in running.variables {
        names.add(Name::Variable(variable), value);
    }
    for noted in scanned.noted.iter().filter(|n| n.role == Role::LocalDummy) {
        names.add(Name::ThreadLocal, noted.block);
    }
    for of in frames::suspended(&resolve, residency, &scanned.noted, known) {
        names.add_suspended(of);
    }
    let resolved = |words: &mut dyn Iterator<Item = u64>| {
        let mut blocks: Vec<u32> = words.filter_map(|word| resolve.target(word)).collect();
        blocks.sort_unstable();
        blocks.dedup();
        blocks
    };
    let data = |of_python| {
        // What lies right behind a file's data may be a heap as well as its `.bss`.
        let data = data::words(source.memory, residency, of_python);
        let data = data.iter().flat_map(|part| part.outside(extents));
        resolved(&mut data.flatten().copied())
    };
    let of_python = data(true);
    let of_tracing = tracing::blocks(source, &scanned.kinds, &of_python);
    names.add_roots(|root| match root {
        Root::Frames => running.words.clone(),
        Root::Tracing => of_tracing.clone().unwrap_or_default(),
        Root::Interpreter => of_python.clone(),
        Root::Libraries => data(false),
        Root::Stacks => {
            let stacks = frames::stack_words(source.memory, residency);
            resolved(&mut stacks.into_iter())
        }
    });
    let mut references = references_of(&resolve, scanned, known, &names);
    references.is_tracing_known = of_tracing.is_some();
    references.of_classes =
        late::of_classes(&resolve, &references.weak, &scanned.noted, known, &names);
    (names, references)
}

/// Adds a node for each name, and gives the roots of each phase: first all that has a name in the
/// program, then one place after the other where references without a name were found.
fn add_names(graph: &mut Graph, names: &Names) -> Vec<Vec<u32>> {
    let mut named = names.owners().to_vec();
    let mut phases = Vec::new();
    for (name, target) in names.all() {
        let node = graph.nodes() as u32;
        match name {
            Name::Root(root) => {
                graph.push(names.of_root(*root));
                phases.push(vec![node]);
            }
            Name::Variable(_) | Name::ThreadLocal => {
                graph.push(&[*target]);
                named.push(node);
            }
            Name::Entry { .. } | Name::Suspended(_) => graph.push(&[*target]),
        }
    }
    phases.insert(0, named);
    phases
}

/// Bytes of a native block behind which others are looked for that belong to the same object.
const MAX_PASSED: u64 = 64 << 10;

/// Native blocks that are reached from an object, over others too, are its storage.
fn own_reached(kinds: &mut [PackedKind], graph: &Graph, index: &BlockIndex) {
    let mut stack = Vec::new();
    for block in 0..kinds.len() as u32 {
        let (Kind::Object { of, .. } | Kind::Storage { of, .. }) = kinds[block as usize].get()
        else {
            continue;
        };
        stack.push(block);
        while let Some(from) = stack.pop() {
            for &to in graph.targets(from) {
                let native = kinds.get(to as usize).is_some_and(|kind| kind.is_native());
                if native {
                    let content = Content::Reached;
                    kinds[to as usize] = PackedKind::of(Kind::Storage { of, content });
                    if index.bytes(to) <= MAX_PASSED {
                        stack.push(to);
                    }
                }
            }
        }
    }
}

/// Adds up the blocks.
fn count(index: &BlockIndex, scanned: &Scanned, types: &[Type]) -> Census {
    let counts = scanned.counts.iter().copied();
    let counts = counts.chain(std::iter::repeat(Counts::default()));
    let mut rows: Vec<TypeRow> = types
        .iter()
        .zip(counts)
        .map(|(of, counts)| TypeRow {
            name: of.name.clone(),
            tracked: counts.tracked,
            entries: counts.entries,
            ..TypeRow::default()
        })
        .collect();
    let mut census = Census::default();
    let mut native: HashMap<(Allocator, SizeClass), Amount> = HashMap::new();
    let mut shares: HashMap<Allocator, (Amount, Amount)> = HashMap::new();
    for (block, allocator) in index.with_allocators() {
        let bytes = index.bytes(block);
        census.live.add(bytes);
        let (live, named) = shares.entry(allocator).or_default();
        live.add(bytes);
        match scanned.kinds[block as usize].get() {
            Kind::Object { of, .. } => rows[of as usize].objects.add(bytes),
            Kind::Storage { of, .. } => rows[of as usize].storage.add(bytes),
            Kind::Spare => census.spare.add(bytes),
            Kind::Unreadable => {
                census.unreadable.add(bytes);
                continue;
            }
            Kind::Native => {
                let class = SizeClass::of(bytes);
                native.entry((allocator, class)).or_default().add(bytes);
                continue;
            }
        }
        named.add(bytes);
    }
    census.types = by_name(rows);
    census.native = native
        .into_iter()
        .map(|((allocator, class), native)| NativeRow {
            allocator,
            class,
            native,
        })
        .collect();
    let bytes = |row: &NativeRow| std::cmp::Reverse(row.native.bytes);
    census
        .native
        .sort_by_key(|row| (bytes(row), row.allocator, row.class));
    census.shares = shares
        .into_iter()
        .map(|(allocator, (live, named))| AllocatorShare {
            allocator,
            live,
            named,
        })
        .collect();
    census.shares.sort_by_key(|share| share.allocator);
    census
}

/// Types of one name are one row: classes that were made anew, as by a reload.
fn by_name(rows: Vec<TypeRow>) -> Vec<TypeRow> {
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut all: Vec<TypeRow> = Vec::new();
    for row in rows {
        if row.objects.blocks == 0 && row.storage.blocks == 0 {
            continue;
        }
        match places.get(&row.name) {
            Some(&at) => {
                let same = &mut all[at];
                for (sum, more) in [
                    (&mut same.objects, row.objects),
                    (&mut same.storage, row.storage),
                ] {
                    sum.blocks += more.blocks;
                    sum.bytes = sum.bytes.saturating_add(more.bytes);
                }
                same.tracked += row.tracked;
                same.entries = same.entries.saturating_add(row.entries);
            }
            None => {
                places.insert(row.name.clone(), all.len());
                all.push(row);
            }
        }
    }
    all.sort_by(|a, b| {
        let bytes = |row: &TypeRow| row.objects.bytes.saturating_add(row.storage.bytes);
        bytes(b).cmp(&bytes(a)).then_with(|| a.name.cmp(&b.name))
    });
    all
}
