//! A view as one tidy table: one figure a row.

use csv::Writer;
use profiler_core::activity::{Activity, ClassActivity};
use profiler_core::columns::Column;
use profiler_core::fork::ForkSharing;
use profiler_core::metrics::Metric;
use profiler_core::objects::{AllocatorShare, Census, Growth, Holder, NativeRow, TypeRow};
use profiler_core::prediction::{Needs, Predictions};
use profiler_core::report::{
    ArenaReport, HeapReport, HugeOccupancyRow, LedgerRow, OccupancyRow, PackedClass, Packing,
    SizeClassRow,
};
use profiler_core::text::visible;
use profiler_core::units::{Unit, Value};
use profiler_core::view::{Point, View};

use super::names::{events_lost, milliseconds, rfc3339};

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
        rows.columns("ledger", "", row.class.name(), &LedgerRow::COLUMNS, row)?;
    }
    for heap in &view.report.heaps {
        heap_rows(&mut rows, heap)?;
    }
    for row in &view.report.size_classes {
        let upper = row.class.upper_bytes().to_string();
        rows.columns(
            "size_classes",
            row.allocator.name(),
            &upper,
            &SizeClassRow::COLUMNS,
            row,
        )?;
    }
    for row in &view.report.page_occupancy {
        let range = format!("{}-{}", row.min_bytes, row.max_bytes);
        rows.columns(
            "page_occupancy",
            row.allocator.name(),
            &range,
            &OccupancyRow::COLUMNS,
            row,
        )?;
    }
    for deciles in &view.report.occupancy_deciles {
        let allocator = deciles.allocator.name();
        for (tenth, live) in (1..).zip(deciles.live_bytes) {
            let tenth = format!("{}", 10 * tenth);
            let field = ("live_bytes", Unit::Bytes, Some(u64::from(live).into()));
            rows.row("occupancy_deciles", allocator, &tenth, field)?;
        }
    }
    for row in &view.report.huge_occupancy {
        let percent = row.max_percent.to_string();
        rows.columns(
            "huge_occupancy",
            row.allocator.name(),
            &percent,
            &HugeOccupancyRow::COLUMNS,
            row,
        )?;
    }
    metrics(&mut rows, "metrics", &view.report.metrics)?;
    metrics(&mut rows, "over_time", &view.over_time.ratios())?;
    for finding in &view.report.findings {
        let name = finding.mechanism.name();
        let field = ("bytes", Unit::Bytes, finding.bytes.map(Into::into));
        rows.row("findings", "", name, field)?;
    }
    packing_rows(&mut rows, view)?;
    if let Some(predictions) = &view.report.predictions {
        prediction_rows(&mut rows, predictions)?;
    }
    if let Some(census) = &view.report.objects {
        object_rows(&mut rows, census, view.report.growth.as_ref())?;
    }
    if let Some(activity) = &view.activity {
        activity_rows(&mut rows, activity)?;
    }
    for point in view.history.iter() {
        let time = rfc3339(point.time_ns);
        rows.columns("history", "", &time, &Point::COLUMNS, point)?;
    }
    let bytes = rows.writer.into_inner();
    bytes.map_err(|error| csv::Error::from(error.into_error()))
}

/// What malloc's heap took at the walk that was predicted, and what it would need elsewhere.
fn prediction_rows(rows: &mut Rows, predictions: &Predictions) -> Result<(), csv::Error> {
    let whole = |bytes: u64| Some(Value::Whole(bytes));
    if let Some(check) = &predictions.self_check {
        let fields = [
            ("measured_bytes", Unit::Bytes, whole(check.measured_bytes)),
            ("predicted_bytes", Unit::Bytes, whole(check.predicted_bytes)),
        ];
        rows.fields("self_check", "", "", &fields)?;
    }
    for prediction in &predictions.candidates {
        let needs = |of: fn(&Needs) -> u64| prediction.needs.as_ref().map(of).and_then(whole);
        let fields = [
            ("rest_bytes", Unit::Bytes, needs(|needs| needs.bytes)),
            ("low_bytes", Unit::Bytes, needs(|needs| needs.low_bytes)),
            ("high_bytes", Unit::Bytes, needs(|needs| needs.high_bytes)),
        ];
        let (allocator, item) = (&prediction.allocator, &prediction.candidate);
        rows.fields("predictions", allocator, item, &fields)?;
    }
    Ok(())
}

