//! Memory that `tracemalloc` uses itself while it is on: a trace of each block, and the tracebacks.
//!
//! Both are in hash tables that Python's data refers to (`Python/tracemalloc.c`, up to 3.11
//! `Modules/_tracemalloc.c`; `_Py_hashtable_t` of `Python/hashtable.c`, up to 3.8 of
//! `Modules/hashtable.c`). Their keys are the addresses of the traced blocks, and the tables do not
//! hold those blocks. From 3.9 on, traces of domains other than Python's own have tables of their
//! own, which are the values of one more table; before 3.9 the domain can be part of the key.
//!
//! A running target adds entries whose blocks are not in the walk, and puts them before the older
//! ones. Such entries are followed but not counted. Everything that is read is bounded by the
//! number of blocks, whatever the tables claim.

use std::ops::RangeInclusive;

use hashbrown::HashSet;

use super::blocks::BlockIndex;
use super::graph::{Bits, Graph};
use super::kinds::PackedKind;
use super::scan::Source;
use super::words::{Window, word, words};
use crate::addr::{AddrRange, RemoteAddr};
use crate::memory::TargetMemory;

/// Bytes that `_Py_hashtable_t` takes.
const TABLE_BYTES: RangeInclusive<u64> = 64..=160;
/// Bytes of a table that are read: up to its third function.
const TABLE_READ: usize = 64;
/// Buckets that a table begins with.
const FIRST_BUCKETS: u64 = 16;
/// The most buckets per entry: a table with more than ten per entry shrinks (`HASHTABLE_LOW`).
const BUCKETS_AN_ENTRY: u64 = 16;
/// Bytes of an entry's block.
const ENTRY_BYTES: RangeInclusive<u64> = 24..=64;
/// Bytes of buckets that are read at once.
const PIECE: usize = 1 << 20;
/// `trace_t`: how many bytes are traced, and their traceback.
const TRACE_BYTES: u64 = 16;
/// The most bytes that the debug hooks add after a block.
const DEBUG_TAIL: u64 = 16;
/// The most entries examined to determine what a table contains.
const LOOKED_AT: usize = 256;
/// Entries that are at most this far apart are read together.
const NEAR: u64 = 1 << 10;
/// The cost of one entry within the limit; a bucket costs 1.
const ENTRY_COST: u64 = BUCKETS_AN_ENTRY;

/// Offsets by version.
#[derive(Copy, Clone)]
struct TableLayout {
    /// The offsets of a table's number of buckets, and of its number of entries.
    buckets: u64,
    entries: u64,
    /// Whether values are pointers: before 3.9 they are in the entry after a key, and the table
    /// stores the sizes of both.
    is_apart: bool,
}

/// The key in an entry.
const KEY: u64 = 16;

impl TableLayout {
    fn of(version: (u8, u8)) -> Option<Self> {
        match version {
            version if version >= (3, 9) => Some(Self {
                buckets: 8,
                entries: 0,
                is_apart: true,
            }),
            version if version >= (3, 6) => Some(Self {
                buckets: 0,
                entries: 8,
                is_apart: false,
            }),
            _ => None,
        }
    }
}

/// A table.
#[derive(Copy, Clone)]
struct Table {
    /// Its block, and that of its buckets; `None` if they have moved since the walk.
    block: u32,
    buckets: Option<u32>,
    /// The location of the buckets.
    place: AddrRange,
    /// The offset of the value in an entry, and its size in bytes.
    value: u64,
    value_bytes: u64,
}

impl Table {
    /// The bytes of an entry.
    fn entry_bytes(&self) -> u64 {
        self.value + self.value_bytes
    }
}

/// The contents of a table.
enum Content {
    Traces,
    /// The table of tracebacks has them as keys, and nothing else.
    Tracebacks,
    /// The table of domains has tables of traces.
    Tables(Vec<Table>),
    /// Nothing of `tracemalloc`.
    Other,
    /// Most of its entries are not blocks of the walk.
    Unread,
}

