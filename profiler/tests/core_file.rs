//! Core files: a core gives the same walk as the process itself, and invalid cores are rejected.

mod support;

#[allow(dead_code, reason = "only the image's bytes are wanted")]
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use profiler_core::completeness::Confidence;
use profiler_core::heap::Allocator;
use profiler_sampling::{CoreSampleError, sample_of_core};
use profiler_testing::child::{self, Child};
use profiler_testing::core_file;
use profiler_testing::images::glibc::MMAPPED_BYTES;
use proptest::prelude::*;
use serde_json::Value;
use support::{fragscope, json, stderr, stdout};

/// Fills all size classes, leaves holes, keeps large blocks, one of them with pages never touched.
const WORKER: &str = r"
import ctypes, random, resource, sys, threading
resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
rng = random.Random(7)
kept = [[bytes([i % 255 + 1]) * rng.randint(1, 9000) for i in range(1500)] for _ in range(8)]
kept += [[str(i) * 5 for i in range(60000)]]
for row in kept[::2]:
    del row[::3]
large = bytearray(b'x' * 3_000_000)
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
untouched = [libc.malloc(ctypes.c_size_t(5_000_000)) for _ in range(3)]
hold = threading.Event()
def work():
    mine = [bytes(2000) for _ in range(300)]
    del mine[::2]
    ready.wait()
    hold.wait()
ready = threading.Barrier(3)
for _ in range(2):
    threading.Thread(target=work, daemon=True).start()
ready.wait()
print('READY', flush=True)
sys.stdin.read()
";

fn snapshot(args: &[&str]) -> Value {
    json(&fragscope(&[&["snapshot", "--json"], args].concat()))
}

/// What a core must give as the process does: heaps to the byte. Which pages are resident is left
/// out: gcore reads pages that were never touched.
fn heaps(snapshot: &Value, with_pages: bool) -> Value {
    let mut heaps = Vec::new();
    for heap in snapshot["heaps"].as_array().expect("heaps") {
        let mut heap = heap.clone();
        let fields = heap.as_object_mut().expect("an object");
        for arena in fields["arenas"].as_array_mut().expect("arenas") {
            let arena = arena.as_object_mut().expect("an object");
            let by_pages = ["pin", "resident", "trimmable", "below_highest"];
            arena.retain(|name, _| with_pages || !by_pages.iter().any(|part| name.contains(part)));
        }
        fields.retain(|name, _| with_pages || !name.contains("resident"));
        // No core says which pages were never written to, nor what the environment was at the start.
        for unknown in ["untouched_bytes", "asked", "environment_unknown"] {
            fields.remove(unknown).expect("it is there");
        }
        heaps.push(heap);
    }
    let mut all = vec![Value::from(heaps)];
    for table in ["size_classes", "page_occupancy"] {
        if with_pages {
            all.push(snapshot[table].clone());
        }
    }
    Value::from(all)
}

/// Lets the kernel write the core of a dying child; `None` where cores go to another program.
fn kernels_core(child: &Child, folder: &Path) -> Option<PathBuf> {
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").expect("readable");
    let pattern = pattern.trim();
    if pattern.starts_with(['|', '/', '@']) || pattern.is_empty() {
        eprintln!("kernel.core_pattern is {pattern:?}: the kernel's core is not looked at");
        return None;
    }
    kill(Pid::from_raw(child.pid()), Signal::SIGABRT).expect("ours");
    child::wait_for_state(child.pid(), 'Z');
    let files = fs::read_dir(folder).expect("readable");
    let core = files
        .map(|entry| entry.expect("an entry").path())
        .find(|path| {
            path.file_name()
                .is_some_and(|name| name != "gcore" && name != "copy")
        });
    Some(core.expect("the kernel wrote a core here"))
}

#[test]
fn a_core_gives_the_heaps_that_the_process_has() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = Command::new("python3");
    command
        .args(["-S", "-c", WORKER])
        .env_clear()
        .current_dir(folder.path());
    let child = Child::run(command);
    assert_eq!(child.first_line(), "READY");
    let pid = child.pid().to_string();
    let program = fs::read_link(format!("/proc/{pid}/exe")).expect("ours");
    let program = child::install(&program, &folder);
    let live = snapshot(&["--pid", &pid]);
    assert_eq!(live["completeness"]["layout_confidence"], "high");
    assert_eq!(live["completeness"]["stopped"], true);

    let written = support::core_of(&pid, folder.path());
    let gcores = snapshot(&["--core", written.to_str().expect("text")]);
    assert_eq!(heaps(&gcores, false), heaps(&live, false));
    assert_eq!(gcores["rss_bytes"], Value::Null, "a core has no RSS");
    assert_eq!(gcores["swap_bytes"], Value::Null);
    for of_page_table in [
        "huge_backed_bytes",
        "blank_bytes",
        "swap_fragmentation_bytes",
        "swap_unknown_bytes",
    ] {
        assert_eq!(
            gcores["metrics"][of_page_table],
            Value::Null,
            "{of_page_table}"
        );
        assert!(live["metrics"][of_page_table].is_u64(), "{of_page_table}");
    }
    let untouched = |of: &Value| {
        let heaps = of["heaps"].as_array().expect("heaps");
        let of_each = heaps.iter().map(|heap| heap["untouched_bytes"].as_u64());
        of_each.collect::<Option<Vec<u64>>>()
    };
    assert!(untouched(&live).expect("known").iter().sum::<u64>() > 14 << 20);
    assert_eq!(untouched(&gcores), None);
    let asked = |of: &Value| {
        let heaps = of["heaps"].as_array().expect("heaps");
        let glibcs = heaps.iter().find(|heap| heap["allocator"] == "glibc");
        let glibcs = glibcs.expect("it serves malloc");
        (
            glibcs["asked"].clone(),
            glibcs["environment_unknown"].clone(),
        )
    };
    assert_eq!(asked(&live), (Value::Array(vec![]), Value::Null));
    assert_eq!(asked(&gcores), (Value::Null, "core_file".into()));
    assert_eq!(gcores["target"]["threads"], 3);
    assert_eq!(gcores["target"]["python"], live["target"]["python"]);
    fs::rename(&written, folder.path().join("gcore")).expect("ours");

    if let Some(core) = kernels_core(&child, folder.path()) {
        let core = core.to_str().expect("text");
        let kernels = snapshot(&["--core", core]);
        assert_eq!(heaps(&kernels, true), heaps(&live, true));
        assert_eq!(untouched(&kernels), None);
        assert_eq!(kernels["target"]["pid"], child.pid());
        let defects = kernels["completeness"]["defects"]
            .as_array()
            .expect("a list");
        assert_eq!(defects, &Vec::<Value>::new());

        let explained = fragscope(&["explain", "--core", core]);
        let text = stdout(&explained);
        assert!(text.contains("in the core"), "{text}");

        // The program in another place, as after a copy to another machine.
        let given = snapshot(&["--core", core, "--exe", program.to_str().expect("text")]);
        assert_eq!(given["heaps"], kernels["heaps"]);
        let wrong = fragscope(&["snapshot", "--core", core, "--exe", "/bin/sh"]);
        assert_eq!(wrong.status.code(), Some(1));
        let said = stderr(&wrong);
        assert!(said.contains("is not the program of this core"), "{said}");
    }
}

