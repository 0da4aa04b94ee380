//! Compares the glibc walker with glibc's own account of a real child's heap: equal, not near.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use profiler_core::addr::PAGE_SIZE;
use profiler_core::arena::ArenaFigure;
use profiler_core::completeness::Confidence;
use profiler_core::glibc::{self, Context};
use profiler_core::heap::{ExtentKind, HeapSnapshot};
use profiler_core::residency::ResidencyMap;
use profiler_core::span::SpanState;
use profiler_target::{Libc, Process, Target};
use profiler_testing::child::{Child, while_stopped};
use profiler_testing::heap::figure;

/// The root of another distribution whose glibc is to be tested instead, such as one that
/// `dpkg -x libc6_….deb ROOT` made.
const ROOT: &str = "FRAGSCOPE_TEST_ROOT";

/// The folder of [`ROOT`]'s libraries.
fn libraries() -> Option<PathBuf> {
    let root = PathBuf::from(std::env::var_os(ROOT)?);
    let folders = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];
    let mut folders = folders.into_iter().map(|folder| root.join(folder));
    let folder = folders.find(|folder| folder.join("libc.so.6").exists());
    Some(folder.expect("a libc.so.6 in the root"))
}

/// A command that runs a program, under the loader and glibc of [`ROOT`] where that is set.
fn under_root(program: impl AsRef<Path>) -> Command {
    let Some(folder) = libraries() else {
        return Command::new(program.as_ref());
    };
    let mut command = Command::new(folder.join("ld-linux-x86-64.so.2"));
    command
        .arg("--library-path")
        .arg(folder)
        .arg(program.as_ref());
    command
}

/// The program, compiled once.
fn program() -> &'static PathBuf {
    static PROGRAM: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = PROGRAM.get_or_init(|| {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("heap");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/programs/heap.c");
        let mut cc = Command::new("cc");
        cc.args(["-O1", "-pthread", "-Wno-unused-result", "-o"])
            .arg(&path)
            .arg(source);
        // Linked against the libraries that it runs with: symbols have versions.
        if let Some(folder) = libraries() {
            let own = ["libc.so.6", "libpthread.so.0"].map(|name| folder.join(name));
            cc.args([
                "-nodefaultlibs",
                "-Wl,--allow-shlib-undefined",
                "-Wl,--no-as-needed",
            ])
            .args(own)
            .arg("-lgcc");
        }
        let built = cc.status().expect("cc runs");
        assert!(built.success(), "{source} compiles");
        (dir, path)
    });
    path
}

/// What the child says of itself.
#[derive(Debug)]
struct Account {
    pid: i32,
    arena: u64,
    hblks: u64,
    hblkhd: u64,
    uordblks: u64,
    fordblks: u64,
    /// By arena: fast chunks and their bytes, chunks in bins with the top and their bytes, system.
    arenas: Vec<[u64; 5]>,
    /// Block to usable size.
    live: BTreeMap<u64, u64>,
}

fn numbers(text: &str) -> Vec<u64> {
    text.split_whitespace()
        .map(|n| n.parse().expect("a number"))
        .collect()
}

