//! The storage that an object's fields say it has in other blocks.

use std::ops::Range;

use super::{KEPT_TYPES, LARGE, Scan};
use crate::addr::{AddrRange, RemoteAddr};
use crate::memory::TargetMemory;
use crate::objects::deque;
use crate::objects::dict::DictParts;
use crate::objects::kinds::Content;
use crate::objects::layout::{
    ARRAY_ITEMS, DESCR_KIND, DictTable, LIST_ITEMS, MMAP_DATA, MMAP_SIZE, NDARRAY_DATA,
    NDARRAY_DESCR, OPEN_DICT_BYTES, PreHeader, SET_MASK, SET_TABLE, SET_USED, SIZE, StrLayout,
};
use crate::objects::types::{Role, TypeFacts};
use crate::objects::words::word;

/// The most bytes before an instance's values in their block: their order and number (`new_values`,
/// `Objects/dictobject.c` of 3.11 and 3.12), and the debug hooks' header.
pub(in crate::objects) const MAX_VALUES_HEAD: u64 = 64;
/// Bytes per item of a dictionary's table, two thirds of which are in use when it grows: an entry
/// and one and a half indices (`Objects/dictobject.c`, `USABLE_FRACTION`).
const DICT_ITEM: u64 = 30;
/// The same for a set's table, three fifths of which are (`Objects/setobject.c`, `set_add_entry`).
const SET_ITEM: u64 = 27;
/// The most blocks of a deque.
const MAX_DEQUE_BLOCKS: usize = 1 << 20;
/// All words of a block.
pub(super) const ALL: Words = 0..u32::MAX;

/// An object that has storage.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) struct Owner {
    /// Its block.
    pub(super) block: u32,
    /// The number of its type.
    pub(super) of: u32,
}

/// Storage of an object, as the object's own fields say.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Claim {
    pub(super) block: u32,
    pub(super) owner: Owner,
    pub(super) content: Content,
    /// Words that contain references; the end of the block is the limit if it comes earlier.
    pub(super) words: Words,
}

/// A container whose storage is not in any walked block.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) struct Moved {
    pub(super) owner: Owner,
    /// The approximate size, in bytes, of the storage that its present items fill: its storage
    /// before it grew.
    pub(super) outgrown: u64,
}

/// A part of a block in words, at most up to the block's end.
pub(in crate::objects) type Words = Range<u32>;

impl<M: TargetMemory + Sync> Scan<'_, '_, M> {
    /// Claims the storage of an object that is in `own`, with its fields.
    pub(super) fn claim_storage(
        &mut self,
        owner: Owner,
        own: Range<u64>,
        fields: &[u8],
        facts: &TypeFacts,
    ) {
        let layout = self.source.layout;
        let field = |offset| word(fields, offset).unwrap_or(0);
        match facts.role {
            Role::List => {
                let outgrown = field(SIZE).saturating_mul(8);
                let words = field(SIZE).min(u32::MAX.into()) as u32;
                self.claim_of_container(
                    owner,
                    field(LIST_ITEMS),
                    Content::Words,
                    0..words,
                    outgrown,
                );
            }
            Role::Dict => self.claim_dict(owner, own.start, fields),
            Role::Set => {
                let table = field(SET_TABLE);
                let entries = field(SET_MASK).saturating_add(1);
                // A small table is in the set itself.
                if !own.contains(&table) {
                    let words = entries.saturating_mul(2).min(u32::MAX.into()) as u32;
                    let outgrown = field(SET_USED).saturating_mul(SET_ITEM);
                    self.claim_of_container(owner, table, Content::SetTable, 0..words, outgrown);
                }
            }
            Role::Deque => self.claim_deque(owner, fields),
            Role::ByteArray => {
                let buffer = field(layout.bytearray_bytes());
                self.claim(owner, buffer, Content::Bytes, ALL);
            }
            Role::Array => self.claim(owner, field(ARRAY_ITEMS), Content::Bytes, ALL),
            Role::Mmap => {
                let (data, size) = (field(MMAP_DATA), field(MMAP_SIZE));
                if let Some(range) = AddrRange::with_len(RemoteAddr::new(data), size)
                    && !range.is_empty()
                {
                    self.part.mapped.push((owner.block, range));
                }
            }
            Role::NdArray => {
                let content = match self.has_objects(field(NDARRAY_DESCR)) {
                    true => Content::Words,
                    false => Content::Bytes,
                };
                self.claim(owner, field(NDARRAY_DATA), content, ALL);
            }
            Role::Str => self.claim_buffers(owner, fields),
            _ => {}
        }
    }