/// The blocks of `tracemalloc`, ascending; empty if it is off, and `None` if that is unknown.
/// `of_python` are the blocks that Python's data refers to.
pub(super) fn blocks<M: TargetMemory>(
    source: &Source<'_, M>,
    kinds: &[PackedKind],
    of_python: &[u32],
) -> Option<Vec<u32>> {
    let Some(layout) = TableLayout::of(source.layout.version) else {
        // There is none in Python 2.
        return (source.layout.version < (3, 4)).then(Vec::new);
    };
    let mut finder = Finder {
        source,
        kinds,
        layout,
        buckets: HashSet::new(),
        found: Bits::new(source.index.len()),
        limit: (source.index.len() as u64 + LOOKED_AT as u64) * ENTRY_COST * 2,
    };
    let (mut traces, mut tracebacks, mut is_unread) = (Vec::new(), Vec::new(), false);
    for block in of_python {
        let Some(table) = finder.table(*block) else {
            continue;
        };
        match finder.content(&table, true) {
            Content::Traces => traces.push(table),
            Content::Tracebacks => tracebacks.push(table),
            Content::Tables(of_domains) => {
                traces.extend(of_domains);
                finder.take_all(&table, &Content::Other);
            }
            Content::Unread => is_unread = true,
            Content::Other => {}
        }
    }
    if traces.is_empty() {
        return (!is_unread).then(Vec::new);
    }
    let read = traces
        .iter()
        .all(|table| finder.take_all(table, &Content::Traces))
        && tracebacks
            .iter()
            .all(|table| finder.take_all(table, &Content::Tracebacks));
    let all = 0..source.index.len() as u32;
    read.then(|| all.filter(|block| finder.found.has(*block)).collect())
}

/// Removes references so that only the root refers to these blocks, and the blocks they trace
/// belong to others.
pub(super) fn cut(graph: &mut Graph, blocks: &[u32], root: Option<u32>) {
    if blocks.is_empty() {
        return;
    }
    let is_own = |node: u32| blocks.binary_search(&node).is_ok();
    graph.retain(|from, to| !is_own(from) && (!is_own(to) || Some(from) == root));
}

/// A range without its first bytes.
fn behind(range: AddrRange, bytes: u64) -> AddrRange {
    let start = range.start().checked_add(bytes);
    start
        .and_then(|start| AddrRange::new(start, range.end()))
        .unwrap_or_default()
}

struct Finder<'a, M> {
    source: &'a Source<'a, M>,
    kinds: &'a [PackedKind],
    layout: TableLayout,
    /// Addresses of buckets already seen: no two tables share buckets.
    buckets: HashSet<u64>,
    /// Blocks that were found.
    found: Bits,
    /// The remaining limit for reading.
    limit: u64,
}

