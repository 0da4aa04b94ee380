//! The attribute under which an instance refers to an object: in its dictionary, or in values whose
//! names are in its class.

use super::dict::{TABLE_HEAD, Table, entries, values_at};
use super::layout::{
    DictTable, Layout, PreHeader, TYPE_BASE, TYPE_DICT, TYPE_DICT_OFFSET, TYPE_NAME,
};
use super::text::{c_name, str_name};
use super::types::{Flags, Role, Type};
use super::words::read_word;
use crate::addr::RemoteAddr;
use crate::memory::TargetMemory;

/// The most attributes of an instance that are examined.
const MAX_ATTRIBUTES: u64 = 1 << 12;
/// The most classes whose `__slots__` are examined: an instance's own and its bases.
const MAX_BASES: usize = 64;
/// `PyMemberDescrObject.d_member`, behind a qualified name from 3.3 on (`Include/cpython/descrobject.h`).
const MEMBER: u64 = 40;
const MEMBER_2: u64 = 32;
/// `PyMemberDef.offset`: the position of a slot in the object (`Include/structmember.h`).
const MEMBER_OFFSET: u64 = 16;

/// Finds names of attributes.
pub(super) struct Attributes<'a, M> {
    pub(super) memory: &'a M,
    pub(super) layout: &'a Layout,
}

impl<M: TargetMemory> Attributes<'_, M> {
    /// Whether this is the dictionary of an instance's attributes.
    pub(super) fn is_dict_of(&self, of: &Type, at: u64, dict: u64) -> bool {
        if !of.facts.flags.has(Flags::HEAP) || of.facts.role != Role::Other {
            return false;
        }
        let place = match of.facts.flags.has(Flags::MANAGED_DICT) {
            true => at.checked_sub(24),
            false => {
                let offset = read_word(self.memory, of.addr.wrapping_add(TYPE_DICT_OFFSET));
                let offset = offset.filter(|offset| (16..of.facts.basic_size).contains(offset));
                offset.and_then(|offset| at.checked_add(offset))
            }
        };
        place.and_then(|place| read_word(self.memory, place)) == Some(dict)
    }

    /// The attribute that an object is in an instance's dictionary.
    pub(super) fn in_dict(&self, dict: u64, object: u64) -> Option<String> {
        let entries = entries(self.memory, self.layout, dict, MAX_ATTRIBUTES)?;
        let (key, _) = entries.into_iter().find(|(_, value)| *value == object)?;
        self.name(key)
    }

    /// The attribute under which an instance has an object, if its values are stored apart from
    /// their names.
    pub(super) fn in_values(&self, of: &Type, at: u64, object: u64) -> Option<String> {
        if !of.facts.flags.has(Flags::MANAGED_DICT) {
            return None;
        }
        let before = |bytes| {
            at.checked_sub(bytes)
                .and_then(|at| read_word(self.memory, at))
        };
        let values = match self.layout.pre_header {
            PreHeader::WeakListAndDict => at.checked_add(of.facts.basic_size)?,
            other => {
                let [at_32, at_24] = [32, 24].map(|bytes| before(bytes).unwrap_or(0));
                other.refers_to(at_32, at_24).0?
            }
        };
        let place = of.addr.checked_add(self.layout.cached_keys()?)?;
        let keys = read_word(self.memory, place)?;
        let mut head = [0; TABLE_HEAD as usize];
        self.memory.read(RemoteAddr::new(keys), &mut head).ok()?;
        let table = Table::of_keys(self.layout, &head)?;
        let mut numbers = 0..table.count.min(MAX_ATTRIBUTES);
        let number = numbers.find(|&number| {
            let value = values_at(self.layout, values, number);
            value.and_then(|value| read_word(self.memory, value)) == Some(object)
        })?;
        let entry = keys.checked_add(table.entries + number * table.size + table.key)?;
        self.name(read_word(self.memory, entry)?)
    }

    /// The attribute in `__slots__` that an object is of an instance: classes have a descriptor of each.
    pub(super) fn in_slots(&self, of: &Type, at: u64, object: u64) -> Option<String> {
        if !of.facts.flags.has(Flags::HEAP) || of.facts.role != Role::Other {
            return None;
        }
        let mut class = of.addr;
        for _ in 0..MAX_BASES {
            let field = |offset| read_word(self.memory, class.checked_add(offset)?);
            let dict = field(TYPE_DICT).filter(|dict| *dict != 0);
            let own = dict.and_then(|dict| entries(self.memory, self.layout, dict, MAX_ATTRIBUTES));
            for (key, descriptor) in own.into_iter().flatten() {
                let slot = self.slot(descriptor).filter(|slot| {
                    (16..of.facts.basic_size).contains(slot) && slot.is_multiple_of(8)
                });
                let value = slot.and_then(|slot| read_word(self.memory, at.checked_add(slot)?));
                if value == Some(object) {
                    return self.name(key);
                }
            }
            class = field(TYPE_BASE).filter(|base| *base != 0)?;
        }
        None
    }

    /// The offset of the slot described by an entry of a class; `None` if the entry is something
    /// else.
    fn slot(&self, descriptor: u64) -> Option<u64> {
        let field = |at: u64, offset| read_word(self.memory, at.checked_add(offset)?);
        let name = field(field(descriptor, 8)?, TYPE_NAME)?;
        if c_name(self.memory, name, false)? != "member_descriptor" {
            return None;
        }
        let member = match self.layout.dict {
            DictTable::Open => MEMBER_2,
            _ => MEMBER,
        };
        field(field(descriptor, member)?, MEMBER_OFFSET)
    }

    /// An attribute's name. A string that cannot be an identifier may be a value and is not shown.
    pub(super) fn name(&self, key: u64) -> Option<String> {
        let name = str_name(self.memory, self.layout, key)?;
        let is_name = name.chars().all(|c| c == '_' || c.is_alphanumeric());
        (is_name && !name.starts_with(|c: char| c.is_numeric())).then_some(name)
    }
}
