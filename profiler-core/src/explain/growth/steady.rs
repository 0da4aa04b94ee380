//! Sentences about a process that does not grow.

use super::gains::unhidden_gain;
use super::growing::Growing;
use super::words::{fragmented, gains, rate};
use crate::memory_growth::MemoryGrowth;
use crate::objects::{Census, Course, Growth, Holder, HolderGrowth};
use crate::report::FragReport;
use crate::units::{bytes, count};
use crate::worth::{MOST, is_named_for_gaining, is_named_for_holding};

/// Objects of at least this many bytes each count as large.
const LARGE: f64 = 64.0 * 1024.0;

/// For a process in which a name gains objects while live blocks as a whole do not grow, because
/// data held by running functions varies by more.
fn gaining(census: &Census, growth: &Growth) -> Option<String> {
    let (of, holder) = unhidden_gain(growth, census)?;
    Some(format!(
        "Whether it grows cannot be told from {:.1} s: {} gains {} ({}/s), but live blocks as a whole may vary by more than \
         that. A longer look shows it.",
        growth.seconds(),
        holder.titled(),
        gains(of, holder, growth, f64::INFINITY),
        rate(of.bytes)
    ))
}

/// For a process in which a name has one or a few more objects that are large, which is not an
/// enlarged table. `once` is the number of bytes that memory gained in one step, if it did.
pub(super) fn added(census: &Census, growth: &Growth, once: f64) -> Option<String> {
    let step = growth.notable_step();
    let gained = step.map_or(once, |step| step.bytes);
    let least = gained * MOST / growth.seconds();
    let grown = growth.holders.iter();
    let grown = grown.filter(|of| gained > 0.0 && of.bytes >= least);
    let mut grown = grown.filter_map(|of| Some((of, census.holders.get(of.holder)?)));
    let more = |of: &HolderGrowth| (of.at_largest.unwrap_or(0.0) * growth.seconds()).round();
    let (of, holder) = grown.find(|(of, holder)| {
        let is_lasting = holder.is_name && (!of.is_passing || of.is_same);
        let is_of_step = step.is_none_or(|step| holder.item_type == step.type_name);
        let is_large = more(of) >= 1.0 && gained >= more(of) * LARGE;
        is_lasting && is_large && is_of_step
    })?;
    Some(format!(
        "Whether it grows cannot be told from {:.1} s: {} has {} more `{}`, of {} in all. A longer look shows whether \
         that repeats.",
        growth.seconds(),
        holder.titled(),
        count(more(of) as u64),
        holder.item_type.as_deref()?,
        rate(gained)
    ))
}

/// For a process read while it ran, in which more blocks than before are reached from no name.
fn unsure(growth: &Growth, growing: &Growing) -> Option<String> {
    (growing.unsure > 0.0).then(|| {
        format!(
            "Whether it grows cannot be told from {:.1} s: {}/s more were reached from no name, which may be work on its way \
             from one place to the next, or something that is never freed. A longer look, or one at objects while the \
             target stands still, shows it.",
            growth.seconds(),
            rate(growing.unsure)
        )
    })
}

/// Of a process whose memory goes up and down, and the lowest counts of which rose.
fn rising_floor(report: &FragReport, growth: &Growth) -> Option<String> {
    let memory = report.memory_growth.as_ref()?;
    let rose = memory.rising_floor()?;
    Some(format!(
        "Whether it grows cannot be told from {:.1} s: its memory goes up and down, by {} at once, and its lowest counts \
         rose by {}. A longer look shows it.",
        growth.seconds(),
        rate(memory.fell_bytes),
        rate(rose)
    ))
}

/// Of a process whose memory began to grow while it was looked at, and still did at the end.
fn begun(report: &FragReport, growth: &Growth, growing: &Growing) -> Option<String> {
    let memory = report.memory_growth.as_ref()?;
    let goes_on = growing.once > 0.0 && memory.is_flat_since(growing.once) == Some(false);
    let comes_and_goes = memory.fell_bytes >= growing.once * MOST;
    (goes_on && !comes_and_goes).then(|| {
        format!(
            "Whether it grows cannot be told from {:.1} s: its memory grew by {}, most of it not long before the second look. \
             A longer look shows whether that goes on.",
            growth.seconds(),
            rate(growing.once)
        )
    })
}

