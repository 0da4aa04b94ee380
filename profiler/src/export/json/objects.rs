//! Python's objects and who holds them, as part of a snapshot.

use profiler_core::objects::{AllocatorShare, Census, Holder, NativeRow, PathStep, TypeRow};
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use super::{Record, snapshot::Name};
use crate::export::names::milliseconds;

#[derive(Serialize)]
pub(super) struct Objects<'a> {
    python: String,
    layout: &'static str,
    exact: bool,
    read_ms: f64,
    live_bytes: u64,
    live_blocks: u64,
    typed_bytes: u64,
    untyped_bytes: u64,
    spare_bytes: u64,
    unreadable_bytes: u64,
    changed_objects: u64,
    references: u64,
    held_by_names_bytes: u64,
    unreached_bytes: u64,
    gaps: &'a [String],
    allocators: Vec<Record<'a, &'static str, AllocatorShare>>,
    types: Vec<Record<'a, &'a str, TypeRow>>,
    native: Vec<Record<'a, Name, NativeRow>>,
    holders: Vec<HolderRow<'a>>,
}

impl<'a> Objects<'a> {
    pub(super) fn of(census: &'a Census) -> Self {
        let (major, minor) = census.python;
        Self {
            python: format!("{major}.{minor}"),
            layout: census.layout.name(),
            exact: census.exact,
            read_ms: milliseconds(census.took_ns),
            live_bytes: census.live.bytes,
            live_blocks: census.live.blocks,
            typed_bytes: census.typed_bytes(),
            untyped_bytes: census.untyped_bytes(),
            spare_bytes: census.spare.bytes,
            unreadable_bytes: census.unreadable.bytes,
            changed_objects: census.changed,
            references: census.references,
            held_by_names_bytes: census.held_by_names.bytes,
            unreached_bytes: census.unreached.bytes,
            gaps: &census.gaps,
            allocators: census.shares.iter().map(share).collect(),
            types: census.types.iter().map(of_type).collect(),
            native: census.native.iter().map(native).collect(),
            holders: census.holders.iter().map(HolderRow).collect(),
        }
    }
}

fn share(share: &AllocatorShare) -> Record<'_, &'static str, AllocatorShare> {
    Record {
        name: vec![("allocator", share.allocator.name())],
        columns: &AllocatorShare::COLUMNS,
        row: share,
    }
}

fn of_type(row: &TypeRow) -> Record<'_, &str, TypeRow> {
    Record {
        name: vec![("type", row.name.as_str())],
        columns: &TypeRow::COLUMNS,
        row,
    }
}

fn native(row: &NativeRow) -> Record<'_, Name, NativeRow> {
    Record {
        name: vec![
            ("allocator", Name::Allocator(row.allocator.name())),
            ("upper_bytes", Name::Number(row.class.upper_bytes())),
        ],
        columns: &NativeRow::COLUMNS,
        row,
    }
}

/// A holder: its names, its figures by their columns, and the way to what it holds.
struct HolderRow<'a>(&'a Holder);

impl Serialize for HolderRow<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let holder = self.0;
        let path: Vec<_> = holder.path.iter().map(Step::of).collect();
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("name", &holder.name)?;
        map.serialize_entry("is_name", &holder.is_name)?;
        map.serialize_entry("type", &holder.type_name)?;
        for column in &Holder::COLUMNS {
            map.serialize_entry(column.key, &column.value(holder))?;
        }
        map.serialize_entry("shared_with", &holder.shared_with)?;
        map.serialize_entry("item_type", &holder.item_type)?;
        map.serialize_entry("path", &path)?;
        map.end()
    }
}

#[derive(Serialize)]
struct Step<'a> {
    via: Option<&'static str>,
    r#type: &'a str,
    length: Option<u64>,
    times: u64,
}

impl<'a> Step<'a> {
    fn of(step: &'a PathStep) -> Self {
        Self {
            via: step.via,
            r#type: &step.type_name,
            length: step.length,
            times: step.times,
        }
    }
}
