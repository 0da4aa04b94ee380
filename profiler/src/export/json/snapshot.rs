//! The whole view: `fragscope.snapshot/1`.

use profiler_core::activity::ProbeState;
use profiler_core::completeness::{self, Defect};
use profiler_core::fork::ForkSharing;
use profiler_core::group_account::GroupAccount;
use profiler_core::metrics::Metric;
use profiler_core::report::{
    self, Finding, HugeOccupancyRow, LedgerRow, OccupancyDeciles, OccupancyRow, PackedClass,
    SizeClassRow, Step,
};
use profiler_core::sample::{Halted, KernelCount, PythonMalloc};
use profiler_core::view::{Point, View};
use serde::Serialize;

use super::activity::Activity;
use super::heaps::Heap;
use super::objects::Objects;
use super::prediction::Predicted;
use super::sites::{self, Site, SiteSampling};
use super::what_if::WhatIfRow;
use super::{Host, Number, Object, Record, TrendRow, trend};
use crate::export::names::{gaps, milliseconds, rfc3339};

#[derive(Serialize)]
pub(super) struct Snapshot<'a> {
    schema: &'static str,
    taken_at: String,
    host: Host<'a>,
    target: Target<'a>,
    #[serde(flatten)]
    kernel: Record<'a, u64, KernelCount>,
    #[serde(skip_serializing_if = "Option::is_none")]
    core_bytes: Option<Number>,
    fork: Option<Record<'a, i32, ForkSharing>>,
    cgroup: Option<Cgroup<'a>>,
    verdict: &'a str,
    trend: Option<TrendRow<'a>>,
    explanation: &'a str,
    ledger: Vec<Record<'a, &'static str, LedgerRow>>,
    heaps: Vec<Heap<'a>>,
    size_classes: Vec<Record<'a, Name, SizeClassRow>>,
    page_occupancy: Vec<Record<'a, Name, OccupancyRow>>,
    occupancy_deciles: Vec<Object<&'static str, Name>>,
    huge_occupancy: Vec<Record<'a, Name, HugeOccupancyRow>>,
    metrics: Object<&'static str, Option<Number>>,
    over_time: Object<&'static str, Option<Number>>,
    findings: Vec<FindingRow<'a>>,
    packing: Option<Packing<'a>>,
    #[serde(flatten)]
    predicted: Predicted<'a>,
    objects: Option<Objects<'a>>,
    sites: Option<Vec<Site<'a>>>,
    site_sampling: Option<SiteSampling<'a>>,
    activity: Option<Activity<'a>>,
    activity_source: &'static str,
    what_if: Option<WhatIfRow<'a>>,
    history: Vec<Record<'a, String, Point>>,
    notices: &'a [String],
    ended: Option<&'a str>,
    completeness: Completeness<'a>,
}

#[derive(Serialize)]
struct Target<'a> {
    pid: i32,
    comm: &'a str,
    cmdline: &'a [String],
    python: Option<&'a str>,
    python_malloc: Option<&'static str>,
    libc: Option<&'a str>,
    malloc: Option<String>,
    threads: u32,
    halted: Option<&'static str>,
}

/// The account of the memory control group that limits the process.
#[derive(Serialize)]
struct Cgroup<'a> {
    path: &'a str,
    current_bytes: u64,
    max_bytes: Option<u64>,
    left_bytes: Option<u64>,
    anon_bytes: Option<u64>,
    file_bytes: Option<u64>,
    shmem_bytes: Option<u64>,
    slab_bytes: Option<u64>,
    swap_bytes: Option<u64>,
    reclaimable_bytes: Option<u64>,
    pressure: Option<f64>,
    oom_kills: Option<u64>,
}

impl<'a> Cgroup<'a> {
    fn of(group: &'a GroupAccount) -> Self {
        Self {
            path: &group.path,
            current_bytes: group.current_bytes,
            max_bytes: group.max_bytes,
            left_bytes: group.left_bytes(),
            anon_bytes: group.anon_bytes,
            file_bytes: group.file_bytes,
            shmem_bytes: group.shmem_bytes,
            slab_bytes: group.slab_bytes,
            swap_bytes: group.swap_bytes,
            reclaimable_bytes: group.reclaimable_bytes,
            pressure: group.pressure,
            oom_kills: group.oom_kills,
        }
    }
}

#[derive(Serialize)]
struct FindingRow<'a> {
    mechanism: &'static str,
    claim: &'a str,
    #[serde(flatten)]
    figures: Record<'a, u64, Finding>,
    evidence: Object<&'static str, Option<Number>>,
    remedy: String,
    steps: Vec<RemedyStep>,
    confidence: &'static str,
}