fn read_account(first: &str, child: &mut Child) -> Account {
    let info = numbers(first);
    let arenas = child.next_line();
    let live = child.next_line();
    Account {
        pid: info[0] as i32,
        arena: info[1],
        hblks: info[4],
        hblkhd: info[5],
        uordblks: info[7],
        fordblks: info[8],
        arenas: arenas
            .split_terminator(';')
            .map(|arena| numbers(arena).try_into().expect("five numbers"))
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

/// Stops the target and walks it.
fn walk(pid: i32) -> (HeapSnapshot, ResidencyMap) {
    let target = Target::open(pid).expect("the target opens");
    while_stopped(&target, |memory, residency, stopped| {
        let context = Context {
            version: target
                .libc()
                .expect("it runs")
                .and_then(Libc::glibc_release),
            threads: stopped.threads(),
            libc_data: target.libc_data_ranges().expect("it runs"),
            environment: Ok(&[]),
        };
        let heap = glibc::walk(memory, residency, &context);
        // From where it was found, it is the same.
        let mut roots = glibc::Roots::default();
        glibc::find_roots(memory, residency, &context, &mut roots);
        for _ in 0..2 {
            let again = glibc::walk_from(memory, residency, &context, &mut roots);
            assert_eq!(again, heap);
        }
        (heap.expect("a heap"), residency.clone())
    })
}

/// Everything that glibc says of its totals, arena by arena.
fn assert_equal(heap: &HeapSnapshot, account: &Account) {
    let what = format!(
        "{:#?}\n{:#?}\n{:#?}",
        heap.arenas, heap.checks, heap.defects
    );
    assert_eq!(heap.check(), Vec::<String>::new(), "{what}");
    assert_eq!(heap.defects, [], "{what}");
    assert!(heap.checks.iter().all(|c| c.holds()), "{what}");
    assert_eq!(heap.confidence, Confidence::High, "{what}");
    assert_eq!(heap.total(|a| a.system_bytes), account.arena, "{what}");
    let (large, bytes) = heap.large_mapped();
    // glibc 2.43 counts the header of 16 bytes once more with each mremap.
    let beyond = if heap.version == "2.43" {
        account.hblkhd % PAGE_SIZE
    } else {
        0
    };
    assert_eq!(
        (large, bytes),
        (account.hblks, account.hblkhd - beyond),
        "{what}"
    );
    let foreign = figure(heap, ArenaFigure::ForeignSbrkBytes);
    let free = heap.total(|a| a.free_bytes + a.top_bytes) + figure(heap, ArenaFigure::FastbinBytes);
    assert_eq!(free, account.fordblks, "{what}");
    let used = heap.total(|a| a.live_bytes) + figure(heap, ArenaFigure::TcacheBytes);
    let used = used + figure(heap, ArenaFigure::MetadataBytes) + foreign;
    assert_eq!(used, account.uordblks, "{what}");
    assert_eq!(heap.arenas.len(), account.arenas.len(), "{what}");
    for (arena, [fast, fast_bytes, rest, rest_bytes, system]) in
        heap.arenas.iter().zip(&account.arenas)
    {
        assert_eq!(
            arena.figure(ArenaFigure::FastbinBlocks),
            Some(*fast),
            "{arena:?}"
        );
        assert_eq!(
            arena.figure(ArenaFigure::FastbinBytes),
            Some(*fast_bytes),
            "{arena:?}"
        );
        assert_eq!(arena.free_blocks + 1, *rest, "{arena:?}"); // malloc_info counts the top
        // It sums size words with their flag PREV_INUSE, which every chunk in a bin has.
        let rest = rest_bytes - arena.free_blocks;
        assert_eq!(arena.free_bytes + arena.top_bytes, rest, "{arena:?}");
        assert_eq!(arena.system_bytes, *system, "{arena:?}");
    }
}

/// The live blocks by address as the program knows it, with their usable bytes.
fn live(heap: &HeapSnapshot) -> BTreeMap<u64, u64> {
    let mut blocks = BTreeMap::new();
    for extent in &heap.extents {
        for span in extent.spans.iter(extent.range.start()) {
            if span.state == SpanState::Live {
                let (start, len) = (span.range.start().get(), span.range.len());
                // A span begins at the size word, that of an mmapped chunk at the user's bytes.
                let skipped = if extent.kind == ExtentKind::LargeMapped {
                    0
                } else {
                    8
                };
                blocks.insert(start + skipped, len - skipped);
            }
        }
    }
    blocks
}

/// Runs a kind of heap, compares it with every account, and hands over the child.
fn compare(kind: &str) -> (Child, i32, HeapSnapshot, ResidencyMap) {
    let mut command = under_root(program());
    command.arg(kind);
    let mut child = Child::run(command);
    let first = child.first_line().to_owned();
    let before = read_account(&first, &mut child);
    let (heap, _) = walk(before.pid);
    assert_equal(&heap, &before);
    let of_libc = live(&heap);

    child.send("go");
    let first = child.next_line();
    let account = read_account(&first, &mut child);
    assert!(account.live.len() > 300, "{}", account.live.len());
    let (heap, residency) = walk(account.pid);
    assert_equal(&heap, &account);
    let mut expected = account.live.clone();
    expected.extend(of_libc);
    let found = live(&heap);
    for (block, size) in &expected {
        // Of a block with a mapping of its own, 2.43 counts the last word as not usable.
        let large = heap.extents.iter().any(|extent| {
            let start = extent.range.start().get();
            extent.kind == ExtentKind::LargeMapped
                && (start..start + extent.range.len()).contains(block)
        });
        let word = if large && heap.version == "2.43" {
            8
        } else {
            0
        };
        let same = found.get(block) == Some(&(size + word));
        assert!(
            same || found.get(block) == Some(size),
            "{block:#x}: {size}, {:?}",
            found.get(block)
        );
    }
    for block in found.keys() {
        assert!(expected.contains_key(block), "{block:#x} is not in use");
    }
    (child, account.pid, heap, residency)
}

#[test]
fn one_thread() {
    let (_child, _, heap, _) = compare("single");
    assert!(figure(&heap, ArenaFigure::TcacheBlocks) > 50);
    // 2.43 has no fastbins.
    assert!(figure(&heap, ArenaFigure::FastbinBlocks) > 50 || heap.version == "2.43");
    assert_eq!(heap.arenas.len(), 1);
}

#[test]
fn eight_threads_with_arenas_of_their_own() {
    let (_child, _, heap, _) = compare("threads");
    assert!(heap.arenas.len() > 2);
    assert_eq!(figure(&heap, ArenaFigure::TcacheStructs), 9);
}

#[test]
fn mmapped_chunks_aligned_or_not_grown_or_not() {
    let (_child, _, heap, _) = compare("mapped");
    assert!(heap.large_mapped().0 > 300);
}

#[test]
fn a_main_arena_that_brk_could_not_grow() {
    let (_child, _, heap, _) = compare("obstacle");
    let runs = heap.extents.iter().filter(|e| e.kind == ExtentKind::Brk);
    assert!(runs.count() > 1);
}

#[test]
fn memory_that_a_foreign_sbrk_took_between() {
    let (_child, _, heap, _) = compare("foreign");
    assert!(figure(&heap, ArenaFigure::ForeignSbrkBytes) >= 10_000);
}

#[test]
fn a_trimmed_heap_and_a_forked_one() {
    compare("trimmed");
    compare("forked");
}

fn resident_pages(residency: &ResidencyMap) -> BTreeSet<u64> {
    let resident = residency.runs().iter().filter(|r| r.state.is_resident());
    resident
        .flat_map(|r| r.range.start().page()..r.range.end().page())
        .collect()
}

#[test]
fn malloc_trim_gives_back_the_predicted_pages_and_no_other() {
    for kind in ["single", "threads", "trimmed", "obstacle", "foreign"] {
        let (mut child, pid, heap, before) = compare(kind);
        child.send("trim");
        let first = child.next_line();
        let account = read_account(&first, &mut child);
        let (heap_after, after) = walk(pid);
        assert_equal(&heap_after, &account);
        let before = resident_pages(&before);
        let gone: BTreeSet<u64> = &before - &resident_pages(&after);
        let trimmable = heap.trimmable.iter();
        let predicted: BTreeSet<u64> = trimmable
            .flat_map(|range| {
                assert!(range.start().is_aligned(PAGE_SIZE) && range.end().is_aligned(PAGE_SIZE));
                range.start().page()..range.end().page()
            })
            .filter(|page| before.contains(page))
            .collect();
        assert!(!predicted.is_empty(), "{kind}");
        assert_eq!(gone, predicted, "{kind}");
    }
}

#[test]
fn a_real_python_with_sixteen_threads() {
    let mut command = under_root("/usr/bin/python3");
    command.args([
        "-S",
        "-c",
        "
import sys, threading
kept, ready = [], threading.Barrier(17)
def work(n):
    for i in range(3000):
        block = bytearray(600 + (i * 37 + n * 101) % 9000)
        if i % 3 == 0:
            kept.append(block)
    ready.wait()
    threading.Event().wait()
for n in range(16):
    threading.Thread(target=work, args=(n,), daemon=True).start()
ready.wait()
big = [bytes(1 << 20) for _ in range(20)]
print('ready', flush=True)
sys.stdin.readline()
",
    ]);
    let child = Child::run(command);
    let (heap, _) = walk(child.pid());
    let what = format!(
        "{:#?}\n{:#?}\n{:#?}",
        heap.arenas, heap.checks, heap.defects
    );
    assert_eq!(heap.check(), Vec::<String>::new(), "{what}");
    assert_eq!(heap.defects, [], "{what}");
    assert_eq!(heap.confidence, Confidence::High, "{what}");
    assert!(heap.arenas.len() > 2, "{what}");
    assert!(heap.large_mapped().0 >= 20, "{what}");
}
