//! Who holds what, of programs whose structures hide it: what was in a block before, classes that are made while
//! the program runs, objects that refer to each other.

mod support;

use profiler_testing::child::Child;
use support::objects::{holder, number, objects, readable};
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
    let named = "a second more are reached from no name, among them `__main__.Node`: cycles";
    assert!(verdict.contains(named), "{verdict}");
    let growth = &snapshot["objects"]["growth"];
    let (of_none, all) = ("unreached_bytes_per_second", "live_bytes_per_second");
    let rate = |key: &str| growth[key].as_f64().expect("a rate");
    assert!(rate(of_none) > rate(all) * 0.9, "{growth:#}");
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
    let (_, returned) = kept.split_once("freeing it would return ").expect(kept);
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
