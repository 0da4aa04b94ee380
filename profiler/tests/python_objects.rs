//! Python objects read from outside, compared with each Python's own account and with the known
//! structures of a program. Reads other processes' memory, so it needs root.

mod support;

use std::process::Command;

use profiler_testing::child::{Child, wait_for_state};
use profiler_testing::pythons::Python;
use profiler_testing::wait::eventually;
use serde_json::Value;
use support::objects::{holder, number, objects, of_type, readable};
use support::{fragscope, json, stdout};

/// Structures under known names, then an account of all objects.
const SHAPES: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/workers/object_shapes.py"
);
/// Items of each structure.
const N: u64 = 20_000;

/// A child that stands still with its account given.
fn shapes(python: &Python) -> (Child, Value) {
    let mut command = Command::new(&python.path);
    command.arg(SHAPES);
    let child = Child::run(command);
    let account = serde_json::from_str(child.first_line()).expect("an account");
    wait_for_state(child.pid(), 'S');
    (child, account)
}

/// Each type of which the collector tracks objects has as many as it says, and bytes where
/// `sys.getsizeof` gives all of an object's.
fn assert_equals_the_account(objects: &Value, account: &Value, what: &str) {
    let new = objects["python"] != "2.7";
    let counts = account["counts"].as_object().expect("counts");
    assert!(counts.len() > 30, "{what}");
    // The account runs in a frame of its own.
    for (name, count) in counts.iter().filter(|(name, _)| *name != "frame") {
        let ours = number(of_type(objects, name), "tracked");
        assert_eq!(ours, count.as_u64().expect("a count"), "{name}, {what}");
    }
    for (name, size) in account["sizes"].as_object().expect("sizes") {
        let ours = number(of_type(objects, name), "bytes");
        assert_eq!(ours, size.as_u64().expect("bytes"), "{name}, {what}");
    }
    // malloc may give more than was asked for, and blocks with a mapping of their own whole pages. Lists of
    // 2.7's `range` come and go with the account.
    let storage = account["storage"].as_object().expect("sizes");
    for (name, size) in storage.iter().filter(|(name, _)| new || *name != "list") {
        let size = size.as_u64().expect("bytes");
        let ours = number(of_type(objects, name), "storage_bytes");
        let most = size + size / 10;
        assert!(
            (size..=most).contains(&ours),
            "{name}: {ours} of {size}, {what}"
        );
    }
}

/// Each name holds what it was made with, and its own small parts besides.
fn assert_known_structures(objects: &Value, account: &Value, what: &str) {
    let known = account["retained"].as_object().expect("names");
    assert!(known.len() >= 12, "{known:?}");
    for (name, expected) in known {
        let holder = holder(objects, name);
        let expected = expected.as_u64().expect("bytes");
        let retained = number(holder, "retained_bytes");
        // What links and tables take of an `lru_cache` is not known to Python.
        let most = match name.as_str() {
            "__main__.cached" => expected * 3,
            _ => expected + expected / 20 + 8192,
        };
        assert!(
            (expected..=most).contains(&retained),
            "{name} holds {retained}, by construction {expected}: {holder:#}, {what}"
        );
    }
    assert_eq!(holder(objects, "__main__.SESSIONS")["length"], N, "{what}");
    assert_eq!(
        holder(objects, "__main__.SESSIONS")["item_type"],
        "__main__.Slotted",
        "{what}"
    );
    let path = |name: &str| holder(objects, name)["path"].clone();
    assert_eq!(path("__main__.remember")[1]["via"], "default arguments");
    let closure = &path("__main__.CLOSURE")[1];
    assert_eq!(closure["via"], "closure", "{what}");
    assert_eq!(closure["attribute"], "kept", "{what}");
    let shared = holder(objects, "__main__.ALSO_SHARED");
    assert_eq!(shared["shared_with"].as_array().map(Vec::len), Some(1));
    let indexed = holder(objects, "__main__.BY_ID");
    assert_eq!(indexed["item_type"], "__main__.Slotted", "{what}");
    assert_eq!(number(indexed, "items"), N, "{what}");
    // Of 2.7's deques neither the length is known nor whose the numbers are.
    if objects["python"] != "2.7" {
        let events = &holder(objects, "__main__.APP")["path"][1];
        assert_eq!(events["attribute"], "events", "{what}");
        assert_eq!(events["length"], N, "{what}");
        for queue in ["__main__.QUEUE", "__main__.APP", "__main__.NUMBERS"] {
            let queue = holder(objects, queue);
            assert_eq!(queue["item_type"], "float", "{queue:#} {what}");
            assert_eq!(number(queue, "items"), N, "{queue:#} {what}");
        }
    }
    // A weak reference holds nothing.
    let weak = holder(objects, "__main__.run(): watched");
    assert_eq!(weak["shared_with"], Value::Array(Vec::new()), "{what}");
}

