//! What grows: two censuses of a program that reports itself what it holds.

mod support;

use std::path::Path;
use std::process::Command;

use profiler_testing::child::Child;
use profiler_testing::pythons::{Python, pythons};
use profiler_testing::wait::eventually;
use serde_json::Value;
use support::{fragscope, json, stderr, stdout, text};

const GROWING: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/workers/growing.py");
/// Objects that it makes in a second (its `PACE`).
const PACE: f64 = 20_000.0;
/// How far fragscope may be off what the program says of itself.
const MAX_ERROR: f64 = 0.05;

/// The program, with its account in this file.
fn growing(python: &Path, account: &Path, rests: bool) -> Child {
    let mut command = Command::new(python);
    command.arg(GROWING).arg(account);
    command.args(rests.then_some("rests"));
    Child::run(command)
}

/// What the program said that it held at a time, in objects and bytes.
fn held_at(account: &str, time_ns: f64) -> (f64, f64) {
    let lines = account.lines().filter_map(|line| {
        let mut numbers = line.split(' ').map(|number| number.parse::<f64>().ok());
        Some((numbers.next()??, numbers.next()??, numbers.next()??))
    });
    let last = lines.take_while(|(time, ..)| *time <= time_ns).last();
    let (_, objects, bytes) = last.expect("it spoke before");
    (objects, bytes)
}

/// Nanoseconds since 1970 of an instant as JSON has it.
fn nanoseconds(instant: &Value) -> f64 {
    let instant: jiff::Timestamp = instant.as_str().expect("a time").parse().expect("RFC 3339");
    instant.as_nanosecond() as f64
}

fn row<'o>(rows: &'o Value, key: &str, name: &str) -> &'o Value {
    let rows = rows.as_array().expect("rows");
    let found = rows.iter().find(|row| row[key] == name);
    found.unwrap_or_else(|| panic!("no {name}"))
}

fn assert_near(ours: &Value, theirs: f64, what: &str) {
    let ours = ours.as_f64().expect("a rate");
    let error = (ours - theirs).abs() / theirs;
    assert!(error <= MAX_ERROR, "{what}: {ours} of {theirs}");
    println!(
        "{what}: {ours:.0} of {theirs:.0}, off by {:.2} %",
        error * 100.0
    );
}

/// Objects and bytes a second that SESSIONS gained, each as the program says and as was found.
fn gained(snapshot: &Value, account: &Path) -> Option<[(f64, f64); 2]> {
    let objects = &snapshot["objects"];
    let seconds = objects["growth"]["elapsed_ms"].as_f64().expect("growth") / 1e3;
    let now = nanoseconds(&objects["taken_at"]);
    let account = std::fs::read_to_string(account).expect("an account");
    let (objects_now, bytes_now) = held_at(&account, now);
    let (objects_then, bytes_then) = held_at(&account, now - seconds * 1e9);
    let holders = objects["holders"].as_array().expect("rows");
    let holder = holders
        .iter()
        .find(|holder| holder["name"] == "__main__.SESSIONS")?;
    let found = |key: &str| holder[key].as_f64();
    Some([
        (
            (objects_now - objects_then) / seconds,
            found("growth_objects_per_second")?,
        ),
        (
            (bytes_now - bytes_then) / seconds,
            found("growth_bytes_per_second")?,
        ),
    ])
}

