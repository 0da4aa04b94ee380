//! The whole view: `fragscope.snapshot/1`.

use profiler_core::activity::ProbeState;
use profiler_core::completeness::Defect;
use profiler_core::fork::ForkSharing;
use profiler_core::report::{
    self, Finding, HugeOccupancyRow, LedgerRow, Metric, OccupancyDeciles, OccupancyRow,
    SizeClassRow,
};
use profiler_core::sample::PythonMalloc;
use profiler_core::view::{self, View};
use serde::Serialize;

use super::activity::Activity;
use super::heaps::Heap;
use super::what_if::WhatIfRow;
use super::{Number, Object};
use crate::export::names::{confidence, events_lost, gaps, milliseconds, rfc3339};

#[derive(Serialize)]
pub(super) struct Snapshot<'a> {
    schema: &'static str,
    taken_at: String,
    host: Host<'a>,
    target: Target<'a>,
    rss_bytes: Option<u64>,
    swap_bytes: Option<u64>,
    peak_rss_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    core_bytes: Option<u64>,
    pss_bytes: Option<u64>,
    lazy_free_bytes: Option<u64>,
    anon_huge_bytes: Option<u64>,
    ksm_bytes: Option<u64>,
    fork: Option<Fork>,
    verdict: &'a str,
    explanation: &'a str,
    ledger: Vec<Ledger>,
    heaps: Vec<Heap<'a>>,
    size_classes: Vec<SizeClass>,
    page_occupancy: Vec<Occupancy>,
    occupancy_deciles: Vec<Deciles>,
    huge_occupancy: Vec<HugeOccupancy>,
    metrics: Object<&'static str, Option<Number>>,
    over_time: Object<&'static str, Option<Number>>,
    findings: Vec<FindingRow<'a>>,
    packing: Option<Packing>,
    activity: Option<Activity<'a>>,
    what_if: Option<WhatIfRow<'a>>,
    history: Vec<Point>,
    notices: &'a [String],
    ended: Option<&'a str>,
    completeness: Completeness<'a>,
}

#[derive(Serialize)]
struct Host<'a> {
    kernel: &'a str,
    arch: &'a str,
    cpus: u32,
    memory_bytes: u64,
}

#[derive(Serialize)]
struct Target<'a> {
    pid: i32,
    comm: &'a str,
    cmdline: &'a [String],
    python: Option<&'a str>,
    python_malloc: Option<&'static str>,
    libc: Option<&'a str>,
    malloc: Option<&'a str>,
    threads: u32,
}

#[derive(Serialize)]
struct Ledger {
    class: &'static str,
    resident_bytes: u64,
    shared_bytes: u64,
    swapped_bytes: u64,
}

#[derive(Serialize)]
struct SizeClass {
    allocator: &'static str,
    upper_bytes: u64,
    live_blocks: u64,
    live_bytes: u64,
    free_blocks: u64,
    free_bytes: u64,
    pinned_free_bytes: u64,
}

#[derive(Serialize)]
struct Occupancy {
    allocator: &'static str,
    min_bytes: u32,
    max_bytes: u32,
    resident_pages: u64,
    swapped_pages: u64,
}

#[derive(Serialize)]
struct Deciles {
    allocator: &'static str,
    live_bytes: [u16; 9],
}

#[derive(Serialize)]
struct HugeOccupancy {
    allocator: &'static str,
    max_percent: u32,
    ranges: u64,
    resident_bytes: u64,
    huge_bytes: u64,
}

#[derive(Serialize)]
struct Fork {
    parent_pid: i32,
    shared_bytes: u64,
    copied_bytes: u64,
    own_bytes: u64,
}

#[derive(Serialize)]
struct FindingRow<'a> {
    mechanism: &'static str,
    claim: &'a str,
    bytes: u64,
    evidence: Object<&'a str, Number>,
    remedy: &'a str,
    confidence: &'static str,
}

#[derive(Serialize)]
struct Packing {
    allocator: &'static str,
    kind: &'static str,
    packed_bytes: u64,
    present_bytes: u64,
    live_blocks: u64,
    live_bytes: u64,
    rounding_bytes: u64,
    classes: Vec<PackedClass>,
}

#[derive(Serialize)]
struct PackedClass {
    size_bytes: u64,
    live_blocks: u64,
    packed_bytes: u64,
}

#[derive(Serialize)]
struct Point {
    time: String,
    rss_bytes: u64,
    swap_bytes: u64,
    live_bytes: Option<u64>,
    heap_bytes: Option<u64>,
}

