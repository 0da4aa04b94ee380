//! Compares the jemalloc walker with jemalloc's own account of a real child's heap: equal, not
//! near.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use profiler_core::arena::ArenaFigure;
use profiler_core::heap::{Allocator, HeapSnapshot};
use profiler_core::jemalloc;
use profiler_core::span::SpanState;
use profiler_target::{Process, Target};
use profiler_testing::child::{Child, while_stopped};
use profiler_testing::heap::{assert_verified, figure};

/// How a program comes by its jemalloc.
enum Source {
    /// A shared object, preloaded.
    Preloaded(PathBuf),
    /// An archive, linked in, with the prefix of its functions.
    Linked(PathBuf, String),
}

struct Program {
    command: Command,
    /// Where the program lies.
    _folder: tempfile::TempDir,
}

fn program(source: &Source) -> Program {
    let folder = tempfile::tempdir().expect("a directory");
    let path = folder.path().join("heap");
    let code = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/programs/jemalloc.c");
    let mut compiler = Command::new("cc");
    compiler.args(["-O1", "-pthread", "-o"]).arg(&path);
    if let Source::Linked(archive, prefix) = source {
        compiler.arg(format!("-DJE(name)={prefix}##name"));
        compiler.arg(code).arg(archive).args(["-lm", "-ldl"]);
    } else {
        compiler.arg(code);
    }
    assert!(compiler.status().expect("cc runs").success(), "{code}");
    let mut command = match std::env::var("FRAGSCOPE_TEST_JEMALLOC_LOADER") {
        Ok(loader) => {
            let mut words = loader.split_whitespace();
            let mut command = Command::new(words.next().expect("a loader"));
            command.args(words).arg(path);
            command
        }
        Err(_) => Command::new(path),
    };
    if let Source::Preloaded(object) = source {
        command.env("LD_PRELOAD", object);
    }
    Program {
        command,
        _folder: folder,
    }
}

/// What the child says of itself.
struct Account {
    pid: i32,
    allocated: u64,
    active: u64,
    metadata: u64,
    mapped: u64,
    retained: u64,
    /// By arena index: pages active, dirty, muzzy; bytes retained, base, internal, in caches.
    arenas: BTreeMap<u32, [u64; 7]>,
    /// By class: regions in use or cached, and slabs.
    bins: Vec<[u64; 2]>,
    /// Block to usable size.
    live: BTreeMap<u64, u64>,
}

fn numbers(text: &str) -> Vec<u64> {
    text.split_whitespace()
        .map(|n| n.parse().expect("a number"))
        .collect()
}

fn read_account(child: &mut Child) -> Account {
    let totals = numbers(child.first_line());
    let arenas = child.next_line();
    let bins = child.next_line();
    let live = child.next_line();
    Account {
        pid: totals[0] as i32,
        allocated: totals[1],
        active: totals[2],
        metadata: totals[3],
        mapped: totals[4],
        retained: totals[5],
        arenas: arenas
            .split_terminator(';')
            .map(|arena| {
                let numbers = numbers(arena);
                let figures = numbers[1..].try_into().expect("seven numbers");
                (numbers[0] as u32, figures)
            })
            .collect(),
        bins: bins
            .split_terminator(';')
            .map(|bin| numbers(bin).try_into().expect("two numbers"))
            .collect(),
        live: live
            .split_whitespace()
            .map(|block| {
                let (addr, size) = block.split_once(':').expect("addr:size");
                let hex = |text| u64::from_str_radix(text, 16).expect("hex");
                (hex(addr), hex(size))
            })
            .collect(),
    }
}

/// Stops the target and walks its jemalloc.
fn walk(pid: i32) -> HeapSnapshot {
    let target = Target::open(pid).expect("the target opens");
    let objects = target.allocator_objects().expect("it runs");
    let object = objects
        .iter()
        .find(|object| object.identity.is(Allocator::Jemalloc))
        .expect("a jemalloc");
    let heap = while_stopped(&target, |memory, residency, _| {
        jemalloc::walk(memory, residency, object)
    });
    heap.expect("a heap")
}