fn grows_as_it_says(python: &Python) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("account");
    let child = growing(&python.path, &file, false);
    let pid = child.pid().to_string();
    let args = ["snapshot", "--json", "--growth", "2s", "--pid", &pid];
    // A list that has moved since either walk is named, but its table is none of that walk's blocks: whole
    // tables are missing then.
    let snapshot = eventually("a reading in which nothing moved", || {
        let snapshot = json(&fragscope(&args));
        let gained = gained(&snapshot, &file)?;
        let is_near = gained
            .iter()
            .all(|(theirs, ours)| (ours - theirs).abs() <= theirs * MAX_ERROR);
        (snapshot["objects"]["changed_objects"] == 0 && is_near).then_some(snapshot)
    });
    let objects = &snapshot["objects"];
    let seconds = objects["growth"]["elapsed_ms"].as_f64().expect("growth") / 1e3;
    let now = nanoseconds(&objects["taken_at"]);
    let account = std::fs::read_to_string(&file).expect("an account");
    let (objects_now, _) = held_at(&account, now);
    let (objects_then, _) = held_at(&account, now - seconds * 1e9);
    let what = format!("{python:?}");
    let of_type = row(&objects["types"], "type", "__main__.Session");
    assert_near(
        &of_type["growth_objects_per_second"],
        (objects_now - objects_then) / seconds,
        &format!("objects, {what}"),
    );
    let holder = row(&objects["holders"], "name", "__main__.SESSIONS");
    assert_near(
        &holder["growth_objects_per_second"],
        (objects_now - objects_then) / seconds,
        &format!("items, {what}"),
    );
    assert_eq!(objects["growth"]["is_growing"], true);
    let verdict = snapshot["verdict"].as_str().expect("a verdict");
    let begins = verdict.starts_with("Growing ") && verdict.contains("`__main__.SESSIONS` (list)");
    assert!(begins, "{verdict}");
    assert!(verdict.contains("`__main__.Session` a second"), "{verdict}");
}

#[test]
fn growth_is_what_the_program_says_of_itself() {
    let all = pythons().into_iter();
    for python in all.filter(|python| !python.free_threaded && !python.debug) {
        grows_as_it_says(&python);
    }
}

#[test]
fn the_explanation_names_who_grows_and_begins_with_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("account");
    let child = growing(Path::new("python3"), &file, false);
    let pid = child.pid().to_string();
    let output = fragscope(&["explain", "--no-predict", "--growth", "1s", "--pid", &pid]);
    let shown = stdout(&output);
    let words = shown.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains("Growing "), "{shown}");
    assert!(
        words.contains("a leak, or a cache without a bound or not yet full; no allocator helps"),
        "{shown}"
    );
    for words_of_rest in ["Nothing stands out", ": the memory is in use"] {
        assert!(!words.contains(words_of_rest), "{shown}");
    }
    assert!(shown.contains("PYTHON OBJECTS"), "{shown}");
    assert!(
        shown.contains("list of "),
        "the way to what is held: {shown}"
    );
    assert!(!shown.contains("user-0"), "a value: {shown}");
    let rate = words.split("`__main__.SESSIONS` (list) gains ").nth(1);
    let rate = rate
        .and_then(|rest| rest.split(' ').next())
        .expect("a rate");
    let rate = match rate.strip_suffix('k') {
        Some(thousands) => thousands.parse::<f64>().expect("a number") * 1e3,
        None => rate.parse().expect("a number"),
    };
    assert!((rate - PACE).abs() < PACE * 0.2, "{rate}");
}

/// Objects are read twice ten seconds apart at the least.
#[test]
fn that_memory_in_use_grows_is_said_before_objects_were_read_twice() {
    let source = "
import time
all = []
print('ready', flush=True)
while True:
    all.append(bytearray(b'x') * 200_000)
    time.sleep(0.01)
";
    let mut program = Command::new(&pythons()[0].path);
    program.args(["-c", source]);
    let program = Child::run(program);
    let pid = program.pid().to_string();
    let attach = |form: &str| {
        let output = fragscope(&[
            "attach",
            "--no-probes",
            "--no-predict",
            "--duration",
            "7s",
            "--pid",
            &pid,
            form,
        ]);
        assert!(output.status.success(), "{}", stderr(&output));
        stdout(&output)
    };
    let lines = attach("--headless");
    let said = lines
        .lines()
        .filter(|line| line.contains("verdict: Growing"));
    let said: Vec<_> = said.collect();
    assert!(
        said.iter()
            .any(|line| line.contains("/s: memory in use grows; what holds it")),
        "{lines}"
    );
    let lines = attach("--json");
    let last = lines.lines().last().expect("a line");
    let last: Value = serde_json::from_str(last).expect("JSON");
    let trend = &last["trend"];
    assert_eq!(trend["grows"], "in_use", "{last}");
    let rate = |key: &str| trend[key].as_f64().expect("a rate");
    let (rss, live) = (rate("rss_bytes_per_second"), rate("live_bytes_per_second"));
    assert!(rss > 5e6 && (rss - live).abs() < 0.3 * rss, "{last}");
}

