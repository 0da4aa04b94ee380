//! The second pass over all live blocks: what each refers to.
//!
//! Items of lists and tuples, entries of dictionaries and sets, and values of instances are read as
//! such; of everything else each word may be a reference. Not references are: a `PyGC_Head`, hashes,
//! lists of weak references, what a weak reference refers to, and words of blocks that hold nothing.

use std::ops::Range;
use std::panic::resume_unwind;
use std::thread;

use super::dict::{DictParts, TABLE_HEAD, Table, references};
use super::graph::Graph;
use super::kinds::{Content, Kind, PackedKind};
use super::layout::{
    DictTable, LIST_ITEMS, Layout, PreHeader, SET_MASK, SET_TABLE, SIZE, TUPLE_ITEMS,
    TYPE_WEAK_LIST, WEAK_CALLBACK,
};
use super::names::Names;
use super::scan::{COMPARED, EXAMINED_BYTES, MAX_VALUES_HEAD, Scanned, Source, parts, print_of};
use super::types::{Flags, Role, Type, TypeFacts};
use super::words::{Window, word, words};
use crate::addr::{AddrRange, RemoteAddr};
use crate::memory::TargetMemory;

/// Bytes that are looked at in one piece; a multiple of all sizes of entries.
const PIECE: u64 = 48 << 12;
/// Bytes of native blocks that are looked at: what has references to Python's objects is smaller.
const MAX_NATIVE: u64 = 1 << 20;
/// Words that are read of the storage of one container.
const MAX_STORAGE: u64 = 1 << 28;
/// Storage of more bytes is read with its owner: it moves when it grows, and an owner that was read long
/// before or after would not refer to it any more.
const LARGE: u64 = 64 << 10;
/// How often a large table is read that is another's when it has been read.
const TRIES: usize = 4;
/// Where a small table is in a set or in a dictionary of 2.7, and how many words it has.
const SET_SMALL_TABLE: (u64, u64) = (64, 16);
const SET_SMALL_TABLE_2: (u64, u64) = (56, 16);
const OPEN_SMALL_TABLE: (u64, u64) = (56, 24);

/// Finds the block that a pointer refers to.
pub(super) struct Resolve<'a, M> {
    pub(super) source: &'a Source<'a, M>,
    pub(super) kinds: &'a [PackedKind],
}

impl<M> Resolve<'_, M> {
    /// The block of the object that is at this address, or that begins there and holds none.
    #[inline]
    pub(super) fn target(&self, addr: u64) -> Option<u32> {
        self.within(addr, 0)
    }

    /// The same, where a head of so many bytes may be before the address in a block without an object.
    #[inline]
    fn within(&self, addr: u64, most: u64) -> Option<u32> {
        if !addr.is_multiple_of(8) {
            return None;
        }
        let (block, into) = self.source.index.at(addr)?;
        let is_it = match self.kinds[block as usize].get() {
            Kind::Object { head, .. } => into == head,
            Kind::Spare => false,
            Kind::Native | Kind::Unreadable | Kind::Storage { .. } => {
                into <= most || self.source.leads.contains(&into)
            }
        };
        is_it.then_some(block)
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
    /// Of the objects that never change and were looked at twice, those that were others the second time.
    pub(super) replaced: u64,
    /// Containers whose storage is no block of the walk.
    pub(super) moved: u64,
    /// Bytes that could not be read.
    pub(super) unreadable_bytes: u64,
}

