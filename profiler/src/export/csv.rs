//! A view as one tidy table: one figure per row.

use std::borrow::Cow;

use csv::Writer;
use profiler_core::activity::{Activity, ClassActivity, ProbeCost};
use profiler_core::columns::Column;
use profiler_core::completeness::Completeness;
use profiler_core::fork::ForkSharing;
use profiler_core::metrics::Metric;
use profiler_core::objects::{AllocatorShare, Census, Gain, Growth, Holder, NativeRow, TypeRow};
use profiler_core::prediction::{NeedsRow, Predictions, SelfCheck};
use profiler_core::report::{
    ArenaReport, Finding, FragReport, HeapReport, HugeOccupancyRow, LedgerRow, OccupancyDeciles,
    OccupancyRow, PackedClass, Packing, SizeClassRow,
};
use profiler_core::sample::KernelCount;
use profiler_core::text::visible;
use profiler_core::units::{Unit, Value};
use profiler_core::view::{Point, View};

use super::names::rfc3339;

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
/// None in practice: rows are made in memory and all have the same length.
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
    class_and_page_rows(&mut rows, &view.report)?;
    metrics(&mut rows, "metrics", &view.report.metrics)?;
    metrics(&mut rows, "over_time", &view.over_time.ratios())?;
    for finding in &view.report.findings {
        let name = finding.mechanism.name();
        rows.columns("findings", "", name, &Finding::COLUMNS, finding)?;
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

/// Size classes, and pages and 2 MiB ranges by their live bytes.
fn class_and_page_rows(rows: &mut Rows, report: &FragReport) -> Result<(), csv::Error> {
    for row in &report.size_classes {
        let upper = row.class.upper_bytes().to_string();
        rows.columns(
            "size_classes",
            row.allocator.name(),
            &upper,
            &SizeClassRow::COLUMNS,
            row,
        )?;
    }
    for row in &report.page_occupancy {
        let range = format!("{}-{}", row.min_bytes, row.max_bytes);
        rows.columns(
            "page_occupancy",
            row.allocator.name(),
            &range,
            &OccupancyRow::COLUMNS,
            row,
        )?;
    }
    for deciles in &report.occupancy_deciles {
        let allocator = deciles.allocator.name();
        for (tenth, live) in (1..).zip(deciles.live_bytes) {
            let tenth = format!("{}", 10 * tenth);
            let columns = [OccupancyDeciles::LIVE_BYTES];
            rows.columns("occupancy_deciles", allocator, &tenth, &columns, &live)?;
        }
    }
    for row in &report.huge_occupancy {
        let percent = row.max_percent.to_string();
        rows.columns(
            "huge_occupancy",
            row.allocator.name(),
            &percent,
            &HugeOccupancyRow::COLUMNS,
            row,
        )?;
    }
    Ok(())
}

/// What malloc's heap took at the predicted walk, and what it would need with other allocators and
/// settings.
fn prediction_rows(rows: &mut Rows, predictions: &Predictions) -> Result<(), csv::Error> {
    if let Some(check) = &predictions.self_check {
        rows.columns("self_check", "", "", &SelfCheck::COLUMNS, check)?;
    }
    for prediction in &predictions.candidates {
        let item = prediction.candidate.to_string();
        rows.columns(
            "predictions",
            prediction.allocator.name(),
            &item,
            &NeedsRow::COLUMNS,
            &predictions.row(prediction),
        )?;
    }
    Ok(())
}

/// Types, native blocks and holders, each with its gain.
fn object_rows(
    rows: &mut Rows,
    census: &Census,
    growth: Option<&Growth>,
) -> Result<(), csv::Error> {
    rows.columns("objects", "", "", &Census::COLUMNS, census)?;
    let live = Gain::from(growth.map(|growth| growth.live));
    rows.columns("objects", "", "", &Gain::COLUMNS, &live)?;
    for share in &census.shares {
        let allocator = share.allocator.name();
        rows.columns("objects", allocator, "", &AllocatorShare::COLUMNS, share)?;
    }
    for row in &census.types {
        let name = visible(&row.name).to_string();
        rows.columns("types", "", &name, &TypeRow::COLUMNS, row)?;
        let gain = Gain::from(growth.map(|growth| growth.of_type(&row.name)));
        rows.columns("types", "", &name, &Gain::COLUMNS, &gain)?;
    }
    for row in &census.native {
        let upper = row.class.upper_bytes().to_string();
        let allocator = row.allocator.name();
        rows.columns("native", allocator, &upper, &NativeRow::COLUMNS, row)?;
        let gain = Gain::from(growth.map(|growth| growth.of_native(row.allocator, row.class)));
        rows.columns("native", allocator, &upper, &Gain::COLUMNS, &gain)?;
    }
    for (at, holder) in census.shown(growth) {
        let others = holder.shared_with.iter();
        let names: Vec<&str> = std::iter::once(&holder.name)
            .chain(others)
            .map(String::as_str)
            .collect();
        let names = visible(names.join(" & ")).to_string();
        rows.columns("holders", "", &names, &Holder::COLUMNS, holder)?;
        let gain = growth.map_or_else(Gain::default, |growth| growth.gain_of_holder(at));
        rows.columns("holders", "", &names, &Gain::COLUMNS, &gain)?;
    }
    Ok(())
}

struct Rows {
    writer: Writer<Vec<u8>>,
    taken_at: String,
    pid: String,
}

/// Text that a spreadsheet does not take as a formula: an apostrophe is added where it would. Names
/// come from the target. Numbers are unchanged.
fn no_formula(text: &str) -> Cow<'_, str> {
    let is_formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    match is_formula && text.parse::<f64>().is_err() {
        true => format!("'{text}").into(),
        false => text.into(),
    }
}

