//! Who holds what, in programs whose structures hide it: old contents of blocks, classes made while
//! the program runs, objects that refer to each other.

mod support;

use profiler_testing::child::Child;
use support::objects::{holder, in_each, number, objects, readable};
use support::{fragscope, json};

#[test]
fn a_block_of_a_deque_that_begins_with_a_freed_object_is_the_deques() {
    // The frames of its coroutines are as large as a deque's blocks.
    let child = Child::python(
        "
import sys, collections
made = {}
exec('async def handle(' + ', '.join('a%d=None' % i for i in range(44)) + '):\\n    return 1', made)
class Message(object):
    def __init__(self, n):
        self.n = float(n)
kept = [made['handle']() for i in range(20000)]
for one in kept:
    one.close()
del kept, one
QUEUES = []
for i in range(10000):
    gone = made['handle']()
    gone.close()
    del gone
    QUEUES.append(collections.deque([Message(i)]))
print('ready', flush=True)
sys.stdin.readline()
",
    );
    let objects = objects(child.pid(), &["--stop-for-objects"]);
    let queues = holder(&objects, "__main__.QUEUES");
    assert_eq!(
        (&queues["item_type"], number(queues, "items")),
        (&"collections.deque".into(), 10_000)
    );
    // A block of 528 bytes and a deque, an instance and a number.
    assert!(
        number(queues, "retained_bytes") > 10_000 * 700,
        "{queues:#}"
    );
    let most = number(&objects, "live_bytes") / 100;
    assert!(number(&objects, "spare_bytes") < most, "{objects:#}");
    assert!(number(&objects, "unreached_bytes") < most, "{objects:#}");
}

#[test]
fn classes_that_are_made_while_the_program_runs_belong_to_who_holds_them() {
    let program = "
import sys
class Base(object):
    pass
class Named(object):
    CACHE = [float(i) for i in range(20000)]
MODELS = {}
for n in range(1000):
    rows = [float(i) for i in range(100)]
    MODELS[n] = type('Model', (Base,), {'rows': rows, 'check': lambda self: None})
del rows
print('ready')
sys.stdout.flush()
sys.stdin.readline()
";
    for python in readable() {
        let child = python.run(program, None, None);
        let objects = objects(child.pid(), &["--objects"]);
        let models = holder(&objects, "__main__.MODELS");
        assert_eq!(models["length"], 1000, "{python:?}");
        // Numbers of 2.7 lie in blocks of many.
        let least = match python.version >= (3, 0) {
            true => 1000 * 100 * 32,
            false => 1000 * 1500,
        };
        assert!(
            number(models, "retained_bytes") > least,
            "{models:#}, {python:?}"
        );
        // A class of a module has its attributes itself.
        holder(&objects, "__main__.Named.CACHE");
        if python.version >= (3, 0) {
            assert_eq!(
                (&models["item_type"], number(models, "items")),
                (&"type".into(), 1000),
                "{models:#}, {python:?}"
            );
        }
    }
}

#[test]
fn items_are_what_the_container_has_and_not_what_is_largest_in_them() {
    let child = Child::python(
        "
import sys
class Request(object):
    def __init__(self, n):
        self.scope = {'x%d' % i: 'v%d%d' % (i, n) for i in range(30)}
        self.again = self.scope
        self.receive = lambda: self.scope
HISTORY = [Request(n) for n in range(3000)]
# More than are looked at one by one.
MANY = {float(n): Request for n in range(100000)}
TEXTS = {'text %d' % n: None for n in range(5000)}
print('ready', flush=True)
sys.stdin.readline()
",
    );
    let objects = objects(child.pid(), &["--stop-for-objects"]);
    let history = holder(&objects, "__main__.HISTORY");
    assert_eq!(
        (&history["item_type"], number(history, "items")),
        (&"__main__.Request".into(), 3000)
    );
    let many = holder(&objects, "__main__.MANY");
    assert_eq!(
        (&many["item_type"], number(many, "items")),
        (&"type".into(), 100_000)
    );
    let texts = holder(&objects, "__main__.TEXTS");
    assert_eq!(
        (&texts["item_type"], number(texts, "items")),
        (&"str".into(), 5000)
    );
}

