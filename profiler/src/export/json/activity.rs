//! What the probes saw, as part of a snapshot.

use hdrhistogram::Histogram;
use profiler_core::activity::{self, ClassActivity, ProbeState, ProbeStatus};
use serde::Serialize;

use super::Record;

#[derive(Serialize)]
pub(super) struct Activity<'a> {
    elapsed_ns: u64,
    armed_ns: u64,
    allocs: u64,
    /// `_scaled` is the same for all of the elapsed time, were the armed part typical of it.
    allocs_scaled: Option<u64>,
    alloc_bytes: u64,
    alloc_bytes_scaled: Option<u64>,
    frees: u64,
    frees_scaled: Option<u64>,
    frees_of_older: u64,
    events_lost: u64,
    allocs_per_second: f64,
    frees_per_second: f64,
    alloc_bytes_per_second: f64,
    tracked_blocks: u64,
    tracked_bytes: u64,
    untracked_blocks: u64,
    lifetime_ns: Option<Percentiles>,
    size_bytes: Option<Percentiles>,
    classes: Vec<Record<'a, u64, ClassActivity>>,
    probes: Vec<Probe<'a>>,
    cost: Cost,
    ended: Option<&'a str>,
}

#[derive(Serialize)]
pub(super) struct Percentiles {
    count: u64,
    min: u64,
    p50: u64,
    p90: u64,
    p99: u64,
    p999: u64,
    max: u64,
}

#[derive(Serialize)]
struct Probe<'a> {
    function: &'a str,
    object: &'a str,
    site: &'a str,
    hits: u64,
    state: &'static str,
    failure: Option<&'a str>,
}

#[derive(Serialize)]
struct Cost {
    hits: u64,
    ns_per_hit: f64,
    share: f64,
    budget_share: Option<f64>,
}

impl<'a> Activity<'a> {
    pub(super) fn of(activity: &'a activity::Activity) -> Self {
        let (elapsed, armed) = (activity.elapsed_ns, activity.armed_ns);
        let scaled = |count: u64| {
            let product = u128::from(count) * u128::from(elapsed);
            let scaled = product.checked_div(u128::from(armed))?;
            Some(u64::try_from(scaled).unwrap_or(u64::MAX))
        };
        Self {
            elapsed_ns: activity.elapsed_ns,
            armed_ns: activity.armed_ns,
            allocs: activity.allocs,
            allocs_scaled: scaled(activity.allocs),
            alloc_bytes: activity.alloc_bytes,
            alloc_bytes_scaled: scaled(activity.alloc_bytes),
            frees: activity.frees,
            frees_scaled: scaled(activity.frees),
            frees_of_older: activity.frees_of_older,
            events_lost: activity.events_lost,
            allocs_per_second: activity.alloc_rate,
            frees_per_second: activity.free_rate,
            alloc_bytes_per_second: activity.alloc_byte_rate,
            tracked_blocks: activity.tracked_blocks,
            tracked_bytes: activity.tracked_bytes,
            untracked_blocks: activity.untracked_blocks,
            lifetime_ns: Percentiles::of(&activity.lifetimes),
            size_bytes: Percentiles::of(&activity.sizes),
            classes: activity.classes.iter().map(class).collect(),
            probes: activity.probes.iter().map(Probe::of).collect(),
            cost: Cost {
                hits: activity.cost.hits,
                ns_per_hit: activity.cost.ns_per_hit,
                share: activity.cost.share,
                budget_share: activity.cost.budget,
            },
            ended: activity.ended.as_deref(),
        }
    }
}

impl Percentiles {
    /// `None` when nothing was counted.
    pub(super) fn of(histogram: &Histogram<u64>) -> Option<Self> {
        (!histogram.is_empty()).then(|| Self {
            count: histogram.len(),
            min: histogram.min(),
            p50: histogram.value_at_quantile(0.5),
            p90: histogram.value_at_quantile(0.9),
            p99: histogram.value_at_quantile(0.99),
            p999: histogram.value_at_quantile(0.999),
            max: histogram.max(),
        })
    }
}

fn class(class: &ClassActivity) -> Record<'_, u64, ClassActivity> {
    Record {
        name: vec![("upper_bytes", class.class.upper_bytes())],
        columns: &ClassActivity::COLUMNS,
        row: class,
    }
}

impl<'a> Probe<'a> {
    fn of(probe: &'a ProbeStatus) -> Self {
        let (state, failure) = match &probe.state {
            ProbeState::Firing => ("firing", None),
            ProbeState::Silent => ("silent", None),
            ProbeState::Failed(why) => ("failed", Some(why.as_str())),
        };
        Self {
            function: &probe.function,
            object: &probe.object,
            site: &probe.site,
            hits: probe.hits,
            state,
            failure,
        }
    }
}