#[test]
fn every_python_has_the_objects_that_it_counts_and_holds_what_it_was_made_with() {
    for python in readable() {
        let what = format!("{python:?}");
        let (child, account) = shapes(&python);
        let objects = eventually("a stop", || {
            // On a busy host a thread may not stop in time, and the target is read while it runs.
            let objects = objects(child.pid(), &["--stop-for-objects"]);
            (objects["exact"] == true).then_some(objects)
        });
        assert_eq!(objects["layout"], "exact", "{what}");
        assert_eq!(objects["changed_objects"], 0, "{what}");
        assert_equals_the_account(&objects, &account, &what);
        assert_known_structures(&objects, &account, &what);
        let texts = number(of_type(&objects, "str"), "objects");
        assert!(texts >= N, "{texts} strings, {what}");
        let allocators = objects["allocators"].as_array().expect("allocators");
        let pymalloc = allocators.iter().find(|row| row["allocator"] == "pymalloc");
        let pymalloc = pymalloc.expect("pymalloc");
        let (named, live) = (
            number(pymalloc, "named_bytes"),
            number(pymalloc, "live_bytes"),
        );
        assert!(named * 100 >= live * 95, "{named} of {live}, {what}");
        println!(
            "{what}: {} types equal, {:.1} % of pymalloc named, {} ms",
            account["counts"]
                .as_object()
                .map_or(0, |counts| counts.len()),
            named as f64 / live as f64 * 100.0,
            objects["read_ms"]
        );
    }
}

#[test]
fn of_a_program_that_stands_still_it_is_the_same_read_while_it_may_run() {
    let python = readable().swap_remove(0);
    let (child, account) = shapes(&python);
    let objects = objects(child.pid(), &["--objects"]);
    assert_eq!(objects["exact"], false);
    assert_equals_the_account(&objects, &account, "read after the walk");
    assert_known_structures(&objects, &account, "read after the walk");
}

#[test]
fn a_core_file_has_the_objects_of_the_process() {
    let python = readable().swap_remove(0);
    let (child, account) = shapes(&python);
    let folder = tempfile::tempdir().expect("a folder");
    let core = support::core_of(&child.pid().to_string(), folder.path());
    let snapshot = json(&fragscope(&[
        "snapshot",
        "--json",
        "--objects",
        "--core",
        support::text(&core),
    ]));
    let objects = &snapshot["objects"];
    assert_eq!(objects["exact"], true);
    assert_equals_the_account(objects, &account, "a core");
    assert_known_structures(objects, &account, "a core");
}

#[test]
fn nothing_that_an_object_contains_is_shown() {
    let child = Child::python(
        "
import sys
class Vault(object):
    pass
VAULT = Vault()
VAULT.content = {'password-%d' % i: 'hunter2-%d' % i for i in range(20000)}
print('ready', flush=True)
sys.stdin.readline()
",
    );
    let pid = child.pid().to_string();
    for form in [&["--json"][..], &[]] {
        let shown = fragscope(&[&["snapshot", "--objects", "--pid", &pid], form].concat());
        let text = stdout(&shown);
        // Its command line has them.
        let (_, after) = text
            .split_once("OBJECTS")
            .or(text.split_once("\"objects\""))
            .expect("objects");
        assert!(after.contains("__main__.VAULT"), "{after}");
        assert!(
            !after.contains("hunter2") && !after.contains("password"),
            "{after}"
        );
    }
}

