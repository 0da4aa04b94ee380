//! The second pass over all live blocks: what each refers to.
//!
//! Items of lists and tuples, entries of dictionaries and sets, and values of instances are read as
//! such. In everything else any word may be a reference, except a `PyGC_Head`, hashes, lists of
//! weak references, the target of a weak reference, and words of blocks that hold nothing.

mod object;
mod reader;
mod stored;
mod unreached;

use std::ops::Range;

use self::reader::{PIECE, Reader};
pub(super) use self::stored::{Entries, Stored};
pub(super) use self::unreached::unreached;
use super::dict::{TABLE_HEAD, Table, references};
use super::graph::{Graph, NONE};
use super::kinds::{Content, Kind, PackedKind};
use super::names::Names;
use super::scan::{MAX_VALUES_HEAD, Scanned, Source, parts};
use super::types::Type;
use super::words::Window;
use crate::addr::RemoteAddr;
use crate::memory::TargetMemory;
use crate::parallel;

/// The largest native block that is examined, in bytes: blocks that refer to Python objects are
/// smaller.
const MAX_NATIVE: u64 = 1 << 20;
/// References into native blocks that one thread keeps.
const MAX_INSIDE: usize = 1 << 20;

/// What a pointer refers to.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
enum Reference {
    /// The object in this block, or the beginning of a block without an object.
    To(u32),
    /// A place inside this native block: hash tables and reference-counted pointers of native code
    /// are referred to in this way.
    Inside(u32),
}

/// Finds the block that a pointer refers to.
pub(super) struct Resolver<'a, M> {
    pub(super) source: &'a Source<'a, M>,
    pub(super) kinds: &'a [PackedKind],
}

impl<M> Resolver<'_, M> {
    /// The block of the object that is at this address, or that begins there and holds none.
    #[inline]
    pub(super) fn target(&self, addr: u64) -> Option<u32> {
        self.within(addr, 0)
    }

    /// The same, but in a block without an object the address may be up to `most` bytes behind the
    /// block's start, after a head.
    #[inline]
    fn within(&self, addr: u64, most: u64) -> Option<u32> {
        match self.reference(addr, most)? {
            Reference::To(block) => Some(block),
            Reference::Inside(_) => None,
        }
    }

    #[inline]
    fn reference(&self, addr: u64, most: u64) -> Option<Reference> {
        if !addr.is_multiple_of(8) {
            return None;
        }
        let (block, into) = self.source.index.at(addr)?;
        let starts_here = || into <= most || self.source.leads.contains(&into);
        match self.kinds[block as usize].get() {
            Kind::Object { head, .. } => (into == head).then_some(Reference::To(block)),
            Kind::Spare => None,
            Kind::Native => Some(match starts_here() {
                true => Reference::To(block),
                false => Reference::Inside(block),
            }),
            Kind::Unreadable | Kind::Storage { .. } => {
                starts_here().then_some(Reference::To(block))
            }
        }
    }

    /// The address and the type's number of the object that a block holds.
    pub(super) fn object_in(&self, block: u32) -> Option<(u64, u32)> {
        match self.kinds[block as usize].get() {
            Kind::Object { of, head } => {
                let start = self.source.index.range(block).start().get();
                Some((start + head, of))
            }
            _ => None,
        }
    }

    /// The block and the type's number of the object at this address.
    pub(super) fn object(&self, addr: u64) -> Option<(u32, u32)> {
        let block = self.target(addr)?;
        match self.kinds[block as usize].get() {
            Kind::Object { of, .. } => Some((block, of)),
            _ => None,
        }
    }
}

/// What the second pass found.
#[derive(Debug, Default)]
pub(super) struct References {
    /// A node for each block.
    pub(super) graph: Graph,
    /// Objects that were others, or none, when they were read again.
    pub(super) changed: u64,
    /// Objects of immutable types that were read twice and differed the second time.
    pub(super) replaced: u64,
    /// Containers whose storage is not in any walked block.
    pub(super) moved: u64,
    /// Weak references, ascending by block.
    pub(super) weak: Vec<Weak>,
    /// References into native blocks, after their beginnings: the referring and the referenced
    /// block.
    pub(super) inside: Vec<(u32, u32)>,
    /// References into native blocks that were left out for lack of space.
    pub(super) left_out: u64,
    /// What belongs to a class although something else refers to it, each with its class.
    pub(super) of_classes: Vec<(u32, u32)>,
    /// Whether the blocks of `tracemalloc` are known, if there are any.
    pub(super) is_tracing_known: bool,
}

