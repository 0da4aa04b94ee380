//! The storage that an object has besides its own block, as its fields say.

use std::ops::Range;

use super::{KEPT_TYPES, Scan};
use crate::addr::RemoteAddr;
use crate::memory::TargetMemory;
use crate::objects::dict::DictParts;
use crate::objects::kinds::Content;
use crate::objects::layout::{
    ARRAY_ITEMS, DESCR_KIND, DictTable, LIST_ITEMS, NDARRAY_DATA, NDARRAY_DESCR, OPEN_DICT_BYTES,
    PreHeader, SET_MASK, SET_TABLE, SIZE, StrLayout,
};
use crate::objects::types::{Role, TypeFacts};
use crate::objects::words::{read_word, word};

/// Bytes before the values of instances in their block, at the most: their order and number
/// (`new_values`, `Objects/dictobject.c` of 3.11 and 3.12), and the debug hooks'.
pub(in crate::objects) const MAX_VALUES_HEAD: u64 = 64;
/// Blocks of a deque at the most.
const MAX_DEQUE_BLOCKS: usize = 1 << 20;
/// All words of a block.
pub(super) const ALL: Words = 0..u32::MAX;

/// Storage of an object, as the object's own fields say.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Claim {
    pub(super) block: u32,
    pub(super) of: u32,
    pub(super) content: Content,
    /// Words that hold references; the block's end is the limit where there are fewer.
    pub(super) words: Words,
}

/// A part of a block in words, up to the block's end at the most.
pub(in crate::objects) type Words = Range<u32>;

impl<M: TargetMemory + Sync> Scan<'_, '_, M> {
    /// Claims the storage of an object that lies in `own`, with its fields.
    pub(super) fn claim_storage(&mut self, own: Range<u64>, fields: &[u8], facts: &TypeFacts) {
        let layout = self.source.layout;
        let field = |offset| word(fields, offset).unwrap_or(0);
        match facts.role {
            Role::List => {
                let words = field(SIZE).min(u32::MAX.into()) as u32;
                self.claim(facts.id, field(LIST_ITEMS), Content::Words, 0..words);
            }
            Role::Dict => self.claim_dict(facts.id, own.start, fields),
            Role::Set => {
                let table = field(SET_TABLE);
                let entries = field(SET_MASK).saturating_add(1);
                // A small table is in the set itself.
                if !own.contains(&table) {
                    let words = entries.saturating_mul(2).min(u32::MAX.into()) as u32;
                    self.claim(facts.id, table, Content::SetTable, 0..words);
                }
            }
            Role::Deque => self.claim_deque(facts.id, fields),
            Role::ByteArray => {
                let buffer = field(layout.bytearray_bytes());
                self.claim(facts.id, buffer, Content::Bytes, ALL);
            }
            Role::Array => self.claim(facts.id, field(ARRAY_ITEMS), Content::Bytes, ALL),
            Role::NdArray => {
                let content = match self.has_objects(field(NDARRAY_DESCR)) {
                    true => Content::Words,
                    false => Content::Bytes,
                };
                self.claim(facts.id, field(NDARRAY_DATA), content, ALL);
            }
            Role::Str => self.claim_buffers(facts.id, fields),
            _ => {}
        }
    }

    /// Claims the values of an instance that has them without a dictionary.
    pub(super) fn claim_managed_values(&mut self, bytes: &[u8], head: u64, of: u32) {
        let [at_32, at_24] = [32, 24].map(|before| word(bytes, head - before).unwrap_or(0));
        let (values, _) = self.source.layout.pre_header.refers_to(at_32, at_24);
        self.claim_values(of, values.unwrap_or(0));
    }

    fn claim_dict(&mut self, of: u32, object: u64, fields: &[u8]) {
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
                    self.claim(of, parts.table, Content::OpenTable, 0..words);
                }
            }
            DictTable::Sized | DictTable::Logarithmic => {
                self.claim(of, parts.table, Content::DictKeys, ALL);
                self.claim_values(of, parts.values);
            }
        }
    }

    /// The blocks of a deque: the first from its first item on, the last up to its last, all between. Others
    /// that it keeps for later hold what was there before.
    fn claim_deque(&mut self, of: u32, fields: &[u8]) {
        let deque = self.source.layout.deque();
        let field = |nth: u64| word(fields, deque.left_block + nth * 8);
        let (Some(left), Some(right), Some(first), Some(last)) =
            (field(0), field(1), field(2), field(3))
        else {
            return;
        };
        let place = |item: u64| (deque.items + item.min(deque.block_items)) as u32;
        let mut at = left;
        for _ in 0..MAX_DEQUE_BLOCKS {
            let from = if at == left { place(first) } else { 0 };
            // The allocator may give a block more words than it has.
            let end = match at == right {
                true => place(last) + 1,
                false => deque.block_words as u32,
            };
            self.claim(of, at, Content::Words, from..end.max(from));
            let link = at.checked_add(deque.right_link * 8);
            let next = link.and_then(|link| read_word(self.source.memory, link));
            let Some(next) = next.filter(|&next| at != right && next != 0) else {
                break;
            };
            at = next;
        }
    }

    /// The buffers of a string that are not behind it: legacy data, and UTF-8.
    fn claim_buffers(&mut self, of: u32, fields: &[u8]) {
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
            self.claim(of, buffer, Content::Bytes, ALL);
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

    /// Claims the block that begins at this address.
    fn claim(&mut self, of: u32, addr: u64, content: Content, words: Words) {
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
                of,
                content,
                words,
            });
        }
    }

    /// Claims the block of the values of an instance, which may have a head before them.
    fn claim_values(&mut self, of: u32, addr: u64) {
        let content = match self.source.layout.pre_header {
            PreHeader::ValuesAndDict | PreHeader::WeakListAndTagged => Content::Values,
            PreHeader::None | PreHeader::WeakListAndDict => Content::Words,
        };
        let own = self.source.index.at(addr);
        if let Some((block, _)) = own.filter(|(_, into)| *into <= MAX_VALUES_HEAD) {
            self.part.claims.push(Claim {
                block,
                of,
                content,
                words: ALL,
            });
        }
    }
}
