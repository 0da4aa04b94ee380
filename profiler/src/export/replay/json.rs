//! `fragscope.replay/1`.

use std::collections::BTreeMap;

use profiler_core::allocator::UnknownEnvironment;
use profiler_core::units::Value;
use profiler_lab::ablation::Share;
use profiler_lab::calibrate::{Calibration, error};
use profiler_lab::report::{CandidateReport, Checkpoint, Report};
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use super::columns::{Compared, IN_JSON};
use crate::export::json::text;

/// A report as one indented `fragscope.replay/1` document, its keys in a fixed order.
pub fn json(report: &Report) -> String {
    let document = Document {
        schema: "fragscope.replay/1",
        trace: trace(report),
        calibration: calibration(&report.calibration),
        candidates: report.candidates.iter().map(candidate).collect(),
        mechanisms: report.shares.iter().map(mechanism).collect(),
        verdict: &report.verdict,
        interrupted: report.interrupted,
        not_confined: &report.not_confined,
    };
    text(serde_json::to_string_pretty(&document))
}

#[derive(Serialize)]
struct Document<'a> {
    schema: &'static str,
    trace: Trace<'a>,
    calibration: Calibrated<'a>,
    candidates: Vec<Candidate<'a>>,
    mechanisms: Vec<Mechanism>,
    verdict: &'a str,
    interrupted: bool,
    not_confined: &'a [String],
}

#[derive(Serialize)]
struct Trace<'a> {
    path: &'a str,
    format: &'a str,
    lacks: &'a [String],
    command: Option<&'a str>,
    pid: Option<u64>,
    python: Option<&'a str>,
    libc: Option<&'a str>,
    malloc: Option<String>,
    cpus: Option<u64>,
    started_at: Option<&'a str>,
    duration_ns: u64,
    events: u64,
    events_lost: u64,
    events_left_out: u64,
    threads: u32,
    processes: u32,
    checkpoints: u64,
    #[serde(rename = "last_look_ns")]
    last_checkpoint_ns: u64,
    trims: u64,
    peak_live_bytes: u64,
    objects: bool,
    trouble: Option<&'a str>,
    environment_unknown: Option<&'static str>,
    not_taken: Vec<&'a str>,
}

#[derive(Serialize)]
struct Calibrated<'a> {
    trusted: bool,
    recorded_bytes: Option<u64>,
    replayed_bytes: Option<u64>,
    error: Option<f64>,
    recorded_peak_bytes: Option<u64>,
    replayed_peak_bytes: Option<u64>,
    peak_error: Option<f64>,
    median_error: Option<f64>,
    rest_compared: bool,
    peak_compared: bool,
    reasons: &'a [String],
    checkpoints: Vec<Point>,
}

#[derive(Serialize)]
struct Point {
    time_ns: u64,
    process: u32,
    recorded_bytes: Option<u64>,
    replayed_bytes: u64,
    error: Option<f64>,
}

#[derive(Serialize)]
struct Candidate<'a> {
    name: String,
    allocator: &'a str,
    version: Option<&'a str>,
    now: bool,
    env: BTreeMap<&'a str, &'a str>,
    set: BTreeMap<&'a str, &'a str>,
    unset: &'a [String],
    step: Option<&'a str>,
    price: &'a str,
    #[serde(flatten)]
    figures: Figures,
    failure: Option<&'a str>,
    same_as_now: Option<&'a str>,
    checkpoints: Vec<CheckpointRow>,
}

/// The figures of a candidate by the keys of their columns.
struct Figures(Compared);

impl Serialize for Figures {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(IN_JSON.len()))?;
        for column in &IN_JSON {
            match column.value(&self.0) {
                Some(Value::Whole(value)) => map.serialize_entry(column.key, &value)?,
                Some(Value::Fraction(value)) => map.serialize_entry(column.key, &value)?,
                None => map.serialize_entry(column.key, &())?,
            }
        }
        map.end()
    }
}

#[derive(Serialize)]
struct CheckpointRow {
    time_ns: u64,
    process: u32,
    resident_bytes: u64,
    low_bytes: u64,
    high_bytes: u64,
    recorded_bytes: Option<u64>,
    live_bytes: u64,
    #[serde(rename = "asked")]
    on_request: bool,
}