#[test]
fn what_rests_does_not_grow() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("account");
    let child = growing(Path::new("python3"), &file, true);
    let pid = child.pid().to_string();
    let args = ["snapshot", "--json", "--growth", "500ms", "--pid", &pid];
    // Its own account takes and gives back a little.
    eventually("rest", || {
        let snapshot = json(&fragscope(&args));
        let verdict = snapshot["verdict"].as_str().expect("a verdict").to_owned();
        let holder = &snapshot["objects"]["holders"];
        let still = row(holder, "name", "__main__.SESSIONS")["growth_bytes_per_second"] == 0.0;
        (verdict.starts_with("Not growing") && still).then_some(())
    });
}

#[test]
fn native_blocks_that_nothing_owns_are_named_by_size_and_rate() {
    let program = "
import ctypes, sys, time
malloc = ctypes.CDLL(None).malloc
malloc.restype = ctypes.c_void_p
print('ready', flush=True)
start, n = time.time(), 0
while True:
    while n < (time.time() - start) * 20000:
        ctypes.memset(malloc(88), 1, 88)
        n += 1
    time.sleep(0.005)
";
    let child = Child::python(program);
    let pid = child.pid().to_string();
    let snapshot = json(&fragscope(&[
        "snapshot", "--json", "--growth", "2s", "--pid", &pid,
    ]));
    let verdict = snapshot["verdict"].as_str().expect("a verdict");
    let named = "native blocks of up to 96 B in glibc that no Python object owns";
    assert!(verdict.contains(named), "{verdict}");
    let rows = snapshot["objects"]["native"].as_array().expect("rows");
    let grows = rows
        .iter()
        .find(|row| row["upper_bytes"] == 96 && row["allocator"] == "glibc");
    let rate = grows.expect("it is there")["growth_objects_per_second"].as_f64();
    let rate = rate.expect("a rate");
    assert!((rate - 20_000.0).abs() < 20_000.0 * 0.2, "{rate}");
}

#[test]
fn a_core_has_objects_in_its_explanation() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("account");
    let child = growing(Path::new("python3"), &file, true);
    let core = support::core_of(&child.pid().to_string(), folder.path());
    let output = fragscope(&["explain", "--no-predict", "--core", text(&core)]);
    let shown = stdout(&output);
    assert!(shown.contains("__main__.SESSIONS"), "{shown}");
    assert!(
        !shown.contains("ot growing") && !shown.contains("Growing"),
        "{shown}"
    );
}

#[test]
fn one_table_that_is_enlarged_is_no_leak() {
    let program = "
import sys, time
D = dict.fromkeys(range(87381))
print('ready', flush=True)
sys.stdin.readline()
for key in range(100):
    D['%d' % key] = None
print('done', flush=True)
time.sleep(1000)
";
    let mut child = Child::python(program);
    let pid = child.pid().to_string();
    let folder = tempfile::tempdir().expect("a folder");
    let [before, after] =
        ["before", "after"].map(|name| folder.path().join(format!("{name}.fragsnap")));
    let save = |file: &Path| {
        let args = ["snapshot", "--objects", "--pid", &pid, "-o", text(file)];
        assert!(fragscope(&args).status.success());
    };
    save(&before);
    assert_eq!(child.ask("go"), "done");
    save(&after);
    let explain = |later: &Path, earlier: &Path| {
        fragscope(&[
            "explain",
            "--no-predict",
            text(later),
            "--since",
            text(earlier),
        ])
    };
    let shown = String::from_utf8(explain(&after, &before).stdout).expect("UTF-8");
    let words = shown.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains("Not growing"), "{shown}");
    assert!(
        words.contains("`dict` took") && words.contains("in one step"),
        "{shown}"
    );
    // In the other order, or with another process, nothing is compared.
    let reversed = explain(&before, &after);
    let why = stderr(&reversed);
    assert!(
        !reversed.status.success() && why.contains("is not an earlier session"),
        "{why}"
    );
    let other = Child::python("import sys; print('ready', flush=True); sys.stdin.readline()");
    let pid = other.pid().to_string();
    let of_other = folder.path().join("other.fragsnap");
    let args = [
        "snapshot",
        "--objects",
        "--pid",
        &pid,
        "-o",
        text(&of_other),
    ];
    assert!(fragscope(&args).status.success());
    let wrong = explain(&of_other, &before);
    let why = stderr(&wrong);
    assert!(
        !wrong.status.success() && why.contains("is of process"),
        "{why}"
    );
}

