//! The heaps of a snapshot.

use profiler_core::heap::{AskedSetting, CrossCheck};
use profiler_core::report::{ArenaReport, HeapReport};
use serde::Serialize;

use super::Object;
use crate::export::names::confidence;

#[derive(Serialize)]
pub(super) struct Heap<'a> {
    allocator: &'static str,
    version: Option<&'a str>,
    arenas: Vec<Arena>,
    live_bytes: u64,
    live_blocks: u64,
    free_bytes: u64,
    cached_bytes: u64,
    mapped_large_bytes: u64,
    mapped_large_blocks: u64,
    settings: Object<&'a str, Setting<'a>>,
    defaults: Object<&'a str, Setting<'a>>,
    asked: Vec<Asked<'a>>,
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
struct Asked<'a> {
    asked_for: &'a str,
    in_force: Option<bool>,
    note: &'a str,
}

#[derive(Serialize)]
struct Arena {
    id: u32,
    kind: &'static str,
    address: String,
    system_bytes: u64,
    live_bytes: u64,
    live_blocks: u64,
    free_bytes: u64,
    free_blocks: u64,
    cached_bytes: u64,
    cached_blocks: u64,
    top_bytes: u64,
    resident_bytes: u64,
    swapped_bytes: u64,
    trimmable_bytes: u64,
    pinned_free_bytes: u64,
    below_highest_live_bytes: u64,
    top_pinned_bytes: u64,
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
            arenas: heap.arenas.iter().map(Arena::of).collect(),
            live_bytes: heap.live_bytes,
            live_blocks: heap.live_blocks,
            free_bytes: heap.free_bytes,
            cached_bytes: heap.cached_bytes,
            mapped_large_bytes: heap.mapped_large_bytes,
            mapped_large_blocks: heap.mapped_large_blocks,
            settings: Object(settings.collect()),
            defaults: Object(defaults.collect()),
            asked: heap.asked.iter().map(Asked::of).collect(),
            checks: heap.checks.iter().map(Check::of).collect(),
            layout_confidence: confidence(heap.confidence),
        }
    }
}

impl<'a> Asked<'a> {
    fn of(asked: &'a AskedSetting) -> Self {
        Self {
            asked_for: &asked.asked_for,
            in_force: asked.in_force,
            note: &asked.note,
        }
    }
}

impl Arena {
    fn of(report: &ArenaReport) -> Self {
        let arena = &report.arena;
        let figures = arena.figures.iter();
        Self {
            id: arena.id,
            kind: arena.kind.name(),
            address: arena.addr.to_string(),
            system_bytes: arena.system_bytes,
            live_bytes: arena.live_bytes,
            live_blocks: arena.live_blocks,
            free_bytes: arena.free_bytes,
            free_blocks: arena.free_blocks,
            cached_bytes: arena.cached_bytes,
            cached_blocks: arena.cached_blocks,
            top_bytes: arena.top_bytes,
            resident_bytes: report.resident_bytes,
            swapped_bytes: report.swapped_bytes,
            trimmable_bytes: report.trimmable_bytes,
            pinned_free_bytes: report.pinned_free_bytes,
            below_highest_live_bytes: report.below_highest_live_bytes,
            top_pinned_bytes: report.top_pinned_bytes,
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