/// The field of what a row of objects gains; unknown without a census before.
fn gained(bytes: Option<f64>) -> Field<'static> {
    let bytes = bytes.map(Value::Fraction);
    ("growth_bytes_per_second", Unit::BytesPerSecond, bytes)
}

/// Types, native blocks and holders, each with what it gains.
fn object_rows(
    rows: &mut Rows,
    census: &Census,
    growth: Option<&Growth>,
) -> Result<(), csv::Error> {
    let live = growth.map(|growth| growth.live.bytes);
    rows.row("objects", "", "", gained(live))?;
    for share in &census.shares {
        let allocator = share.allocator.name();
        rows.columns("objects", allocator, "", &AllocatorShare::COLUMNS, share)?;
    }
    for row in &census.types {
        let name = visible(&row.name).to_string();
        rows.columns("types", "", &name, &TypeRow::COLUMNS, row)?;
        let rate = growth.map(|growth| growth.of_type(&row.name).bytes);
        rows.row("types", "", &name, gained(rate))?;
    }
    for row in &census.native {
        let upper = row.class.upper_bytes().to_string();
        let allocator = row.allocator.name();
        rows.columns("native", allocator, &upper, &NativeRow::COLUMNS, row)?;
        let rate = growth.map(|growth| growth.of_native(row.allocator, row.class).bytes);
        rows.row("native", allocator, &upper, gained(rate))?;
    }
    for (at, holder) in census.shown(growth) {
        let others = holder.shared_with.iter();
        let names: Vec<&str> = std::iter::once(&holder.name)
            .chain(others)
            .map(String::as_str)
            .collect();
        let names = visible(names.join(" & ")).to_string();
        rows.columns("holders", "", &names, &Holder::COLUMNS, holder)?;
        let rate = growth.map(|growth| growth.of_holder(at).map_or(0.0, |of| of.bytes));
        rows.row("holders", "", &names, gained(rate))?;
    }
    Ok(())
}

struct Rows {
    writer: Writer<Vec<u8>>,
    taken_at: String,
    pid: String,
}

/// A figure of a view by its field, with its unit; without a value it is unknown.
type Field<'a> = (&'a str, Unit, Option<Value>);

impl Rows {
    fn row(
        &mut self,
        table: &str,
        allocator: &str,
        item: &str,
        (field, unit, value): Field<'_>,
    ) -> Result<(), csv::Error> {
        let value = value.map_or_else(String::new, |value| value.to_string());
        self.writer.write_record([
            &*self.taken_at,
            &*self.pid,
            table,
            allocator,
            item,
            field,
            &*value,
            unit.symbol(),
        ])
    }

