//! Differences between two reports: of one process at two moments, or of a worker before and after
//! its allocator or a setting was changed. Pure, as reports are.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::allocator::Allocator;
use crate::metrics::MetricId;
use crate::objects::Census;
use crate::report::FragReport;
use crate::size_class::SizeClass;
use crate::tables::{HeapReport, LedgerClass, LedgerPart, SizeClassRow};
use crate::units::{Unit, Value, bytes, percent};

/// A change of memory by at most this share of RSS counts as none: programs always vary.
const SAME_SHARE: f64 = 0.01;
/// A change of at most this many bytes also counts as none.
const SAME_BYTES: u64 = 1 << 20;
/// A part that is less than this share of the change of RSS does not explain the change.
const PART_SHARE: f64 = 0.1;

/// A figure before and after. `None` is unknown, or not there at all.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// What changed: a key, a size class, a type or a holder. The last two are untrusted text.
    pub name: String,
    /// Its unit.
    pub unit: Unit,
    /// What it was.
    pub before: Option<Value>,
    /// What it is.
    pub after: Option<Value>,
}

impl Change {
    fn of_bytes(name: impl Into<String>, before: Option<u64>, after: Option<u64>) -> Self {
        Self {
            name: name.into(),
            unit: Unit::Bytes,
            before: before.map(Value::Whole),
            after: after.map(Value::Whole),
        }
    }

    /// After minus before; `None` if one is unknown.
    pub fn by(&self) -> Option<f64> {
        Some(self.after?.as_f64() - self.before?.as_f64())
    }

    /// The same as text with a sign; `-` means unknown.
    pub fn by_text(&self) -> String {
        let Some(by) = self.by() else {
            return "-".to_owned();
        };
        let sign = match by {
            by if by > 0.0 => "+",
            by if by < 0.0 => "-",
            _ => "",
        };
        let amount = match self.unit.is_whole() {
            true => Value::Whole(by.abs() as u64),
            false => Value::Fraction(by.abs()),
        };
        format!("{sign}{}", self.unit.text(amount))
    }

    fn is_change(&self) -> bool {
        self.before != self.after
    }

    fn size(&self) -> f64 {
        self.by().map_or(0.0, f64::abs)
    }
}

/// Something that is not a figure, before and after: a version, a setting, an allocator. `None`
/// means unknown or absent.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fact {
    /// What it is.
    pub name: String,
    /// Its old value. May be untrusted text.
    pub before: Option<String>,
    /// Its new value. May be untrusted text.
    pub after: Option<String>,
}

/// What changed between two reports: only what did, the largest change first.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// Which change explains the change of RSS.
    pub sentence: String,
    /// RSS, or for a core file the memory it contains.
    pub rss: Change,
    /// Swap.
    pub swap: Change,
    /// Allocators, versions, settings, command line.
    pub facts: Vec<Fact>,
    /// Resident bytes by class of the ledger.
    pub ledger: Vec<Change>,
    /// Metrics that are known on both sides.
    pub metrics: Vec<Change>,
    /// Live bytes by size class and allocator.
    pub live_classes: Vec<Change>,
    /// Free and cached bytes by size class and allocator.
    pub free_classes: Vec<Change>,
    /// Bytes of objects and of their storage by type; empty unless objects were read on both sides.
    pub types: Vec<Change>,
    /// Retained bytes by holder, for the holders that each side has kept, as in
    /// [`Census::holders`].
    pub holders: Vec<Change>,
}

impl Difference {
    /// What changed from `before` to `after`.
    pub fn between(before: &FragReport, after: &FragReport) -> Self {
        let mut difference = Self {
            sentence: String::new(),
            rss: of_kernel("rss_bytes", before.kernel.rss_bytes, after.kernel.rss_bytes),
            swap: of_kernel(
                "swap_bytes",
                before.kernel.swap_bytes,
                after.kernel.swap_bytes,
            ),
            facts: facts(before, after),
            ledger: ledger(before, after),
            metrics: metrics(before, after),
            live_classes: classes(before, after, |row| row.live_bytes),
            free_classes: classes(before, after, |row| row.free_bytes),
            types: objects(before, after, types),
            holders: objects(before, after, holders),
        };
        difference.sentence = sentence(before, after, &difference);
        difference
    }
}

