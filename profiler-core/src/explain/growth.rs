//! The answer to the first question about a process that has become large: does it grow, and who makes it
//! grow.

use super::growing::{Growing, NEARLY_ALL, gains_unreached, unhidden_gain};
use super::prose::{UNEXPLAINED_SHARE, fragmentation};
use super::rules::is_notable;
use crate::allocator::Allocator;
use crate::memory_growth::MemoryGrowth;
use crate::metrics::MetricId;
use crate::objects::{Branch, Census, Growth, Holder, HolderGrowth, NativeGrowth, Rate};
use crate::report::{FragReport, ToCome};
use crate::tables::LedgerClass;
use crate::trend::{Grows, Trend};
use crate::units::{bytes, count, percent};

/// Who gains at least this share of all growth is named first.
const NAMED_SHARE: f64 = 0.2;
/// Where at least this share of all growth is held by nobody, that is said.
const UNREACHED_SHARE: f64 = 0.5;
/// Who gains at least this share of the objects of the type that gains most does, too.
const MAX_ITEMS: f64 = 0.5;
/// What lies outside of the walked heaps, where only counts of it are known.
const OUTSIDE: &str = "memory outside of the walked heaps";
/// Blocks that did not become more.
const LARGER: &str = "memory in single blocks that become larger";
/// Who holds at least this share of what is live is named where nothing grows.
const HELD_SHARE: f64 = 0.1;

/// The first sentences of the verdict, where two censuses were taken.
pub(crate) fn answer(report: &FragReport) -> Option<String> {
    let lately = || lately(report, report.trend.as_ref()?);
    let (Some(census), Some(growth)) = (report.objects.as_deref(), &report.growth) else {
        return lately();
    };
    let memory = report.memory_growth.as_ref();
    let growing = Growing::of(growth, memory, census);
    let Some(memory) = memory else {
        return Some(match growing.live > 0.0 {
            true => live_grows(report, census, growth, &growing),
            false => lately().unwrap_or_else(|| still(report, census, growth, &growing)),
        });
    };
    let mut answer = if growing.rest > 0.0 {
        rest_grows(report, census, growth, &growing, memory)
    } else if growing.live > 0.0 {
        live_grows(report, census, growth, &growing)
    } else if growing.unclear > 0.0 {
        String::new()
    } else {
        // What is known of two walks is of the same time as a single look; a session has gone on since then.
        let since = lately().filter(|_| memory.classes.is_empty());
        since.unwrap_or_else(|| still(report, census, growth, &growing))
    };
    if growing.unclear > 0.0 {
        let between = if answer.is_empty() { "" } else { " " };
        answer += between;
        answer += &twice(growth, &growing, memory);
    }
    if memory.swapped_in_bytes >= memory.least_bytes {
        let back = rate(memory.swapped_in_bytes);
        answer += &format!(" {back} came back from swap meanwhile, which is no growth.");
    }
    Some(answer)
}

/// Of a process in which a name gains objects and live blocks as a whole do not grow, as what running functions have in
/// hand varies by more.
fn gaining(census: &Census, growth: &Growth) -> Option<String> {
    let (of, holder) = unhidden_gain(growth, census)?;
    Some(format!(
        "Whether it grows cannot be told from {:.1} s: {} gains {} ({}/s), but live blocks as a whole vary by more than \
         that. A longer look shows it.",
        growth.seconds(),
        holder.titled(),
        gains(of, holder, growth),
        rate(of.bytes)
    ))
}

/// Of a process in which more is reached from no name than before, which was read while it ran on.
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

/// How much of a fragmented process is fragmentation.
fn fragmented(report: &FragReport) -> Option<String> {
    let (free, rss) = (fragmentation(report), report.kernel.rss_bytes);
    (free as f64 > rss as f64 * UNEXPLAINED_SHARE).then(|| {
        let name = report.kernel.name();
        format!("{} ({} of {name})", bytes(free), percent(free, rss))
    })
}