fn blocks(heap: &HeapSnapshot, state: SpanState) -> BTreeMap<u64, u64> {
    let spans = heap
        .extents
        .iter()
        .flat_map(|extent| extent.spans.iter(extent.range.start()));
    spans
        .filter(|span| span.state == state)
        .map(|span| (span.range.start().get(), span.range.len()))
        .collect()
}

/// Everything that jemalloc says.
fn compare(source: &Source, conf: &str) -> HeapSnapshot {
    let mut program = program(source);
    program.command.env("MALLOC_CONF", conf);
    program.command.env("_RJEM_MALLOC_CONF", conf);
    let mut child = Child::run(program.command);
    let account = read_account(&mut child);
    let heap = walk(account.pid);
    assert_verified(&heap);

    let live = heap.total(|a| a.live_bytes);
    let cached = heap.total(|a| a.cached_bytes);
    assert_eq!(live + cached, account.allocated);
    assert_eq!(figure(&heap, ArenaFigure::ActiveBytes), account.active);
    assert_eq!(figure(&heap, ArenaFigure::MetadataBytes), account.metadata);
    assert_eq!(figure(&heap, ArenaFigure::RetainedBytes), account.retained);
    assert_eq!(heap.total(|a| a.system_bytes), account.mapped);
    assert!(heap.total(|a| a.cached_blocks) > 0);
    let ids: Vec<u32> = heap.arenas.iter().map(|a| a.id).collect();
    assert_eq!(ids, account.arenas.keys().copied().collect::<Vec<_>>());
    for (arena, of_arena) in heap.arenas.iter().zip(account.arenas.values()) {
        let [active, dirty, muzzy, retained, base, internal, caches] = *of_arena;
        for (figure, expected) in [
            (ArenaFigure::ActiveBytes, active << 12),
            (ArenaFigure::DirtyBytes, dirty << 12),
            (ArenaFigure::MuzzyBytes, muzzy << 12),
            (ArenaFigure::RetainedBytes, retained),
            (ArenaFigure::InternalBytes, internal),
            (ArenaFigure::MetadataBytes, base + internal),
        ] {
            assert_eq!(arena.figure(figure), Some(expected), "{figure:?} {arena:?}");
        }
        // To 5.2 it takes other memory for the large bins of caches (`arena_stats_merge` counts
        // `bins_large` from `NBINS`).
        if heap.version.starts_with("5.3") {
            assert_eq!(arena.cached_bytes, caches, "{arena:?}");
        }
    }
    let slabs: u64 = account.bins.iter().map(|[_, slabs]| slabs).sum();
    assert_eq!(figure(&heap, ArenaFigure::Slabs), slabs);

    // By size class, regions are counted whether live or cached.
    let mut regions: BTreeMap<u64, u64> = BTreeMap::new();
    let (live, cached) = (
        blocks(&heap, SpanState::Live),
        blocks(&heap, SpanState::Cached),
    );
    for size in live
        .values()
        .chain(cached.values())
        .filter(|&&s| s <= 14336)
    {
        *regions.entry(*size).or_default() += 1;
    }
    let of_bins: Vec<u64> = account
        .bins
        .iter()
        .map(|[regions, _]| *regions)
        .filter(|&n| n > 0)
        .collect();
    assert_eq!(regions.into_values().collect::<Vec<_>>(), of_bins);

    // Every block that the program has is live, and but for a few of libc's and jemalloc's own all
    // that is live is the program's.
    for (block, size) in &account.live {
        assert_eq!(live.get(block), Some(size), "{block:#x}");
    }
    let others = live.len() - account.live.len();
    assert!(others < 100, "{others}");
    heap
}

fn setting<'h>(heap: &'h HeapSnapshot, name: &str) -> Option<&'h str> {
    let mut settings = heap.settings.iter();
    let found = settings.find(|(n, _)| n == name);
    found.map(|(_, value)| value.as_str())
}

