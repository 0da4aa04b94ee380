//! Sentences about a process that grows: its live blocks, its other memory, or both.

use super::cause::cause;
use super::growing::Growing;
use super::memory::{beside, gains_threads};
use super::other_memory::{is_in_single_blocks, larger, mapper, rest};
use super::words::{fragmented, rate};
use crate::explain::rules::is_notable;
use crate::memory_growth::MemoryGrowth;
use crate::metrics::MetricId;
use crate::objects::{Census, Growth};
use crate::report::FragReport;
use crate::worth::is_named_for_gaining;

/// A rate that may be off by more than this share is said as two.
const MOST_OFF: f64 = 0.2;

/// Of one whose live blocks grow.
pub(super) fn live_grows(
    report: &FragReport,
    census: &Census,
    growth: &Growth,
    growing: &Growing,
) -> String {
    if growing.is_untouched {
        return untouched_grows(report, census, growth, growing);
    }
    let cause = cause(census, growth, growing);
    let answer = format!("Growing {}: {cause};", speed(growing));
    let blank = report.amount(MetricId::BlankBytes).unwrap_or(0);
    let reused = match growing.is_reused {
        true => {
            " RSS does not grow with it: free memory is used again, or what is allocated is not written to."
                .to_owned()
        }
        false => about_more(report, growing),
    };
    match fragmented(report) {
        Some(share) => format!(
            "{answer} no allocator helps with that.{reused} Besides, fragmentation holds {share}."
        ),
        None if is_notable(report, blank) => {
            format!("{answer} huge pages make more of it resident than was written.{reused}")
        }
        None => format!("{answer} no allocator helps.{reused}"),
    }
}

/// How fast live blocks grow: between two rates where one would be off by more than a quarter.
fn speed(growing: &Growing) -> String {
    let (live, spread) = (growing.live, growing.spread.min(growing.live));
    match spread > live * MOST_OFF {
        true => format!(
            "between {}/s and {}/s",
            rate(live - spread),
            rate(live + spread)
        ),
        false => format!("{}/s", rate(live)),
    }
}

/// What grows in addition to live blocks: threads, and memory as a whole if its growth is clearly
/// larger.
fn about_more(report: &FragReport, growing: &Growing) -> String {
    let memory = report.memory_growth.as_ref();
    let beside = memory.and_then(|memory| beside(memory, growing.live));
    let beside = beside.filter(|_| growing.rest == 0.0);
    let beside = beside.map_or_else(String::new, |all| {
        format!(
            " With what comes beside live blocks, memory grows by {}/s.",
            rate(all)
        )
    });
    let threads = memory.filter(|memory| gains_threads(memory));
    let threads = threads.and_then(|memory| memory.threads.zip(Some(memory.seconds())));
    let threads = threads.map_or_else(String::new, |((before, now), seconds)| {
        format!(" It had {before} threads, and {now} {seconds:.1} s later.")
    });
    let rough = memory.filter(|_| growing.is_rough);
    let rough = rough.map_or_else(String::new, |memory| {
        format!(
            " Memory fell by up to {} meanwhile, so that another look may find quite another rate.",
            rate(memory.fell_bytes)
        )
    });
    threads + &beside + &rough
}

/// For a process that requests more and more memory and writes to hardly any of it.
fn untouched_grows(
    report: &FragReport,
    census: &Census,
    growth: &Growth,
    growing: &Growing,
) -> String {
    let besides = fragmented(report).map_or_else(String::new, |share| {
        format!(" Fragmentation holds {share}.")
    });
    format!(
        "Not growing: {}/s are asked for and hardly written to, so that they take no memory yet. \
         Who asks: {}.{besides}",
        rate(growing.live),
        cause(census, growth, growing)
    )
}

/// For a process whose other memory grows, whether or not live blocks grow too.
pub(super) fn rest_grows(
    report: &FragReport,
    census: &Census,
    growth: &Growth,
    growing: &Growing,
    memory: &MemoryGrowth,
) -> String {
    let all = growing.live + growing.rest;
    let mut parts: Vec<(f64, String)> = rest(growth, growing, memory)
        .into_iter()
        .map(|(words, gained)| {
            let a_second = gained / memory.seconds();
            (a_second, format!("{words} grows by {}/s", rate(a_second)))
        })
        .collect();
    if is_named_for_gaining(growing.live, all) {
        let cause = cause(census, growth, growing);
        let words = format!("live blocks grow by {}/s: {cause}", rate(growing.live));
        parts.push((growing.live, words));
    }
    parts.sort_by(|a, b| b.0.total_cmp(&a.0));
    let whose = match parts.first() {
        Some((_, words)) if is_in_single_blocks(words) => larger(census, growth, growing.rest),
        _ => String::new(),
    };
    let parts: Vec<String> = parts.into_iter().map(|(_, words)| words).collect();
    let besides = fragmented(report).map_or_else(String::new, |share| {
        format!(" Fragmentation holds {share}.")
    });
    match parts.is_empty() {
        true => format!(
            "Growing {}/s; no single kind of memory accounts for it.{besides}",
            rate(all)
        ),
        false => format!(
            "Growing {}/s: {}{}{whose}.{besides}",
            rate(all),
            parts.join("; "),
            mapper(census, growth, growing.rest)
        ),
    }
}
