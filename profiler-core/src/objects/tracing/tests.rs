use std::cell::Cell;

use super::*;
use crate::allocator::Allocator;
use crate::heap::{Extent, ExtentKind, HeapSnapshot};
use crate::memory::{MemoryImage, ReadError};
use crate::objects::kinds::Kind;
use crate::objects::layout::Layout;
use crate::span::SpanState;

const HEAP: u64 = 0x10_0000;
/// An address with nothing that the walk knows.
const NEWER: u64 = 0x7000_0000;
const CODE: u64 = 0x40_0000_0000;

/// Counts the reads.
struct Counting {
    image: MemoryImage,
    bytes: Cell<u64>,
    reads: Cell<u64>,
}

impl TargetMemory for Counting {
    fn read(&self, addr: RemoteAddr, buf: &mut [u8]) -> Result<(), ReadError> {
        self.bytes.set(self.bytes.get() + buf.len() as u64);
        self.reads.set(self.reads.get() + 1);
        self.image.read(addr, buf)
    }
}

/// A heap of native blocks, one behind the other.
struct Heap {
    words: Vec<u64>,
    spans: Vec<(u64, SpanState)>,
    newer: Vec<u64>,
}

impl Heap {
    fn new() -> Self {
        Self {
            words: Vec::new(),
            spans: Vec::new(),
            newer: Vec::new(),
        }
    }

    /// Puts a block of these words, and returns its address.
    fn put(&mut self, words: &[u64]) -> u64 {
        let at = HEAP + self.words.len() as u64 * 8;
        let len = words.len().next_multiple_of(2);
        self.words.extend(words);
        self.words.resize(self.words.len() + len - words.len(), 0);
        self.spans.push((len as u64 * 8, SpanState::Live));
        at
    }

    /// Puts a block that was made after the walk.
    fn put_newer(&mut self, words: &[u64]) -> u64 {
        let at = NEWER + self.newer.len() as u64 * 8;
        self.newer.extend(words);
        at
    }

    /// The words of a trace's entry, with a trace that is a block.
    fn entry(&mut self, next: u64) -> [u64; 4] {
        let traceback = self.put(&[0; 4]);
        let trace = self.put(&[10, traceback]);
        [next, 0, 0x1000, trace]
    }

    /// A table with these buckets.
    fn table(&mut self, count: u64, buckets: u64) -> u64 {
        self.put(&[count, count, buckets, CODE, CODE, CODE, 0, 0, 0, 0])
    }

    /// The blocks that are found from the tables, and the bytes and reads that this took.
    fn found(&self, tables: &[u64]) -> (Option<Vec<u64>>, u64, u64) {
        let mut image = MemoryImage::default();
        for (at, words) in [(HEAP, &self.words), (NEWER, &self.newer)] {
            let bytes = words.iter().flat_map(|word| word.to_le_bytes());
            image.insert(RemoteAddr::new(at), bytes.collect());
        }
        let memory = Counting {
            image,
            bytes: Cell::new(0),
            reads: Cell::new(0),
        };
        let mut heap = HeapSnapshot::new(Allocator::Pymalloc, "");
        let spans = self.spans.iter().copied().collect();
        let extent = Extent::of_spans(ExtentKind::Region, RemoteAddr::new(HEAP), spans);
        heap.extents.push(extent.expect("low"));
        let index = BlockIndex::of(&[heap]);
        let layout = Layout::of((3, 12)).expect("known");
        let source = Source {
            memory: &memory,
            layout: &layout,
            index: &index,
            leads: &[0],
        };
        let kinds = vec![PackedKind::of(Kind::Native); index.len()];
        let tables: Vec<u32> = tables
            .iter()
            .map(|table| index.at(*table).expect("a block").0)
            .collect();
        let found = blocks(&source, &kinds, &tables);
        let found = found.map(|found| {
            let starts = found.iter().map(|block| index.range(*block).start().get());
            starts.collect()
        });
        (found, memory.bytes.get(), memory.reads.get())
    }
}

