//! `top` on real processes: a prefork master with children, processes that end, and a storm of
//! them.

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use profiler_testing::child::{Child, KillOnDrop, wait_for_state};
use profiler_testing::wait::eventually;
use serde_json::Value;
use support::{command, fragscope, json, stdout};

/// A master that forks five children, each of which holds another amount and then only waits.
const PREFORK: &str = "
import os, sys
shared = [bytes(1000) for _ in range(5000)]
children, ready = [], os.pipe()
for n in range(5):
    pid = os.fork()
    if pid == 0:
        mine = [bytes(900) for _ in range((n + 1) * 4000)]
        if n % 2:
            mine = mine[::50]
        os.write(ready[1], b'.')
        os.read(os.pipe()[0], 1)
    children.append(pid)
for _ in children:
    os.read(ready[0], 1)
print(*children, flush=True)
sys.stdin.readline()
for pid in children:
    os.kill(pid, 9)
";

struct Prefork {
    master: Child,
    children: Vec<i32>,
}

impl Prefork {
    fn start() -> Self {
        let prefork = Self::of(PREFORK);
        for &child in &prefork.children {
            wait_for_state(child, 'S');
        }
        prefork
    }

    fn of(program: &str) -> Self {
        let master = Child::python(program);
        let words = master.first_line().split_whitespace();
        let children: Vec<i32> = words.map(|pid| pid.parse().expect("a number")).collect();
        Self { master, children }
    }
}

impl Drop for Prefork {
    fn drop(&mut self) {
        for &child in &self.children {
            let _ = kill(Pid::from_raw(child), Signal::SIGKILL);
        }
    }
}

fn once(flags: &[&str]) -> Value {
    json(&fragscope(&[&["top", "--once", "--json"], flags].concat()))
}

/// Live bytes of a process' heaps by its walk: the least of a few, as what it reads for a moment comes and goes.
fn live_bytes(pid: i32) -> u64 {
    let once = || {
        let snapshot = json(&fragscope(&[
            "snapshot",
            "--json",
            "--pid",
            &pid.to_string(),
        ]));
        let heaps = snapshot["heaps"].as_array().expect("a list");
        let live = heaps
            .iter()
            .map(|heap| heap["live_bytes"].as_u64().expect("a number"));
        live.sum::<u64>()
    };
    (0..5).map(|_| once()).min().expect("five")
}

/// `top --json`, with its output to read.
fn watch(flags: &[&str]) -> KillOnDrop {
    let top = command(&[&["top", "--json"], flags].concat())
        .stdout(Stdio::piped())
        .spawn();
    KillOnDrop(top.expect("it runs"))
}

fn process(top: &Value, pid: i32) -> Option<&Value> {
    top["processes"]
        .as_array()?
        .iter()
        .find(|one| one["pid"] == pid)
}

/// Bytes of a field of `smaps_rollup`.
fn rollup(pid: i32, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("it runs");
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.expect(name) << 10
}