#[test]
fn who_grows_is_named_though_a_hundred_others_hold_more() {
    let program = "
import time
for i in range(150):
    globals()['STATIC_%03d' % i] = ['s%d_%d' % (i, j) for j in range(1500)]
class Item(object):
    pass
PENDING = {}
print('ready', flush=True)
n = 0
while n < 4000:
    PENDING[n] = Item()
    n += 1
    time.sleep(0.001)
time.sleep(1000)
";
    let child = Child::python(program);
    let pid = child.pid().to_string();
    let snapshot = json(&fragscope(&[
        "snapshot", "--json", "--growth", "2s", "--pid", &pid,
    ]));
    let verdict = snapshot["verdict"].as_str().expect("a verdict");
    assert!(verdict.contains("`__main__.PENDING` (dict)"), "{verdict}");
}

#[test]
fn the_path_leads_to_what_grows_rather_than_to_what_is_largest() {
    let program = "
import time
class Event(object):
    __slots__ = ('number',)
class Server(object):
    def __init__(self):
        self.routes = ['/route/%d' % i for i in range(100000)]
        self.events = []
SERVER = Server()
start = time.time()
print('ready', flush=True)
while True:
    while len(SERVER.events) < (time.time() - start) * 5000:
        event = Event()
        event.number = None
        SERVER.events.append(event)
    time.sleep(0.005)
";
    let child = Child::python(program);
    let pid = child.pid().to_string();
    // It has to have some when it is looked at first.
    let snapshot = eventually("what grows is found", || {
        let snapshot = json(&fragscope(&[
            "snapshot", "--json", "--growth", "2s", "--pid", &pid,
        ]));
        let holders = &snapshot["objects"]["holders"];
        let server = row(holders, "name", "__main__.SERVER");
        (!server["growing_path"].is_null()).then_some(snapshot)
    });
    let holders = &snapshot["objects"]["holders"];
    let server = row(holders, "name", "__main__.SERVER");
    let last = |path: &str| server[path].as_array().and_then(|path| path.last());
    let largest = last("path").expect("a path");
    assert_eq!(
        (&largest["attribute"], &largest["length"]),
        (&"routes".into(), &100_000.into()),
        "{server:#}"
    );
    let growing = last("growing_path").expect("a path");
    assert_eq!(growing["attribute"], "events", "{server:#}");
    assert_eq!(server["growing_item_type"], "__main__.Event");
    let verdict = snapshot["verdict"].as_str().expect("a verdict");
    let named = verdict.contains("`__main__.SERVER` (__main__.Server) gains ")
        && verdict.contains("`__main__.Event` a second in .events: list of ");
    assert!(named, "{verdict}");
}

/// A cache that never changes, which functions of two threads have as a variable about half of the time, beside a list
/// that grows.
const CACHE_THAT_RUNNING_FUNCTIONS_HAVE: &str = "
import os, threading, time
class Session:
    __slots__ = ('data', 'user')
    def __init__(self, n): self.data, self.user = bytes(700) + b'%d' % n, n + 10**6
CACHE = {n: Session(n) for n in range(20_000)}
LEAK = []
def lookup(cache, n):
    time.sleep(0.05)
    return cache[n]
def handle(store): return lookup(store, 5)
def work():
    while True:
        handle(CACHE)
        time.sleep(0.1)
for _ in range(2): threading.Thread(target=work, daemon=True).start()
print('ready', flush=True)
while True:
    LEAK.append(bytes(7000) + os.urandom(3))
    time.sleep(0.02)
";