/// Reads the references of all blocks.
pub(super) fn references_of<M: TargetMemory + Sync>(
    resolve: &Resolve<'_, M>,
    scanned: &Scanned,
    types: &[Type],
    names: &Names,
) -> References {
    let parts: Vec<References> = thread::scope(|scope| {
        let running: Vec<_> = parts(resolve.source.index.len())
            .into_iter()
            .map(|blocks| {
                let pass = Pass {
                    resolve,
                    scanned,
                    types,
                    names,
                    targets: Vec::new(),
                    piece: Vec::new(),
                    found: References {
                        graph: Graph::with_capacity(blocks.len()),
                        ..References::default()
                    },
                };
                scope.spawn(move || pass.run(blocks))
            })
            .collect();
        let joined = running.into_iter().map(|thread| thread.join());
        joined
            .map(|part| part.unwrap_or_else(|panic| resume_unwind(panic)))
            .collect()
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
        all.unreadable_bytes += part.unreadable_bytes;
    }
    all
}

/// One thread's pass.
struct Pass<'a, M> {
    resolve: &'a Resolve<'a, M>,
    scanned: &'a Scanned,
    types: &'a [Type],
    names: &'a Names,
    /// Of the block in hand.
    targets: Vec<u32>,
    /// Of storage that has moved.
    piece: Vec<u8>,
    found: References,
}

