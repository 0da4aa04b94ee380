//! Activity seen by the probes, as part of a snapshot.

use hdrhistogram::Histogram;
use profiler_core::activity::{self, ClassActivity, ProbeCost, ProbeState, ProbeStatus};
use serde::Serialize;

use super::Record;

#[derive(Serialize)]
pub(super) struct Activity<'a> {
    #[serde(flatten)]
    counts: Record<'a, u64, activity::Activity>,
    /// `_scaled` is extrapolated to the elapsed time, assuming that the armed part is typical.
    allocs_scaled: Option<u64>,
    alloc_bytes_scaled: Option<u64>,
    frees_scaled: Option<u64>,
    events_lost: u64,
    #[serde(flatten)]
    rates: Record<'a, u64, activity::Activity>,
    untracked_blocks: u64,
    lifetime_ns: Option<Percentiles>,
    size_bytes: Option<Percentiles>,
    classes: Vec<Record<'a, u64, ClassActivity>>,
    probes: Vec<Probe<'a>>,
    cost: Record<'a, u64, ProbeCost>,
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

impl<'a> Activity<'a> {
    pub(super) fn of(activity: &'a activity::Activity) -> Self {
        let (elapsed, armed) = (activity.elapsed_ns, activity.armed_ns);
        let scaled = |count: u64| {
            let product = u128::from(count) * u128::from(elapsed);
            let scaled = product.checked_div(u128::from(armed))?;
            Some(u64::try_from(scaled).unwrap_or(u64::MAX))
        };
        Self {
            counts: Record::figures(&activity::Activity::COUNTS, activity),
            allocs_scaled: scaled(activity.allocs),
            alloc_bytes_scaled: scaled(activity.alloc_bytes),
            frees_scaled: scaled(activity.frees),
            events_lost: activity.events_lost,
            rates: Record::figures(&activity::Activity::RATES, activity),
            untracked_blocks: activity.untracked_blocks,
            lifetime_ns: Percentiles::of(&activity.lifetimes),
            size_bytes: Percentiles::of(&activity.sizes),
            classes: activity.classes.iter().map(class).collect(),
            probes: activity.probes.iter().map(Probe::of).collect(),
            cost: Record::figures(&ProbeCost::COLUMNS, &activity.cost),
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
