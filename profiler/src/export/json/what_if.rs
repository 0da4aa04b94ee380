//! Results of shadows, as part of a snapshot and of an interval.

use profiler_core::activity::ProbeCost;
use profiler_core::allocator::UnknownEnvironment;
use profiler_core::view::{Shadow, WhatIf};
use serde::Serialize;

use super::Record;

#[derive(Serialize)]
pub(super) struct WhatIfRow<'a> {
    turned_over: Option<f64>,
    gone_share: Option<f64>,
    allocated_bytes: u64,
    events_lost: u64,
    shadows: Vec<ShadowRow<'a>>,
    cost: Option<Record<'a, u64, ProbeCost>>,
    ended: Option<&'a str>,
    environment_unknown: Option<&'static str>,
}

#[derive(Serialize)]
struct ShadowRow<'a> {
    name: &'a str,
    resident_bytes: Option<u64>,
    worker_bytes: Option<u64>,
    ended: Option<&'a str>,
    is_baseline: bool,
}

impl<'a> WhatIfRow<'a> {
    pub(super) fn of(what_if: &'a WhatIf) -> Self {
        let row = |shadow: &'a Shadow| ShadowRow {
            name: &shadow.name,
            resident_bytes: shadow.resident_bytes,
            worker_bytes: shadow.worker_bytes,
            ended: shadow.ended.as_deref(),
            is_baseline: shadow.is_baseline,
        };
        Self {
            turned_over: what_if.turned_over,
            gone_share: what_if.gone_share,
            allocated_bytes: what_if.allocated_bytes,
            events_lost: what_if.events_lost,
            shadows: what_if.shadows.iter().map(row).collect(),
            cost: what_if
                .cost
                .as_ref()
                .map(|cost| Record::figures(&ProbeCost::COLUMNS, cost)),
            ended: what_if.ended.as_deref(),
            environment_unknown: what_if.environment_unknown.map(UnknownEnvironment::name),
        }
    }
}