#[test]
fn a_prefork_master_and_its_children_have_the_kernels_figures_and_those_of_snapshot() {
    let prefork = Prefork::start();
    let top = once(&[]);
    assert_eq!(top["schema"], "fragscope.top/1");
    assert!(top["host"]["memory_bytes"].as_u64() > Some(0));
    let master = prefork.master.pid();
    for &pid in prefork.children.iter().chain([&master]) {
        let row = process(&top, pid).unwrap_or_else(|| panic!("{pid} in {top}"));
        assert_eq!(row["rss_bytes"], rollup(pid, "Rss"), "{row}");
        // Its own pages are shared with its relatives alone. Who else maps the files of Python comes and goes, so
        // that their share may be anything up to all of them, and the same holds of pages that it maps alone.
        let (own, files) = (
            rollup(pid, "Pss_Anon"),
            rollup(pid, "Rss") - rollup(pid, "Anonymous"),
        );
        let pss = row["pss_bytes"].as_u64().expect("a PSS");
        assert!((own..=own + files).contains(&pss), "{row}: {own}, {files}");
        let dirty = rollup(pid, "Private_Dirty");
        let uss = row["uss_bytes"].as_u64().expect("a USS");
        assert!(
            (dirty..=dirty + files).contains(&uss),
            "{row}: {dirty}, {files}"
        );
        let snapshot = json(&fragscope(&[
            "snapshot",
            "--pid",
            &pid.to_string(),
            "--json",
        ]));
        let heaps = snapshot["heaps"].as_array().expect("heaps").iter();
        let live = heaps.map(|heap| {
            let of = |key: &str| heap[key].as_u64().expect("a figure");
            of("live_bytes") + of("mapped_large_bytes")
        });
        assert_eq!(row["live_bytes"], live.sum::<u64>(), "{row}");
        for metric in ["fragmentation_bytes", "trim_returnable_bytes"] {
            assert_eq!(row["metrics"][metric], snapshot["metrics"][metric], "{row}");
        }
        assert_eq!(row["target"]["malloc"], snapshot["target"]["malloc"]);
        assert_eq!(row["target"]["python"], snapshot["target"]["python"]);
        assert!(row["short_verdict"].is_string(), "{row}");
        assert!(row["not_walked"].is_null(), "{row}");
    }
    for &child in &prefork.children {
        assert_eq!(process(&top, child).expect("it runs")["parent"], master);
    }
    // Every other child has freed most of what it took.
    let verdict =
        |n: usize| process(&top, prefork.children[n]).expect("it runs")["short_verdict"].clone();
    assert!(
        verdict(3)
            .as_str()
            .is_some_and(|words| words.starts_with("trim returns")),
        "{top}"
    );
    assert_eq!(verdict(4), "in use");
}

/// Bytes that are free but resident, and those of them on pages that others map as well.
fn free_bytes(pid: i32) -> (u64, u64) {
    let snapshot = json(&fragscope(&[
        "snapshot",
        "--json",
        "--pid",
        &pid.to_string(),
    ]));
    let rows = snapshot["ledger"].as_array().expect("a ledger");
    let names = [
        "cached",
        "free_trimmable",
        "free_stuck",
        "free_pinned",
        "top",
        "pymalloc_free",
    ];
    let free = rows.iter().filter(|row| {
        let class = row["class"].as_str().expect("a name");
        names.contains(&class)
    });
    let sum = |key: &str| {
        free.clone()
            .map(|row| row[key].as_u64().expect("a number"))
            .sum()
    };
    let all: u64 = sum("resident_bytes");
    assert_eq!(snapshot["metrics"]["fragmentation_bytes"], all, "{rows:?}");
    (all, sum("shared_bytes"))
}

#[test]
fn a_tree_is_one_thing_in_which_shared_pages_count_once() {
    let prefork = Prefork::start();
    let master = prefork.master.pid();
    let (_beside, pid) = (
        Child::python("print(1, flush=True)\ninput()"),
        master.to_string(),
    );
    let tree = json(&fragscope(&["snapshot", "--tree", "--json", "--pid", &pid]));
    let mut pids: Vec<i64> = tree["processes"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| one["pid"].as_i64().expect("a number"))
        .collect();
    let mut expected: Vec<i64> = prefork.children.iter().map(|pid| i64::from(*pid)).collect();
    expected.push(master.into());
    pids.sort_unstable();
    expected.sort_unstable();
    assert_eq!(pids, expected, "{tree}");
    assert_eq!(tree["total"]["walked"], 6, "{tree}");
    assert_eq!(tree["tree"]["master"], master);
    // All that the master has free, and of the children what they alone have.
    let own = |pid: &i32| {
        let (free, shared) = free_bytes(*pid);
        free - shared
    };
    let children: u64 = prefork.children.iter().map(own).sum();
    let free = free_bytes(master).0 + children;
    assert_eq!(tree["tree"]["fragmentation_bytes"], free, "{tree}");
    let copied = prefork.children.iter().map(|&child| {
        let row = process(&tree, child).expect("it runs");
        assert!(
            row["metrics"]["fork_shared_bytes"].as_u64() > Some(0),
            "{row}"
        );
        row["metrics"]["fork_copied_bytes"]
            .as_u64()
            .expect("a number")
    });
    assert_eq!(tree["tree"]["fork_copied_bytes"], copied.sum::<u64>());
    // The last that freed most of what it took had taken the most.
    let worst = prefork.children[3];
    assert_eq!(tree["tree"]["worst"], worst, "{tree}");
    let output = fragscope(&["explain", "--tree", "--no-predict", "--pid", &pid]);
    let text = stdout(&output);
    assert!(
        text.contains(&format!("The worst is process {worst} (")),
        "{text}"
    );
    // It is the one that is explained.
    let explained = json(&fragscope(&[
        "snapshot",
        "--json",
        "--pid",
        &worst.to_string(),
    ]));
    let verdict = explained["verdict"].as_str().expect("text");
    let first = verdict.split(['.', ':']).next().expect("words");
    assert!(text.contains(first), "{text}\n{verdict}");
    let gone = fragscope(&["explain", "--tree", "--pid", "4194303"]);
    assert_eq!(
        gone.status.code(),
        fragscope(&["explain", "--pid", "4194303"]).status.code()
    );
}

