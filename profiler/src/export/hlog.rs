//! A view's distributions as an HdrHistogram log.

use std::error::Error;
use std::time::Duration;

use hdrhistogram::Histogram;
use profiler_core::heap::Allocator;
use profiler_core::text::visible;
use profiler_core::view::View;
use profiler_trace::hlog::Tagged;

/// Significant decimal digits kept of a value: pages are counted exactly with four.
const DIGITS: u8 = 4;

/// The log of a view: alloc sizes and lifetimes when there were probes; live blocks and pages of
/// each walked heap.
///
/// # Errors
/// When a histogram cannot be serialised.
pub(super) fn log(view: &View) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut owned = Vec::new();
    for heap in &view.report.heaps {
        let allocator = heap.allocator;
        let tag = |what: &str| format!("{what}.{}", allocator.name());
        owned.push((tag("live_block_bytes"), live_blocks(view, allocator)?));
        let resident = pages(view, allocator, true)?;
        owned.push((tag("resident_page_live_bytes"), resident));
        owned.push((
            tag("swapped_page_live_bytes"),
            pages(view, allocator, false)?,
        ));
    }
    let state = owned.iter().map(|(tag, histogram)| Tagged {
        tag: tag.clone(),
        histogram,
        interval: Duration::ZERO,
    });
    let activity = view.activity.iter().flat_map(|activity| {
        let interval = Duration::from_nanos(activity.elapsed_ns);
        let tagged = |tag: &str, histogram| Tagged {
            tag: tag.to_owned(),
            histogram,
            interval,
        };
        [
            tagged("alloc_bytes", &activity.sizes),
            tagged("lifetime_ns", &activity.lifetimes),
        ]
    });
    let target = &view.report.target;
    let comments = [
        format!(
            "fragscope {}: process {} ({})",
            env!("CARGO_PKG_VERSION"),
            target.pid,
            visible(&target.comm)
        ),
        "the unit of each tag is in its name; interval maxima have the same unit".to_owned(),
    ];
    let began = view.activity.as_ref().map_or(0, |a| a.elapsed_ns);
    Ok(profiler_trace::hlog::log(
        view.report.taken_at_ns.saturating_sub(began),
        &comments,
        &activity.chain(state).collect::<Vec<_>>(),
    )?)
}

/// Live blocks, each at the mean size of its size class, so that the sum is right.
fn live_blocks(view: &View, allocator: Allocator) -> Result<Histogram<u64>, Box<dyn Error>> {
    let mut histogram = Histogram::new(DIGITS)?;
    let rows = view.report.size_classes.iter();
    for row in rows.filter(|row| row.allocator == allocator) {
        if let Some(mean) = row.live_bytes.checked_div(row.live_blocks) {
            histogram.record_n(mean, row.live_blocks)?;
        }
    }
    Ok(histogram)
}

/// Live bytes of each resident or each swapped page, exactly.
fn pages(
    view: &View,
    allocator: Allocator,
    resident: bool,
) -> Result<Histogram<u64>, Box<dyn Error>> {
    let mut histogram = Histogram::new(DIGITS)?;
    let extents = view.report.map.iter();
    for extent in extents.filter(|extent| extent.allocator == allocator) {
        for page in &extent.pages {
            let wanted = if resident {
                page.state.is_resident()
            } else {
                page.state.is_swapped()
            };
            if wanted {
                histogram.record(u64::from(page.live_bytes))?;
            }
        }
    }
    Ok(histogram)
}