/// A figure of a view: its field, its unit and its value; `None` means unknown.
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
            &*no_formula(allocator),
            &*no_formula(item),
            field,
            &*value,
            unit.symbol(),
        ])
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
            let value = column.value(row);
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
    rows.columns("process", "", "", &KernelCount::COLUMNS, kernel)?;
    if kernel.is_core {
        rows.columns("process", "", "", &[KernelCount::CORE], kernel)?;
    }
    if let Some(fork) = &view.report.fork {
        rows.columns("fork", "", "", &ForkSharing::COLUMNS, fork)?;
    }
    rows.columns("completeness", "", "", &View::LACKS, view)?;
    rows.columns("completeness", "", "", &Completeness::COLUMNS, seen)
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
    let packed_into = Packing::ALLOCATOR.name();
    rows.columns("packing", packed_into, "", &Packing::COLUMNS, packing)?;
    packing.classes.iter().try_for_each(|class| {
        let size = class.size.to_string();
        rows.columns(
            "packing_classes",
            packed_into,
            &size,
            &PackedClass::COLUMNS,
            class,
        )
    })
}

fn activity_rows(rows: &mut Rows, activity: &Activity) -> Result<(), csv::Error> {
    rows.columns("activity", "", "", &Activity::COUNTS, activity)?;
    rows.columns("activity", "", "", &Activity::RATES, activity)?;
    for column in &ProbeCost::COLUMNS {
        let key = format!("probe_{}", column.key);
        let field = (&*key, column.unit, column.value(&activity.cost));
        rows.row("activity", "", "", field)?;
    }
    for class in &activity.classes {
        let upper = class.class.upper_bytes().to_string();
        // A lifetime that was never seen has no row.
        for column in &ClassActivity::COLUMNS {
            if let Some(value) = column.value(class) {
                let field = (column.key, column.unit, Some(value));
                rows.row("activity_classes", "", &upper, field)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::no_formula;

    #[test]
    fn foreign_names_are_no_formulas() {
        for name in ["=1+1", "+a", "-a", "@SUM(A1)", "\tx", "\rx"] {
            assert_eq!(no_formula(name), format!("'{name}"));
        }
        for name in ["", "dict", "a=b", "-5", "+1e3", "0-25"] {
            assert_eq!(no_formula(name), name);
        }
    }
}
