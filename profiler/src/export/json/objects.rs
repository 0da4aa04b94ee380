//! Python objects and their holders, as part of a snapshot.

use profiler_core::objects::{
    AllocatorShare, Branch, Census, Copied, Gain, Growth, GrowthStep, Holder, HolderGain,
    NativeRow, PackageRow, PathStep, TypeRow, Via,
};
use profiler_core::report::FragReport;
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use super::{Record, snapshot::Name};
use crate::export::names::rfc3339;
use crate::export::sentences;

#[derive(Serialize)]
pub(super) struct Objects<'a> {
    taken_at: String,
    python: String,
    layout: &'static str,
    exact: bool,
    #[serde(flatten)]
    totals: Record<'a, u64, Census>,
    copied: Option<Record<'a, u64, Copied>>,
    gaps: &'a [String],
    growth: Option<GrowthRow<'a>>,
    allocators: Vec<Record<'a, &'static str, AllocatorShare>>,
    types: Vec<Grown<Record<'a, &'a str, TypeRow>>>,
    native: Vec<Grown<Record<'a, Name, NativeRow>>>,
    holders: Vec<Grown<HolderRow<'a>>>,
    packages: Vec<Record<'a, &'a str, PackageRow>>,
}

/// Total growth since the previous census.
#[derive(Serialize)]
struct GrowthRow<'a> {
    #[serde(flatten)]
    rates: Record<'a, u64, Growth>,
    steps: Vec<StepRow<'a>>,
}

/// What became larger in one step.
#[derive(Serialize)]
struct StepRow<'a> {
    r#type: Option<&'a str>,
    bytes: f64,
}

impl<'a> GrowthRow<'a> {
    fn of(growth: &'a Growth) -> Self {
        let step = |step: &'a GrowthStep| StepRow {
            r#type: step.type_name.as_deref(),
            bytes: step.bytes,
        };
        Self {
            rates: Record::figures(&Growth::COLUMNS, growth),
            steps: growth.steps.iter().map(step).collect(),
        }
    }
}

/// A row and its gain; null without an earlier census.
#[derive(Serialize)]
struct Grown<Row> {
    #[serde(flatten)]
    row: Row,
    #[serde(flatten)]
    gain: Gained,
}

struct Gained(Gain);

impl Serialize for Gained {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Record::figures(&Gain::COLUMNS, &self.0).serialize(serializer)
    }
}

impl<'a> Objects<'a> {
    pub(super) fn of(census: &'a Census, report: &'a FragReport) -> Self {
        let growth = report.growth.as_ref();
        let shown_gain = sentences::gains_of_holders(report);
        let (major, minor) = census.python;
        let types = census.types.iter().map(|row| Grown {
            row: of_type(row),
            gain: Gained(Gain::from(growth.map(|growth| growth.of_type(&row.name)))),
        });
        let natives = census.native.iter().map(|row| {
            let rate = growth.map(|growth| growth.of_native(row.allocator, row.class));
            Grown {
                row: native(row),
                gain: Gained(Gain::from(rate)),
            }
        });
        let holders = census.shown(growth).into_iter().map(|(at, holder)| {
            let gain = growth.map_or_else(Gain::default, |growth| growth.gain_of_holder(at));
            Grown {
                row: HolderRow {
                    holder,
                    growing: growth.and_then(|growth| growth.branch_of(at, holder)),
                    gain: shown_gain(at),
                },
                gain: Gained(gain),
            }
        });
        Self {
            taken_at: rfc3339(census.taken_at_ns),
            python: format!("{major}.{minor}"),
            layout: census.layout.name(),
            exact: census.exact,
            totals: Record::figures(&Census::COLUMNS, census),
            copied: (census.copied.as_ref()).map(|of| Record::figures(&Copied::COLUMNS, of)),
            gaps: &census.gaps,
            growth: growth.map(GrowthRow::of),
            allocators: census.shares.iter().map(share).collect(),
            types: types.collect(),
            native: natives.collect(),
            holders: holders.collect(),
            packages: census.packages.iter().map(package).collect(),
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

fn package(row: &PackageRow) -> Record<'_, &str, PackageRow> {
    Record {
        name: vec![("package", row.name.as_str())],
        columns: &PackageRow::COLUMNS,
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

/// A holder: its names, its figures under their columns' keys, and the path to what it holds.
struct HolderRow<'a> {
    holder: &'a Holder,
    /// Where it grows, if elsewhere.
    growing: Option<&'a Branch>,
    /// What it gains, as tables have it.
    gain: Option<HolderGain>,
}

impl Serialize for HolderRow<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self {
            holder,
            growing,
            gain,
        } = self;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("name", &holder.name)?;
        map.serialize_entry("is_name", &holder.is_name)?;
        map.serialize_entry("type", &holder.type_name)?;
        map.serialize_entry("calls", &holder.calls.count)?;
        map.serialize_entry("threads", &holder.calls.threads)?;
        for column in &Holder::COLUMNS {
            map.serialize_entry(column.key, &column.amount(holder))?;
        }
        map.serialize_entry("shared_with", &holder.shared_with)?;
        map.serialize_entry("item_type", &holder.item_type)?;
        map.serialize_entry("items", &holder.items)?;
        map.serialize_entry("path", &Step::all(&holder.path))?;
        let growing_path = growing.map(|branch| Step::all(&branch.path));
        map.serialize_entry("growing_path", &growing_path)?;
        let growing_type = growing.and_then(|branch| branch.item_type.as_ref());
        map.serialize_entry("growing_item_type", &growing_type)?;
        map.serialize_entry("growth_kind", &gain.map(HolderGain::name))?;
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
    subject: Option<&'a str>,
}

impl<'a> Step<'a> {
    fn all(path: &'a [PathStep]) -> Vec<Self> {
        path.iter().map(Self::of).collect()
    }

    fn of(step: &'a PathStep) -> Self {
        Self {
            via: step.via.map(Via::name),
            attribute: step.attribute.as_deref(),
            r#type: &step.type_name,
            length: step.length,
            times: step.times,
            subject: step.subject.as_deref(),
        }
    }
}