#[test]
fn a_variable_that_each_thread_of_a_function_has_is_one_row() {
    let child = Child::python(
        "
import threading
ready = threading.Barrier(9)
def work(n):
    rows = [bytes(1000) + b'%d' % i for i in range(100 * n)]
    ready.wait()
    threading.Event().wait()
    return rows
for n in range(1, 9):
    threading.Thread(target=work, args=(n,), daemon=True).start()
ready.wait()
print('ready', flush=True)
threading.Event().wait()
",
    );
    let objects = objects(child.pid(), &["--stop-for-objects"]);
    let all = objects["holders"].as_array().expect("holders");
    let rows = all
        .iter()
        .filter(|of| of["name"] == "__main__.work(): rows");
    assert_eq!(rows.count(), 1);
    let rows = holder(&objects, "__main__.work(): rows");
    assert_eq!((number(rows, "calls"), number(rows, "threads")), (8, 8));
    assert_eq!(number(rows, "items"), 3600, "of all threads");
    let retained = number(rows, "retained_bytes");
    assert!((3_600_000..4_100_000).contains(&retained), "{rows:#}");
    assert_eq!(rows["path"][0]["length"], 800, "that of the largest");
}

#[test]
fn growth_of_what_no_name_reaches_is_said_to_be_that() {
    let child = Child::python(
        "
import gc, time
gc.disable()
class Node(object):
    pass
print('ready', flush=True)
start = time.time()
n = 0
while True:
    while n < (time.time() - start) * 2000:
        a, b = Node(), Node()
        a.other, b.other = b, a
        a.text = 'x' * 200 + str(n)
        n += 1
    time.sleep(0.005)
",
    );
    let pid = child.pid().to_string();
    let snapshot = json(&fragscope(&[
        "snapshot", "--json", "--growth", "2s", "--pid", &pid,
    ]));
    let verdict = snapshot["verdict"].as_str().expect("a verdict");
    let named = "a second more are reached from no name, among them `__main__.Node`: cycles, in which objects refer \
                 to one another";
    assert!(verdict.contains(named), "{verdict}");
    let growth = &snapshot["objects"]["growth"];
    let (of_none, all) = ("unreached_bytes_per_second", "live_bytes_per_second");
    let rate = |key: &str| growth[key].as_f64().expect("a rate");
    assert!(rate(of_none) > rate(all) * 0.9, "{growth:#}");
    assert!(
        rate("cycle_bytes_per_second") > rate(of_none) * 0.9,
        "{growth:#}"
    );
}

#[test]
fn cycles_and_what_native_code_has_forgotten_are_told_apart() {
    // As many bytes of both, which the collector may not free.
    let program = "
import ctypes, gc, sys
gc.disable()
class Node(object):
    pass
class Order(object):
    pass
def cycle(n):
    a, b = Node(), Node()
    a.other, b.other = b, [a, a, (a, b), {'a': a}, lambda: a]
    a.text = 'x' * 1000 + str(n)
def forget(n):
    order = Order()
    order.text = 'x' * 2000 + str(n)
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(order))
for n in range(2000):
    cycle(n)
    forget(n)
";
    in_each(program, |objects, python| {
        let [cycles, held] = ["cycle_bytes", "held_unseen_bytes"].map(|key| number(objects, key));
        assert!(
            (3_200_000..5_000_000).contains(&cycles),
            "{cycles}, {python:?}"
        );
        assert!((3_900_000..5_000_000).contains(&held), "{held}, {python:?}");
        let unreached = number(objects, "unreached_bytes");
        assert!(cycles + held <= unreached, "{unreached}, {python:?}");
    });
}

#[test]
fn what_a_forgotten_block_of_native_code_has_counted_is_no_cycle() {
    let program = "
import ctypes, gc, sys
gc.disable()
libc = ctypes.CDLL(None)
libc.calloc.restype = ctypes.c_void_p
def forget(n):
    kept = [float(n + i) for i in range(50)]
    block = libc.calloc(1, 32)
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))
    ctypes.c_size_t.from_address(block).value = id(kept)
for n in range(3000):
    forget(n)
";
    in_each(program, |objects, python| {
        let [unreached, cycles] =
            ["unreached_bytes", "cycle_bytes"].map(|key| number(objects, key));
        assert!(unreached > 3000 * 50 * 8, "{unreached}, {python:?}");
        assert!(
            cycles < unreached / 10,
            "{cycles} of {unreached}, {python:?}"
        );
    });
}