/// A master that fills a table, and children that each fill one of their own and go on with it.
const GROWING: &str = "
import os, sys, time
TABLE = {n: 'value %d' % n for n in range(60000)}
SESSIONS = {}
class Session:
    __slots__ = ('name',)
    def __init__(self, name):
        self.name = name
children, ready = [], os.pipe()
for n in range(4):
    pid = os.fork()
    if pid == 0:
        made = 0
        def make(count):
            global made
            for _ in range(count):
                SESSIONS[made] = Session('session %d' % made)
                made += 1
        make(20000 * (n + 1))
        os.write(ready[1], b'.')
        while True:
            time.sleep(0.05)
            make(400)
    children.append(pid)
for _ in children:
    os.read(ready[0], 1)
print(*children, flush=True)
sys.stdin.readline()
for pid in children:
    os.kill(pid, 9)
";

#[test]
fn a_tree_says_which_names_hold_the_memory_of_its_processes_and_what_grows() {
    let prefork = Prefork::of(GROWING);
    let pid = prefork.master.pid().to_string();
    let tree = json(&fragscope(&[
        "snapshot", "--tree", "--json", "--growth", "4s", "--pid", &pid,
    ]));
    let objects = &tree["tree"]["objects"];
    assert_eq!(
        objects["read"].as_array().map(Vec::len),
        Some(5),
        "{objects}"
    );
    assert_eq!(objects["growth"]["growing"], 4, "{objects}");
    let holders = objects["holders"].as_array().expect("a list");
    let of = |name: &str| {
        let mut all = holders.iter();
        all.find(|holder| holder["name"] == name).expect(name)
    };
    let figure = |holder: &Value, key: &str| holder[key].as_u64().expect("a number");
    let table = of("__main__.TABLE");
    // What the children share with their master counts once.
    let of_master = figure(table, "master_bytes");
    assert_eq!(table["children"], 4, "{table}");
    assert!(
        figure(table, "shared_bytes") > of_master / 10 * 9,
        "{table}"
    );
    assert!(figure(table, "bytes") < of_master * 3 / 2, "{table}");
    let sessions = of("__main__.SESSIONS");
    assert_eq!(
        (&sessions["children"], &sessions["growing"]),
        (&4.into(), &4.into())
    );
    // Children have one to four times as many.
    let (least, most) = (
        figure(sessions, "least_bytes"),
        figure(sessions, "most_bytes"),
    );
    assert!(least > 0 && most > least * 3 / 2, "{sessions}");
    assert!(figure(sessions, "bytes") > most + 3 * least, "{sessions}");
    assert_eq!(sessions["item_type"], "__main__.Session", "{sessions}");
    assert_eq!(holders[0], *sessions, "what grows comes first: {objects}");
    let text = stdout(&fragscope(&[
        "explain",
        "--tree",
        "--no-predict",
        "--growth",
        "4s",
        "--pid",
        &pid,
    ]));
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        words
            .contains("in 4 of 5 processes that were read twice: `__main__.SESSIONS` (dict) gains"),
        "{text}"
    );
    assert!(
        words.contains("`__main__.SESSIONS` (dict) holds in 4 of 4 children read"),
        "{text}"
    );
    assert!(
        words.contains("Objects were read of the master and of 4 of 4 children."),
        "{text}"
    );
    let without = stdout(&fragscope(&[
        "explain",
        "--tree",
        "--no-predict",
        "--no-objects",
        "--pid",
        &pid,
    ]));
    // The command line has the name, too.
    assert!(!without.contains("SESSIONS` (dict)"), "{without}");
}

