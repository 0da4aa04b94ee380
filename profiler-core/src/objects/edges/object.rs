//! The references of one object: its own fields, and the rest of its block.

use std::ops::Range;

use super::reader::{PIECE, Reader};
use super::stored::Stored;
use super::{Pass, Weak};
use crate::memory::TargetMemory;
use crate::objects::dict::DictParts;
use crate::objects::graph::NONE;
use crate::objects::layout::{DictTable, OPEN_SMALL_TABLE, SIZE, TYPE_WEAK_LIST, WEAK_CALLBACK};
use crate::objects::scan::{COMPARED, EXAMINED_BYTES, print_of};
use crate::objects::types::{Flags, Role, Type, TypeFacts};
use crate::objects::words::word;

/// The offset of an object's own fields, after `ob_refcnt` and `ob_type`.
const FIELDS: u64 = 16;
/// The offset of a set's small table and its number of words, from 3.6 on and in 2.7.
const SET_SMALL_TABLE: (u64, u64) = (64, 16);
const SET_SMALL_TABLE_2: (u64, u64) = (56, 16);
/// A weak reference's referent, its hash, and the list of its other weak references.
const WEAK: [u64; 4] = [16, 32, 40, 48];

/// An object in its block.
#[derive(Copy, Clone)]
struct ObjectInBlock<'t> {
    block: u32,
    facts: &'t TypeFacts,
    /// Bytes before it.
    head: u64,
    /// Bytes that may contain references, including items if its type has some.
    len: u64,
}

