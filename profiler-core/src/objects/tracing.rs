//! What `tracemalloc` has for itself while it is on: a trace of each block, and the tracebacks of these.
//!
//! Both are in hash tables that Python's data refers to (`Python/tracemalloc.c`, up to 3.11 `Modules/_tracemalloc.c`;
//! `_Py_hashtable_t` of `Python/hashtable.c`, up to 3.8 of `Modules/hashtable.c`). Their keys are the addresses of the
//! blocks that are traced, which they do not hold.

use std::ops::RangeInclusive;

use hashbrown::HashMap;

use super::blocks::BlockIndex;
use super::graph::Graph;
use super::kinds::PackedKind;
use super::scan::Source;
use super::words::{Window, word, words};
use crate::addr::{AddrRange, RemoteAddr};
use crate::memory::TargetMemory;

/// Bytes that `_Py_hashtable_t` takes.
const TABLE_BYTES: RangeInclusive<u64> = 64..=160;
/// Buckets of a table: it begins with 16.
const BUCKETS: RangeInclusive<u64> = 16..=1 << 32;
/// Bytes of an entry's block.
const ENTRY_BYTES: RangeInclusive<u64> = 24..=64;
/// Bytes of buckets that are read at once.
const PIECE: usize = 64 << 10;
/// `trace_t`: how many bytes are traced, and their traceback.
const TRACE_BYTES: u64 = 16;
/// Entries that are looked at to see what a table has.
const LOOKED_AT: usize = 256;

/// Where a version has what.
struct TableLayout {
    /// The number of buckets in a table.
    buckets: u64,
    /// In an entry: the key, and the `trace_t`, or where that is of its own the address of it.
    key: u64,
    trace: u64,
    is_apart: bool,
}

impl TableLayout {
    fn of(version: (u8, u8)) -> Option<Self> {
        match version {
            version if version >= (3, 9) => Some(Self {
                buckets: 8,
                key: 16,
                trace: 24,
                is_apart: true,
            }),
            version if version >= (3, 7) => Some(Self {
                buckets: 0,
                key: 16,
                trace: 24,
                is_apart: false,
            }),
            _ => None,
        }
    }
}

/// An entry, as far as it leads to native blocks.
#[derive(Copy, Clone)]
struct Entry {
    next: Option<u32>,
    key: Option<u32>,
    trace: Option<u32>,
    /// Of one with its trace in it, the traceback.
    traceback: u64,
}

/// A table that Python's data refers to.
struct Table {
    block: u32,
    buckets: u32,
    /// The entries that buckets refer to.
    heads: Vec<u32>,
}

/// The blocks of `tracemalloc`, ascending; none where it is off. `of_python` are those that Python's data refers to.
pub(super) fn blocks<M: TargetMemory>(
    source: &Source<'_, M>,
    kinds: &[PackedKind],
    of_python: &[u32],
) -> Vec<u32> {
    let Some(layout) = TableLayout::of(source.layout.version) else {
        return Vec::new();
    };
    let finder = Finder {
        source,
        kinds,
        layout,
    };
    let possible = of_python.iter().filter_map(|block| finder.table(*block));
    let tables: Vec<Table> = possible.collect();
    let heads = tables.iter().flat_map(|table| &table.heads);
    let mut sizes: Vec<u64> = heads.map(|head| source.index.bytes(*head)).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let entries = finder.entries(&sizes);
    let mut all = Vec::new();
    let mut is_on = false;
    for table in &tables {
        let own = chained(table, &entries);
        let has_traces = finder.has_traces(&own, &entries);
        is_on |= has_traces;
        // The table of tracebacks has them as keys, and nothing else.
        let keys = own.iter().filter(|entry| entries[*entry].key.is_some());
        if !has_traces && keys.count() < own.len() {
            continue;
        }
        all.extend([table.block, table.buckets]);
        for entry in own {
            let of = &entries[&entry];
            all.push(entry);
            // Keys of traces are addresses of what is traced.
            all.extend(if has_traces { of.trace } else { of.key });
        }
    }
    if !is_on {
        return Vec::new();
    }
    all.sort_unstable();
    all.dedup();
    all
}

/// Leaves the blocks to the root alone that has them, and what they trace to others.
pub(super) fn cut(graph: &mut Graph, blocks: &[u32], root: Option<u32>) {
    if blocks.is_empty() {
        return;
    }
    let is_own = |node: u32| blocks.binary_search(&node).is_ok();
    graph.retain(|from, to| !is_own(from) && (!is_own(to) || Some(from) == root));
}