#[test]
fn the_table_is_as_wide_as_it_may_be_and_without_walks_nothing_is_stopped() {
    let prefork = Prefork::start();
    for width in [80, 120] {
        let output = command(&["top", "--once", "--no-walks"])
            .env("COLUMNS", width.to_string())
            .output()
            .expect("it runs");
        let text = stdout(&output);
        assert!(
            text.lines().all(|line| line.chars().count() <= width),
            "{text}"
        );
        for pid in &prefork.children {
            let row = text
                .lines()
                .find(|line| line.trim_start().starts_with(&format!("{pid} ")));
            assert!(row.is_some_and(|row| row.contains(" - ")), "{text}");
        }
    }
    let top = once(&["--no-walks"]);
    assert_eq!(top["cost"]["walks"], 0);
    let row = process(&top, prefork.children[0]).expect("it runs");
    assert!(row["live_bytes"].is_null() && row["metrics"]["trim_returnable_bytes"].is_null());
    assert!(row["walked_at"].is_null() && row["completeness"].is_null());
}

#[test]
fn a_storm_of_short_lived_children_leaves_the_table_right_and_memory_flat() {
    let prefork = Prefork::start();
    let storm = Command::new("python3")
        .args([
            "-c",
            "
import os
while True:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
",
        ])
        .spawn()
        .expect("python3");
    let _storm = KillOnDrop(storm);
    let mut top = watch(&["--interval", "100ms", "--budget", "50%"]);
    let pid = top.id() as i32;
    // Another one that walks nobody: the heaps of whatever else runs on this host are no part of its memory.
    let mut flat = command(&["top", "--json", "--interval", "100ms", "--no-walks"]);
    let flat = KillOnDrop(flat.stdout(Stdio::null()).spawn().expect("it starts"));
    let memory = || live_bytes(flat.pid().as_raw());
    let mut lines = BufReader::new(top.stdout.take().expect("piped")).lines();
    let mut early = None;
    let mut walks = 0;
    let began = Instant::now();
    for (number, line) in lines.by_ref().map_while(Result::ok).enumerate() {
        let seen: Value = serde_json::from_str(&line).expect("JSON");
        for &child in &prefork.children {
            assert!(process(&seen, child).is_some(), "{seen}");
        }
        walks = seen["cost"]["walks"].as_u64().expect("a number");
        if number == 40 {
            early = Some(memory());
        }
        if began.elapsed() > Duration::from_secs(15) && number > 80 {
            break;
        }
    }
    let late = memory();
    let early = early.expect("there were as many lines");
    assert!(walks > 6, "{walks}");
    assert!(late < early + (1 << 20), "{early} bytes, then {late}");
    kill(Pid::from_raw(pid), Signal::SIGTERM).expect("it runs");
    let status = top.wait().expect("it ends");
    assert_eq!(status.code(), Some(130));
    for &child in &prefork.children {
        wait_for_state(child, 'S');
    }
}

