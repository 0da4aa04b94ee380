//! To whom memory is attributed: what belongs to the interpreter, what is outside the heaps, which
//! of several names is preferred, and how it is written.

mod support;

use profiler_testing::child::Child;
use support::objects::{holder, in_each, number, objects, readable};
use support::{fragscope, json};

const MIB: u64 = 1 << 20;

#[test]
fn what_mmap_objects_map_is_held_by_who_has_them() {
    let program = "
import mmap, os, sys, tempfile
class Own(mmap.mmap):
    pass
class Cache(object):
    def __init__(self):
        self.buffer = Own(-1, 64 << 20)
CACHE = Cache()
for at in range(0, 12 << 20, 4096):
    CACHE.buffer[at:at + 1] = b'x'
PARTS = [mmap.mmap(-1, 1 << 20) for _ in range(8)]
for at in range(len(PARTS)):
    PARTS[at].write(b'y' * (1 << 20))
folder = tempfile.mkdtemp()
with open(os.path.join(folder, 'orders.bin'), 'w+b') as file:
    file.truncate(4 << 20)
    FILE = mmap.mmap(file.fileno(), 4 << 20)
    FILE.write(b'z' * (4 << 20))
os.unlink(os.path.join(folder, 'orders.bin'))
os.rmdir(folder)
";
    in_each(program, |objects, python| {
        for (name, mapped) in [("CACHE", 12), ("PARTS", 8), ("FILE", 4)] {
            let of = holder(objects, &format!("__main__.{name}"));
            assert_eq!(
                number(of, "mapped_bytes"),
                mapped * MIB,
                "{of:#}, {python:?}"
            );
            let blocks = number(of, "retained_bytes");
            assert!(blocks < MIB / 16, "{of:#}, {python:?}");
            // Each is shared memory, or of a file, but mapped once.
            assert_eq!(
                number(of, "mapped_kept_bytes"),
                mapped * MIB,
                "{of:#}, {python:?}"
            );
            assert_eq!(number(of, "mapped_shared_bytes"), 0, "{of:#}, {python:?}");
        }
        assert_eq!(number(objects, "mapped_bytes"), 24 * MIB, "{python:?}");
        assert_eq!(number(objects, "mapped_objects"), 10, "{python:?}");
        let file = &holder(objects, "__main__.FILE")["path"][0];
        assert_eq!(
            (&file["type"], &file["subject"], number(file, "length")),
            (&"mmap.mmap".into(), &"orders.bin".into(), 4 * MIB),
            "{python:?}"
        );
    });
}