/// The entries of a table, each once.
fn chained(table: &Table, entries: &HashMap<u32, Entry>) -> Vec<u32> {
    let mut found = Vec::new();
    let mut seen = hashbrown::HashSet::new();
    for &head in &table.heads {
        let mut at = Some(head);
        while let Some(entry) = at.filter(|at| entries.contains_key(at) && seen.insert(*at)) {
            found.push(entry);
            at = entries[&entry].next;
        }
    }
    found
}

struct Finder<'a, M> {
    source: &'a Source<'a, M>,
    kinds: &'a [PackedKind],
    layout: TableLayout,
}

impl<M: TargetMemory> Finder<'_, M> {
    fn index(&self) -> &BlockIndex {
        self.source.index
    }

    /// The native block that begins at an address.
    fn native(&self, addr: u64) -> Option<u32> {
        let (block, into) = self.index().at(addr)?;
        (into == 0 && self.kinds[block as usize].is_native()).then_some(block)
    }

    /// The hash table in a block; `None` where none is.
    fn table(&self, block: u32) -> Option<Table> {
        let range = self.index().range(block);
        if !self.kinds[block as usize].is_native() || !TABLE_BYTES.contains(&range.len()) {
            return None;
        }
        let mut head = [0; 24];
        self.source.memory.read(range.start(), &mut head).ok()?;
        let count = word(&head, self.layout.buckets)?;
        if !count.is_power_of_two() || !BUCKETS.contains(&count) {
            return None;
        }
        let buckets = self.native(word(&head, 16)?)?;
        let place = self.index().range(buckets);
        if place.len() / 8 < count {
            return None;
        }
        let mut heads = Vec::new();
        let mut piece = vec![0; PIECE];
        let mut at = place.start();
        let mut rest = count * 8;
        while rest > 0 {
            let piece = &mut piece[..rest.min(PIECE as u64) as usize];
            self.source.memory.read(at, piece).ok()?;
            for entry in words(piece).filter(|entry| *entry != 0) {
                let entry = self.native(entry)?;
                if !ENTRY_BYTES.contains(&self.index().bytes(entry)) {
                    return None;
                }
                heads.push(entry);
            }
            at = at.checked_add(piece.len() as u64)?;
            rest -= piece.len() as u64;
        }
        (!heads.is_empty()).then_some(Table {
            block,
            buckets,
            heads,
        })
    }

    /// All native blocks of these sizes, read as entries.
    fn entries(&self, sizes: &[u64]) -> HashMap<u32, Entry> {
        let mut found = HashMap::new();
        if sizes.is_empty() {
            return found;
        }
        let index = self.index();
        let blocks = (0..index.len() as u32).filter(|block| {
            self.kinds[*block as usize].is_native() && sizes.contains(&index.bytes(*block))
        });
        let end = (index.len() as u32).checked_sub(1);
        let end = end.map_or(RemoteAddr::default(), |last| index.range(last).end());
        let mut window = Window::new(self.source.memory);
        for block in blocks {
            let range = AddrRange::with_len(index.range(block).start(), 40);
            let Some(bytes) = range.and_then(|range| {
                let len = range.len().min(index.bytes(block));
                let range = AddrRange::with_len(range.start(), len)?;
                window.bytes(range, end).ok()
            }) else {
                continue;
            };
            let at = |offset| word(bytes, offset).unwrap_or(0);
            let trace = at(self.layout.trace);
            found.insert(
                block,
                Entry {
                    next: self.native(at(0)),
                    key: self.native(at(self.layout.key)),
                    trace: match self.layout.is_apart {
                        true => self.native(trace),
                        false => None,
                    },
                    traceback: at(self.layout.trace + 8),
                },
            );
        }
        found
    }

    /// Whether the first of a table's entries have traces: each of as many bytes as that takes, with a traceback.
    fn has_traces(&self, own: &[u32], entries: &HashMap<u32, Entry>) -> bool {
        let looked_at = own.iter().take(LOOKED_AT);
        let having = looked_at.clone().filter(|entry| {
            let of = &entries[*entry];
            let traceback = match of.trace {
                Some(trace) => {
                    let range = self.index().range(trace);
                    let mut bytes = [0; TRACE_BYTES as usize];
                    let is_one = range.len() < 2 * TRACE_BYTES
                        && self.source.memory.read(range.start(), &mut bytes).is_ok();
                    word(&bytes, 8).filter(|_| is_one)
                }
                None => (!self.layout.is_apart).then_some(of.traceback),
            };
            traceback.is_some_and(|addr| self.native(addr).is_some())
        });
        having.count() * 2 > looked_at.len()
    }
}