#[test]
fn processes_that_die_meanwhile_are_left_out() {
    let prefork = Prefork::start();
    let mut top = watch(&["--interval", "200ms"]);
    let mut lines = BufReader::new(top.stdout.take().expect("piped")).lines();
    let mut next = || -> Value {
        let line = lines.next().expect("a line").expect("UTF-8");
        serde_json::from_str(&line).expect("JSON")
    };
    eventually("the children in the list", || {
        let seen = next();
        prefork
            .children
            .iter()
            .all(|&child| process(&seen, child).is_some())
            .then_some(())
    });
    for &child in &prefork.children {
        kill(Pid::from_raw(child), Signal::SIGKILL).expect("it runs");
    }
    eventually("their end", || {
        let seen = next();
        assert_eq!(seen["schema"], "fragscope.top/1");
        prefork
            .children
            .iter()
            .all(|&child| process(&seen, child).is_none())
            .then_some(())
    });
}

#[test]
fn a_watched_tree_keeps_the_history_of_children_that_end() {
    let prefork = Prefork::start();
    let pid = prefork.master.pid().to_string();
    let mut watched = command(&[
        "attach",
        "--tree",
        "--json",
        "--interval",
        "200ms",
        "--budget",
        "50%",
        "--pid",
        &pid,
    ]);
    let mut watched = KillOnDrop(watched.stdout(Stdio::piped()).spawn().expect("it runs"));
    let mut lines = BufReader::new(watched.stdout.take().expect("piped")).lines();
    let mut next = || -> Value {
        let line = lines.next().expect("a line").expect("UTF-8");
        serde_json::from_str(&line).expect("JSON")
    };
    let first = eventually("all walked", || {
        let seen = next();
        (seen["total"]["walked"] == 6).then_some(seen)
    });
    assert_eq!(first["schema"], "fragscope.top/1");
    assert_eq!(first["tree"]["master"], prefork.master.pid());
    assert_eq!(first["tree"]["history"]["came"], 0, "{first}");
    // The last that freed most of what it took had taken the most.
    assert_eq!(first["tree"]["worst"], prefork.children[3], "{first}");
    let ends = prefork.children[4];
    kill(Pid::from_raw(ends), Signal::SIGKILL).expect("it runs");
    let after = eventually("an end", || {
        let seen = next();
        (seen["tree"]["history"]["ended"] == 1).then_some(seen)
    });
    let last = &after["tree"]["history"]["last"][0];
    assert_eq!(last["pid"], ends, "{last}");
    assert!(last["rss_bytes"].as_u64() > Some(20 << 20), "{last}");
    assert!(last["age_ms"].as_f64() > Some(0.0), "{last}");
    assert!(process(&after, ends).is_none(), "{after}");
    let verdict = after["tree"]["verdict"].to_string();
    assert!(
        verdict.contains("0 came and 1 ended: those that ran Python had an RSS of"),
        "{verdict}"
    );
    // The end of the master is that of the watching.
    kill(Pid::from_raw(prefork.master.pid()), Signal::SIGKILL).expect("it runs");
    // All is read that it prints: who closes the pipe ends it, too, with another code.
    assert!(lines.all(|line| line.is_ok()));
    let status = watched.wait().expect("it ends");
    assert_eq!(status.code(), Some(5));
}

/// What `attach` says on standard error of a process, without all that takes long.
fn said_by_attach(pid: i32) -> String {
    let output = fragscope(&[
        "attach",
        "--headless",
        "--no-probes",
        "--no-predict",
        "--no-objects",
        "--duration",
        "1s",
        "--pid",
        &pid.to_string(),
    ]);
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn attaching_to_a_master_names_the_command_that_shows_its_children() {
    let prefork = Prefork::start();
    let master = prefork.master.pid();
    let said = said_by_attach(master);
    for expected in [
        "5 children of its own program have an RSS of".to_owned(),
        format!("fragscope attach --tree --pid {master} shows them"),
    ] {
        assert!(said.contains(&expected), "{said}");
    }
    assert!(!said_by_attach(prefork.children[0]).contains("--tree"));
}

#[test]
fn a_user_who_may_read_nothing_is_told_so_with_a_code() {
    let output = command(&["top", "--once"])
        .uid(65534)
        .gid(65534)
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(
        said.contains("processes cannot be read, and no Python process was found among the others"),
        "{said}"
    );
}