impl<M: TargetMemory + Sync> Pass<'_, M> {
    /// Takes the references of an object; `None` if it is unreadable.
    pub(super) fn object(
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
        // If all objects of a type have one size, only old data follows the fields.
        let len = if facts.one_size { fixed } else { whole };
        let first = reader.bytes(head, fixed.min(PIECE))?;
        if word(first, 8) != Some(of.addr) {
            self.found.changed += 1;
            return Some(());
        }
        let class = self.classes[facts.id as usize];
        self.targets.extend((class != NONE).then_some(class));
        let size = word(first, SIZE).unwrap_or(0);
        if facts.role == Role::WeakRef {
            self.weak_reference(block, first);
        }
        let values = DictParts::of(layout, first).map_or(0, |parts| parts.values);
        let stored = Stored::of(layout, facts.role, first);
        let address = reader.range.start().checked_add(head)?;
        let object = ObjectInBlock {
            block,
            facts,
            head,
            len,
        };
        if facts.flags.has(Flags::MANAGED_DICT) && head >= 32 {
            self.before_head(head, reader)?;
        }
        self.parts(object, fixed, size, values, reader)?;
        self.own_storage(block, address, facts.role, stored);
        Some(())
    }

    /// Records the object that a weak reference does not keep alive.
    fn weak_reference(&mut self, block: u32, first: &[u8]) {
        let (referent, callback) = (word(first, WEAK[0]), word(first, WEAK_CALLBACK));
        let referent = referent.and_then(|addr| self.resolve.object(addr));
        self.found.weak.extend(referent.map(|(referent, _)| Weak {
            block,
            referent,
            calls_back: callback.is_some_and(|callback| callback != 0),
        }));
    }

    /// Takes the references in an object's fields and items, by its role: `fixed` bytes of fields,
    /// `size` items, and for a dictionary the address of its values.
    #[inline]
    fn parts(
        &mut self,
        object: ObjectInBlock<'_>,
        fixed: u64,
        size: u64,
        values: u64,
        reader: &mut Reader<'_, '_, M>,
    ) -> Option<()> {
        let layout = self.resolve.source.layout;
        let ObjectInBlock {
            block, facts, len, ..
        } = object;
        match facts.role {
            Role::Leaf | Role::Str => {}
            Role::Deque => {
                self.fields(reader, object, FIELDS..fixed, &[])?;
                self.known_storage(block);
            }
            Role::List | Role::ByteArray | Role::Array | Role::Code => {
                self.fields(reader, object, FIELDS..fixed, &[])?;
            }
            Role::Tuple if !facts.flags.has(Flags::HEAP) => {
                let first = layout.tuple_items();
                let items = size.saturating_mul(8).saturating_add(first);
                self.fields(reader, object, first..items.min(len), &[])?;
            }
            Role::Dict if layout.dict == DictTable::Open => self.open_dict(object, reader)?,
            Role::Dict => {
                self.fields(reader, object, FIELDS..len, &[])?;
                self.refer_within(values);
            }
            Role::Set => self.set(object, reader)?,
            Role::WeakRef => self.fields(reader, object, WEAK_CALLBACK..len, &WEAK)?,
            // After its fields are the descriptions of its slots, which refer to text, and old
            // data.
            Role::Type => self.fields(reader, object, FIELDS..fixed, &[TYPE_WEAK_LIST])?,
            // Its dictionary, if it has one, is after its items.
            Role::Tuple => {
                let items = size.saturating_mul(8).saturating_add(fixed);
                self.fields(reader, object, FIELDS..items.min(len), &[])?;
            }
            Role::Generator | Role::Frame => self.generator(object, reader)?,
            Role::NdArray
            | Role::Module
            | Role::Function
            | Role::LocalDummy
            | Role::Mmap
            | Role::LruCache
            | Role::LruElement
            | Role::Other => self.fields(reader, object, FIELDS..len, &[])?,
        }
        Some(())
    }

    /// Takes what is before the `PyGC_Head` of an instance: its values, or its dictionary.
    fn before_head(&mut self, head: u64, reader: &mut Reader<'_, '_, M>) -> Option<()> {
        let [values, dict] = [32, 24].map(|before| head - before);
        let values = word(reader.bytes(values, 8)?, 0)?;
        let dict = word(reader.bytes(dict, 8)?, 0)?;
        let (values, dict) = self
            .resolve
            .source
            .layout
            .pre_header
            .refers_to(values, dict);
        values
            .into_iter()
            .for_each(|values| self.refer_within(values));
        dict.into_iter().for_each(|dict| self.refer(dict));
        Some(())
    }

    /// A dictionary of 2.7, with the small table inside.
    fn open_dict(
        &mut self,
        object: ObjectInBlock<'_>,
        reader: &mut Reader<'_, '_, M>,
    ) -> Option<()> {
        let (table, words) = OPEN_SMALL_TABLE;
        let behind = table + words * 8;
        self.fields(reader, object, FIELDS..table, &[])?;
        self.fields(reader, object, behind..object.len, &[])?;
        let taken = self.taken_of_entry(object.block);
        reader.strided(object.head + table, words * 8, 3, taken, |addr| {
            self.refer(addr);
        })
    }

    /// A set, with the small table inside.
    fn set(&mut self, object: ObjectInBlock<'_>, reader: &mut Reader<'_, '_, M>) -> Option<()> {
        let (table, words) = match self.resolve.source.layout.dict {
            DictTable::Open => SET_SMALL_TABLE_2,
            _ => SET_SMALL_TABLE,
        };
        self.fields(reader, object, FIELDS..table, &[])?;
        self.fields(reader, object, table + words * 8..object.len, &[])?;
        let key = self.resolve.source.layout.set_key();
        reader.strided(object.head + table, words * 8, 2, key..key + 1, |addr| {
            self.refer(addr);
        })
    }

    /// A generator, or up to 3.10 the frame of one: the variables of a suspended one are names.
    fn generator(
        &mut self,
        object: ObjectInBlock<'_>,
        reader: &mut Reader<'_, '_, M>,
    ) -> Option<()> {
        let Some((locals, nodes)) = self.names.variables_of(object.block) else {
            return self.fields(reader, object, FIELDS..object.len, &[]);
        };
        self.fields(reader, object, FIELDS..locals.start.min(object.len), &[])?;
        self.fields(reader, object, locals.end..object.len, &[])?;
        // A variable's value may also be on the stack while it is in use.
        let value = |node| self.names.of_node(node).map(|(_, value)| value);
        let values: Vec<u32> = nodes.clone().filter_map(value).collect();
        self.targets.retain(|target| !values.contains(target));
        self.targets.extend(nodes);
        Some(())
    }

    /// Takes the words of an object as references, except its list of weak references and the words
    /// at `except`.
    fn fields(
        &mut self,
        reader: &mut Reader<'_, '_, M>,
        object: ObjectInBlock<'_>,
        range: Range<u64>,
        except: &[u64],
    ) -> Option<()> {
        let layout = self.resolve.source.layout;
        let has_frame = object.facts.role == Role::Generator;
        let mut offset = range.start;
        let len = range.end.saturating_sub(range.start);
        reader.words(object.head + range.start, len, |addr| {
            if offset != object.facts.weak_list && !except.contains(&offset) {
                self.refer(if has_frame {
                    layout.stack_reference(addr)
                } else {
                    addr
                });
            }
            offset += 8;
        })
    }

    /// Checks whether a block still contains the object found in the first pass.
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
}