fn of_kernel(name: &str, before: u64, after: u64) -> Change {
    Change::of_bytes(name, Some(before), Some(after))
}

/// Those that are changes, the largest first.
fn largest_first(changes: impl Iterator<Item = Change>) -> Vec<Change> {
    let mut all: Vec<Change> = changes.filter(Change::is_change).collect();
    all.sort_by(|a, b| b.size().total_cmp(&a.size()).then(a.name.cmp(&b.name)));
    all
}

/// Pairs old and new values by key; a value missing on one side is 0 there.
fn paired<K: Ord>(
    before: impl Iterator<Item = (K, u64)>,
    after: impl Iterator<Item = (K, u64)>,
) -> BTreeMap<K, (u64, u64)> {
    let mut all: BTreeMap<K, (u64, u64)> = BTreeMap::new();
    for (key, bytes) in before {
        let sum = &mut all.entry(key).or_default().0;
        *sum = sum.saturating_add(bytes);
    }
    for (key, bytes) in after {
        let sum = &mut all.entry(key).or_default().1;
        *sum = sum.saturating_add(bytes);
    }
    all
}

fn changes(
    before: impl Iterator<Item = (String, u64)>,
    after: impl Iterator<Item = (String, u64)>,
) -> Vec<Change> {
    let all = paired(before, after).into_iter();
    largest_first(
        all.map(|(name, (before, after))| Change::of_bytes(name, Some(before), Some(after))),
    )
}

fn ledger(before: &FragReport, after: &FragReport) -> Vec<Change> {
    largest_first(LedgerClass::ALL.into_iter().map(|class| {
        let resident = |report: &FragReport| Some(report.resident_bytes(class));
        Change::of_bytes(class.name(), resident(before), resident(after))
    }))
}

/// In the order of their declaration: their units differ.
fn metrics(before: &FragReport, after: &FragReport) -> Vec<Change> {
    let all = MetricId::ALL.iter().map(|id| Change {
        name: id.key().to_owned(),
        unit: id.unit(),
        before: before.metric(*id),
        after: after.metric(*id),
    });
    all.filter(|change| change.before.is_some() && change.after.is_some())
        .filter(Change::is_change)
        .collect()
}

/// Size classes by allocator. If another allocator serves malloc than before, its size classes
/// differ from those of the old one, so for these two allocators all sizes are summed into one row.
fn classes(before: &FragReport, after: &FragReport, get: fn(&SizeClassRow) -> u64) -> Vec<Change> {
    let serving = |report: &FragReport| report.serving().map(|heap| heap.allocator);
    let replaced = serving(before).zip(serving(after));
    let replaced = replaced.filter(|(was, is)| was != is);
    let rows = |report: &FragReport| {
        let rows = report.size_classes.iter();
        let rows = rows.map(|row| (class_name(row.allocator, row.class, replaced), get(row)));
        rows.collect::<Vec<_>>().into_iter()
    };
    changes(rows(before), rows(after))
}

fn class_name(
    allocator: Allocator,
    class: SizeClass,
    replaced: Option<(Allocator, Allocator)>,
) -> String {
    match replaced {
        Some((was, is)) if allocator == was || allocator == is => {
            format!("all sizes: {} before, {} after", was.name(), is.name())
        }
        _ => format!("{} up to {}", allocator.name(), bytes(class.upper_bytes())),
    }
}

fn objects(
    before: &FragReport,
    after: &FragReport,
    rows: fn(&Census) -> Vec<(String, u64)>,
) -> Vec<Change> {
    match (&before.objects, &after.objects) {
        (Some(before), Some(after)) => changes(rows(before).into_iter(), rows(after).into_iter()),
        _ => Vec::new(),
    }
}

fn types(census: &Census) -> Vec<(String, u64)> {
    let rows = census.types.iter();
    rows.map(|row| {
        let bytes = row.objects.bytes.saturating_add(row.storage.bytes);
        (row.name.clone(), bytes)
    })
    .collect()
}