#[derive(Serialize)]
struct Mechanism {
    mechanism: &'static str,
    bytes: i64,
    peak_bytes: i64,
}

fn trace(report: &Report) -> Trace<'_> {
    let trace = &report.trace;
    Trace {
        path: &trace.path,
        format: trace.format.as_deref().unwrap_or("fragtrace"),
        lacks: &trace.lacks,
        command: trace.command.as_deref(),
        pid: trace.pid,
        python: trace.python.as_deref(),
        libc: trace.libc.as_deref(),
        malloc: trace.malloc.as_ref().map(ToString::to_string),
        cpus: trace.cpus,
        started_at: trace.started_at.as_deref(),
        duration_ns: trace.duration_ns,
        events: trace.events,
        events_lost: trace.lost,
        events_left_out: trace.left_out,
        threads: trace.threads,
        processes: trace.processes,
        checkpoints: trace.checkpoints,
        last_checkpoint_ns: trace.last_checkpoint_ns,
        trims: trace.trims,
        peak_live_bytes: trace.peak_live_bytes,
        objects: trace.has_objects,
        trouble: trace.trouble.as_ref().map(|trouble| &*trouble.why),
        environment_unknown: trace.environment_unknown.map(UnknownEnvironment::name),
        not_taken: (trace.not_taken.iter().map(String::as_str))
            .chain(trace.not_loaded.iter().map(|failure| &*failure.why))
            .collect(),
    }
}

fn calibration(found: &Calibration) -> Calibrated<'_> {
    Calibrated {
        trusted: found.trusted,
        recorded_bytes: found.compared.map(|both| both.at_end.0),
        replayed_bytes: found.compared.map(|both| both.at_end.1),
        error: found.compared.map(|both| error(both.at_end)),
        recorded_peak_bytes: found.compared.map(|both| both.peak.0),
        replayed_peak_bytes: found.compared.map(|both| both.peak.1),
        peak_error: found.compared.map(|both| error(both.peak)),
        median_error: found.median_error,
        rest_compared: found.is_compared.at_end,
        peak_compared: found.is_compared.peak,
        reasons: &found.reasons,
        checkpoints: found
            .points
            .iter()
            .map(|point| Point {
                time_ns: point.time_ns,
                process: point.process,
                recorded_bytes: point.recorded_bytes,
                replayed_bytes: point.replayed_bytes,
                error: point
                    .recorded_bytes
                    .map(|recorded| error((recorded, point.replayed_bytes))),
            })
            .collect(),
    }
}

fn candidate(row: &CandidateReport) -> Candidate<'_> {
    let allocator = row.allocator.as_ref();
    Candidate {
        name: row.name.to_string(),
        allocator: allocator.map_or("", |allocator| &*allocator.name),
        version: allocator.and_then(|allocator| allocator.identity.version.as_deref()),
        now: row.is_baseline,
        env: row.env.iter().map(|(n, v)| (&**n, &**v)).collect(),
        set: row.set.iter().map(|(n, v)| (&**n, &**v)).collect(),
        unset: &row.unset,
        step: row.step.as_deref(),
        price: &row.price,
        figures: Figures(Compared::of(row, None)),
        failure: row.failure.as_ref().map(|failure| &*failure.why),
        same_as_now: row.same_as_now.as_deref(),
        checkpoints: row.checkpoints.iter().map(checkpoint_row).collect(),
    }
}

fn checkpoint_row(checkpoint: &Checkpoint) -> CheckpointRow {
    let Checkpoint {
        time_ns,
        process,
        resident_bytes,
        low_bytes,
        high_bytes,
        recorded_bytes,
        live_bytes,
        on_request,
    } = *checkpoint;
    CheckpointRow {
        time_ns,
        process,
        resident_bytes,
        low_bytes,
        high_bytes,
        recorded_bytes,
        live_bytes,
        on_request,
    }
}

fn mechanism(share: &Share) -> Mechanism {
    Mechanism {
        mechanism: share.cause.name(),
        bytes: share.bytes.at_end,
        peak_bytes: share.bytes.peak,
    }
}
