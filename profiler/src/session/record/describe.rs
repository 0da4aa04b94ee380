//! The trace's description of the recorded program.

use std::io;

use jiff::Timestamp;
use profiler_core::allocator::{AllocatorIdentity, PRELOAD, UnknownEnvironment};
use profiler_core::heap::HeapSnapshot;
use profiler_probe::plan::MallocObject;
use profiler_target::{Process, Target, host, page_size};
use profiler_trace::trace::{RecordedBy, TraceDescription};

/// The source of a recording's events.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Origin<'a> {
    /// An object in front of the allocator.
    Preload {
        /// Its path in `LD_PRELOAD`.
        listed: &'a str,
        /// Its path in the target's mappings.
        mapped: &'a str,
    },
    /// Probes on the allocator.
    Probes,
}

/// The description of `target` at `started_at`; `heaps` are its walked heaps (empty before it has
/// any). Unknown facts are left out.
///
/// # Errors
/// When its mappings cannot be read: it has exited.
pub fn describe(
    target: &Target,
    heaps: &[HeapSnapshot],
    origin: Origin<'_>,
    started_at: Timestamp,
) -> io::Result<TraceDescription> {
    let who = target.describe()?;
    let host = host();
    let (recorder, listed, mapped) = match origin {
        Origin::Preload { listed, mapped } => (RecordedBy::Preload, Some(listed), Some(mapped)),
        Origin::Probes => (RecordedBy::Probes, None, None),
    };
    let object = MallocObject::of(target, mapped).ok();
    let identity = object.as_ref().map(|object| &object.identity);
    let serves = identity.and_then(|one| one.kind);
    let heap = heaps.iter().find(|heap| Some(heap.allocator) == serves);
    let variables = environment(target, listed);
    Ok(TraceDescription {
        command: Some(who.cmdline.join(" ")),
        comm: Some(who.comm),
        pid: u64::try_from(who.pid).ok(),
        python: who.python,
        libc: who.libc,
        malloc: identity.map(AllocatorIdentity::title),
        malloc_path: identity.map(|one| one.object.clone()),
        cpus: target.allowed_cpus().ok(),
        page_size: Some(page_size().bytes()),
        kernel: Some(host.kernel),
        recorder: Some(recorder),
        started_at: Some(started_at.to_string()),
        thp: host::transparent_huge_pages(),
        environment_unknown: variables.as_ref().err().copied(),
        env: variables.unwrap_or_default(),
        settings: heap.map_or_else(Vec::new, |heap| heap.settings.clone()),
        ..TraceDescription::default()
    })
}

/// The variables that settle the target's allocator; of those that preload, without the recorder.
fn environment(
    target: &Target,
    recorder: Option<&str>,
) -> Result<Vec<(String, String)>, UnknownEnvironment> {
    let all = target.allocator_environment()?;
    let all = all.iter().filter_map(|entry| entry.split_once('='));
    let all = all.map(|(name, value)| match (name, recorder) {
        (PRELOAD, Some(recorder)) => (name.to_owned(), without(value, recorder)),
        _ => (name.to_owned(), value.to_owned()),
    });
    Ok(all.filter(|(_, value)| !value.is_empty()).collect())
}

/// A list of libraries to preload without one of them. The loader parts them at spaces and colons.
fn without(list: &str, path: &str) -> String {
    let others = list.split([' ', ':']).filter(|one| *one != path);
    let others: Vec<&str> = others.filter(|one| !one.is_empty()).collect();
    others.join(":")
}
