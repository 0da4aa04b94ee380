//! A view as JSON: a whole `fragscope.snapshot/1`, and `fragscope.interval/1` on one line.

mod activity;
mod check;
mod heaps;
mod interval;
mod objects;
mod prediction;
mod sites;
mod snapshot;
mod top;
mod what_if;

pub use self::check::checked;
use profiler_core::columns::Column;
use profiler_core::host::{HostView, TreeView};
use profiler_core::sample;
use profiler_core::text::is_harmful;
use profiler_core::units::{Unit, Value};
use profiler_core::view::View;
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use super::latest::Latest;
use profiler_core::trend::{Grows, Trend};

/// A view as one indented `fragscope.snapshot/1` document, its keys in a fixed order.
pub fn json(view: &View) -> String {
    text(serde_json::to_string_pretty(&snapshot::Snapshot::of(view)))
}

/// A view as one line of `fragscope.interval/1`: the figures that change from look to look.
pub fn ndjson(view: &View) -> String {
    let latest = Latest::of(view);
    text(serde_json::to_string(&interval::Interval::of(&latest)))
}

/// The processes of a host as one indented `fragscope.top/1` document.
pub fn host(view: &HostView) -> String {
    text(serde_json::to_string_pretty(&top::Top::of(view)))
}

/// A master and its descendants, as the same document with `tree{}`.
pub fn tree(view: &TreeView) -> String {
    text(serde_json::to_string_pretty(&top::Top::of_tree(view)))
}

/// The processes of a host in one line.
pub fn host_line(view: &HostView) -> String {
    text(serde_json::to_string(&top::Top::of(view)))
}

/// A master and its descendants on one line.
pub fn tree_line(view: &TreeView) -> String {
    text(serde_json::to_string(&top::Top::of_tree(view)))
}

/// The results of `doctor` as one indented `fragscope.doctor/1` document: the name of each check,
/// its grade, what was found, and the fix.
pub fn checks<'a>(
    checks: impl Iterator<Item = (&'a str, &'a str, &'a str, Option<&'a str>)>,
) -> String {
    #[derive(Serialize)]
    struct Doctor<'a> {
        schema: &'static str,
        checks: Vec<Check<'a>>,
    }
    #[derive(Serialize)]
    struct Check<'a> {
        name: &'a str,
        grade: &'a str,
        found: &'a str,
        fix: Option<&'a str>,
    }
    let checks = checks.map(|(name, grade, found, fix)| Check {
        name,
        grade,
        found,
        fix,
    });
    text(serde_json::to_string_pretty(&Doctor {
        schema: "fragscope.doctor/1",
        checks: checks.collect(),
    }))
}

/// JSON text in which characters are also escaped that JSON permits but that may confuse a terminal
/// or a reader: DEL, C1, and those that reorder or hide text. They only occur in strings, where an
/// escape means the same.
pub(super) fn text(made: serde_json::Result<String>) -> String {
    let json =
        made.expect("only maps whose keys are no strings cannot be JSON, and all keys here are");
    // Newlines of the indentation are harmless, and JSON itself escapes those in strings.
    let harmful = |c: char| c >= '\x7f' && is_harmful(c);
    if !json.contains(harmful) {
        return json;
    }
    let mut clean = String::with_capacity(json.len());
    for c in json.chars() {
        if !harmful(c) {
            clean.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            clean.push_str(&format!("\\u{unit:04x}"));
        }
    }
    clean
}

/// The host.
#[derive(Debug, Serialize)]
struct Host<'a> {
    kernel: &'a str,
    arch: &'a str,
    cpus: u32,
    memory_bytes: u64,
    page_bytes: u64,
}

impl<'a> From<&'a sample::Host> for Host<'a> {
    fn from(host: &'a sample::Host) -> Self {
        Self {
            kernel: &host.kernel,
            arch: &host.arch,
            cpus: host.cpus,
            memory_bytes: host.memory_bytes,
            page_bytes: host.page_size.bytes(),
        }
    }
}

/// Pairs as an object, in their order.
#[derive(Debug)]
struct Object<K, V>(Vec<(K, V)>);

impl<K: Serialize, V: Serialize> Serialize for Object<K, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in &self.0 {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

/// A row of a table: its name, then its figures under their columns' keys.
#[derive(Debug)]
struct Record<'a, K, Row> {
    /// Keys and values of its name.
    name: Vec<(&'static str, K)>,
    columns: &'a [Column<Row>],
    row: &'a Row,
}

impl<'a, Row> Record<'a, u64, Row> {
    /// Figures without a name, of an object that contains other entries too.
    fn figures(columns: &'a [Column<Row>], row: &'a Row) -> Self {
        Self {
            name: Vec::new(),
            columns,
            row,
        }
    }
}

/// How a process has grown lately.
type TrendRow<'a> = Record<'a, Option<&'static str>, Trend>;

fn trend(trend: &Trend) -> TrendRow<'_> {
    Record {
        name: vec![("grows", trend.grows.map(Grows::name))],
        columns: &Trend::COLUMNS,
        row: trend,
    }
}

impl<K: Serialize, Row> Serialize for Record<'_, K, Row> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.name.len() + self.columns.len()))?;
        for (key, name) in &self.name {
            map.serialize_entry(key, name)?;
        }
        for column in self.columns {
            let value = column.value(self.row);
            map.serialize_entry(
                column.key,
                &value.map(|value| Number::of(column.unit, value)),
            )?;
        }
        map.end()
    }
}

/// A figure: an integer if it is one, else with a fraction; or a flag.
#[derive(Copy, Clone, Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Number {
    Flag(bool),
    Whole(u64),
    Fraction(f64),
}

impl Number {
    /// With a fraction if its column has one.
    fn of(unit: Unit, value: Value) -> Self {
        match value {
            Value::Whole(value) if unit == Unit::Flag => Self::Flag(value != 0),
            Value::Whole(value) => Self::Whole(value),
            Value::Fraction(value) => Self::Fraction(value),
        }
    }
}

impl From<Value> for Number {
    fn from(value: Value) -> Self {
        match value {
            Value::Whole(value) => Self::Whole(value),
            // A ratio of exactly 1 is written as 1. Above 2^53 an f64 has no fraction, and its
            // digits are not reliable as a count.
            Value::Fraction(value)
                if (0.0..=9_007_199_254_740_992.0).contains(&value) && value.fract() == 0.0 =>
            {
                Self::Whole(value as u64)
            }
            Value::Fraction(value) => Self::Fraction(value),
        }
    }
}
