//! The answer to the first question about a process that has become large: does it grow, and who makes it
//! grow.

use super::prose::{UNEXPLAINED_SHARE, fragmentation};
use super::rules::is_notable;
use crate::metrics::MetricId;
use crate::objects::{Branch, Census, Growth, Holder, HolderGrowth, Rate};
use crate::report::FragReport;
use crate::trend::{Grows, Trend};
use crate::units::{bytes, count, percent};

/// Who gains at least this share of all growth is named first.
const NAMED_SHARE: f64 = 0.2;
/// Where at least this share of all growth is held by nobody, that is said.
const UNREACHED_SHARE: f64 = 0.5;
/// Who gains at least this share of the objects of the type that gains most does, too.
const MAX_ITEMS: f64 = 0.5;
/// Who holds at least this share of what is live is named where nothing grows.
const HELD_SHARE: f64 = 0.1;

/// The first sentences of the verdict, where two censuses were taken.
pub(crate) fn answer(report: &FragReport) -> Option<String> {
    let lately = || lately(report, report.trend.as_ref()?);
    let (Some(census), Some(growth)) = (report.objects.as_deref(), &report.growth) else {
        return lately();
    };
    let (free, rss) = (fragmentation(report), report.kernel.rss_bytes);
    let is_fragmented = free as f64 > rss as f64 * UNEXPLAINED_SHARE;
    let share = || {
        let name = report.kernel.name();
        format!("{} ({} of {name})", bytes(free), percent(free, rss))
    };
    if !growth.is_growing {
        let still = || {
            let holds = match is_fragmented {
                true => format!("Not growing. Fragmentation holds {}.", share()),
                false => format!("Not growing{}.", held(census)),
            };
            holds + &step(growth)
        };
        return Some(lately().unwrap_or_else(still));
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

/// What grows by the kernel's counts and the walks, before anybody knows whose it is; `None` where nothing does.
fn lately(report: &FragReport, trend: &Trend) -> Option<String> {
    let grows = trend.grows?;
    let speed = format!("Growing {}/s", rate(trend.rss.bytes_per_second));
    let when = match (&report.objects, report.target.is_python()) {
        (_, false) => "`fragscope attach`, screen Sites, shows who asks for it".to_owned(),
        (None, true) => "whose it is is known once its objects were read twice".to_owned(),
        (Some(_), true) => "whose it is is known once its objects are read again".to_owned(),
    };
    Some(match grows {
        Grows::InUse => format!("{speed}: memory in use grows; {when}."),
        Grows::Elsewhere => format!(
            "{speed}, and what is live in the walked heaps grows by {}/s: free memory, or what lies outside of \
             these heaps.",
            rate(trend.live_bytes_per_second.unwrap_or(0.0))
        ),
        Grows::NotKnown => {
            format!("{speed}: whether memory in use does is known after the next walk.")
        }
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
    if growth.unreached.bytes >= growth.steady_bytes * UNREACHED_SHARE {
        let what = match &growth.most_unreached {
            Some(of) => format!(", among them `{}`", of.name),
            None => String::new(),
        };
        return format!(
            "{} a second more are reached from no name{what}: cycles that the garbage collector has not freed, \
             or references that native code keeps or has forgotten",
            rate(growth.unreached.bytes)
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
    let grown = growth.holders.iter().filter(|of| of.has_more);
    let grown = grown.filter_map(|of| Some((of, census.holders.get(of.holder)?)));
    let grown: Vec<_> = grown.collect();
    let by_bytes = grown.iter().find(|(of, _)| of.bytes >= least);
    let by_items = || grown.iter().find(|(of, holder)| is_of_most(of, holder));
    if let Some((of, holder)) = by_bytes.or_else(by_items) {
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
    match more {
        Some(of) => format!(
            "{} more `{}` a second, and none of the {} names that hold most alone holds them",
            count(of.rate.blocks.round() as u64),
            of.name,
            census.holders.len()
        ),
        None => "in no one place".to_owned(),
    }
}

/// A holder's name and what it is.
fn titled(holder: &Holder) -> String {
    match &holder.type_name {
        Some(of) => format!("`{}` ({of})", holder.name),
        None => format!("`{}`", holder.name),
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
    use crate::trend::RssGrowth;

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
        let in_use = "Growing 20.0 MiB/s: memory in use grows; whose it is is known once";
        assert!(
            grows.starts_with(in_use) && grows.ends_with("read twice."),
            "{grows}"
        );
        assert!(said(Some(19 * MIB), true).ends_with("read again."));
        assert!(said(Some(0), false).contains("grows by 0 B/s: free memory"));
        assert!(said(None, false).ends_with("after the next walk."));
    }

    #[test]
    fn who_gains_the_objects_is_named_though_its_table_moved_between_walk_and_reading() {
        let earlier = census(0, 100_000, 5 * MIB, 12 * MIB);
        // The new table was none of the walk's blocks: its bytes are missing of what the name holds.
        let later = census(2_000_000_000, 170_000, 12 * MIB, 12 * MIB + 1000);
        let growth = Growth::between(&earlier, &later).expect("time has passed");
        assert_eq!(growth.types[0].name, "dict", "the table gained most");
        let cause = cause(&later, &growth);
        let named = "`app.SESSIONS` (dict) gains 35.0k `app.Session` a second: a leak";
        assert!(cause.starts_with(named), "{cause}");
    }

    #[test]
    fn objects_that_no_name_gains_are_named_by_their_type_behind_a_table_that_gained_more() {
        let mut earlier = census(0, 100_000, 5 * MIB, 12 * MIB);
        let mut later = census(2_000_000_000, 170_000, 12 * MIB, 12 * MIB);
        earlier.holders.clear();
        later.holders.clear();
        let growth = Growth::between(&earlier, &later).expect("time has passed");
        let cause = cause(&later, &growth);
        assert!(
            cause.starts_with("35.0k more `app.Session` a second"),
            "{cause}"
        );
    }
}