#[test]
fn entries_behind_those_that_are_newer_than_the_walk_are_found() {
    let mut heap = Heap::new();
    let mut buckets = Vec::new();
    let mut own = Vec::new();
    for at in 0..40 {
        let entry = heap.entry(0);
        own.push(entry[3]);
        let entry = heap.put(&entry);
        own.push(entry);
        if at % 4 == 0 {
            buckets.push(entry);
            continue;
        }
        let mut newer = heap.entry(entry);
        // Of some the trace is newer, too.
        if at % 2 == 0 {
            let traceback = heap.put(&[0; 4]);
            newer[3] = heap.put_newer(&[10, traceback]);
        } else {
            own.push(newer[3]);
        }
        buckets.push(heap.put_newer(&newer));
    }
    buckets.resize(64, 0);
    let buckets = heap.put(&buckets);
    let table = heap.table(64, buckets);
    own.extend([buckets, table]);
    own.sort_unstable();
    assert_eq!(heap.found(&[table]).0, Some(own.clone()));

    // Buckets that have been moved since are not blocks themselves.
    let copied = heap.words[((buckets - HEAP) / 8) as usize..][..64].to_vec();
    let moved = heap.put_newer(&copied);
    let again = heap.table(64, moved);
    own.retain(|block| ![table, buckets].contains(block));
    own.push(again);
    assert_eq!(heap.found(&[again]).0, Some(own));
}

#[test]
fn entries_that_are_no_blocks_of_the_walk_are_not_known() {
    let mut heap = Heap::new();
    let gone = NEWER + (1 << 20);
    let buckets: Vec<u64> = (0..16).map(|at| gone + at * 64).collect();
    let buckets = heap.put(&buckets);
    let table = heap.table(16, buckets);
    assert_eq!(heap.found(&[table]).0, None);
    // Without functions it is no table, and none there is none of.
    let other = heap.put(&[16, 16, buckets, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(heap.found(&[other]).0, Some(Vec::new()));
    assert_eq!(heap.found(&[]).0, Some(Vec::new()));
}

#[test]
fn forged_tables_take_no_more_than_the_blocks_allow() {
    const BUCKETS: u64 = 1 << 15;
    const TABLES: u64 = 100;
    // What each bucket of a table has: an entry, or one that is newer and leads into a circle.
    for (is_newer, is_same) in [(false, true), (false, false), (true, false)] {
        let mut heap = Heap::new();
        for _ in 0..BUCKETS / 8 {
            heap.put(&[0; 2]);
        }
        let entry = heap.entry(0);
        let mut first = heap.put(&entry);
        if is_newer {
            for at in 0..BUCKETS {
                let mut entry = entry;
                entry[0] = NEWER + (at * 7 + 1) % BUCKETS * 32;
                first = heap.put_newer(&entry);
            }
        }
        let buckets = |at: u64| match is_newer {
            true => NEWER + at % BUCKETS * 32,
            false => first,
        };
        let all: Vec<u64> = (0..BUCKETS).map(buckets).collect();
        let one = heap.put(&all);
        let tables: Vec<u64> = (0..TABLES)
            .map(|_| {
                let buckets = if is_same { one } else { heap.put(&all) };
                heap.table(BUCKETS, buckets)
            })
            .collect();
        let blocks = heap.spans.len() as u64;
        let (found, bytes, reads) = heap.found(&tables);
        assert_eq!(found.is_some(), is_same);
        // Buckets of 8 bytes each, and entries of less than 64 and what they have.
        let most = (blocks + 256) * 2 * 16;
        assert!(
            bytes <= most * 8 + TABLES * 64,
            "{bytes} of {blocks} blocks"
        );
        assert!(reads <= most / 4, "{reads} of {blocks} blocks");
        if is_same {
            assert!(bytes < BUCKETS * 8 * 3, "{bytes}");
        }
    }
}

#[test]
fn tables_in_tables_of_tables_end() {
    let mut heap = Heap::new();
    let mut table = 0;
    for _ in 0..20_000 {
        let entry = heap.put(&[0, 0, 7, table]);
        let mut buckets = [0; 16];
        buckets[3] = entry;
        let buckets = heap.put(&buckets);
        table = heap.table(16, buckets);
    }
    assert_eq!(heap.found(&[table]).0, Some(Vec::new()));
}

#[test]
fn traces_of_a_domain_are_found() {
    let mut heap = Heap::new();
    let mut buckets = [0; 16];
    for bucket in &mut buckets {
        let entry = heap.entry(0);
        *bucket = heap.put(&entry);
    }
    let traces = heap.put(&buckets);
    let of_domain = heap.table(16, traces);
    let entry = heap.put(&[0, 0, 7, of_domain]);
    let mut buckets_of_domains = [0; 16];
    buckets_of_domains[3] = entry;
    let of_domains = heap.put(&buckets_of_domains);
    let table = heap.table(16, of_domains);
    let found = heap.found(&[table]).0.expect("known");
    for block in [table, of_domains, entry, of_domain, traces]
        .iter()
        .chain(&buckets)
    {
        assert!(found.contains(block), "{block:x} of {found:x?}");
    }
    // 5, 16 entries, and the trace of each.
    assert_eq!(found.len(), 5 + 2 * 16);
}