#[derive(Serialize)]
struct RemedyStep {
    place: &'static str,
    what: String,
}

impl RemedyStep {
    fn of(step: &Step) -> Self {
        Self {
            place: step.place(),
            what: step.to_string(),
        }
    }
}

#[derive(Serialize)]
struct Packing<'a> {
    allocator: &'static str,
    kind: &'static str,
    #[serde(flatten)]
    totals: Record<'a, u64, report::Packing>,
    classes: Vec<Record<'a, u64, PackedClass>>,
}

#[derive(Serialize)]
struct Completeness<'a> {
    #[serde(flatten)]
    stopped: Record<'a, u64, View>,
    released: Option<ReleasedRow>,
    slices: Option<SlicesRow>,
    #[serde(flatten)]
    walk: Record<'a, u64, completeness::Completeness>,
    #[serde(flatten)]
    events_lost: Record<'a, u64, View>,
    layout_confidence: &'static str,
    probes: Option<Probes>,
    gaps: Vec<&'static str>,
    files_over_limit: bool,
    out_of_time_ms: Option<f64>,
    defects: Vec<DefectRow<'a>>,
}

#[derive(Serialize)]
struct SlicesRow {
    number: u32,
    longest_ms: f64,
    changed_bytes: u64,
    running_bytes: u64,
}

#[derive(Serialize)]
struct ReleasedRow {
    why: &'static str,
    after_ms: f64,
}

#[derive(Serialize)]
struct Probes {
    firing: usize,
    silent: usize,
    failed: usize,
}

#[derive(Serialize)]
struct DefectRow<'a> {
    address: Option<String>,
    what: &'a str,
    bytes: u64,
}

impl<'a> Snapshot<'a> {
    pub(super) fn of(view: &'a View) -> Self {
        let report = &*view.report;
        Self {
            schema: "fragscope.snapshot/1",
            taken_at: rfc3339(report.taken_at_ns),
            host: Host::from(&report.host),
            target: Target {
                pid: report.target.pid,
                comm: &report.target.comm,
                cmdline: &report.target.cmdline,
                python: report.target.python.as_deref(),
                python_malloc: report.target.python_malloc.map(PythonMalloc::name),
                libc: report.target.libc.as_deref(),
                malloc: report.target.malloc.as_ref().map(ToString::to_string),
                threads: report.target.threads,
                halted: report.target.halted.map(Halted::name),
            },
            kernel: Record::figures(&KernelCount::COLUMNS, &report.kernel),
            core_bytes: KernelCount::CORE.value(&report.kernel).map(Number::from),
            fork: report.fork.as_ref().map(|fork| Record {
                name: vec![("parent_pid", fork.parent)],
                columns: &ForkSharing::COLUMNS,
                row: fork,
            }),
            cgroup: report.group.as_ref().map(Cgroup::of),
            verdict: &report.verdict,
            trend: report.trend.as_ref().map(trend),
            explanation: &report.explanation,
            ledger: report.ledger.iter().map(ledger).collect(),
            heaps: report.heaps.iter().map(Heap::of).collect(),
            size_classes: report.size_classes.iter().map(size_class).collect(),
            page_occupancy: report.page_occupancy.iter().map(occupancy).collect(),
            occupancy_deciles: report.occupancy_deciles.iter().map(deciles).collect(),
            huge_occupancy: report.huge_occupancy.iter().map(huge_occupancy).collect(),
            metrics: metrics(&report.metrics),
            over_time: metrics(&view.over_time.ratios()),
            findings: report.findings.iter().map(FindingRow::of).collect(),
            packing: report.packing.as_ref().map(Packing::of),
            predicted: Predicted::of(report.predictions.as_ref()),
            objects: report
                .objects
                .as_ref()
                .map(|census| Objects::of(census, report)),
            sites: view.sites.as_deref().map(sites::rows),
            site_sampling: view.sites.as_deref().map(SiteSampling::of),
            activity: view.activity.as_deref().map(Activity::of),
            activity_source: view.activity_source().name(),
            what_if: view.what_if.as_ref().map(WhatIfRow::of),
            history: view.history.iter().map(point).collect(),
            notices: &view.notices,
            ended: view.ended.as_deref(),
            completeness: Completeness::of(view),
        }
    }
}

fn metrics(metrics: &[Metric]) -> Object<&'static str, Option<Number>> {
    let row = |metric: &Metric| (metric.id.key(), metric.value.map(Number::from));
    Object(metrics.iter().map(row).collect())
}

fn ledger(row: &LedgerRow) -> Record<'_, &'static str, LedgerRow> {
    Record {
        name: vec![("class", row.class.name())],
        columns: &LedgerRow::COLUMNS,
        row,
    }
}