#[test]
fn weak_references_that_a_list_has_do_not_go_with_what_they_refer_to() {
    let child = Child::python(
        "
import sys, weakref
class X(object):
    __slots__ = ('a', '__weakref__')
def called(reference):
    pass
XS, REFS = [], []
for i in range(50000):
    x = X()
    XS.append(x)
    REFS.append(weakref.ref(x, called))
del x
print('ready', flush=True)
sys.stdin.readline()
",
    );
    let objects = objects(child.pid(), &["--stop-for-objects"]);
    let held = holder(&objects, "__main__.XS");
    let returned = number(held, "returned_live_bytes") + number(held, "returned_unpinned_bytes");
    // The list's own table; its objects lie on pages with their references.
    assert!(returned < 1_000_000, "{held:#}");
}

#[test]
fn a_class_that_no_module_has_is_held_by_its_objects() {
    let program = "
import sys
def made():
    class Local(object):
        TABLE = [float(i) for i in range(50000)]
    return Local()
def many():
    class Local(object):
        TABLE = [float(i) for i in range(30000)]
    return [Local() for i in range(1000)]
ONE = made()
MANY = many()
";
    in_each(program, |objects, python| {
        // Of 2.7 a list alone: its numbers lie in blocks of many.
        let each = if python.version >= (3, 0) { 32 } else { 8 };
        for (name, items) in [("ONE", 50_000), ("MANY", 30_000)] {
            let retained = number(
                holder(objects, &format!("__main__.{name}")),
                "retained_bytes",
            );
            assert!(retained > items * each, "{name}: {retained}, {python:?}");
        }
    });
}

#[test]
fn a_native_block_that_is_referred_to_behind_its_beginning_is_held_all_the_same() {
    let child = Child::python(
        "
import ctypes, sys
malloc = ctypes.CDLL(None).malloc
malloc.restype = ctypes.c_void_p
malloc.argtypes = [ctypes.c_size_t]
# As Rust refers to what is counted, and to its hash tables.
HANDLES = [ctypes.c_void_p(malloc(3000) + 16 * (1 + n % 50)) for n in range(1000)]
print('ready', flush=True)
sys.stdin.readline()
",
    );
    let objects = objects(child.pid(), &["--stop-for-objects"]);
    let handles = holder(&objects, "__main__.HANDLES");
    assert!(number(handles, "retained_bytes") > 3_000_000, "{handles:#}");
}

#[test]
fn outputs_of_an_interactive_session_are_one_row_with_all_their_names() {
    // As IPython keeps them.
    let child = Child::python(
        "
import sys
_oh = Out = {}
space = globals()
for n in range(1, 6):
    out = [float(i) for i in range(20000)]
    space['_%d' % n] = Out[n] = out
___, __, _ = Out[3], Out[4], Out[5]
del out, space
MINE = ALSO = [float(i) for i in range(20000)]
frame = _6 = Out[6] = [float(i) for i in range(20000)]
print('ready', flush=True)
sys.stdin.readline()
",
    );
    let objects = objects(child.pid(), &["--stop-for-objects"]);
    let out = holder(&objects, "__main__.Out");
    let shared = out["shared_with"].as_array().expect("names");
    let first = ["__main__._oh", "__main__._5", "__main__._1"];
    assert!(
        first.iter().all(|name| shared.contains(&(*name).into())),
        "{out:#}"
    );
    let each = 20_000 * 32;
    assert!(number(out, "retained_bytes") > 5 * each, "{out:#}");
    // What else two names share is a row of its own.
    let mine = holder(&objects, "__main__.MINE");
    assert_eq!(mine["shared_with"][0], "__main__.ALSO", "{mine:#}");
    // And so is an output that the program has a name for: that is what it can let go of.
    let frame = holder(&objects, "__main__.frame");
    assert!(
        (each..2 * each).contains(&number(frame, "retained_bytes")),
        "{frame:#}"
    );
    let rows = objects["holders"].as_array().expect("holders");
    let large = rows
        .iter()
        .filter(|row| number(row, "retained_bytes") > each / 2);
    let large: Vec<&str> = large.filter_map(|row| row["name"].as_str()).collect();
    let own = large.iter().filter(|name| name.starts_with("__main__."));
    assert_eq!(own.count(), 3, "{large:?}");
}