fn holders(census: &Census) -> Vec<(String, u64)> {
    let rows = census.holders.iter();
    rows.map(|row| {
        let mut names: Vec<&str> = row.shared_with.iter().map(String::as_str).collect();
        names.push(&row.name);
        // The order of names that share something may differ.
        names.sort_unstable();
        (names.join(", "), row.retained_bytes)
    })
    .collect()
}

fn facts(before: &FragReport, after: &FragReport) -> Vec<Fact> {
    let all = [about(before, after), about(after, before)];
    let mut found: BTreeMap<String, [Option<String>; 2]> = BTreeMap::new();
    for (side, facts) in all.into_iter().enumerate() {
        for (name, value) in facts {
            found.entry(name).or_default()[side] = Some(value);
        }
    }
    let facts = found.into_iter().map(|(name, [before, after])| Fact {
        name,
        before,
        after,
    });
    facts.filter(|fact| fact.before != fact.after).collect()
}

/// Facts about a target that are not figures. Settings whose default is unknown are the allocator's
/// own figures. If `other` does not have this allocator, settings at their default are omitted.
fn about(report: &FragReport, other: &FragReport) -> Vec<(String, String)> {
    let target = &report.target;
    let of_target = [
        ("command line", Some(target.cmdline.join(" "))),
        ("Python", target.python.clone()),
        ("C library", target.libc.clone()),
        ("malloc", malloc(report)),
        ("threads", Some(target.threads.to_string())),
    ];
    let mut all: Vec<_> = of_target
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)))
        .collect();
    let heaps = report.heaps.iter().filter(|heap| heap.library.is_none());
    for heap in heaps {
        let is_there = other.heaps.iter().any(|of| of.allocator == heap.allocator);
        let settings = heap.settings.iter();
        let settings = settings.filter(|setting| match is_there {
            true => setting.default.is_some(),
            false => setting.is_changed(),
        });
        all.extend(settings.map(|setting| {
            let name = format!("{} {}", heap.allocator.name(), setting.name);
            (name, setting.value_text())
        }));
        all.extend(requested(heap));
    }
    all
}

/// What the environment asks of a heap; `None` where it asks for nothing.
fn requested(heap: &HeapReport) -> Option<(String, String)> {
    let value = match &heap.requested {
        Ok(none) if none.is_empty() => return None,
        Ok(all) => {
            let all: Vec<&str> = all.iter().map(|setting| &*setting.request).collect();
            all.join(" ")
        }
        Err(reason) => format!("unknown: {}", reason.because()),
    };
    Some((format!("{} environment", heap.allocator.name()), value))
}

/// Who serves malloc.
fn malloc(report: &FragReport) -> Option<String> {
    let mut walked = report.heaps.iter().filter(|heap| heap.serves_malloc());
    let named = report.target.malloc.as_ref().map(ToString::to_string);
    named.or_else(|| walked.next().map(HeapReport::title))
}

fn sentence(before: &FragReport, after: &FragReport, found: &Difference) -> String {
    let (was, is) = (before.kernel.rss_bytes, after.kernel.rss_bytes);
    let name = after.kernel.name();
    let by = was.abs_diff(is);
    let same = SAME_BYTES.max((was as f64 * SAME_SHARE) as u64);
    let mut text = match by <= same {
        true if bytes(is) == bytes(was) => format!("{name} is unchanged: {}", bytes(is)),
        true => format!("{name} is unchanged: {}, before {}", bytes(is), bytes(was)),
        false => format!(
            "{name} is {} ({}) {}: {}, before {}",
            bytes(by),
            percent(by, was),
            if is > was { "higher" } else { "lower" },
            bytes(is),
            bytes(was)
        ),
    };
    let least = match by <= same {
        true => same,
        false => (by as f64 * PART_SHARE) as u64,
    };
    let parts = parts(before, after, least);
    if !parts.is_empty() {
        text += &format!("; {}", parts.join(", "));
    }
    text.push('.');
    let [malloc_before, malloc_after] = [malloc(before), malloc(after)];
    if malloc_before != malloc_after {
        let known = |side: Option<String>| side.unwrap_or_else(|| "unknown".to_owned());
        text += &format!(
            " malloc is {}, before {}.",
            known(malloc_after),
            known(malloc_before)
        );
    }
    if let Some(change) = found
        .types
        .first()
        .filter(|change| change.size() >= least as f64)
    {
        let ages = [("before", before), ("after", after)];
        let ages =
            ages.map(|(side, report)| Some(format!("{side}: {} that walk", report.objects_age()?)));
        let ages: Vec<String> = ages.into_iter().flatten().collect();
        let ages = match ages.is_empty() {
            true => String::new(),
            false => format!(" ({})", ages.join("; ")),
        };
        text += &format!(
            " Of Python's objects {} changed most: {}{ages}.",
            change.name,
            change.by_text()
        );
    }
    text
}

