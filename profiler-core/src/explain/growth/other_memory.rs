//! Which memory grows outside live blocks.

use super::growing::Growing;
use super::words::rate;
use crate::memory_growth::MemoryGrowth;
use crate::objects::{Census, Growth};
use crate::tables::LedgerClass;
use crate::worth::{MOST, is_named_for_gaining};

/// Memory outside the walked heaps, if only its total is known.
const OUTSIDE: &str = "memory outside of the walked heaps";
/// Blocks that did not become more.
const LARGER: &str = "memory in single blocks that become larger";

/// Blocks that may be gone when a function returns.
const IN_HAND: &str = "what running functions have in hand";

/// Whether a part is in blocks whose number did not grow, most of which may belong to one name.
pub(super) fn is_in_single_blocks(words: &str) -> bool {
    words.starts_with(LARGER) || words.starts_with(IN_HAND)
}

/// Which name has the blocks that become larger, by at least half of what memory gains a second.
pub(super) fn larger(census: &Census, growth: &Growth, rest: f64) -> String {
    let grown = growth.holders.iter();
    let grown = grown.filter_map(|of| Some((of, census.holders.get(of.holder)?)));
    let mut names = grown.filter(|(_, holder)| holder.is_name);
    let most = names.find(|(of, _)| of.bytes >= rest * MOST);
    most.map_or_else(String::new, |(_, holder)| {
        format!(": {} becomes larger", holder.titled())
    })
}

/// The name whose `mmap` objects map at least half of what other memory gains per second.
pub(super) fn mapper(census: &Census, growth: &Growth, rest: f64) -> String {
    let grown = growth.holders.iter();
    let mapped = grown.filter_map(|of| Some((of.mapped_bytes?, census.holders.get(of.holder)?)));
    let most = mapped.max_by(|a, b| a.0.total_cmp(&b.0));
    let most = most.filter(|(mapped, _)| *mapped > 0.0 && *mapped >= rest * MOST);
    most.map_or_else(String::new, |(mapped, holder)| {
        format!(
            ", of which mmap objects that {} holds map {}/s",
            holder.titled(),
            rate(mapped)
        )
    })
}

/// What memory gained between two looks.
pub(super) fn twice(growth: &Growth, growing: &Growing, memory: &MemoryGrowth) -> String {
    let seconds = memory.seconds();
    let parts = rest(growth, growing, memory);
    let parts = parts
        .iter()
        .map(|(words, gained)| format!("{words} took {} of it", rate(*gained)));
    let parts: Vec<String> = parts.collect();
    let named = match parts.is_empty() {
        true => String::new(),
        false => format!(": {}", parts.join(", ")),
    };
    let beside = match growing.live > 0.0 {
        true => "Memory outside of live blocks",
        false => "Memory",
    };
    let why = match memory.fell_bytes >= growing.unclear * MOST {
        true => format!(
            "Meanwhile it fell by {} as well, as work comes and goes; `fragscope explain` over a longer time shows whether it \
             grows.",
            rate(memory.fell_bytes)
        ),
        false => "Two looks cannot show whether that goes on: `fragscope explain` over a longer time can.".to_owned(),
    };
    format!(
        "{beside} grew by {} in {seconds:.1} s ({}/s){named}. {why}",
        rate(growing.unclear),
        rate(growing.unclear / seconds)
    )
}

/// Kinds of memory outside live blocks that gained a share of the total, the largest first.
pub(super) fn rest(
    growth: &Growth,
    growing: &Growing,
    memory: &MemoryGrowth,
) -> Vec<(&'static str, f64)> {
    let seconds = memory.seconds();
    let all = growing.rest * seconds + growing.unclear;
    // Memory that was swapped in was in its class before, but its blocks could not be read.
    let live = (growth.live.bytes * seconds - memory.swapped_in_bytes).max(growing.live * seconds);
    let mut parts: Vec<(&'static str, f64)> = match memory.classes.is_empty() {
        true => {
            let outside = memory.heap_bytes.map(|heap| memory.bytes - heap);
            outside
                .map(|gained| (OUTSIDE, gained))
                .into_iter()
                .collect()
        }
        false => {
            let classes = memory.classes.iter();
            classes
                .map(|(class, gained)| (class.words(), *gained))
                .collect()
        }
    };
    if let Some(heap) = memory.heap_bytes {
        let becomes_larger = live - (growing.live + growing.unowned) * seconds;
        parts.push((LedgerClass::FreePinned.words(), heap - live));
        let in_hand = match growing.counts_passing {
            true => 0.0,
            false => (growth.passing_bytes * seconds).clamp(0.0, becomes_larger.max(0.0)),
        };
        parts.push((IN_HAND, in_hand));
        parts.push((LARGER, becomes_larger - in_hand));
    }
    parts.retain(|(_, gained)| is_named_for_gaining(*gained, all));
    parts.sort_by(|a, b| b.1.total_cmp(&a.1));
    parts.truncate(2);
    for (_, gained) in &mut parts {
        *gained = gained.min(all);
    }
    parts
}
