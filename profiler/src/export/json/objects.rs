//! Python's objects and who holds them, as part of a snapshot.

use profiler_core::objects::{
    AllocatorShare, Census, Growth, Holder, NativeRow, PathStep, TypeRow, Via,
};
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use super::{Record, snapshot::Name};
use crate::export::names::{milliseconds, rfc3339};

#[derive(Serialize)]
pub(super) struct Objects<'a> {
    taken_at: String,
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
    compared_objects: u64,
    replaced_objects: u64,
    is_unsteady: bool,
    references: u64,
    held_by_names_bytes: u64,
    unreached_bytes: u64,
    copied: Option<CopiedRow>,
    gaps: &'a [String],
    growth: Option<GrowthRow>,
    allocators: Vec<Record<'a, &'static str, AllocatorShare>>,
    types: Vec<Grown<Record<'a, &'a str, TypeRow>>>,
    native: Vec<Grown<Record<'a, Name, NativeRow>>>,
    holders: Vec<Grown<HolderRow<'a>>>,
}

/// What lies on pages that were copied since the fork.
#[derive(Serialize)]
struct CopiedRow {
    bytes: u64,
    collector_bytes: u64,
}

/// What grew in all since the census before.
#[derive(Serialize)]
struct GrowthRow {
    elapsed_ms: f64,
    is_growing: bool,
    live_bytes_per_second: f64,
    live_blocks_per_second: f64,
    typed_bytes_per_second: f64,
    typed_objects_per_second: f64,
    steady_bytes_per_second: f64,
    steps: Vec<StepRow>,
}

/// What became larger in one step.
#[derive(Serialize)]
struct StepRow {
    r#type: Option<String>,
    bytes: f64,
}

impl GrowthRow {
    fn of(growth: &Growth) -> Self {
        Self {
            elapsed_ms: milliseconds(growth.elapsed_ns),
            is_growing: growth.is_growing,
            live_bytes_per_second: growth.live.bytes,
            live_blocks_per_second: growth.live.blocks,
            typed_bytes_per_second: growth.typed.bytes,
            typed_objects_per_second: growth.typed.blocks,
            steady_bytes_per_second: growth.steady_bytes,
            steps: (growth.steps.iter())
                .map(|step| StepRow {
                    r#type: step.type_name.clone(),
                    bytes: step.bytes,
                })
                .collect(),
        }
    }
}

/// A row, and what it gains; null without a census before.
#[derive(Serialize)]
struct Grown<Row> {
    #[serde(flatten)]
    row: Row,
    growth_bytes_per_second: Option<f64>,
    growth_objects_per_second: Option<f64>,
}

impl<'a> Objects<'a> {
    pub(super) fn of(census: &'a Census, growth: Option<&Growth>) -> Self {
        let (major, minor) = census.python;
        let types = census.types.iter().map(|row| {
            let rate = growth.map(|growth| growth.of_type(&row.name));
            Grown {
                row: of_type(row),
                growth_bytes_per_second: rate.map(|rate| rate.bytes),
                growth_objects_per_second: rate.map(|rate| rate.blocks),
            }
        });
        let natives = census.native.iter().map(|row| {
            let rate = growth.map(|growth| growth.of_native(row.allocator, row.class));
            Grown {
                row: native(row),
                growth_bytes_per_second: rate.map(|rate| rate.bytes),
                growth_objects_per_second: rate.map(|rate| rate.blocks),
            }
        });
        let holders = census.shown(growth).into_iter().map(|(at, holder)| {
            let of = growth.map(|growth| growth.of_holder(at));
            Grown {
                row: HolderRow(holder),
                growth_bytes_per_second: of.map(|of| of.map_or(0.0, |of| of.bytes)),
                growth_objects_per_second: of.and_then(|of| of?.items),
            }
        });
        Self {
            taken_at: rfc3339(census.taken_at_ns),
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
            compared_objects: census.compared,
            replaced_objects: census.replaced,
            is_unsteady: census.is_unsteady(),
            references: census.references,
            held_by_names_bytes: census.held_by_names.bytes,
            unreached_bytes: census.unreached.bytes,
            copied: census.copied.map(|of| CopiedRow {
                bytes: of.bytes,
                collector_bytes: of.collector_bytes,
            }),
            gaps: &census.gaps,
            growth: growth.map(GrowthRow::of),
            allocators: census.shares.iter().map(share).collect(),
            types: types.collect(),
            native: natives.collect(),
            holders: holders.collect(),
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
            map.serialize_entry(column.key, &column.amount(holder))?;
        }
        map.serialize_entry("shared_with", &holder.shared_with)?;
        map.serialize_entry("item_type", &holder.item_type)?;
        map.serialize_entry("items", &holder.items)?;
        map.serialize_entry("path", &path)?;
        map.end()
    }
}

#[derive(Serialize)]
struct Step<'a> {
    via: Option<&'static str>,
    attribute: Option<&'a str>,
    r#type: &'a str,
    length: Option<u64>,
    times: u64,
}

impl<'a> Step<'a> {
    fn of(step: &'a PathStep) -> Self {
        Self {
            via: step.via.map(Via::name),
            attribute: step.attribute.as_deref(),
            r#type: &step.type_name,
            length: step.length,
            times: step.times,
        }
    }
}
