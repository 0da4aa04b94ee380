//! Under which attribute an instance has an object: in its dictionary, or in values whose names its class has.

use super::dict::{TABLE_HEAD, Table, entries, values_at};
use super::layout::{Layout, PreHeader, TYPE_DICT_OFFSET};
use super::text::str_name;
use super::types::{Flags, Role, Type};
use super::words::read_word;
use crate::addr::RemoteAddr;
use crate::memory::TargetMemory;

/// Attributes of an instance that are looked at.
const MAX_ATTRIBUTES: u64 = 1 << 12;

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

    /// The attribute that an object is of an instance whose values lie apart from their names.
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

    /// An attribute's name; what no program could have written as one may be a value, and is not shown.
    fn name(&self, key: u64) -> Option<String> {
        let name = str_name(self.memory, self.layout, key)?;
        let is_name = name.chars().all(|c| c == '_' || c.is_alphanumeric());
        (is_name && !name.starts_with(|c: char| c.is_numeric())).then_some(name)
    }
}