#[test]
fn who_maps_most_is_not_who_holds_most_of_the_heap_nor_a_leak() {
    let child = Child::python(
        "
import mmap, sys
SHM = mmap.mmap(-1, 60 << 20)
SHM.write(b'x' * (60 << 20))
OWN = mmap.mmap(-1, 4 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
OWN.write(b'x' * (4 << 20))
TEXTS = [str(n) * 8 for n in range(100000)]
print('ready', flush=True)
sys.stdin.readline()
",
    );
    let pid = child.pid().to_string();
    let report = json(&fragscope(&[
        "snapshot", "--json", "--growth", "1s", "--pid", &pid,
    ]));
    let verdict = report["verdict"].as_str().expect("a verdict");
    assert!(
        verdict.starts_with("Not growing: `__main__.TEXTS` (list) holds most"),
        "{verdict}"
    );
    let findings = report["findings"].as_array().expect("findings");
    let outside = findings.iter().find(|of| of["mechanism"] == "not_the_heap");
    let claim = outside.expect("most is no heap")["claim"].to_string();
    assert!(
        claim.contains("60.0 MiB are mapped by mmap objects that `__main__.SHM` (mmap.mmap) holds"),
        "{claim}"
    );
    let own = holder(&report["objects"], "__main__.OWN");
    assert_eq!(
        (
            number(own, "mapped_bytes"),
            number(own, "mapped_kept_bytes")
        ),
        (4 * MIB, 0),
        "{own:#}"
    );
}

#[test]
fn shared_memory_counts_once_in_a_tree() {
    let child = Child::python(
        "
import mmap, os, sys
SHM = mmap.mmap(-1, 40 << 20)
SHM.write(b'x' * (40 << 20))
started = []
for n in range(2):
    ended, done = os.pipe()
    if os.fork() == 0:
        sum(SHM[at] for at in range(0, 40 << 20, 4096))
        os.write(done, b'x')
        sys.stdin.readline()
        os._exit(0)
    os.read(ended, 1)
print('ready', flush=True)
sys.stdin.readline()
",
    );
    let pid = child.pid().to_string();
    let report = json(&fragscope(&[
        "snapshot",
        "--json",
        "--objects",
        "--tree",
        "--pid",
        &pid,
    ]));
    let rows = report["tree"]["objects"]["holders"].as_array();
    let rows = rows.expect("holders");
    let shm = rows.iter().find(|row| row["name"] == "__main__.SHM");
    let shm = shm.unwrap_or_else(|| panic!("{rows:#?}"));
    assert_eq!(shm["children"], 2, "{shm:#}");
    assert!(number(shm, "least_bytes") >= 40 * MIB, "{shm:#}");
    for key in ["bytes", "shared_bytes"] {
        let of = number(shm, key);
        assert!((40 * MIB..41 * MIB).contains(&of), "{shm:#}");
    }
}

#[test]
fn a_word_that_was_there_before_holds_nothing_that_the_interpreter_has() {
    // As structures of Rust are moved with what was on the stack.
    let program = "
import ctypes, sys
libc = ctypes.CDLL(None)
libc.calloc.restype = ctypes.c_void_p
state = ctypes.pythonapi.PyThreadState_GetDict
state.restype = ctypes.c_void_p
kept = [float(i) for i in range(50000)]
ctypes.cast(state(), ctypes.py_object).value['kept'] = kept
BLOCK = ctypes.c_void_p(libc.calloc(1, 80))
ctypes.c_size_t.from_address(BLOCK.value + 16).value = id(kept)
# What it has alone is its own.
OTHER = ctypes.c_void_p(libc.calloc(1, 80))
own = [float(i) for i in range(40000)]
ctypes.c_size_t.from_address(OTHER.value + 16).value = id(own)
ctypes.pythonapi.Py_IncRef(ctypes.py_object(own))
del kept, own
";
    in_each(program, |objects, python| {
        // Numbers of 2.7 lie in blocks of many.
        let each = if python.version >= (3, 0) { 32 } else { 8 };
        let own = number(holder(objects, "__main__.OTHER"), "retained_bytes");
        assert!(own > 40_000 * each, "{own}, {python:?}");
        let rows = objects["holders"].as_array().expect("holders");
        let of_block = rows.iter().find(|row| row["name"] == "__main__.BLOCK");
        let by_block = of_block.map_or(0, |row| number(row, "retained_bytes"));
        assert!(by_block < 10_000, "{by_block}, {python:?}");
        if python.version <= (3, 6) {
            // What was there before is in objects of ctypes, too, and in running frames.
            return;
        }
        let all = holder(objects, "(interpreter)");
        assert!(
            number(all, "retained_bytes") > 50_000 * each,
            "{all:#}, {python:?}"
        );
    });
}

/// Fills an `lru_cache` that is reached by this name, and says what it is a cache of.
fn cache_is_named(cache: &str, name: &str, function: &str, item: &str) {
    let program = format!(
        "
import sys
from functools import lru_cache
class Order(object):
    def __init__(self, n):
        self.rows = [float(n + i) for i in range(20)]
{cache}
fill()
"
    );
    in_each(&guarded(&program), |objects, python| {
        if python.version < (3, 0) {
            return;
        }
        let of = holder(objects, name);
        let steps = of["path"].as_array().expect("a path");
        let cache = steps
            .iter()
            .find(|step| step["type"] == "functools._lru_cache_wrapper");
        let cache = cache.unwrap_or_else(|| panic!("{of:#}, {python:?}"));
        assert_eq!(
            (number(cache, "length"), &cache["subject"]),
            (3000, &function.into()),
            "{of:#}, {python:?}"
        );
        assert_eq!(
            (&of["item_type"], number(of, "items")),
            (&item.into(), 3000),
            "{of:#}, {python:?}"
        );
    });
}

#[test]
fn an_lru_cache_of_a_method_is_named_with_its_function_and_results() {
    let bounded = "
class Service(object):
    def __init__(self, n):
        self.name = str(n) * 200
    @lru_cache(maxsize=100000)
    def get(self, n):
        return Order(n)
def fill():
    for n in range(3000):
        Service(n).get(n)
";
    let unbounded = bounded.replace("100000", "None");
    for cache in [bounded, &unbounded] {
        let name = "__main__.Service.get";
        cache_is_named(cache, name, name, "__main__.Order");
    }
}

#[test]
fn an_lru_cache_without_a_name_of_its_own_is_named_with_its_function() {
    let cache = "
def local(n):
    return 'x' * 200 + str(n)
HELD = [lru_cache(maxsize=5000)(local)]
def fill():
    for n in range(3000):
        HELD[0](n)
";
    cache_is_named(cache, "__main__.HELD", "__main__.local", "str");
}

/// A program for 3.x alone, which 2.7 leaves out.
fn guarded(program: &str) -> String {
    let lines: Vec<String> = program.lines().map(|line| format!("    {line}")).collect();
    format!(
        "import sys\nif sys.version_info[0] > 2:\n{}\n",
        lines.join("\n")
    )
}

#[test]
fn the_first_of_several_names_is_the_programs_own_and_its_type_is_what_it_has() {
    let child = Child::python(
        "
import abc, logging, sys
rows = [float(i) for i in range(50000)]
TABLE = {'rows': rows, 'more': 1}
abc.ROWS = rows
other = [float(i) for i in range(40000)]
logging.OTHER = (other, 1)
class Keeps(object):
    def __init__(self, it):
        self.it = it
THING = Keeps(Keeps(other))
first = [float(i) for i in range(30000)]
sys.first = first
zipped = Keeps(first)
del rows, other, first
print('ready', flush=True)
sys.stdin.readline()
",
    );
    let objects = objects(child.pid(), &["--stop-for-objects"]);
    let rows = [
        ("TABLE", "dict", "abc.ROWS"),
        ("THING", "__main__.Keeps", "logging.OTHER"),
        ("zipped", "__main__.Keeps", "sys.first"),
    ];
    for (name, of_type, other) in rows {
        let row = holder(&objects, other);
        assert_eq!(
            (&row["name"], &row["type"]),
            (&format!("__main__.{name}").into(), &of_type.into()),
            "{row:#}"
        );
        let shared = row["shared_with"].as_array().expect("names");
        let all: Vec<&str> = shared.iter().filter_map(|name| name.as_str()).collect();
        assert_eq!(all, [other], "{row:#}");
    }
}

#[test]
fn what_tracemalloc_has_for_itself_is_said() {
    let program = "
import tracemalloc
tracemalloc.start(5)
def nested(n):
    return [str(n) * 3 for i in range(2)] if n == 0 else nested(n - 1)
KEPT = [nested(i % 4) for i in range(30000)]
OWN = [tracemalloc.get_tracemalloc_memory()]
";
    // What it says of itself, in thousands, as the number of items of a list.
    let program = format!("{program}\nSAYS = [None] * (OWN[0] // 1000)\n");
    in_each(&guarded(&program), |objects, python| {
        if python.version < (3, 4) {
            assert_eq!(objects["tracemalloc_bytes"], 0, "{python:?}");
            return;
        }
        let says = 1000 * number(holder(objects, "__main__.SAYS"), "length");
        let own = number(objects, "tracemalloc_bytes");
        // Traces that are blocks of their own are not in its account.
        assert!(
            (says / 10 * 9..says * 3).contains(&own),
            "{own} of {says}, {python:?}"
        );
        let row = holder(objects, "(tracemalloc)");
        assert_eq!(number(row, "retained_bytes"), own, "{python:?}");
        let kept = number(holder(objects, "__main__.KEPT"), "retained_bytes");
        assert!(
            (30_000 * 150..30_000 * 400).contains(&kept),
            "{kept}, {python:?}"
        );
    });
}

#[test]
fn what_tracemalloc_has_is_known_while_the_program_allocates_and_others_trace() {
    let program = "
import ctypes, sys, threading, time, tracemalloc
tracemalloc.start()
KEPT = [object() for _ in range(60000)]
# As numpy does.
name = '_PyTraceMalloc_Track' if sys.version_info < (3, 7) else 'PyTraceMalloc_Track'
track = getattr(ctypes.pythonapi, name)
track.argtypes = [ctypes.c_uint, ctypes.c_size_t, ctypes.c_size_t]
for i in range(60000):
    track(7, 0x700000000000 + i * 64, 64)
def allocate():
    made = []
    while True:
        made.append(bytearray(100))
        if len(made) > 5000:
            del made[:]
thread = threading.Thread(target=allocate)
thread.daemon = True
thread.start()
time.sleep(0.2)
sys.stdout.write('ready\\n')
sys.stdout.flush()
time.sleep(600)
";
    for python in readable() {
        if python.version < (3, 4) {
            continue;
        }
        let child = python.run(program, None, None);
        let objects = objects(child.pid(), &["--objects"]);
        let own = number(&objects, "tracemalloc_bytes");
        // An entry of 56 bytes at the least, or of 40 with a trace of 24 and more.
        let (least, most) = (120_000 * 50, 120_000 * 130);
        assert!((least..most).contains(&own), "{own}, {python:?}");
        let row = holder(&objects, "(tracemalloc)");
        assert_eq!(number(row, "retained_bytes"), own, "{python:?}");
        let all = holder(&objects, "(interpreter)");
        assert!(
            number(all, "retained_bytes") < 2 * MIB,
            "{all:#}, {python:?}"
        );
    }
}
