//! Dictionaries: their tables, entry by entry.

use super::layout::{DictTable, Layout};
use super::words::{read_word, word, words};
use crate::addr::RemoteAddr;
use crate::memory::TargetMemory;

/// The largest head of a table, in bytes, which gives the position of its entries.
pub(super) const TABLE_HEAD: u64 = 40;
/// Entries read at once.
const BATCH: u64 = 2048;

/// The position of a table's entries.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) struct Table {
    /// Bytes from the table's start to the first entry.
    pub(super) entries: u64,
    /// Bytes of an entry.
    pub(super) size: u64,
    /// The offset of the key in an entry; its value follows.
    pub(super) key: u64,
    /// How many entries.
    pub(super) count: u64,
}

impl Table {
    /// The open table of 2.7 with this mask.
    pub(super) fn open(mask: u64) -> Option<Self> {
        let count = mask
            .checked_add(1)
            .filter(|count| count.is_power_of_two())?;
        Some(Self {
            entries: 0,
            size: 24,
            key: 8,
            count,
        })
    }

    /// The table of a `PyDictKeysObject` that begins with these bytes.
    pub(super) fn of_keys(layout: &Layout, head: &[u8]) -> Option<Self> {
        match layout.dict {
            DictTable::Open => None,
            DictTable::Sized => {
                let size = word(head, 8)?;
                let count = word(head, 32)?;
                let width = match size {
                    0..=0xff => 1,
                    0x100..=0xffff => 2,
                    0x1_0000..=0xffff_ffff => 4,
                    _ => 8,
                };
                (size.is_power_of_two() && count <= size && size < 1 << 40).then(|| Self {
                    entries: 40 + size * width,
                    size: 24,
                    key: 8,
                    count,
                })
            }
            DictTable::Logarithmic => {
                let &[size, indices, kind, ..] = head.get(8..16)? else {
                    return None;
                };
                let count = word(head, 24)?;
                let sound = size < 40 && indices < 44 && kind <= 2 && count <= 1 << size;
                let (size, key) = if kind == 0 { (24, 8) } else { (16, 0) };
                sound.then(|| Self {
                    entries: 32 + (1 << indices),
                    size,
                    key,
                    count,
                })
            }
        }
    }

    /// Bytes from the table's start to its end.
    pub(super) fn bytes(&self) -> Option<u64> {
        self.count.checked_mul(self.size)?.checked_add(self.entries)
    }
}

/// What a dictionary object points to.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) struct DictParts {
    /// Its table, in the dictionary itself or elsewhere.
    pub(super) table: u64,
    /// 2.7: the mask of the table.
    pub(super) mask: u64,
    /// The array of values, if it shares its keys; otherwise 0.
    pub(super) values: u64,
}

impl DictParts {
    /// The parts of the dictionary object with these bytes.
    pub(super) fn of(layout: &Layout, object: &[u8]) -> Option<Self> {
        Some(match layout.dict {
            DictTable::Open => Self {
                table: word(object, 40)?,
                mask: word(object, 32)?,
                values: 0,
            },
            _ => Self {
                table: word(object, 32)?,
                mask: 0,
                values: word(object, 40)?,
            },
        })
    }
}

/// The entries of the dictionary at `dict`, key and value, at most `limit` of them.
pub(super) fn entries<M: TargetMemory>(
    memory: &M,
    layout: &Layout,
    dict: u64,
    limit: u64,
) -> Option<Vec<(u64, u64)>> {
    let mut object = [0; 56];
    memory.read(RemoteAddr::new(dict), &mut object).ok()?;
    let parts = DictParts::of(layout, &object)?;
    let table = match layout.dict {
        DictTable::Open => Table::open(parts.mask)?,
        _ => {
            let mut head = [0; TABLE_HEAD as usize];
            memory.read(RemoteAddr::new(parts.table), &mut head).ok()?;
            Table::of_keys(layout, &head)?
        }
    };
    let count = table.count.min(limit);
    let mut found = Vec::new();
    let mut buffer = Vec::new();
    for from in (0..count).step_by(BATCH as usize) {
        let batch = BATCH.min(count - from);
        buffer.resize((batch * table.size) as usize, 0);
        let at = parts.table.checked_add(table.entries + from * table.size)?;
        memory.read(RemoteAddr::new(at), &mut buffer).ok()?;
        for (entry, number) in buffer.chunks_exact(table.size as usize).zip(from..) {
            let key = word(entry, table.key)?;
            let value = match parts.values {
                0 => word(entry, table.key + 8)?,
                values => read_word(memory, values_at(layout, values, number)?)?,
            };
            if key != 0 && value != 0 {
                found.push((key, value));
            }
        }
    }
    Some(found)
}

/// The address of value number `number` in an array of values (`PyDictValues`; from 3.13 on it
/// begins with a head of four bytes, before that `ma_values` points directly to the values).
pub(super) fn values_at(layout: &Layout, values: u64, number: u64) -> Option<u64> {
    let head = if layout.version >= (3, 13) { 8 } else { 0 };
    values.checked_add(head + number * 8)
}

/// The references of whole entries, without hashes: keys and values, or keys alone.
pub(super) fn references(
    table: &Table,
    entries: &[u8],
    keys_alone: bool,
) -> impl Iterator<Item = u64> {
    let key = table.key as usize;
    let end = key + if keys_alone { 8 } else { 16 };
    entries
        .chunks_exact(table.size as usize)
        .flat_map(move |entry| words(&entry[key..end]))
}
