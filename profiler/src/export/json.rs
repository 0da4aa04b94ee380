//! The snapshot as JSON, `fragscope.snapshot/1`.

use profiler_core::activity::{Activity, ProbeState};
use profiler_core::completeness::{Completeness, Confidence};
use profiler_core::report::{FragReport, HeapReport, Packing};
use profiler_core::view::View;
use serde_json::{Map, Value, json};

/// The schema's name. Keys may be added under it; none changes its meaning.
const SCHEMA: &str = "fragscope.snapshot/1";

/// The whole view as one JSON object.
pub fn snapshot(view: &View) -> Value {
    let report = &*view.report;
    json!({
        "schema": SCHEMA,
        "taken_at": rfc3339(report.taken_at_ns),
        "host": {
            "kernel": report.host.kernel,
            "arch": report.host.arch,
            "cpus": report.host.cpus,
            "memory_bytes": report.host.memory_bytes,
        },
        "target": {
            "pid": report.target.pid,
            "comm": report.target.comm,
            "cmdline": report.target.cmdline,
            "python": report.target.python,
            "libc": report.target.libc,
            "malloc": report.target.malloc,
            "threads": report.target.threads,
        },
        "rss_bytes": report.kernel.rss_bytes,
        "swap_bytes": report.kernel.swap_bytes,
        "peak_rss_bytes": report.kernel.peak_rss_bytes,
        "pss_bytes": report.kernel.pss_bytes,
        "ledger": report.ledger.iter().map(|row| json!({
            "class": row.class.name(),
            "resident_bytes": row.resident_bytes,
            "shared_bytes": row.shared_bytes,
            "swapped_bytes": row.swapped_bytes,
        })).collect::<Vec<_>>(),
        "heaps": report.heaps.iter().map(heap).collect::<Vec<_>>(),
        "size_classes": report.size_classes.iter().map(|row| json!({
            "allocator": row.allocator.name(),
            "upper_bytes": row.class.upper_bytes(),
            "live_blocks": row.live_blocks,
            "live_bytes": row.live_bytes,
            "free_blocks": row.free_blocks,
            "free_bytes": row.free_bytes,
        })).collect::<Vec<_>>(),
        "page_occupancy": report.page_occupancy.iter().map(|row| json!({
            "allocator": row.allocator.name(),
            "min_bytes": row.min_bytes,
            "max_bytes": row.max_bytes,
            "resident_pages": row.resident_pages,
            "swapped_pages": row.swapped_pages,
        })).collect::<Vec<_>>(),
        "metrics": metrics(report),
        "packing": report.packing.as_ref().map(packing),
        "findings": report.findings.iter().map(|finding| json!({
            "mechanism": finding.mechanism.name(),
            "claim": finding.claim,
            "bytes": finding.bytes,
            "evidence": finding.evidence.iter()
                .map(|(name, value)| (name.clone(), number(*value)))
                .collect::<Map<_, _>>(),
            "remedy": finding.remedy,
            "confidence": confidence(finding.confidence),
        })).collect::<Vec<_>>(),
        "verdict": report.verdict,
        "explanation": report.explanation,
        "activity": view.activity.as_deref().map(activity),
        "history": view.history.iter().map(|point| json!({
            "time": rfc3339(point.time_ns),
            "rss_bytes": point.rss_bytes,
            "swap_bytes": point.swap_bytes,
            "live_bytes": point.live_bytes,
        })).collect::<Vec<_>>(),
        "notices": view.notices,
        "ended": view.ended,
        "completeness": completeness(&report.completeness, view.activity.as_deref()),
    })
}

/// The snapshot as text with a newline at its end.
pub(super) fn pretty(view: &View) -> String {
    format!("{:#}\n", snapshot(view))
}

/// A moment in UTC; the empty string for one that no calendar holds.
pub(super) fn rfc3339(ns: u64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(ns))
        .map_or_else(|_| String::new(), |t| t.to_string())
}

/// A sureness by name.
pub(super) fn confidence(confidence: Confidence) -> &'static str {
    match confidence {
        Confidence::None => "none",
        Confidence::Low => "low",
        Confidence::Medium => "medium",
        Confidence::High => "high",
    }
}

/// A number, whole where it is whole; null for what is no number.
fn number(value: f64) -> Value {
    let whole = value.fract() == 0.0 && (0.0..=9_007_199_254_740_992.0).contains(&value);
    if whole {
        json!(value as u64)
    } else {
        json!(value)
    }
}

fn metrics(report: &FragReport) -> Value {
    let value = |metric: Option<f64>| metric.map_or(Value::Null, number);
    let all = report
        .metrics
        .iter()
        .map(|m| (m.name.to_owned(), value(m.value)));
    Value::Object(all.collect())
}