/// The name that becomes longer and shorter in turn in this way, by as much as would be growth.
fn swinging_name<'a>(
    census: &'a Census,
    growth: &'a Growth,
    course: Course,
) -> Option<(&'a HolderGrowth, &'a Holder)> {
    let swings = growth.holders.iter();
    let mut swings = swings.filter(|of| of.course == Some(course));
    swings.find_map(|of| {
        let holder = census.holders.get(of.holder).filter(|of| of.is_name)?;
        let swing = growth.swing_of(of, holder).unwrap_or(0.0);
        let most = swing.max(of.bytes.abs() * growth.seconds());
        (most > growth.noise_bytes).then_some((of, holder))
    })
}

/// Which name becomes longer and shorter in turn, without growth.
fn swinging(census: &Census, growth: &Growth) -> Option<String> {
    let (of, holder) = swinging_name(census, growth, Course::UpAndDown)?;
    (of.bytes * growth.seconds() > growth.noise_bytes).then(|| format!(
        "{} becomes longer and shorter in turn: that it had {} more at the second look is no growth.",
        holder.titled(),
        rate(of.bytes * growth.seconds())
    ))
}

/// Which name becomes longer and shorter in turn, too seldom to show whether something stays.
fn unclear_swing(census: &Census, growth: &Growth) -> Option<String> {
    let (of, holder) = swinging_name(census, growth, Course::Swings)?;
    let seconds = growth.seconds();
    let differs = of.bytes.abs() * seconds;
    let by = match differs > growth.noise_bytes {
        true => format!(
            "and had {} {} at the second look",
            rate(differs),
            if of.bytes > 0.0 { "more" } else { "less" }
        ),
        false => format!("by {} at once", rate(growth.swing_of(of, holder)?)),
    };
    Some(format!(
        "Whether it grows cannot be told from {seconds:.1} s: {} becomes longer and shorter in turn, {by}. A longer look \
         shows whether something stays.",
        holder.titled(),
    ))
}

/// Of a process whose live blocks, or memory as a whole, become fewer all the time.
fn shrinking(report: &FragReport, census: &Census, growth: &Growth) -> Option<String> {
    let seconds = growth.seconds();
    let memory = report.memory_growth.as_ref();
    let freed = -growth.live.bytes.min(0.0);
    let emptied = growth.holders.iter().rev();
    let mut emptied = emptied.filter(|of| of.course == Some(Course::Falls));
    let emptied = emptied.find(|of| {
        -of.bytes * seconds > growth.noise_bytes && is_named_for_gaining(-of.bytes, freed)
    });
    let emptied = emptied.and_then(|of| Some((of, census.holders.get(of.holder)?)));
    let fell = memory.and_then(MemoryGrowth::steady_fall);
    let name = match emptied.filter(|(_, holder)| holder.is_name) {
        Some((of, holder)) if freed * seconds > growth.noise_bytes => {
            format!(": {} loses {}", holder.titled(), loses(of, holder))
        }
        _ => String::new(),
    };
    match (name.is_empty(), fell) {
        (true, None) => None,
        (true, Some(fell)) => Some(format!(
            "Shrinking {}/s: memory fell all the time, and live blocks lost {}/s.",
            rate(fell / seconds),
            rate(freed)
        )),
        (false, Some(fell)) => Some(format!(
            "Shrinking {}/s{name}. Memory as a whole fell by {}/s.",
            rate(freed),
            rate(fell / seconds)
        )),
        (false, None) if memory.is_some_and(|memory| memory.bytes < 0.0) => Some(format!(
            "Shrinking {}/s in live blocks{name}. Memory as a whole fell by {} meanwhile.",
            rate(freed),
            rate(memory.map_or(0.0, |memory| -memory.bytes))
        )),
        (false, None) => Some(format!(
            "Shrinking {}/s in live blocks{name}. Memory as a whole has not fallen with it: what is freed stays in the heaps \
             as free memory.",
            rate(freed)
        )),
    }
}

