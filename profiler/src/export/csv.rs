//! A view as one tidy table: one figure a row.

use csv::Writer;
use profiler_core::activity::Activity;
use profiler_core::report::{ArenaReport, HeapReport};
use profiler_core::view::View;

use super::names::{events_lost, milliseconds, rfc3339, unit_of};

const HEADER: [&str; 8] = [
    "taken_at",
    "pid",
    "table",
    "allocator",
    "item",
    "field",
    "value",
    "unit",
];

/// The table of a view, as the bytes of a CSV file (RFC 4180, UTF-8).
///
/// # Errors
/// None in practice: rows are made in memory, each of the same length.
pub(super) fn table(view: &View) -> Result<Vec<u8>, csv::Error> {
    let mut rows = Rows {
        writer: Writer::from_writer(Vec::new()),
        taken_at: rfc3339(view.report.taken_at_ns),
        pid: view.report.target.pid.to_string(),
    };
    rows.writer.write_record(HEADER)?;
    totals(&mut rows, view)?;
    for row in &view.report.ledger {
        let fields = [
            ("resident_bytes", row.resident_bytes),
            ("shared_bytes", row.shared_bytes),
            ("swapped_bytes", row.swapped_bytes),
        ];
        rows.counts("ledger", "", row.class.name(), &fields)?;
    }
    for heap in &view.report.heaps {
        heap_rows(&mut rows, heap)?;
    }
    for row in &view.report.size_classes {
        let fields = [
            ("live_blocks", row.live_blocks),
            ("live_bytes", row.live_bytes),
            ("free_blocks", row.free_blocks),
            ("free_bytes", row.free_bytes),
            ("pinned_free_bytes", row.pinned_free_bytes),
        ];
        let upper = row.class.upper_bytes().to_string();
        rows.counts("size_classes", row.allocator.name(), &upper, &fields)?;
    }
    for row in &view.report.page_occupancy {
        let fields = [
            ("resident_pages", row.resident_pages),
            ("swapped_pages", row.swapped_pages),
        ];
        let range = format!("{}-{}", row.min_bytes, row.max_bytes);
        rows.counts("page_occupancy", row.allocator.name(), &range, &fields)?;
    }
    for deciles in &view.report.occupancy_deciles {
        let allocator = deciles.allocator.name();
        for (tenth, live) in (1..).zip(deciles.live_bytes) {
            let tenth = format!("{}", 10 * tenth);
            let fields = [("live_bytes", u64::from(live))];
            rows.counts("occupancy_deciles", allocator, &tenth, &fields)?;
        }
    }
    for row in &view.report.huge_occupancy {
        let fields = [
            ("ranges", row.ranges),
            ("resident_bytes", row.resident_bytes),
            ("huge_bytes", row.huge_bytes),
        ];
        let percent = row.max_percent.to_string();
        rows.counts("huge_occupancy", row.allocator.name(), &percent, &fields)?;
    }
    for metric in &view.report.metrics {
        rows.figure("metrics", "", "", metric.name, metric.value)?;
    }
    for metric in view.over_time.ratios() {
        rows.figure("over_time", "", "", metric.name, metric.value)?;
    }
    for finding in &view.report.findings {
        let name = finding.mechanism.name();
        rows.counts("findings", "", name, &[("bytes", finding.bytes)])?;
    }
    packing_rows(&mut rows, view)?;
    if let Some(activity) = &view.activity {
        activity_rows(&mut rows, activity)?;
    }
    for point in view.history.iter() {
        let time = rfc3339(point.time_ns);
        let fields = [
            ("rss_bytes", point.rss_bytes),
            ("swap_bytes", point.swap_bytes),
        ];
        rows.counts("history", "", &time, &fields)?;
        let live = point.live_bytes.map(|bytes| bytes as f64);
        rows.figure("history", "", &time, "live_bytes", live)?;
        let heap = point.heap_bytes.map(|bytes| bytes as f64);
        rows.figure("history", "", &time, "heap_bytes", heap)?;
    }
    let bytes = rows.writer.into_inner();
    bytes.map_err(|error| csv::Error::from(error.into_error()))
}

struct Rows {
    writer: Writer<Vec<u8>>,
    taken_at: String,
    pid: String,
}

impl Rows {
    fn row(
        &mut self,
        table: &str,
        allocator: &str,
        item: &str,
        field: &str,
        value: &str,
    ) -> Result<(), csv::Error> {
        let unit = unit_of(field);
        let (taken_at, pid) = (self.taken_at.as_str(), self.pid.as_str());
        self.writer
            .write_record([taken_at, pid, table, allocator, item, field, value, unit])
    }

    fn counts(
        &mut self,
        table: &str,
        allocator: &str,
        item: &str,
        fields: &[(&str, u64)],
    ) -> Result<(), csv::Error> {
        fields.iter().try_for_each(|(field, value)| {
            self.row(table, allocator, item, field, &value.to_string())
        })
    }

    /// Unknown is an empty value.
    fn figure(
        &mut self,
        table: &str,
        allocator: &str,
        item: &str,
        field: &str,
        value: Option<f64>,
    ) -> Result<(), csv::Error> {
        let value = value.map_or_else(String::new, |value| value.to_string());
        self.row(table, allocator, item, field, &value)
    }
}