impl<M: TargetMemory + Sync> Pass<'_, M> {
    fn run(mut self, blocks: Range<u32>) -> References {
        let source = self.resolve.source;
        let last = blocks.end.checked_sub(1);
        let end = last.map_or(RemoteAddr::default(), |last| source.index.range(last).end());
        let mut window = Window::new(source.memory);
        for (block, range) in source.index.ranges(blocks) {
            self.targets.clear();
            let mut reader = Reader {
                window: &mut window,
                range,
                end,
            };
            if self.read(block, &mut reader).is_none() {
                self.found.unreadable_bytes += range.len();
            }
            self.targets.retain(|&target| target != block);
            self.targets.dedup();
            self.found.graph.push(&self.targets);
        }
        self.found
    }

    /// Takes a word as a reference.
    #[inline]
    fn refer(&mut self, addr: u64) {
        self.targets.extend(self.resolve.target(addr));
    }

    fn refer_within(&mut self, addr: u64) {
        self.targets
            .extend(self.resolve.within(addr, MAX_VALUES_HEAD));
    }

    /// Reads the references of a block; `None` where it cannot be read.
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
                    Content::Words => reader.words(from, len, |addr| self.refer(addr)),
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
                        let key = self.set_key();
                        reader.strided(from, len, 2, key..key + 1, |addr| self.refer(addr))
                    }
                    Content::DictKeys => self.dict_table(block, reader),
                }
            }
        }
    }

    /// Which of the two words of a set's entry is its key.
    fn set_key(&self) -> usize {
        usize::from(self.resolve.source.layout.dict == DictTable::Open)
    }

    /// Which words of a dictionary's entry of three are references: the key, and the value where that is
    /// not referred to by a name. Names are taken as references at once.
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
            // Changed meanwhile: it holds nothing that could be read as entries.
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

    /// Takes the words of an object as references, but for its list of weak references and those
    /// at `except`.
    fn fields(
        &mut self,
        reader: &mut Reader<'_, '_, M>,
        at: At,
        range: Range<u64>,
        except: &[u64],
    ) -> Option<()> {
        let mut offset = range.start;
        let len = range.end.saturating_sub(range.start);
        reader.words(at.head + range.start, len, |addr| {
            if offset != at.weak_list && !except.contains(&offset) {
                self.refer(addr);
            }
            offset += 8;
        })
    }

    /// Looks whether the same object is in a block as at the first time.
    fn compare(
        &mut self,
        block: u32,
        facts: &TypeFacts,
        head: u64,
        reader: &mut Reader<'_, '_, M>,
    ) {
        let prints = &self.scanned.prints;
        let Ok(at) = prints.binary_search_by_key(&block, |(block, _)| *block) else {
            return;
        };
        let len = (reader.range.len() - head).min(EXAMINED_BYTES);
        let now = reader.bytes(head, len);
        let now = now.and_then(|now| print_of(self.resolve.source.layout, facts, now));
        self.found.replaced += u64::from(now != Some(prints[at].1));
    }

    /// Whether a block is a container's storage that is read when its owner is.
    fn is_read_with_owner(&self, block: u32, bytes: u64) -> bool {
        if bytes < LARGE || self.names.space(block).is_some() {
            return false;
        }
        let Kind::Storage { of, content } = self.scanned.kinds[block as usize].get() else {
            return false;
        };
        let role = self.types[of as usize].facts.role;
        matches!(
            (role, content),
            (Role::List, Content::Words)
                | (Role::Dict, Content::DictKeys)
                | (Role::Set, Content::SetTable)
        )
    }

    /// Whether storage is to be read with its owner: it is large, or was not such storage when blocks were
    /// looked at first, because it has been moved since.
    fn place_of(&self, owner: u32, stored: &Stored) -> Place {
        let Some((block, _)) = self.resolve.source.index.at(stored.at) else {
            return Place::Moved;
        };
        // Names were taken of those of a namespace, and small tables of sets are in the set.
        if block == owner || self.names.space(block).is_some() {
            return Place::Elsewhere;
        }
        match self.scanned.kinds[block as usize].get() {
            Kind::Storage { content, .. } if content == stored.content => {
                let bytes = self.resolve.source.index.bytes(block);
                match self.is_read_with_owner(block, bytes) {
                    true => Place::Large,
                    false => Place::Elsewhere,
                }
            }
            _ => Place::Moved,
        }
    }

    /// Takes the storage that an object's own words say it has, if that is read with it. While it is read
    /// the object may get another: then that is read.
    fn own_storage(&mut self, owner: u32, object: RemoteAddr, role: Role, stored: Option<Stored>) {
        let Some(mut stored) = stored.filter(|_| self.names.space(owner).is_none()) else {
            return;
        };
        let source = self.resolve.source;
        let before = self.targets.len();
        for attempt in 0..TRIES {
            match self.place_of(owner, &stored) {
                Place::Elsewhere => return,
                Place::Moved if attempt == 0 => self.found.moved += 1,
                Place::Moved | Place::Large => {}
            }
            let mut head = [0; STORED_HEAD];
            let now = |head: &mut [u8]| {
                let read = source.memory.read(object, head).is_ok();
                read.then(|| Stored::of(source.layout, role, head))
                    .flatten()
            };
            stored = now(&mut head).unwrap_or(stored);
            self.targets.truncate(before);
            let read = self.storage(&stored);
            match now(&mut head) {
                Some(later) if later.at != stored.at || read.is_none() => stored = later,
                _ => return,
            }
        }
    }

    /// Takes the references in storage; `None` where it cannot be read to the end.
    fn storage(&mut self, stored: &Stored) -> Option<()> {
        let source = self.resolve.source;
        match stored.content {
            Content::DictKeys => {
                let mut head = [0; TABLE_HEAD as usize];
                let at = RemoteAddr::new(stored.at);
                source.memory.read(at, &mut head).ok()?;
                let table = Table::of_keys(source.layout, &head)?;
                let entries = stored.at.checked_add(table.entries)?;
                let (stride, key) = (table.size / 8, (table.key / 8) as usize);
                self.strided(entries, table.count * stride, stride as usize, key..key + 2)
            }
            Content::SetTable => {
                let key = self.set_key();
                self.strided(stored.at, stored.words, 2, key..key + 1)
            }
            _ => self.strided(stored.at, stored.words, 1, 0..1),
        }
    }

    /// Takes the words `taken` of each `stride` of `count`, wherever they are.
    fn strided(
        &mut self,
        start: u64,
        count: u64,
        stride: usize,
        taken: Range<usize>,
    ) -> Option<()> {
        let (end, mut nth) = (count.min(MAX_STORAGE) * 8, 0);
        let mut piece = std::mem::take(&mut self.piece);
        let mut all = Some(());
        for from in (0..end).step_by(PIECE as usize) {
            piece.resize(PIECE.min(end - from) as usize, 0);
            let at = start.checked_add(from).map(RemoteAddr::new);
            let read = at.is_some_and(|at| self.resolve.source.memory.read(at, &mut piece).is_ok());
            if !read {
                all = None;
                break;
            }
            for word in words(&piece) {
                if taken.contains(&(nth % stride)) {
                    self.refer(word);
                }
                nth += 1;
            }
        }
        self.piece = piece;
        all
    }

    fn object(
        &mut self,
        block: u32,
        of: &Type,
        head: u64,
        reader: &mut Reader<'_, '_, M>,
    ) -> Option<()> {
        let facts = &of.facts;
        let layout = self.resolve.source.layout;
        if block.is_multiple_of(COMPARED) {
            self.compare(block, facts, head, reader);
        }
        if matches!(facts.role, Role::Leaf | Role::Str) {
            return Some(());
        }
        let whole = reader.range.len() - head;
        let fixed = facts.basic_size.min(whole);
        // Behind the fields of a type whose objects are all of one size is nothing but what was there
        // before.
        let len = if facts.one_size { fixed } else { whole };
        let first = reader.bytes(head, fixed.min(PIECE))?;
        if word(first, 8) != Some(of.addr) {
            self.found.changed += 1;
            return Some(());
        }
        let size = word(first, SIZE).unwrap_or(0);
        let parts = DictParts::of(layout, first);
        let stored = Stored::of(layout, facts.role, first);
        let address = reader.range.start().checked_add(head)?;
        if facts.flags.has(Flags::MANAGED_DICT) && head >= 32 {
            let [values, dict] = [32, 24].map(|before| head - before);
            let values = word(reader.bytes(values, 8)?, 0)?;
            let dict = word(reader.bytes(dict, 8)?, 0)?;
            match layout.pre_header {
                PreHeader::ValuesAndDict => {
                    self.refer_within(values);
                    self.refer(dict);
                }
                PreHeader::WeakListAndTagged if dict & 1 != 0 => {
                    self.refer_within(dict.wrapping_add(1));
                }
                PreHeader::WeakListAndTagged | PreHeader::WeakListAndDict => self.refer(dict),
                PreHeader::None => {}
            }
        }
        let at = At {
            head,
            weak_list: facts.weak_list,
        };
        match facts.role {
            Role::Leaf | Role::Str => Some(()),
            Role::List => {
                self.fields(reader, at, FIELDS..fixed, &[])?;
                self.own_storage(block, address, facts.role, stored);
                Some(())
            }
            Role::Deque | Role::ByteArray | Role::Array | Role::Code => {
                self.fields(reader, at, FIELDS..fixed, &[])
            }
            Role::Tuple if !facts.flags.has(Flags::HEAP) => {
                let items = size.saturating_mul(8).saturating_add(TUPLE_ITEMS);
                self.fields(reader, at, TUPLE_ITEMS..items.min(len), &[])
            }
            Role::Dict if layout.dict == DictTable::Open => {
                let (table, words) = OPEN_SMALL_TABLE;
                let behind = table + words * 8;
                self.fields(reader, at, FIELDS..table, &[])?;
                self.fields(reader, at, behind..len, &[])?;
                let taken = self.taken_of_entry(block);
                reader.strided(head + table, words * 8, 3, taken, |addr| self.refer(addr))
            }
            Role::Dict => {
                self.fields(reader, at, FIELDS..len, &[])?;
                self.refer_within(parts.map_or(0, |parts| parts.values));
                self.own_storage(block, address, facts.role, stored);
                Some(())
            }
            Role::Set => {
                let (table, words) = match layout.dict {
                    DictTable::Open => SET_SMALL_TABLE_2,
                    _ => SET_SMALL_TABLE,
                };
                self.fields(reader, at, FIELDS..table, &[])?;
                self.fields(reader, at, table + words * 8..len, &[])?;
                let key = self.set_key();
                reader.strided(head + table, words * 8, 2, key..key + 1, |addr| {
                    self.refer(addr);
                })?;
                self.own_storage(block, address, facts.role, stored);
                Some(())
            }
            Role::WeakRef => {
                // The referent, its hash, and the list of its other weak references.
                const WEAK: [u64; 4] = [16, 32, 40, 48];
                self.fields(reader, at, WEAK_CALLBACK..len, &WEAK)
            }
            Role::Type => self.fields(reader, at, FIELDS..len, &[TYPE_WEAK_LIST]),
            Role::Generator => match self.names.variables_of(block) {
                Some((locals, nodes)) => {
                    self.fields(reader, at, FIELDS..locals.start.min(len), &[])?;
                    self.fields(reader, at, locals.end..len, &[])?;
                    // What a variable has may lie on the stack besides, for as long as it is worked with.
                    let value = |node| self.names.of_node(node).map(|(_, value)| value);
                    let values: Vec<u32> = nodes.clone().filter_map(value).collect();
                    self.targets.retain(|target| !values.contains(target));
                    self.targets.extend(nodes);
                    Some(())
                }
                None => self.fields(reader, at, FIELDS..len, &[]),
            },
            Role::NdArray
            | Role::Module
            | Role::Function
            | Role::Frame
            | Role::LocalDummy
            | Role::Tuple
            | Role::Other => self.fields(reader, at, FIELDS..len, &[]),
        }
    }
}