#[test]
fn what_is_no_python_says_so() {
    let child = Child::c("pages");
    let pid = child.pid().to_string();
    let snapshot = json(&fragscope(&[
        "snapshot",
        "--json",
        "--objects",
        "--pid",
        &pid,
    ]));
    assert_eq!(snapshot["objects"], Value::Null);
    let notices = snapshot["notices"].to_string();
    assert!(notices.contains("not a Python process"), "{notices}");
}

/// A cache at full speed: each entry is replaced within a second.
const CHURNING: &str = "
import collections
LRU = collections.OrderedDict()
n = 0
while True:
    LRU[n] = (str(n), [n] * 5, {'a': n})
    n += 1
    if len(LRU) > 60000:
        LRU.popitem(last=False)
    if n == 120000:
        print('ready', flush=True)
";

#[test]
fn what_turns_over_faster_than_it_is_read_is_said() {
    let child = Child::python(CHURNING);
    let unsteady = objects(child.pid(), &["--objects"]);
    assert_eq!(unsteady["is_unsteady"], true, "{unsteady:#}");
    let pid = child.pid().to_string();
    let shown = fragscope(&["snapshot", "--objects", "--pid", &pid]);
    let shown = stdout(&shown);
    assert!(shown.contains("--stop-for-objects"), "{shown}");
    let exact = eventually("a stop", || {
        let exact = objects(child.pid(), &["--stop-for-objects", "--max-stop", "20s"]);
        (exact["exact"] == true).then_some(exact)
    });
    assert_eq!(exact["is_unsteady"], false);
    assert_eq!(exact["replaced_objects"], 0);
    let retained = |of: &Value| number(holder(of, "__main__.LRU"), "retained_bytes");
    let length = number(holder(&exact, "__main__.LRU"), "length");
    assert!((60_000..=60_001).contains(&length), "{length}");
    // Its table is read where it is when it is read, which mostly gives most of it; one that moves just
    // then gives little, and that is said as well.
    eventually("a reading of most of it", || {
        let unsteady = objects(child.pid(), &["--objects"]);
        assert_eq!(unsteady["is_unsteady"], true, "{unsteady:#}");
        (retained(&unsteady) * 2 > retained(&exact)).then_some(())
    });
}

#[test]
fn explain_reads_in_the_stop_if_it_is_asked_to() {
    let child = Child::python(CHURNING);
    let pid = child.pid().to_string();
    let shown = eventually("two stops", || {
        let output = fragscope(&[
            "explain",
            "--no-predict",
            "--growth",
            "1s",
            "--stop-for-objects",
            "--max-stop",
            "20s",
            "--pid",
            &pid,
        ]);
        let shown = stdout(&output);
        shown
            .contains("as they were at the moment of the walk")
            .then_some(shown)
    });
    // Its heap may have grown a little meanwhile, but none of its names has.
    assert!(!shown.contains("a leak"), "{shown}");
    assert!(!shown.contains("were replaced while"), "{shown}");
}

#[test]
fn a_class_whose_name_has_control_characters_is_a_type() {
    let child = Child::python(
        "
import sys
T = type('odd\\x1b[31mRED', (object,), {})
TS = [T() for i in range(5000)]
print('ready', flush=True)
sys.stdin.readline()
",
    );
    let objects = objects(child.pid(), &["--objects"]);
    let of_type = of_type(&objects, "__main__.odd\\x1b[31mRED");
    assert_eq!(number(of_type, "objects"), 5000, "{objects:#}");
    assert_eq!(holder(&objects, "__main__.TS")["length"], 5000);
}