fn preloaded(name: &str) -> Source {
    Source::Preloaded(PathBuf::from(name))
}

#[test]
fn a_preloaded_jemalloc() {
    let heap = compare(&preloaded("libjemalloc.so.2"), "narenas:4");
    assert!(heap.version.starts_with("5."), "{}", heap.version);
    assert!(figure(&heap, ArenaFigure::DirtyBytes) > 0);
}

#[test]
fn the_options_in_force() {
    let conf = "narenas:3,dirty_decay_ms:20000,muzzy_decay_ms:300,tcache_max:4096,thp:never,\
                metadata_thp:auto,retain:false,oversize_threshold:1048576";
    let heap = compare(&preloaded("libjemalloc.so.2"), conf);
    for (name, value) in [
        ("opt.narenas", "3"),
        ("opt.dirty_decay_ms", "20000"),
        ("opt.muzzy_decay_ms", "300"),
        ("opt.tcache", "true"),
        ("opt.tcache_max", "4096"),
        ("opt.thp", "never"),
        ("opt.metadata_thp", "auto"),
        ("opt.retain", "false"),
        ("opt.background_thread", "false"),
        ("opt.oversize_threshold", "1048576"),
        ("dirty_decay_ms", "20000"),
        ("muzzy_decay_ms", "300"),
    ] {
        assert_eq!(
            setting(&heap, name),
            Some(value),
            "{name}: {:?}",
            heap.settings
        );
    }
}

#[test]
fn muzzy_and_retained_pages() {
    // A program that is done within the millisecond purges nothing: then another one is.
    let options = "dirty_decay_ms:1,muzzy_decay_ms:-1,narenas:2";
    let mut heaps = (0..50).map(|_| compare(&preloaded("libjemalloc.so.2"), options));
    let heap = heaps
        .find(|heap| figure(heap, ArenaFigure::MuzzyBytes) > 0)
        .expect("muzzy pages");
    assert_eq!(setting(&heap, "dirty_decay_ms"), Some("1"));
    assert_eq!(setting(&heap, "muzzy_decay_ms"), Some("-1"));
    let heap = compare(
        &preloaded("libjemalloc.so.2"),
        "dirty_decay_ms:0,muzzy_decay_ms:0",
    );
    assert!(figure(&heap, ArenaFigure::RetainedBytes) > 0);
    assert_eq!(
        figure(&heap, ArenaFigure::DirtyBytes) + figure(&heap, ArenaFigure::MuzzyBytes),
        0
    );
}

/// `FRAGSCOPE_TEST_JEMALLOC_LOADER` may be the dynamic loader of another glibc, with its options.
/// `FRAGSCOPE_TEST_JEMALLOC` is the path of a `libjemalloc.so.2` or of an archive; the functions of
/// an archive begin with `FRAGSCOPE_TEST_JEMALLOC_PREFIX`.
#[test]
#[ignore = "wants the path of a jemalloc in FRAGSCOPE_TEST_JEMALLOC"]
fn the_jemalloc_that_is_named() {
    let path = std::env::var("FRAGSCOPE_TEST_JEMALLOC").expect("FRAGSCOPE_TEST_JEMALLOC");
    let path = PathBuf::from(path);
    let source = if path.extension() == Some(Path::new("a").as_os_str()) {
        let prefix = std::env::var("FRAGSCOPE_TEST_JEMALLOC_PREFIX").unwrap_or_default();
        Source::Linked(path, prefix)
    } else {
        Source::Preloaded(path)
    };
    for conf in [
        "",
        "narenas:1",
        "dirty_decay_ms:1,muzzy_decay_ms:-1,narenas:3",
    ] {
        let heap = compare(&source, conf);
        println!(
            "jemalloc {} with {conf:?}: equal; {:?}",
            heap.version, heap.settings
        );
    }
}