/// Where an object's own fields begin, behind `ob_refcnt` and `ob_type`.
const FIELDS: u64 = 16;

/// Bytes of a list, dictionary or set that say where its storage is, at the most.
const STORED_HEAD: usize = 56;

/// Where a list, dictionary or set has its items.
#[derive(Copy, Clone)]
struct Stored {
    at: u64,
    /// Words of it; a dictionary's table says that itself.
    words: u64,
    content: Content,
}

impl Stored {
    /// Of the object that begins with these bytes; `None` without storage of its own.
    fn of(layout: &Layout, role: Role, object: &[u8]) -> Option<Self> {
        let (at, words, content) = match role {
            Role::List => (
                word(object, LIST_ITEMS)?,
                word(object, SIZE)?,
                Content::Words,
            ),
            Role::Dict if layout.dict != DictTable::Open => (
                DictParts::of(layout, object)?.table,
                word(object, layout.dict_used())?,
                Content::DictKeys,
            ),
            Role::Set => (
                word(object, SET_TABLE)?,
                word(object, SET_MASK)?.saturating_add(1).saturating_mul(2),
                Content::SetTable,
            ),
            _ => return None,
        };
        (at != 0 && words != 0).then_some(Self { at, words, content })
    }
}

/// Where the storage of an object is, as it is read.
enum Place {
    /// In a block that is read by itself, or in the object.
    Elsewhere,
    /// In one that is read with its owner.
    Large,
    /// In none of the walk, or in one that was something else when blocks were looked at first.
    Moved,
}