#[test]
fn what_subinterpreters_hold_has_the_names_of_their_modules() {
    let program = "
import sys
try:
    import _interpreters as interpreters
    one = interpreters.create('legacy')
    own = interpreters.create('isolated')
except ImportError:
    import _xxsubinterpreters as interpreters
    one = interpreters.create(isolated=False)
    own = interpreters.create(isolated=True)
interpreters.run_string(one, 'ONE = [float(i) for i in range(50000)]')
interpreters.run_string(own, 'OWN = [float(i) for i in range(50000)]')
MAIN = [float(i) for i in range(50000)]
sys.stdout.write('ready\\n')
sys.stdout.flush()
sys.stdin.readline()
";
    let mut tried = 0;
    // The module is one of the interpreter's own, and its functions change: those of these are known.
    for python in readable() {
        if !((3, 10)..=(3, 13)).contains(&python.version) {
            continue;
        }
        tried += 1;
        let child = python.run(program, None, None);
        let objects = objects(child.pid(), &["--stop-for-objects"]);
        for name in ["ONE", "OWN", "MAIN"] {
            let of = holder(&objects, &format!("__main__.{name}"));
            assert!(
                number(of, "retained_bytes") > 50_000 * 32,
                "{of:#}, {python:?}"
            );
        }
    }
    assert!(tried > 0, "no Python with subinterpreters");
}

/// Blocks of 700 bytes, of which every sixth is kept by a name: each page has one.
const KEEPS_PAGES: &str = "
import sys
def made():
    return [bytearray(700) for _ in range(60000)]
blocks = made()
KEPT = blocks[::6]
del blocks
print('ready', flush=True)
for line in sys.stdin:
    KEPT = None
    import ctypes
    ctypes.CDLL(None).malloc_trim(0)
    print('freed', flush=True)
";

#[test]
fn a_name_whose_blocks_keep_free_memory_resident_is_in_the_verdict_with_what_it_returns() {
    let mut child = Child::python(KEEPS_PAGES);
    let pid = child.pid().to_string();
    let explained = [
        "snapshot",
        "--json",
        "--objects",
        "--predict",
        "--pid",
        &pid,
    ];
    let report = json(&fragscope(&explained));
    let verdict = report["verdict"].as_str().expect("one");
    // As no allocator pins less here, the smaller room in Python's own pools is not what is named.
    assert!(
        verdict.contains("free memory is pinned by live blocks"),
        "{verdict}"
    );
    let (_, kept) = verdict
        .split_once("`__main__.KEPT` (list) keeps ")
        .expect(verdict);
    let (_, returned) = kept
        .split_once("freeing it would return about ")
        .expect(kept);
    let said: f64 = returned
        .split(' ')
        .next()
        .and_then(|mib| mib.parse().ok())
        .expect(returned);
    let resident = || {
        number(
            &json(&fragscope(&["snapshot", "--json", "--pid", &pid])),
            "rss_bytes",
        )
    };
    let before = resident();
    child.ask("free");
    let returned = (before - resident()) as f64 / f64::from(1 << 20);
    assert!(
        (returned - said).abs() < 0.1 * said,
        "{said} MiB said, {returned} returned"
    );
}

#[test]
fn variables_of_a_coroutine_are_named_and_not_the_frame_that_runs_it() {
    let program = "
import asyncio, sys
class Row(object):
    __slots__ = ('n',)
    def __init__(self, n):
        self.n = float(n)
async def main():
    cache = {n: Row(n) for n in range(40000)}
    rows = [Row(n) for n in range(20000)]
    sys.stdout.write('ready\\n')
    sys.stdout.flush()
    await asyncio.sleep(3600)
    return cache, rows
asyncio.run(main())
";
    for python in readable() {
        if python.version < (3, 7) {
            continue;
        }
        let child = python.run(program, None, None);
        let objects = objects(child.pid(), &["--objects"]);
        let cache = holder(&objects, "__main__.main(): cache");
        let rows = holder(&objects, "__main__.main(): rows");
        assert!(
            number(cache, "retained_bytes") > 40_000 * 72,
            "{cache:#}, {python:?}"
        );
        assert!(
            number(rows, "retained_bytes") > 20_000 * 72,
            "{rows:#}, {python:?}"
        );
        // What both hold is in no third row.
        let holders = objects["holders"].as_array().expect("a list");
        for outer in holders
            .iter()
            .filter(|outer| number(outer, "retained_bytes") > 2 << 20)
        {
            let own = number(outer, "retained_bytes") - number(outer, "inner_bytes");
            let is_inner = outer["name"] == cache["name"] || outer["name"] == rows["name"];
            assert!(is_inner || own < 2 << 20, "{outer:#}, {python:?}");
            assert!(
                is_inner || number(outer, "inner_bytes") < 2 << 20,
                "{outer:#}, {python:?}"
            );
        }
    }
}