#[test]
fn what_is_no_core_is_refused_with_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).expect("ours");
        path
    };
    let sound = core_file::sound();
    let foreign = |class: u8, machine: u16| {
        let mut bytes = sound.clone();
        bytes[4] = class;
        bytes[18..20].copy_from_slice(&machine.to_le_bytes());
        bytes
    };
    let cases = [
        (write("empty", b""), 1, "not a core file"),
        (
            write("text", b"core dumped, sorry about that"),
            1,
            "not a core file",
        ),
        (
            write("zstd", &[0x28, 0xb5, 0x2f, 0xfd, 0, 0, 0, 0]),
            1,
            "zstd -d",
        ),
        (write("short", &sound[..100]), 1, "cut off"),
        (write("headers", &sound[..600]), 1, "cut off"),
        (write("arm", &foreign(1, 40)), 5, "32-bit machine-40"),
        (write("i386", &foreign(1, 3)), 5, "32-bit"),
        (write("riscv", &foreign(2, 243)), 5, "machine-243"),
        (PathBuf::from("/bin/sh"), 1, "a program or a library"),
        (folder.path().to_owned(), 1, "a directory"),
        (folder.path().join("none"), 1, "cannot be read"),
    ];
    for (path, code, words) in cases {
        let out = fragscope(&["snapshot", "--core", path.to_str().expect("text")]);
        let said = stderr(&out);
        assert_eq!(out.status.code(), Some(code), "{}: {said}", path.display());
        assert!(out.status.signal().is_none());
        assert!(said.contains(words), "{}: {said}", path.display());
    }
}

fn sample_of(bytes: &[u8]) -> Result<profiler_core::sample::Sample, CoreSampleError> {
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), bytes).expect("ours");
    Ok(sample_of_core(file.path(), None, None)?.sample)
}

#[test]
fn a_small_core_is_read_whole() {
    let sample = sample_of(&core_file::sound()).expect("a core");
    let heap = sample.heaps.first().expect("a heap");
    assert_eq!(heap.allocator, Allocator::Glibc);
    assert_eq!(heap.version, "2.36");
    assert_eq!(heap.confidence, Confidence::High, "{:?}", heap.checks);
    assert_eq!(heap.large_mapped(), (1, MMAPPED_BYTES));
    assert_eq!(sample.target.comm, "worker");
    assert_eq!(sample.target.pid, 4711);
}

#[test]
fn a_core_that_is_cut_off_says_what_is_missing() {
    let sound = core_file::sound();
    let cut = &sound[..sound.len() - 0x3000];
    let sample = sample_of(cut).expect("its notes are there");
    let said = &sample.completeness.defects;
    assert!(said.iter().any(|d| d.what.contains("cut off")), "{said:?}");
}

#[test]
fn a_core_that_is_cut_off_is_printed_and_ends_with_a_code_of_its_own() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let path = file.path().to_str().expect("text");
    let sound = core_file::sound();
    for (bytes, code) in [(&sound[..], 0), (&sound[..sound.len() - 0x3000], 6)] {
        fs::write(file.path(), bytes).expect("ours");
        for command in ["snapshot", "explain"] {
            let out = fragscope(&[command, "--core", path]);
            let said = stderr(&out);
            assert_eq!(out.status.code(), Some(code), "{command}: {said}");
            assert_eq!(said.contains("incomplete"), code != 0, "{command}: {said}");
            assert!(!out.stdout.is_empty(), "{command} prints what there is");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Any damage ends as data or as an error, soon, and conservation holds for what is read.
    #[test]
    fn damaged_cores_are_data(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..24),
        of_headers in any::<bool>(),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = core_file::sound();
        let reach = if of_headers { 0x1000 } else { bytes.len() };
        for (at, value) in flips {
            bytes[at.index(reach)] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(sample) = sample_of(&bytes) {
            for heap in &sample.heaps {
                prop_assert_eq!(heap.check(), Vec::<String>::new());
            }
            let report = profiler_core::report::FragReport::from_sample(&sample);
            prop_assert!(report.ledger.iter().map(|row| row.resident_bytes).sum::<u64>() > 0
                || sample.kernel.rss_bytes == 0);
        }
    }
}