#[test]
fn what_coroutines_hold_has_the_name_of_their_variables_and_attributes() {
    let program = "
import asyncio
class Conn(object):
    def __init__(self):
        self.buf = bytearray(200)
class Server(object):
    def __init__(self):
        self.routes = {}
        self.conns = {i: Conn() for i in range(20000)}
    async def accept(self):
        rows = [b'row%d' % i for i in range(20000)]
        await asyncio.sleep(1000)
async def main():
    task = asyncio.get_running_loop().create_task(Server().accept())
    await asyncio.sleep(0.2)
    print('ready', flush=True)
    await task
asyncio.run(main())
";
    for python in readable() {
        // `asyncio.run` came with 3.7.
        if python.version < (3, 7) {
            continue;
        }
        let mut command = Command::new(&python.path);
        command.args(["-c", program]);
        let child = Child::run(command);
        let objects = objects(child.pid(), &["--objects"]);
        let what = format!("{python:?}");
        // The qualified name came into code objects with 3.11.
        let function = match python.version >= (3, 11) {
            true => "Server.accept",
            false => "accept",
        };
        let rows = holder(&objects, &format!("__main__.{function}(): rows"));
        assert_eq!(rows["length"], 20_000, "{rows:#}, {what}");
        let server = holder(&objects, &format!("__main__.{function}(): self"));
        let path = server["path"].as_array().expect("a path");
        let conns = path.iter().find(|step| step["attribute"] == "conns");
        let conns = conns.unwrap_or_else(|| panic!("no attribute: {server:#}, {what}"));
        assert_eq!(
            (&conns["type"], &conns["length"]),
            (&"dict".into(), &20_000.into())
        );
        assert_eq!(server["item_type"], "__main__.Conn", "{what}");
    }
}

#[test]
fn what_generators_hold_has_the_name_of_their_variables() {
    let program = "
import sys
def batches():
    rows = [b'row %d' % i if sys.version_info >= (3,) else str(i) for i in range(20000)]
    for row in rows:
        yield row
PENDING = batches()
next(PENDING)
print('ready')
sys.stdout.flush()
sys.stdin.readline()
";
    for python in readable() {
        let child = python.run(program, None, None);
        let objects = objects(child.pid(), &["--objects"]);
        let rows = holder(&objects, "__main__.batches(): rows");
        assert_eq!(rows["length"], 20_000, "{rows:#}, {python:?}");
    }
}

#[test]
fn what_is_in_slots_has_their_name_on_paths() {
    let program = "
import sys
class Node(object):
    __slots__ = ('text', 'following')
class Base(object):
    __slots__ = ('first', 'conns')
class Server(Base):
    __slots__ = ('routes',)
def chain(length):
    node = None
    for i in range(length):
        before, node = node, Node()
        node.text, node.following = 'text %d' % i, before
    return node
SERVER = Server()
SERVER.routes, SERVER.first = [], None
SERVER.conns = ['conn %d' % i for i in range(20000)]
CHAIN = Server()
CHAIN.first = chain(20000)
print('ready')
sys.stdout.flush()
sys.stdin.readline()
";
    for python in readable() {
        let child = python.run(program, None, None);
        let objects = objects(child.pid(), &["--objects"]);
        let what = format!("{python:?}");
        let steps = |name: &str| -> Vec<(Value, Value, Value)> {
            let path = holder(&objects, name)["path"].as_array().expect("a path");
            let step = |step: &Value| {
                let [attribute, of, times] =
                    ["attribute", "type", "times"].map(|key| step[key].clone());
                (attribute, of, times)
            };
            path.iter().map(step).collect()
        };
        let server = (Value::Null, "__main__.Server".into(), 1.into());
        let conns = ("conns".into(), "list".into(), 1.into());
        assert_eq!(steps("__main__.SERVER"), [server.clone(), conns], "{what}");
        let chain = steps("__main__.CHAIN");
        assert_eq!(chain[0], server, "{what}");
        let node = |attribute: &str| (Value::from(attribute), Value::from("__main__.Node"));
        let of_step = |at: usize| (chain[at].0.clone(), chain[at].1.clone());
        assert_eq!(of_step(1), node("first"), "{what}");
        assert_eq!(of_step(2), node("following"), "{what}");
        assert!(chain.len() <= 4, "in a row: {chain:?}, {what}");
    }
}