#[test]
fn what_does_not_change_gains_nothing_whichever_functions_refer_to_it() {
    let child = Child::python(CACHE_THAT_RUNNING_FUNCTIONS_HAVE);
    let pid = child.pid().to_string();
    for _ in 0..6 {
        let shown = fragscope(&[
            "snapshot",
            "--objects",
            "--growth",
            "1s",
            "--json",
            "--pid",
            &pid,
        ]);
        let found = json(&shown);
        let holders = found["objects"]["holders"].as_array().expect("rows");
        let of_cache = holders.iter().filter(|row| {
            let shared = row["shared_with"].as_array().into_iter().flatten();
            let mut names = shared.chain([&row["name"]]);
            names.any(|name| name == "__main__.CACHE")
        });
        let gained: f64 = of_cache
            .filter_map(|row| row["growth_bytes_per_second"].as_f64())
            .sum();
        // It has 16.9 MiB.
        assert!(
            gained < f64::from(1 << 20),
            "{gained}: {:#}",
            found["objects"]["holders"][0]
        );
    }
}

const BUSY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/workers/busy.py");

/// What `explain` says first of a program that handles requests, in a look in which its objects were copied in the stop
/// both times: on a busy host there is not always time for that.
fn said_of_busy(leaks: bool) -> String {
    let mut command = Command::new("python3");
    command.arg(BUSY).args(leaks.then_some("leaks"));
    let child = Child::run(command);
    let pid = child.pid().to_string();
    eventually("a look at copies", || {
        let output = fragscope(&["explain", "--growth", "4s", "--pid", &pid]);
        let said = stdout(&output).replace('\n', " ");
        let is_copied = said.contains("as they were at the moment of the walk");
        is_copied.then_some(said)
    })
}

#[test]
fn a_leak_is_named_in_a_worker_that_handles_requests() {
    let said = said_of_busy(true);
    assert!(said.contains("`__main__.SESSIONS` (dict) gains"), "{said}");
    assert!(!said.contains("Not growing"), "{said}");
}

#[test]
fn requests_in_hand_are_no_growth() {
    let said = said_of_busy(false);
    assert!(!said.contains("a leak"), "{said}");
    assert!(!said.contains("reached from no name:"), "{said}");
}

/// Tasks that wait for what never comes: the set that has them, the event that they wait for, and each one's own variable
/// refer to them.
const WAITING_TASKS: &str = "
import asyncio, os, time
TASKS = set()
async def wait_for(event):
    buffer = bytearray(os.urandom(4096))
    await event.wait()
    return buffer
async def main():
    event, start = asyncio.Event(), time.time()
    print('ready', flush=True)
    while True:
        while len(TASKS) < (time.time() - start) * 50:
            TASKS.add(asyncio.ensure_future(wait_for(event)))
        await asyncio.sleep(0.01)
asyncio.run(main())
";

#[test]
fn tasks_that_wait_for_ever_are_named_by_who_has_them() {
    let child = Child::python(WAITING_TASKS);
    let pid = child.pid().to_string();
    let said = eventually("some were there at the first look", || {
        let output = fragscope(&["explain", "--no-predict", "--growth", "3s", "--pid", &pid]);
        let said = stdout(&output).replace('\n', " ");
        said.contains("`__main__.TASKS` (set) gains")
            .then_some(said)
    });
    assert!(said.contains("Task` a second: a leak"), "{said}");
}

#[test]
fn threads_that_never_end_are_said_to_become_more() {
    let program = "
import json, threading, time
def serve(body):
    document = json.loads(body)
    threading.Event().wait()
    return document
body = json.dumps([{'id': n, 'name': 'item %d' % n} for n in range(60)])
print('ready', flush=True)
while True:
    threading.Thread(target=serve, args=(body,), daemon=True).start()
    time.sleep(0.1)
";
    let child = Child::python(program);
    let pid = child.pid().to_string();
    let output = fragscope(&["explain", "--no-predict", "--growth", "4s", "--pid", &pid]);
    let said = stdout(&output).replace('\n', " ");
    let named = "threads become more, and with them what their functions have in hand, among them \
                 `__main__.serve(): document` (list)";
    assert!(said.contains(named), "{said}");
    assert!(said.contains(" threads, and "), "{said}");
}

/// What `explain` says first of a program, in one look.
fn said_of(program: &str) -> String {
    let child = Child::python(program);
    let pid = child.pid().to_string();
    let output = fragscope(&["explain", "--no-predict", "--growth", "4s", "--pid", &pid]);
    stdout(&output).replace('\n', " ")
}