/// A weak reference.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) struct Weak {
    pub(super) block: u32,
    /// The block of the referent.
    pub(super) referent: u32,
    /// Whether something is called when that goes.
    pub(super) calls_back: bool,
}

/// Reads the references of all blocks.
pub(super) fn references_of<M: TargetMemory + Sync>(
    resolve: &Resolver<'_, M>,
    scanned: &Scanned,
    types: &[Type],
    names: &Names,
) -> References {
    let classes = classes(resolve, types, names);
    let parts = parallel::each(parts(resolve.source.index), |blocks| {
        let mut pass = Pass::new(resolve, scanned, types, names, &classes);
        pass.found.graph = Graph::with_capacity(blocks.len());
        pass.run(blocks)
    });
    let mut parts = parts.into_iter();
    let mut all = parts.next().unwrap_or_else(|| References {
        graph: Graph::with_capacity(0),
        ..References::default()
    });
    // Each is given back before the next is taken.
    for part in parts {
        all.graph.append(&part.graph);
        all.changed += part.changed;
        all.replaced += part.replaced;
        all.moved += part.moved;
        all.weak.extend(part.weak);
        all.inside.extend(part.inside);
        all.left_out += part.left_out;
    }
    all
}

/// The block of each type that is a class kept alive by its objects, by the type's number: a class
/// that is neither a module's nor an entry of such a class, which would be held anyway.
fn classes<M>(resolve: &Resolver<'_, M>, types: &[Type], names: &Names) -> Vec<u32> {
    let class = |of: &Type| {
        let block = resolve.target(of.addr);
        let block = block.filter(|block| !names.is_space(*block));
        block.unwrap_or(NONE)
    };
    types.iter().map(class).collect()
}

/// One thread's pass.
struct Pass<'a, M> {
    resolve: &'a Resolver<'a, M>,
    scanned: &'a Scanned,
    types: &'a [Type],
    names: &'a Names,
    /// Classes that their objects hold, by the numbers of types, or [`NONE`].
    classes: &'a [u32],
    /// The current block.
    block: u32,
    /// The targets of the current block.
    targets: Vec<u32>,
    /// Of storage that has moved.
    piece: Vec<u8>,
    found: References,
}

impl<'a, M: TargetMemory + Sync> Pass<'a, M> {
    /// A pass that has not read anything yet.
    fn new(
        resolve: &'a Resolver<'a, M>,
        scanned: &'a Scanned,
        types: &'a [Type],
        names: &'a Names,
        classes: &'a [u32],
    ) -> Self {
        Self {
            resolve,
            scanned,
            types,
            names,
            classes,
            block: NONE,
            targets: Vec::new(),
            piece: Vec::new(),
            found: References::default(),
        }
    }

    fn run(mut self, blocks: Range<u32>) -> References {
        self.each(blocks, |pass, block, _| {
            pass.targets.retain(|&target| target != block);
            pass.targets.dedup();
            pass.found.graph.push(&pass.targets);
        });
        self.found
    }

    /// Reads the references of these blocks, which ascend, and gives each.
    fn each(
        &mut self,
        blocks: impl DoubleEndedIterator<Item = u32> + Clone,
        mut give: impl FnMut(&mut Self, u32, &mut Reader<'_, '_, M>),
    ) {
        let source = self.resolve.source;
        let last = blocks.clone().next_back();
        let end = last.map_or(RemoteAddr::default(), |last| source.index.range(last).end());
        let mut window = Window::new(source.memory);
        for (block, range) in source.index.ranges(blocks) {
            self.targets.clear();
            self.block = block;
            let mut reader = Reader {
                window: &mut window,
                range,
                end,
            };
            // If a block cannot be read to its end, what was found before counts.
            let _ = self.read(block, &mut reader);
            give(self, block, &mut reader);
        }
    }