fn heap(heap: &HeapReport) -> Value {
    json!({
        "allocator": heap.allocator.name(),
        "version": heap.version,
        "arenas": heap.arenas.iter().map(|of| json!({
            "id": of.arena.id,
            "kind": of.arena.kind,
            "address": of.arena.addr.to_string(),
            "system_bytes": of.arena.system_bytes,
            "live_bytes": of.arena.live_bytes,
            "live_blocks": of.arena.live_blocks,
            "free_bytes": of.arena.free_bytes,
            "free_blocks": of.arena.free_blocks,
            "cached_bytes": of.arena.cached_bytes,
            "cached_blocks": of.arena.cached_blocks,
            "top_bytes": of.arena.top_bytes,
            "resident_bytes": of.resident_bytes,
            "swapped_bytes": of.swapped_bytes,
            "trimmable_bytes": of.trimmable_bytes,
            "figures": of.arena.figures.iter()
                .map(|(name, value)| ((*name).to_owned(), json!(value)))
                .collect::<Map<_, _>>(),
        })).collect::<Vec<_>>(),
        "live_bytes": heap.live_bytes,
        "live_blocks": heap.live_blocks,
        "free_bytes": heap.free_bytes,
        "cached_bytes": heap.cached_bytes,
        "mapped_large_bytes": heap.mapped_large_bytes,
        "mapped_large_blocks": heap.mapped_large_blocks,
        "settings": heap.settings.iter()
            .map(|(name, value)| (name.clone(), json!(value)))
            .collect::<Map<_, _>>(),
        "checks": heap.checks.iter().map(|check| json!({
            "name": check.name,
            "expected": check.expected,
            "found": check.found,
            "holds": check.holds(),
        })).collect::<Vec<_>>(),
        "layout_confidence": confidence(heap.confidence),
    })
}

fn packing(packing: &Packing) -> Value {
    json!({
        "allocator": "jemalloc",
        "bound": "lower",
        "packed_bytes": packing.packed_bytes,
        "present_bytes": packing.present_bytes,
        "live_blocks": packing.blocks,
        "live_bytes": packing.live_bytes,
        "rounding_bytes": packing.rounding_bytes,
        "classes": packing.classes.iter().map(|class| json!({
            "size": class.size,
            "blocks": class.blocks,
            "bytes": class.bytes,
        })).collect::<Vec<_>>(),
    })
}

fn activity(activity: &Activity) -> Value {
    let scale = scale(activity);
    let scaled = |count: u64| scale.map(|scale| (count as f64 * scale).round() as u64);
    let lifetimes = &activity.lifetimes;
    json!({
        "elapsed_ns": activity.elapsed_ns,
        "armed_ns": activity.armed_ns,
        "allocs": activity.allocs,
        "allocs_scaled": scaled(activity.allocs),
        "alloc_bytes": activity.alloc_bytes,
        "alloc_bytes_scaled": scaled(activity.alloc_bytes),
        "frees": activity.frees,
        "frees_scaled": scaled(activity.frees),
        "frees_of_older": activity.frees_of_older,
        "events_lost": activity.events_lost,
        "allocs_per_second": activity.alloc_rate,
        "frees_per_second": activity.free_rate,
        "alloc_bytes_per_second": activity.alloc_byte_rate,
        "tracked_blocks": activity.tracked_blocks,
        "tracked_bytes": activity.tracked_bytes,
        "lifetime_ns": {
            "count": lifetimes.len(),
            "p50": lifetimes.value_at_quantile(0.5),
            "p90": lifetimes.value_at_quantile(0.9),
            "p99": lifetimes.value_at_quantile(0.99),
            "max": lifetimes.max(),
        },
        "classes": activity.classes.iter().map(|class| json!({
            "upper_bytes": class.class.upper_bytes(),
            "allocs": class.allocs,
            "frees": class.frees,
            "alloc_bytes": class.alloc_bytes,
            "lifetime_p50_ns": class.lifetime_p50_ns,
            "lifetime_p90_ns": class.lifetime_p90_ns,
            "lifetime_p99_ns": class.lifetime_p99_ns,
        })).collect::<Vec<_>>(),
        "probes": activity.probes.iter().map(|probe| json!({
            "function": probe.function,
            "object": probe.object,
            "site": probe.site,
            "hits": probe.hits,
            "state": match probe.state {
                ProbeState::Firing => "firing",
                ProbeState::Silent => "silent",
                ProbeState::Failed(_) => "failed",
            },
            "reason": match &probe.state {
                ProbeState::Failed(reason) => Some(reason),
                _ => None,
            },
        })).collect::<Vec<_>>(),
        "cost": {
            "hits": activity.cost.hits,
            "ns_per_hit": activity.cost.ns_per_hit,
            "share": activity.cost.share,
            "budget": activity.cost.budget,
        },
    })
}

/// By how much counts of armed time are to be multiplied to stand for all of the session.
pub(super) fn scale(activity: &Activity) -> Option<f64> {
    (activity.armed_ns > 0).then(|| activity.elapsed_ns as f64 / activity.armed_ns as f64)
}

fn completeness(of: &Completeness, activity: Option<&Activity>) -> Value {
    json!({
        "stopped": of.stopped,
        "stop_ms": of.stop_ns as f64 / 1e6,
        "walk_ms": of.walk_ns as f64 / 1e6,
        "threads_in_allocator": of.threads_in_allocator,
        "events_lost": activity.map_or(of.events_lost, |a| a.events_lost),
        "unreadable_bytes": of.unreadable_bytes,
        "layout_confidence": confidence(of.layout_confidence),
        "defects": of.defects.iter().map(|defect| json!({
            "address": defect.addr.map(|addr| addr.to_string()),
            "what": defect.what,
            "bytes": defect.bytes,
        })).collect::<Vec<_>>(),
    })
}