#[derive(Serialize)]
struct Completeness<'a> {
    stopped: bool,
    stop_ms: f64,
    walk_ms: f64,
    threads_in_allocator: u32,
    events_lost: u64,
    unreadable_bytes: u64,
    layout_confidence: &'static str,
    probes: Option<Probes>,
    gaps: Vec<&'static str>,
    defects: Vec<DefectRow<'a>>,
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
        let [rss_bytes, swap_bytes, peak_rss_bytes] = report.kernel.known();
        Self {
            schema: "fragscope.snapshot/1",
            taken_at: rfc3339(report.taken_at_ns),
            host: Host {
                kernel: &report.host.kernel,
                arch: &report.host.arch,
                cpus: report.host.cpus,
                memory_bytes: report.host.memory_bytes,
            },
            target: Target {
                pid: report.target.pid,
                comm: &report.target.comm,
                cmdline: &report.target.cmdline,
                python: report.target.python.as_deref(),
                python_malloc: report.target.python_malloc.map(PythonMalloc::name),
                libc: report.target.libc.as_deref(),
                malloc: report.target.malloc.as_deref(),
                threads: report.target.threads,
            },
            rss_bytes,
            swap_bytes,
            peak_rss_bytes,
            core_bytes: report.kernel.is_core.then_some(report.kernel.rss_bytes),
            pss_bytes: report.kernel.pss_bytes,
            lazy_free_bytes: report.kernel.lazy_free_bytes,
            anon_huge_bytes: report.kernel.anon_huge_bytes,
            ksm_bytes: report.kernel.ksm_bytes,
            fork: report.fork.map(Fork::of),
            verdict: &report.verdict,
            explanation: &report.explanation,
            ledger: report.ledger.iter().map(Ledger::of).collect(),
            heaps: report.heaps.iter().map(Heap::of).collect(),
            size_classes: report.size_classes.iter().map(SizeClass::of).collect(),
            page_occupancy: report.page_occupancy.iter().map(Occupancy::of).collect(),
            occupancy_deciles: report.occupancy_deciles.iter().map(Deciles::of).collect(),
            huge_occupancy: report
                .huge_occupancy
                .iter()
                .map(HugeOccupancy::of)
                .collect(),
            metrics: metrics(&report.metrics),
            over_time: metrics(&view.over_time.ratios()),
            findings: report.findings.iter().map(FindingRow::of).collect(),
            packing: report.packing.as_ref().map(Packing::of),
            activity: view.activity.as_deref().map(Activity::of),
            what_if: view.what_if.as_ref().map(WhatIfRow::of),
            history: view.history.iter().map(Point::of).collect(),
            notices: &view.notices,
            ended: view.ended.as_deref(),
            completeness: Completeness::of(view),
        }
    }
}

fn metrics(metrics: &[Metric]) -> Object<&'static str, Option<Number>> {
    let row = |metric: &Metric| (metric.name, metric.value.map(Number::of));
    Object(metrics.iter().map(row).collect())
}

impl Fork {
    fn of(sharing: ForkSharing) -> Self {
        Self {
            parent_pid: sharing.parent,
            shared_bytes: sharing.shared_bytes,
            copied_bytes: sharing.copied_bytes,
            own_bytes: sharing.own_bytes,
        }
    }
}

impl Ledger {
    fn of(row: &LedgerRow) -> Self {
        Self {
            class: row.class.name(),
            resident_bytes: row.resident_bytes,
            shared_bytes: row.shared_bytes,
            swapped_bytes: row.swapped_bytes,
        }
    }
}

impl SizeClass {
    fn of(row: &SizeClassRow) -> Self {
        Self {
            allocator: row.allocator.name(),
            upper_bytes: row.class.upper_bytes(),
            live_blocks: row.live_blocks,
            live_bytes: row.live_bytes,
            free_blocks: row.free_blocks,
            free_bytes: row.free_bytes,
            pinned_free_bytes: row.pinned_free_bytes,
        }
    }
}

impl Occupancy {
    fn of(row: &OccupancyRow) -> Self {
        Self {
            allocator: row.allocator.name(),
            min_bytes: row.min_bytes,
            max_bytes: row.max_bytes,
            resident_pages: row.resident_pages,
            swapped_pages: row.swapped_pages,
        }
    }
}

impl Deciles {
    fn of(deciles: &OccupancyDeciles) -> Self {
        Self {
            allocator: deciles.allocator.name(),
            live_bytes: deciles.live_bytes,
        }
    }
}

impl HugeOccupancy {
    fn of(row: &HugeOccupancyRow) -> Self {
        Self {
            allocator: row.allocator.name(),
            max_percent: row.max_percent,
            ranges: row.ranges,
            resident_bytes: row.resident_bytes,
            huge_bytes: row.huge_bytes,
        }
    }
}

impl<'a> FindingRow<'a> {
    fn of(finding: &'a Finding) -> Self {
        let evidence = finding.evidence.iter();
        Self {
            mechanism: finding.mechanism.name(),
            claim: &finding.claim,
            bytes: finding.bytes,
            evidence: Object(
                evidence
                    .map(|(name, value)| (name.as_str(), Number::of(*value)))
                    .collect(),
            ),
            remedy: &finding.remedy,
            confidence: confidence(finding.confidence),
        }
    }
}

impl Packing {
    fn of(packing: &report::Packing) -> Self {
        let class = |class: &report::PackedClass| PackedClass {
            size_bytes: class.size,
            live_blocks: class.blocks,
            packed_bytes: class.bytes,
        };
        Self {
            allocator: "jemalloc",
            kind: "lower bound",
            packed_bytes: packing.packed_bytes,
            present_bytes: packing.present_bytes,
            live_blocks: packing.blocks,
            live_bytes: packing.live_bytes,
            rounding_bytes: packing.rounding_bytes,
            classes: packing.classes.iter().map(class).collect(),
        }
    }
}

impl Point {
    fn of(point: &view::Point) -> Self {
        Self {
            time: rfc3339(point.time_ns),
            rss_bytes: point.rss_bytes,
            swap_bytes: point.swap_bytes,
            live_bytes: point.live_bytes,
            heap_bytes: point.heap_bytes,
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
            stopped: seen.stopped,
            stop_ms: milliseconds(seen.stop_ns),
            walk_ms: milliseconds(seen.walk_ns),
            threads_in_allocator: seen.threads_in_allocator,
            events_lost: events_lost(view),
            unreadable_bytes: seen.unreadable_bytes,
            layout_confidence: confidence(seen.layout_confidence),
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
            gaps: gaps(view),
            defects: seen.defects.iter().map(defect).collect(),
        }
    }
}
