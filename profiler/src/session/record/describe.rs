//! What a trace says of the program that it was recorded of.

use jiff::Timestamp;
use profiler_core::addr::PAGE_SIZE;
use profiler_core::allocator::AllocatorIdentity;
use profiler_core::heap::HeapSnapshot;
use profiler_probe::plan::MallocObject;
use profiler_target::{Process, Target, host};
use profiler_trace::trace::Description;

/// Where the events of a recording come from.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Recorder<'a> {
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

/// The description of `target`, of which `heaps` were walked (none before it has any), at
/// `started_at`. What is not known is left out.
pub fn describe(
    target: &Target,
    heaps: &[HeapSnapshot],
    recorder: Recorder<'_>,
    started_at: Timestamp,
) -> Description {
    let who = target.describe();
    let host = host();
    let (source, listed, mapped) = match recorder {
        Recorder::Preload { listed, mapped } => ("preload", Some(listed), Some(mapped)),
        Recorder::Probes => ("probes", None, None),
    };
    let object = MallocObject::of(target, mapped).ok();
    let mut all = Names::default();
    all.put("command", who.cmdline.join(" "));
    all.put("comm", who.comm);
    all.put("pid", who.pid);
    all.put_known("python", who.python);
    all.put_known("libc", who.libc.as_ref());
    let identity = object.as_ref().map(|object| &object.identity);
    all.put_known("malloc", identity.map(AllocatorIdentity::title));
    all.put_known("malloc_path", identity.map(|one| &one.object));
    all.put_known("cpus", target.allowed_cpus().ok());
    all.put("page_size", PAGE_SIZE);
    all.put("kernel", host.kernel);
    all.put("recorder", source);
    all.put("started_at", started_at);
    all.put_known("thp", host::transparent_huge_pages());
    for (name, value) in target.allocator_environment() {
        let value = match (name.as_str(), listed) {
            ("LD_PRELOAD", Some(listed)) => without(&value, listed),
            _ => value,
        };
        if !value.is_empty() {
            all.put(&format!("env.{name}"), value);
        }
    }
    let serves = identity.and_then(|one| one.kind);
    let heap = heaps.iter().find(|heap| Some(heap.allocator) == serves);
    for (name, value) in heap.iter().flat_map(|heap| &heap.settings) {
        all.put(&format!("setting.{name}"), value);
    }
    Description(all.0)
}

/// A list of libraries to preload without one of them. The loader parts them at spaces and colons.
fn without(list: &str, path: &str) -> String {
    let others = list.split([' ', ':']).filter(|one| *one != path);
    let others: Vec<&str> = others.filter(|one| !one.is_empty()).collect();
    others.join(":")
}

#[derive(Default)]
struct Names(Vec<(String, String)>);

impl Names {
    fn put(&mut self, name: &str, value: impl ToString) {
        self.0.push((name.to_owned(), value.to_string()));
    }

    fn put_known(&mut self, name: &str, value: Option<impl ToString>) {
        if let Some(value) = value {
            self.put(name, value);
        }
    }
}
