//! The answer to the first question about a process that has become large: does it grow, and who makes it
//! grow.

use super::prose::{UNEXPLAINED_SHARE, fragmentation};
use super::rules::is_notable;
use crate::metrics::MetricId;
use crate::objects::{Census, Growth, Holder, HolderGrowth, Rate};
use crate::report::FragReport;
use crate::units::{bytes, count, percent};

/// Who gains at least this share of all growth is named first.
const NAMED_SHARE: f64 = 0.2;
/// Who holds at least this share of what is live is named where nothing grows.
const HELD_SHARE: f64 = 0.1;

/// The first sentences of the verdict, where two censuses were taken.
pub(crate) fn answer(report: &FragReport) -> Option<String> {
    let (census, growth) = (report.objects.as_deref()?, report.growth.as_ref()?);
    let (free, rss) = (fragmentation(report), report.kernel.rss_bytes);
    let is_fragmented = free as f64 > rss as f64 * UNEXPLAINED_SHARE;
    let share = || {
        let name = report.kernel.name();
        format!("{} ({} of {name})", bytes(free), percent(free, rss))
    };
    if !growth.is_growing {
        return Some(
            match is_fragmented {
                true => format!("Not growing. Fragmentation holds {}.", share()),
                false => format!("Not growing{}.", held(census)),
            } + &step(growth),
        );
    }
    let cause = cause(census, growth);
    let answer = format!("Growing {}/s: {cause};", rate(growth.steady_bytes));
    let blank = report.amount(MetricId::BlankBytes).unwrap_or(0);
    Some(match is_fragmented {
        true => format!(
            "{answer} no allocator helps with that. Besides, fragmentation holds {}.",
            share()
        ),
        false if is_notable(report, blank) => {
            format!("{answer} huge pages make more of it resident than was written.")
        }
        false => format!("{answer} no allocator helps."),
    })
}

/// What became larger once, where that is worth a sentence.
fn step(growth: &Growth) -> String {
    let Some(step) = growth.notable_step() else {
        return String::new();
    };
    let what = match &step.type_name {
        Some(of) => format!("`{of}` took {} more in one step", rate(step.bytes)),
        None => format!("a native block took {} more in one step", rate(step.bytes)),
    };
    format!(" {what}, as a table that is enlarged: a longer time shows whether that repeats.")
}

/// Who holds most of a heap that does not grow.
fn held(census: &Census) -> String {
    let largest = census.holders.iter().find(|holder| holder.is_name);
    let share = census.live.bytes as f64 * HELD_SHARE;
    match largest.filter(|holder| holder.retained_bytes as f64 >= share) {
        Some(holder) => format!(
            ": {} holds most, {}",
            titled(holder),
            bytes(holder.retained_bytes)
        ),
        None => String::new(),
    }
}

/// What makes a process grow: a name that gains, else a type, else native blocks.
fn cause(census: &Census, growth: &Growth) -> String {
    let least = growth.steady_bytes * NAMED_SHARE;
    let native = growth.live.bytes - growth.typed.bytes;
    if native > growth.typed.bytes
        && let Some(of) = growth.native.first()
    {
        return format!(
            "native blocks of up to {} in {} that no Python object owns, {} more a second: what allocates \
             them is in native code (`fragscope attach`, screen Activity, shows whether any is freed)",
            bytes(of.class.upper_bytes()),
            of.allocator.name(),
            count(of.rate.blocks.max(0.0).round() as u64)
        );
    }
    let grown = growth.holders.iter().filter(|of| of.has_more);
    let mut named = grown.filter(|of| of.bytes >= least);
    let named = named.find_map(|of| Some((of, census.holders.get(of.holder)?)));
    if let Some((of, holder)) = named {
        let what = match holder.is_name {
            true => "a leak, or a cache without a bound or not yet full",
            false => "what holds them has no name in the program",
        };
        return format!(
            "{} gains {}: {what}",
            titled(holder),
            gains(of, holder, growth)
        );
    }
    match growth.types.first() {
        Some(of) if of.rate.blocks > 0.0 => format!(
            "{} more `{}` a second, and none of the {} names that hold most alone holds them",
            count(of.rate.blocks.round() as u64),
            of.name,
            census.holders.len()
        ),
        _ => "in no one place".to_owned(),
    }
}

/// A holder's name and what it is.
fn titled(holder: &Holder) -> String {
    match &holder.type_name {
        Some(of) => format!("`{}` ({of})", holder.name),
        None => format!("`{}`", holder.name),
    }
}

/// What a holder gains in a second.
fn gains(of: &HolderGrowth, holder: &Holder, growth: &Growth) -> String {
    let item = holder.item_type.as_deref();
    let objects = of.items.or_else(|| {
        let Rate { blocks, .. } = growth.of_type(item?);
        Some(blocks)
    });
    match (objects.filter(|objects| *objects >= 1.0), item) {
        (Some(objects), Some(item)) => {
            format!("{} `{item}` a second", count(objects.round() as u64))
        }
        _ => format!("{} a second", rate(of.bytes)),
    }
}

fn rate(of: f64) -> String {
    bytes(of.max(0.0).round() as u64)
}
