//! The heaps of a snapshot.

use profiler_core::heap::{CrossCheck, RequestedSetting};
use profiler_core::report::{ArenaReport, HeapReport};
use serde::Serialize;

use super::{Object, Record};

#[derive(Serialize)]
pub(super) struct Heap<'a> {
    allocator: &'static str,
    version: Option<&'a str>,
    library: Option<&'a str>,
    arenas: Vec<Arena<'a>>,
    #[serde(flatten)]
    totals: Record<'a, (), HeapReport>,
    settings: Object<&'a str, Setting<'a>>,
    defaults: Object<&'a str, Setting<'a>>,
    asked: Option<Vec<SettingRow<'a>>>,
    environment_unknown: Option<&'static str>,
    checks: Vec<Check<'a>>,
    layout_confidence: &'static str,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Setting<'a> {
    Number(u64),
    Text(&'a str),
}

#[derive(Serialize)]
struct SettingRow<'a> {
    asked_for: &'a str,
    in_force: Option<bool>,
    note: &'a str,
}

/// An arena: its id, its figures, and additional ones under the allocator's own names.
#[derive(Serialize)]
struct Arena<'a> {
    id: u32,
    kind: &'static str,
    address: String,
    #[serde(flatten)]
    totals: Record<'a, (), ArenaReport>,
    figures: Object<&'static str, u64>,
}

#[derive(Serialize)]
struct Check<'a> {
    name: &'a str,
    expected: u64,
    found: u64,
    holds: bool,
}

impl<'a> Heap<'a> {
    pub(super) fn of(heap: &'a HeapReport) -> Self {
        let setting = |value: &'a str| value.parse().map_or(Setting::Text(value), Setting::Number);
        let settings = heap.settings.iter().map(|s| (&*s.name, setting(&s.value)));
        let changed = heap.settings.iter().filter(|setting| setting.is_changed());
        let defaults = changed.filter_map(|s| Some((&*s.name, setting(s.default.as_deref()?))));
        Self {
            allocator: heap.allocator.name(),
            version: Some(heap.version.as_str()).filter(|version| !version.is_empty()),
            library: heap.library.as_deref(),
            arenas: heap.arenas.iter().map(Arena::of).collect(),
            totals: Record {
                name: Vec::new(),
                columns: &HeapReport::COLUMNS,
                row: heap,
            },
            settings: Object(settings.collect()),
            defaults: Object(defaults.collect()),
            asked: heap
                .requested
                .as_ref()
                .ok()
                .map(|asked| asked.iter().map(SettingRow::of).collect()),
            environment_unknown: heap.requested.as_ref().err().map(|reason| reason.name()),
            checks: heap.checks.iter().map(Check::of).collect(),
            layout_confidence: heap.confidence.name(),
        }
    }
}

impl<'a> SettingRow<'a> {
    fn of(asked: &'a RequestedSetting) -> Self {
        Self {
            asked_for: &asked.request,
            in_force: asked.in_force,
            note: &asked.note,
        }
    }
}

impl<'a> Arena<'a> {
    fn of(report: &'a ArenaReport) -> Self {
        let arena = &report.arena;
        let figures = arena.figures.iter();
        Self {
            id: arena.id,
            kind: arena.kind.name(),
            address: arena.addr.to_string(),
            totals: Record {
                name: Vec::new(),
                columns: &ArenaReport::COLUMNS,
                row: report,
            },
            figures: Object(
                figures
                    .map(|(figure, value)| (figure.name(), *value))
                    .collect(),
            ),
        }
    }
}

impl<'a> Check<'a> {
    fn of(check: &'a CrossCheck) -> Self {
        Self {
            name: &check.name,
            expected: check.expected,
            found: check.found,
            holds: check.holds(),
        }
    }
}