/// An object in its block.
#[derive(Copy, Clone)]
struct At {
    /// Bytes before it.
    head: u64,
    /// Where its list of weak references is; 0 without.
    weak_list: u64,
}

/// Reads one block.
struct Reader<'w, 'm, M> {
    window: &'w mut Window<'m, M>,
    range: AddrRange,
    /// Where the last block ends.
    end: RemoteAddr,
}

impl<M: TargetMemory> Reader<'_, '_, M> {
    /// Bytes of the block.
    fn bytes(&mut self, from: u64, len: u64) -> Option<&[u8]> {
        let start = self.range.start().checked_add(from)?;
        let wanted = AddrRange::with_len(start, len)?;
        if !self.range.encloses(&wanted) {
            return None;
        }
        self.window.bytes(wanted, self.end).ok()
    }

    /// Gives each word of `len` bytes from `from` on.
    fn words(&mut self, from: u64, len: u64, mut give: impl FnMut(u64)) -> Option<()> {
        for at in (0..len).step_by(PIECE as usize) {
            let piece = self.bytes(from + at, PIECE.min(len - at))?;
            words(piece).for_each(&mut give);
        }
        Some(())
    }

    /// Gives the words `taken` of each `stride` of them.
    fn strided(
        &mut self,
        from: u64,
        len: u64,
        stride: usize,
        taken: Range<usize>,
        mut give: impl FnMut(u64),
    ) -> Option<()> {
        let mut nth = 0;
        self.words(
            from,
            len.min(self.range.len().saturating_sub(from)),
            |word| {
                if taken.contains(&(nth % stride)) {
                    give(word);
                }
                nth += 1;
            },
        )
    }
}