fn totals(rows: &mut Rows, view: &View) -> Result<(), csv::Error> {
    let (kernel, seen) = (&view.report.kernel, &view.report.completeness);
    let [rss, swap, peak] = kernel.known();
    let where_told = [
        ("rss_bytes", rss),
        ("swap_bytes", swap),
        ("peak_rss_bytes", peak),
        ("pss_bytes", kernel.pss_bytes),
        ("lazy_free_bytes", kernel.lazy_free_bytes),
        ("anon_huge_bytes", kernel.anon_huge_bytes),
        ("ksm_bytes", kernel.ksm_bytes),
    ];
    for (field, bytes) in where_told {
        rows.figure("process", "", "", field, bytes.map(|bytes| bytes as f64))?;
    }
    if kernel.is_core {
        rows.counts("process", "", "", &[("core_bytes", kernel.rss_bytes)])?;
    }
    if let Some(fork) = &view.report.fork {
        let fields = [
            ("shared_bytes", fork.shared_bytes),
            ("copied_bytes", fork.copied_bytes),
            ("own_bytes", fork.own_bytes),
        ];
        rows.counts("fork", "", "", &fields)?;
    }
    let fields = [
        ("stopped", u64::from(seen.stopped)),
        ("events_lost", events_lost(view)),
        ("unreadable_bytes", seen.unreadable_bytes),
        ("threads_in_allocator", u64::from(seen.threads_in_allocator)),
        ("defects", seen.defects.len() as u64),
    ];
    rows.counts("completeness", "", "", &fields)?;
    for (field, ns) in [("stop_ms", seen.stop_ns), ("walk_ms", seen.walk_ns)] {
        rows.figure("completeness", "", "", field, Some(milliseconds(ns)))?;
    }
    Ok(())
}

fn heap_rows(rows: &mut Rows, heap: &HeapReport) -> Result<(), csv::Error> {
    let allocator = heap.allocator.name();
    let fields = [
        ("live_bytes", heap.live_bytes),
        ("live_blocks", heap.live_blocks),
        ("free_bytes", heap.free_bytes),
        ("cached_bytes", heap.cached_bytes),
        ("mapped_large_bytes", heap.mapped_large_bytes),
        ("mapped_large_blocks", heap.mapped_large_blocks),
    ];
    rows.counts("heaps", allocator, "", &fields)?;
    for ArenaReport {
        arena,
        resident_bytes,
        swapped_bytes,
        trimmable_bytes,
        pinned_free_bytes,
        below_highest_live_bytes,
        top_pinned_bytes,
    } in &heap.arenas
    {
        let fields = [
            ("system_bytes", arena.system_bytes),
            ("live_bytes", arena.live_bytes),
            ("live_blocks", arena.live_blocks),
            ("free_bytes", arena.free_bytes),
            ("free_blocks", arena.free_blocks),
            ("cached_bytes", arena.cached_bytes),
            ("cached_blocks", arena.cached_blocks),
            ("top_bytes", arena.top_bytes),
            ("resident_bytes", *resident_bytes),
            ("swapped_bytes", *swapped_bytes),
            ("trimmable_bytes", *trimmable_bytes),
            ("pinned_free_bytes", *pinned_free_bytes),
            ("below_highest_live_bytes", *below_highest_live_bytes),
            ("top_pinned_bytes", *top_pinned_bytes),
        ];
        rows.counts("arenas", allocator, &arena.id.to_string(), &fields)?;
    }
    Ok(())
}

fn packing_rows(rows: &mut Rows, view: &View) -> Result<(), csv::Error> {
    let Some(packing) = &view.report.packing else {
        return Ok(());
    };
    let fields = [
        ("packed_bytes", packing.packed_bytes),
        ("present_bytes", packing.present_bytes),
        ("rounding_bytes", packing.rounding_bytes),
        ("live_bytes", packing.live_bytes),
        ("live_blocks", packing.blocks),
    ];
    rows.counts("packing", "jemalloc", "", &fields)?;
    for class in &packing.classes {
        let fields = [("live_blocks", class.blocks), ("packed_bytes", class.bytes)];
        let size = class.size.to_string();
        rows.counts("packing_classes", "jemalloc", &size, &fields)?;
    }
    Ok(())
}

fn activity_rows(rows: &mut Rows, activity: &Activity) -> Result<(), csv::Error> {
    let fields = [
        ("elapsed_ns", activity.elapsed_ns),
        ("armed_ns", activity.armed_ns),
        ("allocs", activity.allocs),
        ("alloc_bytes", activity.alloc_bytes),
        ("frees", activity.frees),
        ("frees_of_older", activity.frees_of_older),
        ("tracked_blocks", activity.tracked_blocks),
        ("tracked_bytes", activity.tracked_bytes),
        ("probe_hits", activity.cost.hits),
    ];
    rows.counts("activity", "", "", &fields)?;
    let figures = [
        ("allocs_per_second", Some(activity.alloc_rate)),
        ("frees_per_second", Some(activity.free_rate)),
        ("alloc_bytes_per_second", Some(activity.alloc_byte_rate)),
        ("probe_ns_per_hit", Some(activity.cost.ns_per_hit)),
        ("probe_share", Some(activity.cost.share)),
        ("probe_budget_share", activity.cost.budget),
    ];
    for (field, value) in figures {
        rows.figure("activity", "", "", field, value)?;
    }
    for class in &activity.classes {
        let fields = [
            ("allocs", class.allocs),
            ("alloc_bytes", class.alloc_bytes),
            ("frees", class.frees),
            ("lifetime_p50_ns", class.lifetime_p50_ns),
            ("lifetime_p90_ns", class.lifetime_p90_ns),
            ("lifetime_p99_ns", class.lifetime_p99_ns),
        ];
        // A class none of whose blocks was seen to die has no lifetimes, rather than short ones.
        let known = if class.frees > 0 { 6 } else { 3 };
        let upper = class.class.upper_bytes().to_string();
        rows.counts("activity_classes", "", &upper, &fields[..known])?;
    }
    Ok(())
}
