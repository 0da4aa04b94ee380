//! The view's distributions as an HdrHistogram log.

use std::time::Duration;

use hdrhistogram::Histogram;
use profiler_core::view::View;
use profiler_trace::hlog::{Tagged, log};

use super::ExportError;

/// Three significant digits, like the histograms that the probes fill.
const DIGITS: u8 = 3;

/// The file's bytes. The walk's histograms are weighted by blocks and pages of the whole heap; the
/// probes' only cover the time that they were armed.
pub(super) fn hlog(view: &View) -> Result<Vec<u8>, ExportError> {
    let failed = |error: &dyn std::fmt::Display| ExportError::Content(error.to_string());
    let report = &*view.report;
    let first = view
        .history
        .first()
        .map_or(report.taken_at_ns, |point| point.time_ns);
    let last = view.history.last().map_or(first, |point| point.time_ns);
    let interval = Duration::from_nanos(last.saturating_sub(first));
    let mut own = Vec::new();
    for heap in &report.heaps {
        let allocator = heap.allocator;
        let mut sizes = Histogram::new(DIGITS).map_err(|error| failed(&error))?;
        for row in report
            .size_classes
            .iter()
            .filter(|row| row.allocator == allocator)
        {
            // The mean size in the class, which lies in it.
            if let Some(mean) = row.live_bytes.checked_div(row.live_blocks) {
                sizes.saturating_record_n(mean.max(1), row.live_blocks);
            }
        }
        own.push((format!("live_block_bytes.{}", allocator.name()), sizes));
        let mut pages = Histogram::new(DIGITS).map_err(|error| failed(&error))?;
        for row in report
            .page_occupancy
            .iter()
            .filter(|row| row.allocator == allocator)
        {
            let middle = u64::from(row.min_bytes + row.max_bytes) / 2;
            pages.saturating_record_n(middle, row.resident_pages);
        }
        own.push((
            format!("live_bytes_a_resident_page.{}", allocator.name()),
            pages,
        ));
    }
    let seen = view.activity.iter().flat_map(|activity| {
        [
            ("alloc_bytes", &activity.sizes),
            ("lifetime_ns", &activity.lifetimes),
        ]
        .map(|(tag, histogram)| (tag.to_owned(), histogram))
    });
    let all = own
        .iter()
        .map(|(tag, histogram)| (tag.clone(), histogram))
        .chain(seen);
    let tagged: Vec<_> = all
        .map(|(tag, histogram)| Tagged {
            tag,
            histogram,
            interval,
        })
        .collect();
    let comments = [
        format!(
            "fragscope {} of process {}",
            env!("CARGO_PKG_VERSION"),
            report.target.pid
        ),
        "Values are in the unit that the tag names: bytes or ns; Interval_Max is not divided."
            .to_owned(),
    ];
    log(first, &comments, &tagged).map_err(|error| failed(&error))
}