    fn fields(
        &mut self,
        table: &str,
        allocator: &str,
        item: &str,
        fields: &[Field<'_>],
    ) -> Result<(), csv::Error> {
        let mut fields = fields.iter();
        fields.try_for_each(|field| self.row(table, allocator, item, *field))
    }

    /// All figures of a row of one of the view's tables.
    fn columns<Row>(
        &mut self,
        table: &str,
        allocator: &str,
        item: &str,
        columns: &[Column<Row>],
        row: &Row,
    ) -> Result<(), csv::Error> {
        columns.iter().try_for_each(|column| {
            let value = column.value(row).map(Value::Whole);
            self.row(table, allocator, item, (column.key, column.unit, value))
        })
    }
}

fn metrics(rows: &mut Rows, table: &str, metrics: &[Metric]) -> Result<(), csv::Error> {
    metrics.iter().try_for_each(|metric| {
        let field = (metric.id.key(), metric.id.unit(), metric.value);
        rows.row(table, "", "", field)
    })
}

fn totals(rows: &mut Rows, view: &View) -> Result<(), csv::Error> {
    let (kernel, seen) = (&view.report.kernel, &view.report.completeness);
    let [rss, swap, peak] = kernel.known();
    let known = [
        ("rss_bytes", rss),
        ("swap_bytes", swap),
        ("peak_rss_bytes", peak),
        ("pss_bytes", kernel.pss_bytes),
        ("lazy_free_bytes", kernel.lazy_free_bytes),
        ("anon_huge_bytes", kernel.anon_huge_bytes),
        ("ksm_bytes", kernel.ksm_bytes),
    ];
    for (field, bytes) in known {
        let field = (field, Unit::Bytes, bytes.map(Value::Whole));
        rows.row("process", "", "", field)?;
    }
    if kernel.is_core {
        let held = Some(kernel.rss_bytes.into());
        rows.row("process", "", "", ("core_bytes", Unit::Bytes, held))?;
    }
    if let Some(fork) = &view.report.fork {
        rows.columns("fork", "", "", &ForkSharing::COLUMNS, fork)?;
    }
    let whole = |value: u64| Some(Value::Whole(value));
    let time = |ns| Some(Value::Fraction(milliseconds(ns)));
    let threads = u64::from(seen.threads_in_allocator);
    let fields = [
        (
            "stopped",
            Unit::Flag,
            whole(seen.stand_still.is_throughout().into()),
        ),
        ("events_lost", Unit::Events, whole(events_lost(view))),
        (
            "unreadable_bytes",
            Unit::Bytes,
            whole(seen.unreadable_bytes),
        ),
        ("threads_in_allocator", Unit::Threads, whole(threads)),
        ("defects", Unit::Defects, whole(seen.defects.len() as u64)),
        ("stop_ms", Unit::Milliseconds, time(seen.stop_ns)),
        ("walk_ms", Unit::Milliseconds, time(seen.walk_ns)),
    ];
    rows.fields("completeness", "", "", &fields)
}

fn heap_rows(rows: &mut Rows, heap: &HeapReport) -> Result<(), csv::Error> {
    let allocator = heap.allocator.name();
    rows.columns("heaps", allocator, "", &HeapReport::COLUMNS, heap)?;
    heap.arenas.iter().try_for_each(|arena| {
        let id = arena.arena.id.to_string();
        rows.columns("arenas", allocator, &id, &ArenaReport::COLUMNS, arena)
    })
}

fn packing_rows(rows: &mut Rows, view: &View) -> Result<(), csv::Error> {
    let Some(packing) = &view.report.packing else {
        return Ok(());
    };
    rows.columns("packing", "jemalloc", "", &Packing::COLUMNS, packing)?;
    packing.classes.iter().try_for_each(|class| {
        let size = class.size.to_string();
        rows.columns(
            "packing_classes",
            "jemalloc",
            &size,
            &PackedClass::COLUMNS,
            class,
        )
    })
}

fn activity_rows(rows: &mut Rows, activity: &Activity) -> Result<(), csv::Error> {
    let whole = |value: u64| Some(Value::Whole(value));
    let part = |value: f64| Some(Value::Fraction(value));
    let cost = &activity.cost;
    let fields = [
        ("elapsed_ns", Unit::Nanoseconds, whole(activity.elapsed_ns)),
        ("armed_ns", Unit::Nanoseconds, whole(activity.armed_ns)),
        ("allocs", Unit::Calls, whole(activity.allocs)),
        ("alloc_bytes", Unit::Bytes, whole(activity.alloc_bytes)),
        ("frees", Unit::Calls, whole(activity.frees)),
        (
            "frees_of_older",
            Unit::Calls,
            whole(activity.frees_of_older),
        ),
        (
            "tracked_blocks",
            Unit::Blocks,
            whole(activity.tracked_blocks),
        ),
        ("tracked_bytes", Unit::Bytes, whole(activity.tracked_bytes)),
        ("probe_hits", Unit::Hits, whole(cost.hits)),
        (
            "allocs_per_second",
            Unit::PerSecond,
            part(activity.alloc_rate),
        ),
        (
            "frees_per_second",
            Unit::PerSecond,
            part(activity.free_rate),
        ),
        (
            "alloc_bytes_per_second",
            Unit::BytesPerSecond,
            part(activity.alloc_byte_rate),
        ),
        ("probe_ns_per_hit", Unit::Nanoseconds, part(cost.ns_per_hit)),
        ("probe_share", Unit::Share, part(cost.share)),
        (
            "probe_budget_share",
            Unit::Share,
            cost.budget.map(Value::Fraction),
        ),
    ];
    rows.fields("activity", "", "", &fields)?;
    for class in &activity.classes {
        let upper = class.class.upper_bytes().to_string();
        // A lifetime of which none was seen has no row.
        for column in &ClassActivity::COLUMNS {
            if let Some(value) = column.value(class) {
                let field = (column.key, column.unit, Some(value.into()));
                rows.row("activity_classes", "", &upper, field)?;
            }
        }
    }
    Ok(())
}