/// Of a process that does not grow.
fn still(report: &FragReport, census: &Census, growth: &Growth, growing: &Growing) -> String {
    if let Some(gaining) = gaining(census, growth).or_else(|| unsure(growth, growing)) {
        let besides = fragmented(report).map_or_else(String::new, |share| {
            format!(" Fragmentation holds {share}.")
        });
        return gaining + &besides;
    }
    let holds = match fragmented(report) {
        Some(share) => format!("Not growing. Fragmentation holds {share}."),
        None => format!("Not growing{}.", held(census)),
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
            let once = rate(growing.once);
            format!("{holds} Its memory grew by {once} once and has not grown since.")
        }
        false => holds + &step,
    }
}

/// Of one whose live blocks grow.
fn live_grows(report: &FragReport, census: &Census, growth: &Growth, growing: &Growing) -> String {
    if growing.is_untouched {
        return untouched_grows(report, census, growth, growing);
    }
    let cause = cause(census, growth, growing);
    let answer = format!("Growing {}/s: {cause};", rate(growing.live));
    let blank = report.amount(MetricId::BlankBytes).unwrap_or(0);
    let reused = match growing.is_reused {
        true => {
            " RSS does not grow with it: free memory is used again, or what is allocated is not written to."
        }
        false => "",
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

/// Of one that asks for more and more and writes to next to nothing of it.
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

/// Of one whose other memory grows, and live blocks beside it or not.
fn rest_grows(
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
    if growing.live >= all * NAMED_SHARE {
        let cause = cause(census, growth, growing);
        let words = format!("live blocks grow by {}/s: {cause}", rate(growing.live));
        parts.push((growing.live, words));
    }
    parts.sort_by(|a, b| b.0.total_cmp(&a.0));
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
            "Growing {}/s: {}{}.{besides}",
            rate(all),
            parts.join("; "),
            mapper(census, growth, growing.rest)
        ),
    }
}

/// Who has the `mmap` objects that map at least half of what other memory gains a second.
fn mapper(census: &Census, growth: &Growth, rest: f64) -> String {
    let grown = growth.holders.iter();
    let mapped = grown.filter_map(|of| Some((of.mapped_bytes?, census.holders.get(of.holder)?)));
    let most = mapped.max_by(|a, b| a.0.total_cmp(&b.0));
    let most = most.filter(|(mapped, _)| *mapped > 0.0 && *mapped >= rest * MAX_ITEMS);
    most.map_or_else(String::new, |(mapped, holder)| {
        format!(
            ", of which mmap objects that {} holds map {}/s",
            holder.titled(),
            rate(mapped)
        )
    })
}

/// What memory gained between two looks.
fn twice(growth: &Growth, growing: &Growing, memory: &MemoryGrowth) -> String {
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
    format!(
        "{beside} grew by {} in {seconds:.1} s ({}/s){named}. Two looks cannot show whether that goes on: \
         `fragscope explain` over a longer time can.",
        rate(growing.unclear),
        rate(growing.unclear / seconds)
    )
}

/// Kinds of memory outside of live blocks that gained a share of what all of that did, the most first.
fn rest(growth: &Growth, growing: &Growing, memory: &MemoryGrowth) -> Vec<(&'static str, f64)> {
    let seconds = memory.seconds();
    let all = growing.rest * seconds + growing.unclear;
    // What came back from swap was in its class before, but blocks could not be read there.
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
        parts.push((LARGER, becomes_larger));
    }
    parts.retain(|(_, gained)| *gained >= all * NAMED_SHARE);
    parts.sort_by(|a, b| b.1.total_cmp(&a.1));
    parts.truncate(2);
    for (_, gained) in &mut parts {
        *gained = gained.min(all);
    }
    parts
}

