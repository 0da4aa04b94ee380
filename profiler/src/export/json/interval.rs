//! One interval of a session as one short object.

use profiler_core::activity::Activity;
use profiler_core::view::View;
use serde::Serialize;

use super::activity::Percentiles;
use super::prediction::Predicted;
use super::what_if::WhatIfRow;
use super::{Record, TrendRow, trend};
use crate::export::latest::Latest;
use crate::export::names::{gaps, rfc3339};

#[derive(Serialize)]
pub(super) struct Interval<'a> {
    schema: &'static str,
    time: String,
    pid: i32,
    #[serde(flatten)]
    at_time: Record<'a, u64, Latest<'a>>,
    /// When the heap was walked: `live_bytes` and the figures down to `fragmentation_bytes` are of then.
    walked_at: String,
    #[serde(flatten)]
    of_walk: Record<'a, u64, Latest<'a>>,
    verdict: &'a str,
    trend: Option<TrendRow<'a>>,
    #[serde(flatten)]
    predicted: Predicted<'a>,
    activity: Option<Rates<'a>>,
    activity_source: &'static str,
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
    #[serde(flatten)]
    cost: Record<'a, u64, Latest<'a>>,
    untracked_blocks: u64,
    ended: Option<&'a str>,
}

impl<'a> Interval<'a> {
    pub(super) fn of(latest: &'a Latest<'a>) -> Self {
        let view = latest.view;
        let report = &view.report;
        Self {
            schema: "fragscope.interval/1",
            time: rfc3339(latest.now.time_ns),
            pid: report.target.pid,
            at_time: Record::figures(&Latest::AT_TIME, latest),
            walked_at: rfc3339(report.taken_at_ns),
            of_walk: Record::figures(&Latest::OF_WALK, latest),
            verdict: &report.verdict,
            trend: report.trend.as_ref().map(trend),
            predicted: Predicted::of(report.predictions.as_ref()),
            activity: view.activity.as_ref().map(|activity| Rates {
                rates: Record::figures(&Activity::RATES, activity),
                lifetime_ns: Percentiles::of(&activity.lifetimes),
                cost: Record::figures(&Latest::OF_PROBES, latest),
                untracked_blocks: activity.untracked_blocks,
                ended: activity.ended.as_deref(),
            }),
            activity_source: view.activity_source().name(),
            what_if: view.what_if.as_ref().map(WhatIfRow::of),
            events_lost: Record::figures(&[View::EVENTS_LOST], view),
            gaps: gaps(view).map(|gap| gap.key).collect(),
            notices: &view.notices,
            ended: view.ended.as_deref(),
        }
    }
}
