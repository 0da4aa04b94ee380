//! The trace's description of a program. Needs no privilege.

use std::fs;
use std::process::Command;
use std::time::Duration;

use fragscope::session::record::describe::{Origin, describe};
use jiff::Timestamp;
use profiler_core::allocator::Allocator;
use profiler_core::heap::HeapSnapshot;
use profiler_lab::allocators::PlayableAllocator;
use profiler_sampling::{Sampler, SamplingOptions};
use profiler_target::{Process, Target};
use profiler_testing::child::Child;
use profiler_trace::trace::{RecordedBy, TraceDescription};

const SAMPLING: SamplingOptions = SamplingOptions {
    stop: true,
    swap_in: true,
    max_stop: Duration::from_secs(10),
    slices: false,
    max_walk: None,
};
const WAIT: &str = "import sys; print(sys.version.split()[0], flush=True); input()";

fn malloc(description: &TraceDescription) -> String {
    let title = description.malloc.as_ref().expect("known");
    title.to_string()
}

fn child() -> Child {
    let mut command = Command::new("python3");
    command
        .args(["-S", "-c", WAIT])
        .env("LD_PRELOAD", "libjemalloc.so.2")
        .env("MALLOC_CONF", "narenas:2")
        .env("PYTHONMALLOC", "malloc")
        .env_remove("MALLOC_ARENA_MAX");
    Child::run(command)
}

#[test]
fn a_program_is_described_by_all_names() {
    let child = child();
    let target = Target::open(child.pid()).expect("our own child");
    let mut heap = HeapSnapshot::new(Allocator::Jemalloc, "");
    heap.settings = vec![("narenas".to_owned(), "2".to_owned())];
    let mut other = HeapSnapshot::new(Allocator::Glibc, "");
    other.settings = vec![("arena_max".to_owned(), "1".to_owned())];
    let description = describe(
        &target,
        &[other, heap],
        Origin::Probes,
        Timestamp::UNIX_EPOCH,
    )
    .expect("it runs");
    let text = |known: &Option<String>| known.clone().expect("known");
    // A wrapper may have put the whole path before it.
    assert!(text(&description.command).ends_with(&format!("python3 -S -c {WAIT}")));
    assert_eq!(description.pid, Some(child.pid() as u64));
    assert_eq!(
        text(&description.python),
        format!("CPython {}", child.first_line())
    );
    assert!(
        text(&description.libc).starts_with("glibc 2."),
        "{description:?}"
    );
    assert!(
        malloc(&description).starts_with("jemalloc 5."),
        "{description:?}"
    );
    assert!(text(&description.malloc_path).contains("/libjemalloc.so.2"));
    assert_eq!(description.variable("LD_PRELOAD"), Some("libjemalloc.so.2"));
    assert_eq!(description.variable("MALLOC_CONF"), Some("narenas:2"));
    assert_eq!(description.variable("PYTHONMALLOC"), Some("malloc"));
    assert_eq!(description.setting("narenas"), Some("2"));
    assert_eq!(description.setting("arena_max"), None);
    assert_eq!(description.recorder, Some(RecordedBy::Probes));
    assert_eq!(text(&description.started_at), "1970-01-01T00:00:00Z");
    let allowed = std::thread::available_parallelism().expect("known");
    assert_eq!(description.cpus, u32::try_from(allowed.get()).ok());
    text(&description.comm);
    text(&description.kernel);
    assert_eq!(description.page_size, Some(4096));
}

/// Walks, probes, recordings and the lab name one version of one library.
#[test]
fn the_mimallocs_that_are_carried_have_one_version_everywhere() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, begins) in [("mimalloc", "mimalloc 3."), ("mimalloc2", "mimalloc 2.")] {
        let carried = PlayableAllocator::find(name).expect("carried");
        let path = folder.path().join(format!("lib{name}.so"));
        fs::copy(carried.object.expect("an object"), &path).expect("copied");
        let mut command = Command::new("python3");
        command
            .args(["-S", "-c", WAIT])
            .env("LD_PRELOAD", &path)
            .env("PYTHONMALLOC", "malloc");
        let child = Child::run(command);
        let target = Target::open(child.pid()).expect("our own child");
        let title = carried.identity.title();
        assert!(title.to_string().starts_with(begins), "{title}");
        let description =
            describe(&target, &[], Origin::Probes, Timestamp::UNIX_EPOCH).expect("it runs");
        assert_eq!(description.malloc.as_ref(), Some(&title));
        assert_eq!(
            target.describe().expect("it runs").malloc.as_ref(),
            Some(&title)
        );
        let loaded = PlayableAllocator::at_path(&path).expect("it serves malloc");
        assert_eq!(loaded.identity.title(), title);
        let sampler = Sampler::open(child.pid()).expect("our own child");
        let sample = sampler.take(SAMPLING).expect("a sample");
        let mut heaps = sample.heaps.iter();
        let heap = heaps.find(|heap| heap.allocator == Allocator::Mimalloc);
        let version = &heap.expect("mimalloc's heap").version;
        assert_eq!(format!("mimalloc {version}"), title.to_string());
    }
}

#[test]
fn a_recorder_in_front_of_the_allocator_is_left_out() {
    let child = child();
    let target = Target::open(child.pid()).expect("our own child");
    let preloaded = describe(&target, &[], Origin::Probes, Timestamp::UNIX_EPOCH).expect("it runs");
    let origin = Origin::Preload {
        listed: "libjemalloc.so.2",
        mapped: preloaded.malloc_path.as_deref().expect("found"),
    };
    let description = describe(&target, &[], origin, Timestamp::UNIX_EPOCH).expect("it runs");
    assert_eq!(Some(malloc(&description)), description.libc);
    assert_eq!(description.variable("LD_PRELOAD"), None);
    assert_eq!(description.recorder, Some(RecordedBy::Preload));
}