/// What grows by the kernel's counts and the walks, before anybody knows whose it is; `None` where nothing does.
fn lately(report: &FragReport, trend: &Trend) -> Option<String> {
    let grows = trend.grows?;
    let speed = format!("Growing {}/s", rate(trend.rss.bytes_per_second));
    let whose = match (report.target.is_python(), report.to_come, &report.objects) {
        (false, ..) => "`fragscope attach`, screen Sites, shows who asks for it",
        (true, ToCome::Objects, None) => {
            "what holds it will be known once its objects have been read twice"
        }
        (true, ToCome::Objects, Some(_)) => {
            "what holds it will be known once its objects have been read again"
        }
        (true, _, _) if report.growth.is_some() => "its objects do not show what holds it",
        (true, _, _) => "what holds it is not known, because its objects were not read twice",
    };
    Some(match grows {
        Grows::InUse => format!("{speed}: memory in use grows; {whose}."),
        Grows::Elsewhere => format!(
            "{speed}. Live blocks in the walked heaps account for {}/s of that; the rest is free memory in these \
             heaps, or memory outside of them.",
            rate(trend.live_bytes_per_second.unwrap_or(0.0))
        ),
        Grows::NotKnown if report.to_come == ToCome::Nothing => {
            format!("{speed}. One walk cannot show whether that is memory in use.")
        }
        Grows::NotKnown => {
            format!("{speed}. Whether that is memory in use will be known after the next walk.")
        }
    })
}