/// What a name loses a second: objects where that is known, else bytes.
fn loses(of: &HolderGrowth, holder: &Holder) -> String {
    match (of.items, holder.item_type.as_deref()) {
        (Some(items), Some(item)) if items <= -1.0 => {
            format!("{} `{item}` a second", count((-items).round() as u64))
        }
        _ => format!("{} a second", rate(-of.bytes)),
    }
}

/// Of a process that does not grow.
pub(super) fn still(
    report: &FragReport,
    census: &Census,
    growth: &Growth,
    growing: &Growing,
) -> String {
    let is_unclear = gaining(census, growth)
        .or_else(|| added(census, growth, growing.once))
        .or_else(|| unsure(growth, growing))
        .or_else(|| unclear_swing(census, growth))
        .or_else(|| begun(report, growth, growing))
        .or_else(|| rising_floor(report, growth));
    if let Some(gaining) = is_unclear {
        let besides = fragmented(report).map_or_else(String::new, |share| {
            format!(" Fragmentation holds {share}.")
        });
        return gaining + &besides;
    }
    if let Some(shrinks) = shrinking(report, census, growth) {
        return shrinks;
    }
    let holds = match fragmented(report) {
        Some(share) => format!("Not growing. Fragmentation holds {share}."),
        None => format!("Not growing{}.", held(census)),
    };
    let holds = match swinging(census, growth) {
        Some(swings) => format!("{holds} {swings}"),
        None => holds,
    };
    if growing.fluctuation > 0.0 {
        let gained = bytes(growing.fluctuation as u64);
        return format!(
            "{holds} (Live blocks gained {gained} in {:.1} s, which a full cache may vary by from one moment to the \
             next; only a longer look shows whether that goes on.)",
            growth.seconds()
        );
    }
    let step = step(census, growth);
    match growing.once > 0.0 && step.is_empty() {
        true => {
            let memory = report.memory_growth.as_ref();
            let fell = memory.map_or(0.0, |memory| memory.fell_bytes);
            let once = rate(growing.once);
            match fell >= growing.once * MOST {
                true => format!(
                    "{holds} Its memory goes up and down: it fell by {} meanwhile.",
                    rate(fell)
                ),
                false => format!("{holds} Its memory grew by {once} once and has not grown since."),
            }
        }
        false => holds + &step,
    }
}

/// What became larger once, if that is worth a sentence.
fn step(census: &Census, growth: &Growth) -> String {
    let Some(step) = growth.notable_step() else {
        return String::new();
    };
    // The holder of it, if one holder gained most of it without gaining items.
    let least = step.bytes * MOST;
    let is_whose = |of: &&HolderGrowth| of.bytes * growth.seconds() >= least && !of.has_more;
    let whose = growth.holders.iter().find(is_whose);
    let whose = whose.and_then(|of| census.holders.get(of.holder));
    let what = match (&step.type_name, whose.filter(|holder| holder.is_name)) {
        (_, Some(holder)) => {
            format!(
                "{} took {} more in one step",
                holder.titled(),
                rate(step.bytes)
            )
        }
        (Some(of), None) => format!("`{of}` took {} more in one step", rate(step.bytes)),
        (None, None) => format!("A native block took {} more in one step", rate(step.bytes)),
    };
    format!(" {what}, as when a table is enlarged; only a longer look shows whether that repeats.")
}

/// The main holder in a heap that does not grow.
pub(super) fn held(census: &Census) -> String {
    // Memory that was never written to takes no space.
    let touched = |holder: &Holder| {
        let untouched = holder.dropped.map_or(0, |dropped| dropped.untouched.bytes);
        holder.retained_bytes.saturating_sub(untouched)
    };
    let names = census.holders.iter().filter(|holder| holder.is_name);
    let largest = names.max_by_key(|holder| touched(holder));
    match largest.filter(|holder| is_named_for_holding(touched(holder), census.live.bytes)) {
        Some(holder) => format!(
            ": {} holds most, {}",
            holder.titled(),
            bytes(touched(holder))
        ),
        None => String::new(),
    }
}