#[test]
fn a_cache_that_is_being_emptied_shrinks_and_a_batch_that_is_flushed_does_not_grow() {
    let emptied = "
import os, time
CACHE = {n: os.urandom(2000) for n in range(15000)}
start, n = time.time(), 0
print('ready', flush=True)
while CACHE:
    while n < (time.time() - start) * 500:
        CACHE.popitem()
        n += 1
    time.sleep(0.005)
";
    let said = said_of(emptied);
    assert!(said.contains("Shrinking "), "{said}");
    assert!(said.contains("`__main__.CACHE` (dict) loses "), "{said}");
    let flushed = "
import time
BATCH = []
start, n = time.time(), 0
print('ready', flush=True)
while True:
    while n < (time.time() - start) * 8000:
        n += 1
        BATCH.append({'id': n, 'name': 'x%d' % n})
        if len(BATCH) >= 11000: BATCH.clear()
    time.sleep(0.005)
";
    let said = said_of(flushed);
    assert!(!said.contains("Growing "), "{said}");
    // Whether that is enough turns depends on when it was looked at.
    let turns = "`__main__.BATCH` (list) becomes longer and shorter in turn";
    assert!(
        said.contains(turns) || said.contains("Not growing"),
        "{said}"
    );
}

/// It gains less than memory as a whole varies by, and nothing but a variable refers to it.
#[test]
fn a_set_that_a_thread_fills_is_named_with_its_rate() {
    let program = "
import threading, time
def fill():
    seen = set()
    start, n = time.time(), 0
    while True:
        while n < (time.time() - start) * 1500:
            n += 1
            seen.add('user-%d' % n)
        time.sleep(0.005)
threading.Thread(target=fill).start()
time.sleep(2)
print('ready', flush=True)
";
    let said = said_of(program);
    let rate = said.split("`__main__.fill(): seen` (set) gains ").nth(1);
    let rate = rate.and_then(|rest| rest.split(' ').next());
    let rate: f64 = rate
        .unwrap_or_else(|| panic!("{said}"))
        .parse()
        .expect("a number");
    assert!((rate - 1500.0).abs() < 150.0, "{said}");
    assert!(said.contains("Growing "), "{said}");
}

/// Two looks find the container anywhere in its swing, and the list is another one each time.
#[test]
fn a_leak_below_a_swing_has_its_own_rate_and_a_list_that_is_made_anew_does_not_grow() {
    let leaks = "
import time
CACHE = {}
start, n = time.time(), 0
print('ready', flush=True)
while True:
    elapsed = time.time() - start
    wanted = 5000 + int(4000 * elapsed) + int(5000 * (elapsed % 0.6) / 0.6)
    while len(CACHE) < wanted:
        n += 1
        CACHE[n] = 'value number %d' % n
    while len(CACHE) > wanted: CACHE.popitem()
    time.sleep(0.005)
";
    let said = said_of(leaks);
    assert!(!said.contains("Not growing"), "{said}");
    let numbers = said.split("`__main__.CACHE` (dict) gains ").nth(1);
    let numbers = numbers.and_then(|rest| rest.split(" `str` a second").next());
    // On a host that is busy too few turns may have been seen.
    if let Some(numbers) = numbers {
        let numbers = numbers.split(' ').filter_map(|word| word.parse().ok());
        let numbers: Vec<f64> = numbers.collect();
        let (Some(least), Some(most)) = (numbers.first(), numbers.last()) else {
            panic!("{said}");
        };
        assert!(*least <= 4000.0 * 1.25 && *most >= 4000.0 * 0.75, "{said}");
    } else {
        assert!(
            said.contains("becomes longer and shorter in turn"),
            "{said}"
        );
    }
    let anew = "
import time
BATCH = []
start, n = time.time(), 0
print('ready', flush=True)
while True:
    while n < (time.time() - start) * 8000:
        n += 1
        BATCH.append({'id': n, 'name': 'x%d' % n})
        if len(BATCH) >= 9000: BATCH = []
    time.sleep(0.005)
";
    let said = said_of(anew);
    assert!(!said.contains("Growing "), "{said}");
    assert!(!said.contains("a leak"), "{said}");
}