/// What became larger once, where that is worth a sentence.
fn step(census: &Census, growth: &Growth) -> String {
    let Some(step) = growth.notable_step() else {
        return String::new();
    };
    // Whose that is, where one holder gained most of it and has no more of anything.
    let least = step.bytes * MAX_ITEMS;
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

/// Who holds most of a heap that does not grow.
fn held(census: &Census) -> String {
    // What was never written to takes no memory.
    let touched = |holder: &Holder| {
        let untouched = holder.dropped.map_or(0, |dropped| dropped.untouched.bytes);
        holder.retained_bytes.saturating_sub(untouched)
    };
    let names = census.holders.iter().filter(|holder| holder.is_name);
    let largest = names.max_by_key(|holder| touched(holder));
    let share = census.live.bytes as f64 * HELD_SHARE;
    match largest.filter(|holder| touched(holder) as f64 >= share) {
        Some(holder) => format!(
            ": {} holds most, {}",
            holder.titled(),
            bytes(touched(holder))
        ),
        None => String::new(),
    }
}

/// What makes live blocks grow: a name that gains, else a type, else native blocks.
fn cause(census: &Census, growth: &Growth, growing: &Growing) -> String {
    let least = growing.live * NAMED_SHARE;
    let native = growth.live.bytes - growth.typed.bytes - growing.unowned;
    let is_native = native > growth.typed.bytes;
    // What does not become more blocks becomes larger.
    let is_more = |of: &&NativeGrowth| {
        let is_freed = growing.unowned > 0.0 && of.allocator == Allocator::Pymalloc;
        // One more is a block that moved to a larger class.
        of.rate.blocks * growth.seconds() >= 2.0 && of.rate.bytes >= least && !is_freed
    };
    if is_native && let Some(of) = growth.native.iter().find(is_more) {
        return format!(
            "native blocks of up to {} in {} that no Python object owns, {}: what allocates \
             them is in native code (`fragscope attach`, screen Activity, shows whether any is freed)",
            bytes(of.class.upper_bytes()),
            of.allocator.name(),
            more_blocks(of.rate.blocks, growth)
        );
    }
    let more = growth.types.iter().find(|of| of.rate.blocks >= 1.0);
    // Of one whose table has moved since its walk bytes are missing, but not that it has more of these.
    let is_of_most = |of: &HolderGrowth, holder: &Holder| {
        more.is_some_and(|more| {
            let place = Place::of(of, holder, growth);
            place.item_type == Some(more.name.as_str())
                && of.items.unwrap_or(0.0) >= more.rate.blocks * MAX_ITEMS
        })
    };
    let counted = |of: &&HolderGrowth| growing.counts_passing || !of.is_passing;
    let grown = growth.holders.iter().filter(counted);
    let grown = grown.filter(|of| of.has_more || growing.in_steps);
    let grown = grown.filter_map(|of| Some((of, census.holders.get(of.holder)?)));
    let mut grown: Vec<_> = grown.collect();
    // What stays comes before what may only be in hand.
    grown.sort_by_key(|(of, _)| of.is_passing);
    let by_bytes = grown.iter().find(|(of, _)| of.bytes >= least);
    let by_items = || grown.iter().find(|(of, holder)| is_of_most(of, holder));
    if let Some((of, holder)) = by_bytes.or_else(by_items) {
        let what = match (holder.is_name, of.is_passing) {
            (true, false) => "a leak, or a cache without a bound or not yet full",
            (true, true) => "a leak, or work that has not ended",
            (false, _) => "what holds them has no name in the program",
        };
        return format!(
            "{} gains {}: {what}",
            holder.titled(),
            gains(of, holder, growth)
        );
    }
    if let Some(text) = of_one_name(&grown, growing.live) {
        return text;
    }
    // Of a table that moved between a walk and its reading items may seem to be of nobody: who gains them comes first.
    if growing.unreached >= growing.live * UNREACHED_SHARE {
        return of_nobody(census, growth);
    }
    // One object that becomes larger is no more objects.
    let becomes_larger = |of: &&HolderGrowth| of.bytes >= growing.live * MAX_ITEMS;
    let larger = growth.holders.iter().filter(counted).find(becomes_larger);
    if let Some(holder) = larger.and_then(|of| census.holders.get(of.holder))
        && let Some(of) = larger
    {
        let a_second = rate(of.bytes);
        return format!("{} becomes larger by {a_second} a second", holder.titled());
    }
    if is_native {
        return "native blocks that no Python object owns: of many sizes, or a few that become larger"
            .to_owned();
    }
    let names = census.holders.len();
    let more = more.filter(|of| of.rate.bytes >= least);
    let larger = growth.types.first().filter(|of| of.rate.bytes >= least);
    match (more, larger) {
        (Some(of), _) => format!(
            "{} more `{}` a second, and none of the {names} names that hold most alone holds them",
            count(of.rate.blocks.round() as u64),
            of.name,
        ),
        (None, Some(of)) => format!(
            "`{}` that become larger, and none of the {names} names that hold most alone holds them",
            of.name,
        ),
        (None, None) => "no single place gains most of it".to_owned(),
    }
}

/// Variables of a function that runs in many threads have one name, and each little: who gains most together.
fn of_one_name(grown: &[(&HolderGrowth, &Holder)], live: f64) -> Option<String> {
    let least = live * NAMED_SHARE;
    let mut sums: Vec<(&Holder, f64, usize)> = Vec::new();
    for (of, holder) in grown.iter().filter(|(_, holder)| holder.is_name) {
        match sums.iter_mut().find(|(one, ..)| one.name == holder.name) {
            Some((_, bytes, many)) => {
                *bytes += of.bytes;
                *many += 1;
            }
            None => sums.push((holder, of.bytes, 1)),
        }
    }
    let most = sums.into_iter().max_by(|a, b| a.1.total_cmp(&b.1));
    let (holder, bytes, many) = most.filter(|(_, bytes, many)| *bytes >= least && *many > 1)?;
    // Those of a function that calls itself may be within one another.
    let gained = rate(bytes.min(live));
    Some(format!(
        "{}, in {} threads or objects, gains {gained} a second: more of these, or more in each",
        holder.titled(),
        count(many as u64)
    ))
}

/// What grows where most of it is of what no root was found for.
fn of_nobody(census: &Census, growth: &Growth) -> String {
    let unreached = growth.unreached;
    if !gains_unreached(growth) && !census.exact {
        return "a few large blocks that are made anew, each time larger; those of the walk were gone when objects \
                were read, so that whose they are is not known"
            .to_owned();
    }
    let what = match &growth.most_unreached {
        Some(of) => format!(", among them `{}`", of.name),
        None => String::new(),
    };
    let made_anew = match census.exact {
        true => "",
        false => ", or an object that was made anew before they were read",
    };
    let most = unreached.bytes * NEARLY_ALL;
    let why = match (growth.cycles.bytes >= most, growth.held_unseen.bytes >= most) {
        (true, _) => {
            "cycles, in which objects refer to one another, that the garbage collector has not freed".to_owned()
        }
        (_, true) => format!(
            "more references to them are counted than were found: native code keeps them, or has forgotten to give them \
             back, or they are in memory that is not read{made_anew}"
        ),
        _ => format!(
            "cycles that the garbage collector has not freed, references that native code keeps or has \
             forgotten{made_anew}"
        ),
    };
    format!(
        "{} a second more are reached from no name{what}: {why}",
        rate(unreached.bytes)
    )
}

/// So many blocks more.
fn more_blocks(a_second: f64, growth: &Growth) -> String {
    match a_second.round() {
        0.0 => format!(
            "{} more in {:.0} s",
            count((a_second * growth.seconds()).round() as u64),
            growth.seconds()
        ),
        more => format!("{} more a second", count(more as u64)),
    }
}

/// Where a holder grows.
struct Place<'a> {
    item_type: Option<&'a str>,
    /// Where that is not what its path leads to.
    branch: Option<&'a Branch>,
}

