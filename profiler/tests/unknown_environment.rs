//! Processes of which it is unknown what their environment held at the start: said as unknown, never taken for "nothing
//! set". No privilege.

mod support;

use std::process::Command;

use fragscope::session::record::describe::{Origin, describe};
use jiff::Timestamp;
use profiler_core::allocator::UnknownEnvironment;
use profiler_target::{Process, Target};
use profiler_testing::child::Child;
use serde_json::Value;
use support::{fragscope, json, stdout};

/// Does with the pages of its environment, which is longer than they are, what its argument says.
const WORKER: &str = r"
import ctypes, sys
kept = [bytes(i % 700) for i in range(60000)]
del kept[::3]
fields = open('/proc/self/stat').read().rsplit(') ')[1].split()
start, end = int(fields[50 - 3]), int(fields[51 - 3])
if sys.argv[1] == 'title':
    # As setproctitle does, of PyPI and others.
    title = b'worker: [app.wsgi]'
    ctypes.memset(start, 0, end - start)
    ctypes.memmove(start, title, len(title))
elif sys.argv[1] == 'file':
    # The kernel does not read the pages of a file there (FOLL_ANON).
    page = 4096
    first = (start + page - 1) // page * page
    PROT_READ, MAP_PRIVATE, MAP_FIXED = 1, 2, 0x10
    mmap = ctypes.CDLL(None).mmap
    mmap.restype = ctypes.c_void_p
    mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + 3 * [ctypes.c_int] + [ctypes.c_long]
    file = open('/proc/self/exe', 'rb')
    assert mmap(first, 2 * page, PROT_READ, MAP_PRIVATE | MAP_FIXED, file.fileno(), 0) == first
print('READY', flush=True)
sys.stdin.read()
";

/// A Python with a setting of malloc's, and this done to its environment.
fn worker(done: &str, preload: Option<&str>) -> Child {
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-S", "-c", WORKER, done]).env_clear();
    command
        .env("MALLOC_ARENA_MAX", "2")
        .env("PYTHONMALLOC", "malloc");
    command.env("LONG", "x".repeat(64 << 10));
    command.envs(preload.map(|library| ("LD_PRELOAD", library)));
    Child::run(command)
}

fn heap(snapshot: &Value, allocator: &str) -> Value {
    let heaps = snapshot["heaps"].as_array().expect("heaps");
    let mut all = heaps.iter().filter(|heap| heap["allocator"] == allocator);
    all.next().expect("it was walked").clone()
}

#[test]
fn what_a_process_was_started_with_is_known_until_it_writes_over_it() {
    let known = worker("nothing", None);
    let target = Target::open(known.pid()).expect("our own child");
    let all = target.allocator_environment().expect("known");
    assert_eq!(all, ["MALLOC_ARENA_MAX=2", "PYTHONMALLOC=malloc"]);
    for (done, reason) in [
        ("title", UnknownEnvironment::Overwritten),
        ("file", UnknownEnvironment::Unreadable),
    ] {
        let child = worker(done, None);
        let target = Target::open(child.pid()).expect("our own child");
        assert_eq!(target.allocator_environment(), Err(reason));
        assert_eq!(target.python_malloc_setting(), Err(reason));
        let of_trace = describe(&target, &[], Origin::Probes, Timestamp::UNIX_EPOCH);
        let of_trace = of_trace.expect("it runs");
        assert_eq!(of_trace.environment_unknown, Some(reason));
        assert_eq!(of_trace.env, []);
    }
}

#[test]
fn an_environment_that_is_unknown_is_said_everywhere() {
    let folder = tempfile::tempdir().expect("a folder");
    let saved = folder.path().join("a.fragsnap");
    let saved = saved.to_str().expect("text");
    let before = folder.path().join("b.fragsnap");
    let before = before.to_str().expect("text");
    let known = worker("nothing", None);
    let pid = known.pid().to_string();
    let shown = json(&fragscope(&[
        "snapshot", "--json", "--pid", &pid, "-o", before,
    ]));
    let glibcs = heap(&shown, "glibc");
    assert_eq!(glibcs["asked"][0]["asked_for"], "MALLOC_ARENA_MAX=2");
    assert_eq!(glibcs["asked"][0]["in_force"], true);
    assert_eq!(glibcs["environment_unknown"], Value::Null);
    let doctor = stdout(&fragscope(&["doctor", "--pid", &pid]));
    assert!(!doctor.contains("environment"), "{doctor}");

    for (done, key, why) in [
        (
            "title",
            "overwritten",
            "its environment is not of the usual form",
        ),
        ("file", "unreadable", "the environment cannot be read"),
    ] {
        let child = worker(done, None);
        let pid = child.pid().to_string();
        let shown = json(&fragscope(&[
            "snapshot", "--json", "--pid", &pid, "-o", saved,
        ]));
        let glibcs = heap(&shown, "glibc");
        assert_eq!(glibcs["asked"], Value::Null);
        assert_eq!(glibcs["environment_unknown"], key);
        // What is in effect is read from the heap all the same.
        assert_eq!(glibcs["settings"]["arena_max"], 2);
        let sentence = format!("settings that its environment asks for: unknown, {why}");
        let flat = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let text = flat(stdout(&fragscope(&["snapshot", "--pid", &pid])));
        assert!(text.contains(&sentence), "{text}");
        let again = json(&fragscope(&["export", saved, "--format", "json"]));
        assert_eq!(heap(&again, "glibc"), glibcs);
        let doctor = flat(stdout(&fragscope(&["doctor", "--pid", &pid])));
        assert!(doctor.contains(why), "{doctor}");
        let diff = json(&fragscope(&["diff", before, saved, "--json"]));
        let facts = diff["facts"].as_array().expect("facts").iter();
        let mut of_environment = facts.filter(|fact| fact["name"] == "glibc environment");
        let fact = of_environment.next().expect("it differs");
        assert_eq!(fact["before"], "MALLOC_ARENA_MAX=2");
        let after = fact["after"].as_str().expect("text");
        assert!(after.starts_with(&format!("unknown: {why}")), "{after}");
    }
}

#[test]
fn of_another_allocator_what_was_asked_for_is_shown_and_unknown_is_said() {
    let jemallocs = |child: &Child| {
        let pid = child.pid().to_string();
        heap(
            &json(&fragscope(&["snapshot", "--json", "--pid", &pid])),
            "jemalloc",
        )
    };
    let child = worker("title", Some("libjemalloc.so.2"));
    assert_eq!(jemallocs(&child)["asked"], Value::Null);
    assert_eq!(jemallocs(&child)["environment_unknown"], "overwritten");
    let mut python = Command::new("/usr/bin/python3");
    python
        .args(["-S", "-c", WORKER, "nothing"])
        .env("LD_PRELOAD", "libjemalloc.so.2");
    python.env("MALLOC_CONF", "narenas:2");
    let found = jemallocs(&Child::run(python));
    assert_eq!(found["asked"][0]["asked_for"], "MALLOC_CONF=narenas:2");
    assert_eq!(found["asked"][0]["in_force"], Value::Null);
    assert_eq!(found["environment_unknown"], Value::Null);
}
