//! Finds `__malloc_context` by its secret, and the meta areas it leads to.

use std::collections::BTreeSet;

use crate::addr::{AddrRange, RemoteAddr};
use crate::memory::TargetMemory;
use crate::residency::{Mapping, MappingKind, ResidencyMap};

use super::layout::{
    AREA, AREA_HEADER, AVAIL_META_COUNT, CONTEXT, FREE_META_HEAD, INIT_DONE, META_AREA_HEAD,
    META_AREA_TAIL, METAS_PER_AREA, SIZE_CLASSES, USAGE_BY_CLASS,
};

/// Bytes of one file's data that are searched at most.
const MAX_DATA: u64 = 64 << 20;
/// Bytes read at once; a multiple of the page.
const WINDOW: u64 = 1 << 20;

/// `struct malloc_context`, as far as a walk needs it.
pub(super) struct MallocContext {
    pub(super) addr: RemoteAddr,
    pub(super) secret: u64,
    pub(super) free_meta_head: u64,
    pub(super) avail_metas: u64,
    pub(super) area_head: u64,
    pub(super) area_tail: u64,
    pub(super) usage_by_class: [u64; SIZE_CLASSES.len()],
}

impl MallocContext {
    /// The context at `addr`, if it is one with this secret.
    pub(super) fn parse<M: TargetMemory>(
        memory: &M,
        addr: RemoteAddr,
        secret: u64,
    ) -> Option<Self> {
        let bytes: [u8; CONTEXT] = memory.read_value(addr).ok()?;
        let word = |at: usize| {
            let word = bytes.get(at..at + 8).and_then(|word| word.try_into().ok());
            word.map_or(0, u64::from_le_bytes)
        };
        let found = Self {
            addr,
            secret,
            free_meta_head: word(FREE_META_HEAD),
            avail_metas: word(AVAIL_META_COUNT),
            area_head: word(META_AREA_HEAD),
            area_tail: word(META_AREA_TAIL),
            usage_by_class: std::array::from_fn(|class| word(USAGE_BY_CLASS + 8 * class)),
        };
        let init_done = word(INIT_DONE) as u32 == 1;
        let is_area = |addr: u64| addr != 0 && addr.is_multiple_of(AREA);
        let sound = init_done
            && word(0) == secret
            && found.avail_metas <= METAS_PER_AREA
            && is_area(found.area_head)
            && is_area(found.area_tail);
        sound.then_some(found)
    }
}

/// The context in the writable data of musl, or of a program that musl is linked into.
pub(super) fn find<M: TargetMemory>(
    memory: &M,
    residency: &ResidencyMap,
    secret: u64,
) -> Option<MallocContext> {
    let mut bytes = Vec::new();
    for range in data_ranges(residency) {
        for run in residency.runs_in(range).filter(|r| r.state.is_resident()) {
            let mut start = run.range.start();
            while start < run.range.end() {
                let len = WINDOW.min(run.range.end().get() - start.get());
                bytes.resize(len as usize, 0);
                if memory.read(start, &mut bytes).is_ok() {
                    let (words, _) = bytes.as_chunks::<8>();
                    let hits = (0u64..)
                        .zip(words)
                        .filter(|(_, word)| u64::from_le_bytes(**word) == secret);
                    for (i, _) in hits {
                        let at = start.checked_add(8 * i)?;
                        if let Some(found) = MallocContext::parse(memory, at, secret) {
                            return Some(found);
                        }
                    }
                }
                start = start.checked_add(len)?;
            }
        }
    }
    None
}

/// Writable private data of files, including the zero-initialised part after it.
fn data_ranges(residency: &ResidencyMap) -> Vec<AddrRange> {
    let mut ranges = Vec::new();
    let mut end_of_data = None;
    for mapping in residency.mappings() {
        let follows = end_of_data == Some(mapping.range.start());
        let is_file = matches!(mapping.kind, MappingKind::File(_));
        let is_bss = follows && matches!(mapping.kind, MappingKind::Anonymous | MappingKind::Brk);
        if mapping.write && !mapping.shared && (is_file || is_bss) {
            let len = mapping.range.len().min(MAX_DATA);
            ranges.extend(AddrRange::with_len(mapping.range.start(), len));
        }
        end_of_data = is_file.then_some(mapping.range.end());
    }
    ranges
}

/// The meta areas, ascending, and whether the list of them was complete. If it is broken (an area
/// is swapped out), the others are found by their check word in anonymous memory.
pub(super) fn areas<M: TargetMemory>(
    memory: &M,
    residency: &ResidencyMap,
    context: &MallocContext,
) -> (BTreeSet<u64>, bool) {
    let mut areas = BTreeSet::new();
    let mut at = context.area_head;
    while at.is_multiple_of(AREA)
        && let Ok([check, next]) = memory.read_value::<[u64; 2]>(RemoteAddr::new(at))
        && check == context.secret
        && areas.insert(at)
    {
        if at == context.area_tail && next == 0 {
            return (areas, true);
        }
        at = next;
    }
    let mut pages = Vec::new();
    for mapping in residency.mappings().iter().filter(|m| may_hold_areas(m)) {
        let resident = residency.runs_in(mapping.range);
        for run in resident.filter(|run| run.state.is_resident()) {
            let numbers = run.range.start().page()..run.range.end().page();
            pages.extend(numbers.map(|page| RemoteAddr::new(page * AREA)));
        }
    }
    let mut headers = Vec::new();
    for batch in pages.chunks(4096) {
        memory.read_scattered::<AREA_HEADER>(batch, &mut headers);
        for (page, header) in batch.iter().zip(&headers) {
            let check = header.as_ref().and_then(|h| h.first_chunk::<8>());
            if check.is_some_and(|check| u64::from_le_bytes(*check) == context.secret) {
                areas.insert(page.get());
            }
        }
    }
    (areas, false)
}

fn may_hold_areas(mapping: &Mapping) -> bool {
    let anonymous = matches!(
        mapping.kind,
        MappingKind::Brk | MappingKind::Anonymous | MappingKind::NamedAnonymous(_)
    );
    anonymous && mapping.write && !mapping.shared
}