    /// Takes a word as a reference.
    #[inline]
    fn refer(&mut self, addr: u64) {
        match self.resolve.reference(addr, 0) {
            Some(Reference::To(target)) => self.targets.push(target),
            Some(Reference::Inside(block)) if block != self.block => {
                let reference = (self.block, block);
                let inside = &mut self.found.inside;
                match inside.last() {
                    Some(last) if *last == reference => {}
                    _ if inside.len() < MAX_INSIDE => inside.push(reference),
                    _ => self.found.left_out += 1,
                }
            }
            Some(Reference::Inside(_)) | None => {}
        }
    }

    fn refer_within(&mut self, addr: u64) {
        self.targets
            .extend(self.resolve.within(addr, MAX_VALUES_HEAD));
    }

    /// Reads the references of a block; `None` if it is unreadable.
    fn read(&mut self, block: u32, reader: &mut Reader<'_, '_, M>) -> Option<()> {
        let len = reader.range.len();
        match self.scanned.kinds[block as usize].get() {
            Kind::Spare | Kind::Unreadable => Some(()),
            Kind::Native => reader.words(0, len.min(MAX_NATIVE), |addr| self.refer(addr)),
            Kind::Object { of, head } => self.object(block, &self.types[of as usize], head, reader),
            Kind::Storage { content, .. } => {
                let limits = &self.scanned.limits;
                let limit = limits.binary_search_by_key(&block, |(block, _)| *block);
                let words = limit.map_or(0..u32::MAX, |at| limits[at].1.clone());
                let end = len.min(u64::from(words.end) * 8);
                let from = end.min(u64::from(words.start) * 8);
                let len = end - from;
                if self.is_read_with_owner(block, reader.range.len()) {
                    return Some(());
                }
                match content {
                    Content::Bytes => Some(()),
                    Content::Words | Content::DequeItems => {
                        reader.words(from, len, |addr| self.refer(addr))
                    }
                    Content::Values => {
                        let head = reader.bytes(0, len.min(MAX_VALUES_HEAD))?;
                        let mut ends = (8..=head.len()).step_by(8);
                        let ends = ends.find(|&end| usize::from(head[end - 1]) == end);
                        let head = ends.unwrap_or(0) as u64;
                        reader.words(head, len - head, |addr| self.refer(addr))
                    }
                    Content::Reached => {
                        reader.words(0, len.min(MAX_NATIVE), |addr| self.refer(addr))
                    }
                    Content::OpenTable => {
                        let taken = self.taken_of_entry(block);
                        reader.strided(from, len, 3, taken, |addr| self.refer(addr))
                    }
                    Content::SetTable => {
                        let key = self.resolve.source.layout.set_key();
                        reader.strided(from, len, 2, key..key + 1, |addr| self.refer(addr))
                    }
                    Content::DictKeys => self.dict_table(block, reader),
                }
            }
        }
    }

    /// Which words of a dictionary's three-word entry are references: the key, and the value unless
    /// a name refers to it. Names are added as references at once.
    fn taken_of_entry(&mut self, block: u32) -> Range<usize> {
        match self.names.space(block) {
            Some(space) => {
                self.targets.extend(self.names.nodes_of(space));
                1..2
            }
            None => 1..3,
        }
    }

    /// The table of a dictionary from 3.6 on.
    fn dict_table(&mut self, block: u32, reader: &mut Reader<'_, '_, M>) -> Option<()> {
        let keys_alone = self.taken_of_entry(block).len() == 1;
        let layout = self.resolve.source.layout;
        let leads = self.resolve.source.leads;
        let table = leads.iter().find_map(|&lead| {
            let head = reader.bytes(lead, TABLE_HEAD)?;
            let table = Table::of_keys(layout, head)?;
            let fits = table.bytes()?.checked_add(lead)? <= reader.range.len();
            fits.then_some((lead, table))
        });
        let Some((lead, table)) = table else {
            // It changed meanwhile: it contains nothing that can be read as entries.
            self.found.changed += 1;
            return Some(());
        };
        let all = table.count * table.size;
        for from in (0..all).step_by(PIECE as usize) {
            let piece = reader.bytes(lead + table.entries + from, PIECE.min(all - from))?;
            for addr in references(&table, piece, keys_alone) {
                self.targets.extend(self.resolve.target(addr));
            }
        }
        Some(())
    }
}