/// The name of an allocator's rows, and data that is not a single figure.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Name {
    Allocator(&'static str),
    Number(u64),
    Deciles([u32; 9]),
}

fn size_class(row: &SizeClassRow) -> Record<'_, Name, SizeClassRow> {
    Record {
        name: vec![
            ("allocator", Name::Allocator(row.allocator.name())),
            ("upper_bytes", Name::Number(row.class.upper_bytes())),
        ],
        columns: &SizeClassRow::COLUMNS,
        row,
    }
}

fn occupancy(row: &OccupancyRow) -> Record<'_, Name, OccupancyRow> {
    Record {
        name: vec![
            ("allocator", Name::Allocator(row.allocator.name())),
            ("min_bytes", Name::Number(row.min_bytes.into())),
            ("max_bytes", Name::Number(row.max_bytes.into())),
        ],
        columns: &OccupancyRow::COLUMNS,
        row,
    }
}

fn huge_occupancy(row: &HugeOccupancyRow) -> Record<'_, Name, HugeOccupancyRow> {
    Record {
        name: vec![
            ("allocator", Name::Allocator(row.allocator.name())),
            ("max_percent", Name::Number(row.max_percent.into())),
        ],
        columns: &HugeOccupancyRow::COLUMNS,
        row,
    }
}

fn point(point: &Point) -> Record<'_, String, Point> {
    Record {
        name: vec![("time", rfc3339(point.time_ns))],
        columns: &Point::COLUMNS,
        row: point,
    }
}

fn deciles(deciles: &OccupancyDeciles) -> Object<&'static str, Name> {
    let live = Name::Deciles(deciles.live_bytes);
    Object(vec![
        ("allocator", Name::Allocator(deciles.allocator.name())),
        (OccupancyDeciles::LIVE_BYTES.key, live),
    ])
}

impl<'a> FindingRow<'a> {
    fn of(finding: &'a Finding) -> Self {
        let evidence = finding.all_evidence();
        Self {
            mechanism: finding.mechanism.name(),
            claim: &finding.claim,
            figures: Record::figures(&Finding::COLUMNS, finding),
            evidence: Object(
                evidence
                    .map(|one| (one.id.key(), one.value.map(Number::from)))
                    .collect(),
            ),
            remedy: finding.advice(),
            steps: finding.remedy.steps.iter().map(RemedyStep::of).collect(),
            confidence: finding.confidence.name(),
        }
    }
}

impl<'a> Packing<'a> {
    fn of(packing: &'a report::Packing) -> Self {
        let class = |class: &'a PackedClass| Record {
            name: vec![("size_bytes", class.size)],
            columns: &PackedClass::COLUMNS,
            row: class,
        };
        Self {
            allocator: report::Packing::ALLOCATOR.name(),
            kind: "lower bound",
            totals: Record::figures(&report::Packing::COLUMNS, packing),
            classes: packing.classes.iter().map(class).collect(),
        }
    }
}

impl<'a> Completeness<'a> {
    fn of(view: &'a View) -> Self {
        let seen = &view.report.completeness;
        let defect = |defect: &'a Defect| DefectRow {
            address: defect.addr.map(|addr| addr.to_string()),
            what: &defect.what,
            bytes: defect.bytes,
        };
        Self {
            stopped: Record::figures(&[View::STOPPED], view),
            released: seen.stand_still.released().map(|released| ReleasedRow {
                why: released.why.name(),
                after_ms: milliseconds(released.after_ns),
            }),
            slices: seen.stand_still.slices().map(|slices| SlicesRow {
                number: slices.number,
                longest_ms: milliseconds(slices.longest_ns),
                changed_bytes: slices.changed_bytes,
                running_bytes: slices.running_bytes,
            }),
            walk: Record::figures(&completeness::Completeness::COLUMNS, seen),
            events_lost: Record::figures(&[View::EVENTS_LOST], view),
            layout_confidence: seen.layout_confidence.name(),
            probes: view.activity.as_ref().map(|activity| {
                let count = |wanted: fn(&ProbeState) -> bool| {
                    activity.probes.iter().filter(|p| wanted(&p.state)).count()
                };
                Probes {
                    firing: count(|state| matches!(state, ProbeState::Firing)),
                    silent: count(|state| matches!(state, ProbeState::Silent)),
                    failed: count(|state| matches!(state, ProbeState::Failed(_))),
                }
            }),
            gaps: gaps(view).map(|gap| gap.key).collect(),
            files_over_limit: seen.files_over_limit,
            out_of_time_ms: seen.out_of_time_ns.map(milliseconds),
            defects: seen.defects.iter().map(defect).collect(),
        }
    }
}
