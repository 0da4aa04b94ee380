//! The view as one tidy table: a row per figure, so that a spreadsheet or pandas can filter and
//! pivot it.

use profiler_core::view::View;

use super::ExportError;
use super::json::rfc3339;

/// The columns: which table a figure is of, whose it is, what it is of, its name, value and unit.
const COLUMNS: [&str; 6] = ["table", "allocator", "item", "figure", "value", "unit"];

/// The file's bytes.
pub(super) fn csv(view: &View) -> Result<Vec<u8>, ExportError> {
    let mut rows = Rows(csv::Writer::from_writer(Vec::new()));
    rows.0
        .write_record(COLUMNS)
        .map_err(|error| failed(&error))?;
    fill(&mut rows, view).map_err(|error| failed(&error))?;
    rows.0.into_inner().map_err(|error| failed(&error))
}

fn failed(error: &dyn std::fmt::Display) -> ExportError {
    ExportError::Content(format!("the CSV could not be made: {error}"))
}

struct Rows(csv::Writer<Vec<u8>>);

impl Rows {
    fn put(
        &mut self,
        table: &str,
        allocator: &str,
        item: &str,
        figures: &[(&str, u64, &str)],
    ) -> csv::Result<()> {
        for (figure, value, unit) in figures {
            self.0
                .write_record([table, allocator, item, figure, &value.to_string(), unit])?;
        }
        Ok(())
    }
}

fn fill(rows: &mut Rows, view: &View) -> csv::Result<()> {
    let report = &*view.report;
    let pid = report.target.pid.to_string();
    rows.put(
        "process",
        "",
        &pid,
        &[
            ("taken_at_ns", report.taken_at_ns, "ns"),
            ("rss_bytes", report.kernel.rss_bytes, "bytes"),
            ("swap_bytes", report.kernel.swap_bytes, "bytes"),
            ("stop_ns", report.completeness.stop_ns, "ns"),
            ("walk_ns", report.completeness.walk_ns, "ns"),
            (
                "unreadable_bytes",
                report.completeness.unreadable_bytes,
                "bytes",
            ),
        ],
    )?;
    for row in &report.ledger {
        let figures = [
            ("resident_bytes", row.resident_bytes, "bytes"),
            ("shared_bytes", row.shared_bytes, "bytes"),
            ("swapped_bytes", row.swapped_bytes, "bytes"),
        ];
        rows.put("ledger", "", row.class.name(), &figures)?;
    }
    for metric in &report.metrics {
        let value = metric
            .value
            .map_or_else(String::new, |value| value.to_string());
        let unit = match metric.name.rsplit('_').next() {
            Some("bytes") => "bytes",
            Some("pages") => "pages",
            _ => "",
        };
        rows.0
            .write_record(["metric", "", metric.name, metric.name, &value, unit])?;
    }
    for row in &report.size_classes {
        let figures = [
            ("live_blocks", row.live_blocks, "blocks"),
            ("live_bytes", row.live_bytes, "bytes"),
            ("free_blocks", row.free_blocks, "blocks"),
            ("free_bytes", row.free_bytes, "bytes"),
        ];
        let item = row.class.upper_bytes().to_string();
        rows.put("size_class", row.allocator.name(), &item, &figures)?;
    }
    for row in &report.page_occupancy {
        let figures = [
            ("resident_pages", row.resident_pages, "pages"),
            ("swapped_pages", row.swapped_pages, "pages"),
        ];
        let item = format!("{}-{}", row.min_bytes, row.max_bytes);
        rows.put("page_occupancy", row.allocator.name(), &item, &figures)?;
    }
    for heap in &report.heaps {
        for of in &heap.arenas {
            let figures = [
                ("system_bytes", of.arena.system_bytes, "bytes"),
                ("live_blocks", of.arena.live_blocks, "blocks"),
                ("live_bytes", of.arena.live_bytes, "bytes"),
                ("free_blocks", of.arena.free_blocks, "blocks"),
                ("free_bytes", of.arena.free_bytes, "bytes"),
                ("cached_bytes", of.arena.cached_bytes, "bytes"),
                ("top_bytes", of.arena.top_bytes, "bytes"),
                ("resident_bytes", of.resident_bytes, "bytes"),
                ("swapped_bytes", of.swapped_bytes, "bytes"),
                ("trimmable_bytes", of.trimmable_bytes, "bytes"),
            ];
            rows.put(
                "arena",
                heap.allocator.name(),
                &of.arena.id.to_string(),
                &figures,
            )?;
        }
    }
    for class in view.activity.iter().flat_map(|activity| &activity.classes) {
        let figures = [
            ("allocs", class.allocs, "blocks"),
            ("frees", class.frees, "blocks"),
            ("alloc_bytes", class.alloc_bytes, "bytes"),
            ("lifetime_p50_ns", class.lifetime_p50_ns, "ns"),
            ("lifetime_p90_ns", class.lifetime_p90_ns, "ns"),
            ("lifetime_p99_ns", class.lifetime_p99_ns, "ns"),
        ];
        rows.put(
            "activity",
            "",
            &class.class.upper_bytes().to_string(),
            &figures,
        )?;
    }
    for point in view.history.iter() {
        let figures = [
            ("rss_bytes", point.rss_bytes, "bytes"),
            ("swap_bytes", point.swap_bytes, "bytes"),
        ];
        rows.put("history", "", &rfc3339(point.time_ns), &figures)?;
        if let Some(live) = point.live_bytes {
            rows.put(
                "history",
                "",
                &rfc3339(point.time_ns),
                &[("live_bytes", live, "bytes")],
            )?;
        }
    }
    Ok(())
}
