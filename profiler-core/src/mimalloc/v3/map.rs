//! The page map: the page for each 64 KiB of the address space, in two levels (`src/page-map.c`).

use std::collections::{BTreeMap, BTreeSet};

use crate::addr::RemoteAddr;
use crate::memory::{PageCache, TargetMemory};
use crate::mimalloc::anonymous;
use crate::mimalloc::instance::any_word;
use crate::object::AllocatorObject;
use crate::residency::ResidencyMap;

use super::page::{LAYOUTS, Layout, PAGE, Page, SLICE};

/// Entries of a part of the map (`MI_PAGE_MAP_SUB_COUNT`).
const PART: u64 = 8192;
/// Address space that a part is about.
const SPAN: u64 = PART * SLICE;
/// The most parts examined: 2 TiB of address space with private memory in it.
const MAX_PARTS: usize = 4096;
/// Entries tried, at most, until one is a page's.
const MAX_TRIES: usize = 1024;

/// The indices of the parts that may have pages: those whose address space contains private memory.
fn numbers(residency: &ResidencyMap) -> BTreeSet<u64> {
    let mut numbers = BTreeSet::new();
    for mapping in residency.mappings().iter().filter(|m| anonymous(m)) {
        for run in residency.runs_in(mapping.range) {
            let last = run.range.end().get().saturating_sub(1) / SPAN;
            for number in run.range.start().get() / SPAN..=last {
                if numbers.len() == MAX_PARTS {
                    return numbers;
                }
                numbers.insert(number);
            }
        }
    }
    numbers
}

/// The map of a mimalloc 3.x.
pub(super) struct Map {
    /// Its parts: their indices and addresses.
    parts: Vec<(u64, RemoteAddr)>,
}

impl Map {
    /// The map that a word in the object's data points to.
    pub(super) fn find<M: TargetMemory>(
        memory: &M,
        residency: &ResidencyMap,
        object: &AllocatorObject,
    ) -> Option<Self> {
        let numbers = numbers(residency);
        let cache = PageCache::new(memory);
        let mut tried = BTreeSet::new();
        let mut found = None;
        any_word(memory, residency, &object.data, |_, word| {
            let addr = RemoteAddr::new(word);
            let possible = word.is_multiple_of(8)
                && residency.mapping_at(addr).is_some_and(anonymous)
                && tried.insert(word);
            found = possible
                .then(|| Self::at(&cache, residency, addr, &numbers))
                .flatten();
            found.is_some()
        });
        found
    }

    /// The map at `addr`, if its first page is one.
    fn at<M: TargetMemory>(
        memory: &M,
        residency: &ResidencyMap,
        addr: RemoteAddr,
        numbers: &BTreeSet<u64>,
    ) -> Option<Self> {
        let mut parts = Vec::new();
        for &number in numbers {
            let at = addr.checked_add(8 * number)?;
            let part: u64 = memory.read_value(at).ok()?;
            if part == 0 {
                continue;
            }
            let part = RemoteAddr::new(part);
            let possible = part.is_aligned(8) && residency.mapping_at(part).is_some();
            if !possible {
                return None;
            }
            parts.push((number, part));
        }
        let map = Self { parts };
        // Entries of freed pages may remain, so the first one may be stale.
        let mut entries = map.entries(memory).take(MAX_TRIES);
        let is_page = entries.any(|(slice, page)| {
            let bytes = memory.read_value::<[u8; PAGE]>(RemoteAddr::new(page));
            bytes.is_ok_and(|bytes| {
                let page = |layout| Page::parse(page, &bytes, layout);
                let mut pages = LAYOUTS.iter().filter_map(page);
                pages.any(|page| page.blocks.area.contains(&slice))
            })
        });
        drop(entries);
        is_page.then_some(map)
    }

    /// Addresses of slices and of the pages that have them.
    fn entries<M: TargetMemory>(&self, memory: &M) -> impl Iterator<Item = (u64, u64)> {
        self.parts.iter().flat_map(move |&(number, part)| {
            let pages = (0u64..).zip(read_part(memory, part));
            let slices = pages.map(move |(i, page)| (number * SPAN + i * SLICE, page));
            slices.filter(|(_, page)| *page != 0)
        })
    }

    /// The pages in it that can be recognised, the layout that explains most of them, and the total
    /// number of pages.
    pub(super) fn pages<M: TargetMemory>(
        &self,
        memory: &M,
        residency: &ResidencyMap,
    ) -> (Vec<Page>, &'static Layout, u64) {
        // Each page with its first slice; pages that were freed and unmapped may remain in the map.
        let mut first = BTreeMap::new();
        for (slice, page) in self.entries(memory) {
            if residency.mapping_at(RemoteAddr::new(page)).is_some() {
                first.entry(page).or_insert(slice);
            }
        }
        let addrs: Vec<_> = first.keys().copied().map(RemoteAddr::new).collect();
        let mut bytes = Vec::new();
        memory.read_scattered::<PAGE>(&addrs, &mut bytes);
        let parse = |layout: &Layout| -> Vec<Page> {
            let pages = first.iter().zip(&bytes);
            pages
                .filter_map(|((addr, slice), bytes)| {
                    let page = Page::parse(*addr, bytes.as_ref()?, layout)?;
                    page.blocks.area.contains(slice).then_some(page)
                })
                .collect()
        };
        let fit = |layout: &Layout| {
            let pages = parse(layout);
            pages.iter().filter(|page| page.blocks.lists_fit()).count()
        };
        // Of equals the first.
        let best = LAYOUTS.iter().rev().max_by_key(|layout| fit(layout));
        let layout = best.unwrap_or(&LAYOUTS[0]);
        (parse(layout), layout, addrs.len() as u64)
    }
}

/// The entries of a part; unreadable ones are 0.
fn read_part<M: TargetMemory>(memory: &M, part: RemoteAddr) -> Vec<u64> {
    let mut bytes = vec![0; 8 * PART as usize];
    if memory.read(part, &mut bytes).is_err() {
        for (i, chunk) in (0u64..).zip(bytes.chunks_mut(4096)) {
            let read = part
                .checked_add(4096 * i)
                .map(|at| memory.read(at, chunk).is_ok());
            if read != Some(true) {
                chunk.fill(0);
            }
        }
    }
    let (words, _) = bytes.as_chunks::<8>();
    words.iter().map(|word| u64::from_le_bytes(*word)).collect()
}