impl<'a> Place<'a> {
    fn of(of: &HolderGrowth, holder: &'a Holder, growth: &Growth) -> Self {
        let branch = growth.branch_of(of.holder, holder);
        let item_type = branch.map_or(&holder.item_type, |branch| &branch.item_type);
        Self {
            item_type: item_type.as_deref(),
            branch,
        }
    }

    /// The container on a branch.
    fn container(&self) -> String {
        let last = self.branch.and_then(|branch| branch.path.last());
        last.map_or_else(String::new, |last| format!(" in {}", last.text()))
    }
}

/// What a holder gains in a second, and in which container where that is not its largest.
fn gains(of: &HolderGrowth, holder: &Holder, growth: &Growth) -> String {
    let place = Place::of(of, holder, growth);
    let item = place.item_type;
    let objects = of.items.or_else(|| {
        let Rate { blocks, .. } = growth.of_type(item?);
        Some(blocks)
    });
    match (objects.filter(|objects| *objects >= 1.0), item) {
        (Some(objects), Some(item)) => {
            format!(
                "{} `{item}` a second{}",
                count(objects.round() as u64),
                place.container()
            )
        }
        _ => format!("{} a second{}", rate(of.bytes), place.container()),
    }
}

fn rate(of: f64) -> String {
    bytes(of.max(0.0).round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::{Amount, TypeRow};
    use crate::trend::{Point, RssGrowth};

    const MIB: u64 = 1 << 20;

    /// A program whose sessions pile up in a dictionary: so many, their bytes, and those of the table.
    fn census(taken_at_ns: u64, sessions: u64, table: u64, retained_bytes: u64) -> Census {
        let amount = |blocks: u64, bytes: u64| Amount { blocks, bytes };
        let row = |name: &str, objects: Amount, storage: Amount| TypeRow {
            name: name.into(),
            objects,
            storage,
            entries: storage.bytes / 30,
            ..TypeRow::default()
        };
        let objects = amount(sessions, sessions * 64);
        Census {
            taken_at_ns,
            live: amount(sessions + 601, objects.bytes + table),
            types: vec![
                row("dict", amount(600, 38_400), amount(600, table)),
                row("app.Session", objects, Amount::default()),
            ],
            holders: vec![Holder {
                name: "app.SESSIONS".into(),
                is_name: true,
                type_name: Some("dict".into()),
                retained_bytes,
                retained_blocks: sessions,
                item_type: Some("app.Session".into()),
                items: sessions,
                ..Holder::default()
            }],
            ..Census::default()
        }
    }

    #[test]
    fn growth_lately_is_said_before_objects_were_read_twice() {
        let mut report = FragReport::from_sample(&crate::sample::Sample::default());
        assert_eq!(answer(&report), None);
        report.target.python = Some("CPython 3.11".into());
        let mut said = |live: Option<u64>, census: bool| {
            report.objects = census.then(Default::default);
            report.to_come = ToCome::Objects;
            report.trend = Some(Trend {
                rss: RssGrowth {
                    elapsed_ns: 2_000_000_000,
                    bytes_per_second: (20 * MIB) as f64,
                    is_growing: true,
                },
                live_bytes_per_second: live.map(|live| live as f64),
                grows: Some(match live {
                    None => Grows::NotKnown,
                    Some(live) if live > MIB => Grows::InUse,
                    Some(_) => Grows::Elsewhere,
                }),
            });
            answer(&report).expect("it grows")
        };
        let grows = said(Some(19 * MIB), false);
        let in_use = "Growing 20.0 MiB/s: memory in use grows; what holds it will be known once";
        assert!(
            grows.starts_with(in_use) && grows.ends_with("read twice."),
            "{grows}"
        );
        assert!(said(Some(19 * MIB), true).ends_with("read again."));
        assert!(
            said(Some(0), false).contains("account for 0 B/s of that; the rest is free memory")
        );
        assert!(said(None, false).ends_with("after the next walk."));
        report.to_come = ToCome::Nothing;
        assert!(answer(&report).is_some_and(|said| said.contains("One walk cannot show")));
        report.trend.as_mut().expect("it has grown").grows = Some(Grows::InUse);
        let said = answer(&report).expect("it grows");
        assert!(
            said.contains("because its objects were not read twice"),
            "{said}"
        );
        report.to_come = ToCome::Walks;
        assert_eq!(answer(&report), Some(said), "no objects will be read");
    }

    /// Two walks of a process, ten seconds apart, whose live blocks gained so many sessions: RSS, shared memory and
    /// swap of each, in MiB, and RSS between them.
    fn looked_at(
        sessions: u64,
        earlier: [u64; 3],
        middle: Option<u64>,
        later: [u64; 3],
    ) -> FragReport {
        let of = |at: u64, [rss, shared, swap]: [u64; 3]| {
            let mut report = FragReport::from_sample(&crate::sample::Sample::default());
            report.taken_at_ns = at;
            report.kernel.rss_bytes = rss * MIB;
            report.kernel.swap_bytes = swap * MIB;
            report.ledger.iter_mut().for_each(|row| {
                if row.class == LedgerClass::SharedMemory {
                    row.resident_bytes = shared * MIB;
                }
            });
            report.target.python = Some("CPython 3.11".into());
            report
        };
        let end = 10_000_000_000;
        let before = census(0, 1000, MIB, MIB);
        let now = census(end, 1000 + sessions, MIB, MIB + sessions * 64);
        let earlier = of(0, earlier);
        let report = of(end, later).with_objects(now.into(), Some(before.into()));
        let report = report.since(&earlier);
        let middle = middle.map(|rss| Point {
            time_ns: end / 2,
            rss_bytes: rss * MIB,
            ..Point::of(&earlier)
        });
        let points: Vec<Point> = [Point::of(&earlier)]
            .into_iter()
            .chain(middle)
            .chain([Point::of(&report)])
            .collect();
        report.with_history(Trend::of(&points), &points, ToCome::Nothing)
    }

    #[test]
    fn growth_outside_of_live_blocks_is_said_by_its_class() {
        let said = |sessions, earlier, middle, later| {
            answer(&looked_at(sessions, earlier, middle, later)).expect("read twice")
        };
        assert_eq!(
            said(0, [18, 2, 0], Some(37), [57, 40, 0]),
            "Growing 3.9 MiB/s: shared memory grows by 3.8 MiB/s."
        );
        // What holds the objects that have it is not named for their own few bytes.
        assert_eq!(
            said(2000, [18, 2, 0], Some(37), [57, 40, 0]),
            "Growing 3.9 MiB/s: shared memory grows by 3.8 MiB/s."
        );
        assert_eq!(
            said(0, [18, 2, 0], None, [57, 40, 0]),
            "Memory grew by 39.0 MiB in 10.0 s (3.9 MiB/s): shared memory took 38.0 MiB of it. Two looks cannot show whether that goes on: \
             `fragscope explain` over a longer time can."
        );
        let once = said(0, [18, 2, 0], Some(57), [57, 40, 0]);
        assert!(
            once.ends_with(" Its memory grew by 39.0 MiB once and has not grown since."),
            "{once}"
        );
        let still = said(0, [100, 2, 0], Some(100), [100, 2, 0]);
        assert!(
            still.starts_with("Not growing") && !still.contains("has not grown since"),
            "{still}"
        );
    }

    #[test]
    fn live_blocks_and_memory_are_never_said_to_grow_and_not_to_grow() {
        for sessions in [0, 2000, 80_000, 400_000] {
            for middle in [None, Some(100), Some(104), Some(110)] {
                for rss in [80, 100, 107, 110, 140] {
                    let report = looked_at(sessions, [100, 2, 0], middle, [rss, 2, 0]);
                    let said = answer(&report).expect("read twice");
                    let (grows, not) = (said.contains("Growing"), said.contains("Not growing"));
                    let once = said.contains("Memory grew by") || said.contains("memory grew by");
                    assert!(grows != not || (once && !not), "{said}");
                    assert!(!(grows && said.contains("has not grown since")), "{said}");
                }
            }
        }
        let reused = answer(&looked_at(80_000, [100, 2, 0], Some(100), [100, 2, 0]));
        let reused = reused.expect("read twice");
        assert!(
            reused.starts_with(
                "Growing 500.0 KiB/s: `app.SESSIONS` (dict) gains 8000 `app.Session` a second"
            ) && reused.contains("RSS does not grow with it"),
            "{reused}"
        );
    }

    #[test]
    fn what_comes_back_from_swap_is_no_growth() {
        for sessions in [0, 400_000] {
            let said = answer(&looked_at(sessions, [18, 2, 40], Some(37), [57, 2, 1]));
            let said = said.expect("read twice");
            assert!(said.starts_with("Not growing"), "{said}");
            assert!(
                said.ends_with(" 39.0 MiB came back from swap meanwhile, which is no growth."),
                "{said}"
            );
        }
    }

    /// A name whose `mmap` object maps so much.
    fn mapping(mapped_bytes: u64) -> Holder {
        Holder {
            name: "app.SHM".into(),
            is_name: true,
            type_name: Some("mmap.mmap".into()),
            retained_bytes: 104,
            retained_blocks: 1,
            mapped_bytes: Some(mapped_bytes),
            ..Holder::default()
        }
    }

    #[test]
    fn a_new_mapping_is_no_leak_and_the_leak_is_named() {
        let mut earlier = census(0, 100_000, 5 * MIB, 12 * MIB);
        let mut later = census(2_000_000_000, 170_000, 5 * MIB, 12 * MIB + 70_000 * 64);
        for census in [&mut earlier, &mut later] {
            census.holders[0].mapped_bytes = Some(0);
        }
        later.holders.insert(0, mapping(64 * MIB));
        let growth = Growth::between(&earlier, &later).expect("time has passed");
        let cause = cause(&later, &growth, &Growing::of(&growth, None, &later));
        assert!(
            cause.starts_with("`app.SESSIONS` (dict) gains 35.0k `app.Session` a second: a leak"),
            "{cause}"
        );
        let of_mapping = mapper(&later, &growth, 33.0 * MIB as f64);
        assert_eq!(
            of_mapping,
            ", of which mmap objects that `app.SHM` (mmap.mmap) holds map 32.0 MiB/s"
        );
    }

    #[test]
    fn who_holds_most_of_the_heap_is_not_who_maps_most() {
        let mut census = census(0, 100_000, 5 * MIB, 12 * MIB);
        census.holders.insert(0, mapping(30 * MIB));
        assert_eq!(
            held(&census),
            ": `app.SESSIONS` (dict) holds most, 12.0 MiB"
        );
    }

    #[test]
    fn who_gains_the_objects_is_named_though_its_table_moved_between_walk_and_reading() {
        let earlier = census(0, 100_000, 5 * MIB, 12 * MIB);
        // The new table was none of the walk's blocks: its bytes are missing of what the name holds.
        let later = census(2_000_000_000, 170_000, 12 * MIB, 12 * MIB + 1000);
        let growth = Growth::between(&earlier, &later).expect("time has passed");
        assert_eq!(growth.types[0].name, "dict", "the table gained most");
        let cause = cause(&later, &growth, &Growing::of(&growth, None, &later));
        let named = "`app.SESSIONS` (dict) gains 35.0k `app.Session` a second: a leak";
        assert!(cause.starts_with(named), "{cause}");
    }

    /// Two censuses between which 70,000 objects came that no name holds.
    fn grown_without_holders() -> (Census, Census) {
        let mut both = [
            census(0, 100_000, 5 * MIB, 12 * MIB),
            census(2_000_000_000, 170_000, 12 * MIB, 12 * MIB),
        ];
        both.iter_mut().for_each(|census| census.holders.clear());
        both.into()
    }

    #[test]
    fn what_nobody_holds_is_cycles_only_where_it_is_many_blocks() {
        let (earlier, mut later) = grown_without_holders();
        let gained = later.live.bytes - earlier.live.bytes;
        let mut said = |blocks, exact| {
            later.unreached = Amount {
                blocks,
                bytes: gained,
            };
            later.exact = exact;
            let growth = Growth::between(&earlier, &later).expect("time has passed");
            cause(&later, &growth, &Growing::of(&growth, None, &later))
        };
        assert!(said(70_000, false).contains("reached from no name: cycles"));
        assert!(said(1, false).starts_with("a few large blocks that are made anew"));
        assert!(said(1, true).contains("reached from no name"));
    }

    #[test]
    fn reference_counts_decide_whether_nobody_or_something_unseen_holds_it() {
        let (earlier, mut later) = grown_without_holders();
        later.unreached = Amount {
            blocks: 70_000,
            bytes: later.live.bytes - earlier.live.bytes,
        };
        let of = |cycles, held_unseen, exact| {
            let mut later = later.clone();
            let part = |share: u64| Amount {
                blocks: later.unreached.blocks * share / 10,
                bytes: later.unreached.bytes * share / 10,
            };
            (later.cycles, later.held_unseen) = (part(cycles), part(held_unseen));
            later.exact = exact;
            let growth = Growth::between(&earlier, &later).expect("time has passed");
            cause(&later, &growth, &Growing::of(&growth, None, &later))
        };
        let cycles = of(9, 0, false);
        assert!(
            cycles.contains("cycles, in which objects refer to one another"),
            "{cycles}"
        );
        assert!(!cycles.contains("native code"), "{cycles}");
        let held = of(0, 9, true);
        assert!(
            held.contains("native code keeps them, or has forgotten"),
            "{held}"
        );
        assert!(
            !held.contains("cycles") && !held.contains("made anew"),
            "{held}"
        );
        assert!(of(0, 9, false).contains("or an object that was made anew"));
        let either = of(5, 5, false);
        assert!(
            either.contains("cycles") && either.contains("native code"),
            "{either}"
        );
    }

    #[test]
    fn objects_that_no_name_gains_are_named_by_their_type_behind_a_table_that_gained_more() {
        let (earlier, later) = grown_without_holders();
        let growth = Growth::between(&earlier, &later).expect("time has passed");
        let cause = cause(&later, &growth, &Growing::of(&growth, None, &later));
        assert!(
            cause.starts_with("35.0k more `app.Session` a second"),
            "{cause}"
        );
    }

    #[test]
    fn variables_of_many_threads_are_named_together() {
        let holder = Holder {
            name: "app.worker(): rows".into(),
            is_name: true,
            type_name: Some("list".into()),
            ..Holder::default()
        };
        let other = Holder {
            name: "app.CACHE".into(),
            is_name: true,
            ..Holder::default()
        };
        let of = |holder, bytes| HolderGrowth {
            is_passing: false,
            is_same: true,
            mapped_bytes: None,
            holder,
            bytes,
            has_more: true,
            branch: None,
            items: None,
        };
        let growths: Vec<HolderGrowth> = (0..40).map(|at| of(at, 16.0 * 1024.0)).collect();
        let little = of(40, 30.0 * 1024.0);
        let mut grown: Vec<_> = growths.iter().map(|growth| (growth, &holder)).collect();
        grown.push((&little, &other));
        let live = 700.0 * 1024.0;
        assert_eq!(
            of_one_name(&grown, live).as_deref(),
            Some(
                "`app.worker(): rows` (list), in 40 threads or objects, gains 640.0 KiB a second: more of these, or \
                 more in each"
            )
        );
        assert_eq!(
            of_one_name(&grown[40..], live),
            None,
            "one alone is said elsewhere"
        );
        let nested = 300.0 * 1024.0;
        let said = of_one_name(&grown, nested).expect("most of it");
        assert!(said.contains("gains 300.0 KiB"), "no more than all: {said}");
    }
}