    /// Claims the values of an instance that has them without a dictionary.
    pub(super) fn claim_managed_values(&mut self, bytes: &[u8], head: u64, owner: Owner) {
        let [at_32, at_24] = [32, 24].map(|before| word(bytes, head - before).unwrap_or(0));
        let (values, _) = self.source.layout.pre_header.refers_to(at_32, at_24);
        self.claim_values(owner, values.unwrap_or(0));
    }

    fn claim_dict(&mut self, owner: Owner, object: u64, fields: &[u8]) {
        let layout = self.source.layout;
        let Some(parts) = DictParts::of(layout, fields) else {
            return;
        };
        match layout.dict {
            DictTable::Open => {
                let own = object..object + OPEN_DICT_BYTES;
                if !own.contains(&parts.table) {
                    let words = parts.mask.saturating_add(1).saturating_mul(3);
                    let words = words.min(u32::MAX.into()) as u32;
                    self.claim(owner, parts.table, Content::OpenTable, 0..words);
                }
            }
            DictTable::Sized | DictTable::Logarithmic => {
                let used = word(fields, layout.dict_used()).unwrap_or(0);
                let outgrown = used.saturating_mul(DICT_ITEM);
                self.claim_of_container(owner, parts.table, Content::DictKeys, ALL, outgrown);
                self.claim_values(owner, parts.values);
            }
        }
    }

    /// The blocks of a deque. The links between them are left out: the deque has each of them.
    fn claim_deque(&mut self, owner: Owner, fields: &[u8]) {
        let source = self.source;
        for (at, items) in deque::blocks(source.memory, source.layout, fields, MAX_DEQUE_BLOCKS) {
            self.claim(owner, at, Content::DequeItems, items);
        }
    }

    /// The buffers of a string that do not follow it: legacy data, and UTF-8.
    fn claim_buffers(&mut self, owner: Owner, fields: &[u8]) {
        let places = match self.source.layout.str {
            StrLayout::Bytes => vec![24],
            StrLayout::Compact { ascii, wide } => {
                let state = word(fields, 32).unwrap_or(0);
                let (compact, is_ascii) = (state >> 5 & 1, state >> 6 & 1);
                match (compact, is_ascii) {
                    (1, 1) => return,
                    (1, 0) => vec![ascii + 8],
                    _ => vec![ascii + 8, wide],
                }
            }
        };
        for place in places {
            let buffer = word(fields, place).unwrap_or(0);
            self.claim(owner, buffer, Content::Bytes, ALL);
        }
    }

    /// Whether a numpy type's elements are objects.
    fn has_objects(&mut self, descr: u64) -> bool {
        if let Some(known) = self.object_descr.get(&descr) {
            return *known;
        }
        let kind = descr.checked_add(DESCR_KIND).map(RemoteAddr::new);
        let kind = kind.and_then(|at| self.source.memory.read_value::<u8>(at).ok());
        let is_object = kind == Some(b'O');
        if self.object_descr.len() < KEPT_TYPES {
            self.object_descr.insert(descr, is_object);
        }
        is_object
    }

    /// Claims the storage of a container; a `LARGE` one that is in no known block has moved since
    /// the walk.
    fn claim_of_container(
        &mut self,
        owner: Owner,
        addr: u64,
        content: Content,
        words: Words,
        outgrown: u64,
    ) {
        let moved = addr != 0 && outgrown >= LARGE && self.source.index.at(addr).is_none();
        match moved {
            true => self.part.moved.push(Moved { owner, outgrown }),
            false => self.claim(owner, addr, content, words),
        }
    }

    /// Claims the block that begins at this address.
    fn claim(&mut self, owner: Owner, addr: u64, content: Content, words: Words) {
        let Some((block, into)) = self.source.index.at(addr) else {
            return;
        };
        if self.source.leads.contains(&into) {
            let lead = (into / 8) as u32;
            let words = match words {
                ALL => ALL,
                words => words.start.saturating_add(lead)..words.end.saturating_add(lead),
            };
            self.part.claims.push(Claim {
                block,
                owner,
                content,
                words,
            });
        }
    }

    /// Claims the block of the values of an instance, which may have a head before them.
    fn claim_values(&mut self, owner: Owner, addr: u64) {
        let content = match self.source.layout.pre_header {
            PreHeader::ValuesAndDict | PreHeader::WeakListAndTagged => Content::Values,
            PreHeader::None | PreHeader::WeakListAndDict => Content::Words,
        };
        let own = self.source.index.at(addr);
        if let Some((block, _)) = own.filter(|(_, into)| *into <= MAX_VALUES_HEAD) {
            self.part.claims.push(Claim {
                block,
                owner,
                content,
                words: ALL,
            });
        }
    }
}