impl<M: TargetMemory> Finder<'_, M> {
    fn index(&self) -> &BlockIndex {
        self.source.index
    }

    /// The native block that begins at an address, or the part of it after the debug hooks' header.
    fn native(&self, addr: u64) -> Option<u32> {
        let (block, into) = self.index().at(addr)?;
        let is_start = self.source.leads.contains(&into);
        (is_start && self.kinds[block as usize].is_native()).then_some(block)
    }

    fn read(&self, addr: u64, bytes: &mut [u8]) -> Option<()> {
        self.source.memory.read(RemoteAddr::new(addr), bytes).ok()
    }

    /// Whether `cost` more may be read; takes it off the limit.
    fn may(&mut self, cost: u64) -> bool {
        let left = self.limit.checked_sub(cost);
        self.limit = left.unwrap_or(0);
        left.is_some()
    }

    /// The hash table in a block; `None` if there is none, or an empty one.
    fn table(&mut self, block: u32) -> Option<Table> {
        let range = self.index().range(block);
        if !self.kinds[block as usize].is_native() || !TABLE_BYTES.contains(&range.len()) {
            return None;
        }
        let mut head = [0; TABLE_READ];
        self.read(range.start().get(), &mut head)?;
        let count = word(&head, self.layout.buckets)?;
        let entries = word(&head, self.layout.entries)?;
        let most = (self.index().len() as u64).saturating_mul(BUCKETS_AN_ENTRY);
        if !count.is_power_of_two()
            || !(FIRST_BUCKETS..=most.max(FIRST_BUCKETS)).contains(&count)
            || !(1..=count).contains(&entries)
        {
            return None;
        }
        let (key_bytes, value_bytes) = match self.layout.is_apart {
            true => (8, 8),
            false => (word(&head, 24)?, word(&head, 32)?),
        };
        let functions = if self.layout.is_apart { 24 } else { 40 };
        let is_code = |addr: u64| addr != 0 && self.index().at(addr).is_none();
        let is_one = matches!(
            (key_bytes, value_bytes),
            (8, 0 | 8 | TRACE_BYTES) | (12, TRACE_BYTES)
        ) && is_code(word(&head, functions)?)
            && is_code(word(&head, functions + 8)?);
        let at = word(&head, 16)?;
        let place = AddrRange::with_len(RemoteAddr::new(at), count * 8)?;
        let buckets = self.native(at);
        let fits = match buckets {
            Some(buckets) => self.index().range(buckets).encloses(&place),
            None => at != 0 && at.is_multiple_of(8) && self.index().at(at).is_none(),
        };
        (is_one && fits && self.buckets.insert(at)).then_some(Table {
            block,
            buckets,
            place,
            value: KEY + key_bytes,
            value_bytes,
        })
    }

    /// The first entries of a table; fewer if not all are readable.
    fn first_entries(&mut self, table: &Table) -> Vec<u64> {
        let mut heads = Vec::new();
        let mut piece = vec![0; PIECE >> 4];
        let mut rest = table.place;
        while heads.len() < LOOKED_AT && !rest.is_empty() {
            let len = rest.len().min(piece.len() as u64);
            let bytes = &mut piece[..len as usize];
            if !self.may(len / 8) || self.read(rest.start().get(), bytes).is_none() {
                break;
            }
            heads.extend(words(bytes).filter(|entry| *entry != 0));
            rest = behind(rest, len);
        }
        heads.truncate(LOOKED_AT);
        heads
    }

    /// What a table contains, by what most of its first entries are. Tables inside a table contain
    /// no tables themselves.
    fn content(&mut self, table: &Table, may_have_tables: bool) -> Content {
        let heads = self.first_entries(table);
        let (mut traces, mut tracebacks, mut unread) = (0, 0, 0);
        let mut tables = Vec::new();
        for head in &heads {
            let mut bytes = [0; 48];
            let bytes = &mut bytes[..table.entry_bytes() as usize];
            if !self.may(ENTRY_COST) || self.read(*head, bytes).is_none() {
                unread += 1;
                continue;
            }
            let at = |offset| word(bytes, offset).unwrap_or(0);
            let value = at(table.value);
            if self.is_trace(table, bytes) {
                traces += 1;
            } else if value == 0 && self.native(at(KEY)).is_some() {
                tracebacks += 1;
            } else if may_have_tables
                && self.layout.is_apart
                && u32::try_from(at(KEY)).is_ok()
                && let Some(of_domain) = self.native(value).and_then(|block| self.table(block))
            {
                tables.push(of_domain);
            } else if self.native(*head).is_none() {
                unread += 1;
            }
        }
        let is_most = |count: usize| count * 2 > heads.len();
        if is_most(traces) {
            Content::Traces
        } else if is_most(tracebacks) {
            Content::Tracebacks
        } else if is_most(tables.len()) {
            self.of_domains(tables)
        } else if heads.is_empty() || is_most(unread) {
            Content::Unread
        } else {
            Content::Other
        }
    }

    /// What the tables in a table contain.
    fn of_domains(&mut self, mut tables: Vec<Table>) -> Content {
        let mut is_unread = false;
        tables.retain(|table| {
            let content = self.content(table, false);
            is_unread |= matches!(content, Content::Unread);
            matches!(content, Content::Traces)
        });
        match (tables.is_empty(), is_unread) {
            (false, _) => Content::Tables(tables),
            (true, true) => Content::Unread,
            (true, false) => Content::Other,
        }
    }

    /// Whether an entry contains a trace: a block of the right size, with a traceback.
    fn is_trace(&self, table: &Table, entry: &[u8]) -> bool {
        let traceback = match self.layout.is_apart {
            true => word(entry, table.value).and_then(|trace| {
                let mut bytes = [0; TRACE_BYTES as usize];
                // It may be newer than the walk.
                let may_be = match self.index().at(trace) {
                    Some(_) => self.trace_block(trace).is_some(),
                    None => trace != 0,
                };
                self.read(trace, &mut bytes).filter(|()| may_be)?;
                word(&bytes, 8)
            }),
            false if table.value_bytes == TRACE_BYTES => word(entry, table.value + 8),
            false => None,
        };
        traceback.is_some_and(|addr| self.native(addr).is_some())
    }

    /// The block of a trace.
    fn trace_block(&self, addr: u64) -> Option<u32> {
        let block = self.native(addr)?;
        let (_, lead) = self.index().at(addr)?;
        let tail = if lead > 0 { DEBUG_TAIL } else { 0 };
        (self.index().bytes(block) < 2 * TRACE_BYTES + lead + tail).then_some(block)
    }

    /// Adds a table's blocks and those of its entries to those found; returns whether all could be
    /// read.
    fn take_all(&mut self, table: &Table, content: &Content) -> bool {
        self.found.set(table.block);
        if let Some(buckets) = table.buckets {
            self.found.set(buckets);
        }
        let mut bytes = vec![0; PIECE.min(table.place.len() as usize)];
        let mut rest = table.place;
        while !rest.is_empty() {
            let len = rest.len().min(PIECE as u64);
            let piece = &mut bytes[..len as usize];
            if !self.may(len / 8) || self.read(rest.start().get(), piece).is_none() {
                return false;
            }
            let mut entries: Vec<u64> = words(piece).filter(|entry| *entry != 0).collect();
            while !entries.is_empty() {
                entries.sort_unstable();
                entries.dedup();
                entries.retain(|entry| self.is_next(*entry));
                if !self.may(entries.len() as u64 * ENTRY_COST) {
                    return false;
                }
                entries = self.take(table, content, &entries);
            }
            rest = behind(rest, len);
        }
        true
    }

    /// Whether this may be an entry not yet seen. An address without a block is newer than the
    /// walk.
    fn is_next(&mut self, entry: u64) -> bool {
        match self.native(entry) {
            Some(block) => {
                ENTRY_BYTES.contains(&self.index().bytes(block)) && !self.found.set(block)
            }
            None => entry != 0 && self.index().at(entry).is_none(),
        }
    }

    /// Takes what these entries, which ascend, contain; returns the entries after them.
    fn take(&mut self, table: &Table, content: &Content, entries: &[u64]) -> Vec<u64> {
        let mut next = Vec::new();
        let mut window = Window::new(self.source.memory);
        for near in entries.chunk_by(|a, b| b - a <= NEAR) {
            let ranges = near.iter().filter_map(|entry| {
                AddrRange::with_len(RemoteAddr::new(*entry), table.entry_bytes())
            });
            let end = ranges.clone().next_back().unwrap_or_default().end();
            for range in ranges {
                let Ok(entry) = window.bytes(range, end) else {
                    continue;
                };
                let at = |offset| word(entry, offset).unwrap_or(0);
                next.extend(Some(at(0)).filter(|next| *next != 0));
                // Keys of traces are the addresses of the traced blocks.
                let of_it = match content {
                    Content::Traces if self.layout.is_apart => self.trace_block(at(table.value)),
                    Content::Tracebacks => self.native(at(KEY)),
                    _ => None,
                };
                if let Some(block) = of_it {
                    self.found.set(block);
                }
            }
        }
        next
    }
}

#[cfg(test)]
mod tests;