/// The parts of RSS that changed by more than `least` bytes, the largest change first, as words.
fn parts(before: &FragReport, after: &FragReport, least: u64) -> Vec<String> {
    let of = |report: &FragReport, part: LedgerPart| -> u64 {
        let classes = LedgerClass::ALL.iter().filter(|class| class.part() == part);
        classes.map(|class| report.resident_bytes(*class)).sum()
    };
    let mut all: Vec<_> = LedgerPart::ALL
        .into_iter()
        .map(|part| (part, of(before, part), of(after, part)))
        .filter(|(_, was, is)| was.abs_diff(*is) > least)
        .collect();
    all.sort_by_key(|(_, was, is)| Reverse(was.abs_diff(*is)));
    let words = all.into_iter().map(|(part, was, is)| {
        let classes = LedgerClass::ALL.iter().filter(|class| class.part() == part);
        let changed = classes.max_by_key(|class| {
            let (was, is) = (
                before.resident_bytes(**class),
                after.resident_bytes(**class),
            );
            was.abs_diff(is)
        });
        let most = changed.map_or("", |class| class.name());
        let sign = if is > was { "more" } else { "less" };
        let by = bytes(was.abs_diff(is));
        match most == part.words() {
            true => format!("{by} {sign} {most}"),
            false => format!("{by} {sign} {} (most of it {most})", part.words()),
        }
    });
    words.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of(name: &str, before: u64, after: u64) -> Change {
        Change::of_bytes(name, Some(before), Some(after))
    }

    #[test]
    fn a_change_has_its_sign_and_its_unit() {
        assert_eq!(bytes_of("live", 1 << 20, 3 << 20).by_text(), "+2.0 MiB");
        assert_eq!(bytes_of("live", 3 << 20, 1 << 20).by_text(), "-2.0 MiB");
        assert_eq!(bytes_of("live", 5, 5).by_text(), "0 B");
        let share = Change {
            name: "utilisation".to_owned(),
            unit: Unit::Share,
            before: Some(Value::Fraction(0.5)),
            after: Some(Value::Fraction(0.25)),
        };
        assert_eq!(share.by_text(), "-25.0 %");
        assert_eq!(Change::of_bytes("live", None, Some(1)).by_text(), "-");
    }

    #[test]
    fn classes_of_two_allocators_that_serve_one_after_the_other_are_one_row() {
        let row = |allocator, size| class_name(allocator, SizeClass::of(size), None);
        assert_eq!(row(Allocator::Glibc, 40), "glibc up to 48 B");
        let replaced = Some((Allocator::Glibc, Allocator::Jemalloc));
        let joined = "all sizes: glibc before, jemalloc after";
        for (allocator, size) in [(Allocator::Glibc, 40), (Allocator::Jemalloc, 48)] {
            assert_eq!(class_name(allocator, SizeClass::of(size), replaced), joined);
        }
        let other = class_name(Allocator::Pymalloc, SizeClass::of(48), replaced);
        assert_eq!(other, row(Allocator::Pymalloc, 48));
    }

    #[test]
    fn what_is_on_one_side_alone_is_nothing_on_the_other() {
        let row = |name: &str, bytes| (name.to_owned(), bytes);
        let before = [row("a", 10), row("same", 7), row("gone", 100)];
        let after = [row("a", 15), row("same", 7), row("new", 50)];
        let found = changes(before.into_iter(), after.into_iter());
        let expected = [
            bytes_of("gone", 100, 0),
            bytes_of("new", 0, 50),
            bytes_of("a", 10, 15),
        ];
        assert_eq!(found, expected);
    }
}
