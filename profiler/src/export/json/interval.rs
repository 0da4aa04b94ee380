//! One look of a session as one short object.

use profiler_core::activity::Activity;
use profiler_core::metrics::MetricId;
use profiler_core::view::View;
use serde::Serialize;

use super::activity::Percentiles;
use super::prediction::Predicted;
use super::what_if::WhatIfRow;
use super::{Number, Record};
use crate::export::names::{gaps, latest, rfc3339};

#[derive(Serialize)]
pub(super) struct Interval<'a> {
    schema: &'static str,
    time: String,
    pid: i32,
    rss_bytes: u64,
    swap_bytes: u64,
    live_bytes: Option<u64>,
    /// When the heap was walked: `live_bytes` and the figures down to `fragmentation_bytes` are of then.
    walked_at: String,
    utilisation: Option<f64>,
    pinned_free_bytes: Option<Number>,
    trim_returnable_bytes: Option<Number>,
    fragmentation_bytes: Option<Number>,
    verdict: &'a str,
    #[serde(flatten)]
    predicted: Predicted<'a>,
    activity: Option<Rates<'a>>,
    what_if: Option<WhatIfRow<'a>>,
    #[serde(flatten)]
    events_lost: Record<'a, u64, View>,
    gaps: Vec<&'static str>,
    notices: &'a [String],
    ended: Option<&'a str>,
}

#[derive(Serialize)]
struct Rates<'a> {
    #[serde(flatten)]
    rates: Record<'a, u64, Activity>,
    lifetime_ns: Option<Percentiles>,
    probe_share: f64,
    untracked_blocks: u64,
    ended: Option<&'a str>,
}

impl<'a> Interval<'a> {
    pub(super) fn of(view: &'a View) -> Self {
        let report = &view.report;
        let now = latest(view);
        let figure = |id| report.metric(id).map(Number::from);
        Self {
            schema: "fragscope.interval/1",
            time: rfc3339(now.time_ns),
            pid: report.target.pid,
            rss_bytes: now.rss_bytes,
            swap_bytes: now.swap_bytes,
            live_bytes: now.live_bytes,
            walked_at: rfc3339(report.taken_at_ns),
            utilisation: report.ratio(MetricId::Utilisation),
            pinned_free_bytes: figure(MetricId::PinnedFreeBytes),
            trim_returnable_bytes: figure(MetricId::TrimReturnableBytes),
            fragmentation_bytes: figure(MetricId::FragmentationBytes),
            verdict: &report.verdict,
            predicted: Predicted::of(report.predictions.as_ref()),
            activity: view.activity.as_ref().map(|activity| Rates {
                rates: Record::figures(&Activity::RATES, activity),
                lifetime_ns: Percentiles::of(&activity.lifetimes),
                probe_share: activity.cost.share,
                untracked_blocks: activity.untracked_blocks,
                ended: activity.ended.as_deref(),
            }),
            what_if: view.what_if.as_ref().map(WhatIfRow::of),
            events_lost: Record::figures(&[View::EVENTS_LOST], view),
            gaps: gaps(view).map(|gap| gap.key).collect(),
            notices: &view.notices,
            ended: view.ended.as_deref(),
        }
    }
}
