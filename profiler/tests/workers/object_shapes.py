"""Known structures under known names, then what Python itself says of its objects.

Works on Python 2.7 and 3. Prints a line of JSON, and stays for ever. Nothing is made
or freed between the account and that line but what the account itself takes and gives back.
"""
import collections
import functools
import gc
import json
import sys
import threading
import weakref

try:
    import numpy
except ImportError:
    numpy = None
    if hasattr(sys, "exc_clear"):
        # Python 2 keeps the traceback, and with it this frame.
        sys.exc_clear()

N = 20000


class Slotted(object):
    __slots__ = ("a", "b")

    def __init__(self, n):
        self.a = float(n)
        self.b = None


class Plain(object):
    def __init__(self, n):
        self.number = float(n)
        self.text = None


class Many(object):
    """With more attributes than share their keys."""

    def __init__(self, n):
        for i in range(40):
            setattr(self, "attribute_%d" % (i + n % 7), None)


class Holder(object):
    CACHE = {}


class Child(dict):
    pass


def unique(n):
    return [float(i) for i in range(n)]


SESSIONS = dict((i + 1000000, Slotted(i)) for i in range(N))
ORDERED = collections.OrderedDict((i + 2000000, float(i)) for i in range(N))
SHARED = unique(N)
ALSO_SHARED = SHARED
QUEUE = collections.deque(unique(N))
NUMBERS = set(float(i) for i in range(N))
PLAIN = [Plain(i) for i in range(N)]
MANY = [Many(i) for i in range(500)]
TUPLES = [(float(i), i + 3000000) for i in range(N)]
CHILDREN = [Child(a=float(i)) for i in range(1000)]
TEXTS = ["text %d" % i for i in range(N)]
BUFFER = bytearray(3000000)
Holder.CACHE["rows"] = unique(N)
if numpy is not None:
    ARRAY = numpy.zeros(500000)
    OBJECTS = numpy.array([None] * N, dtype=object)
    for i in range(N):
        OBJECTS[i] = float(i)


BY_ID = dict((i + 4000000, Slotted(i)) for i in range(N))
BY_NAME = dict(("name %d" % i, BY_ID[i + 4000000]) for i in range(N))


class App(object):
    def __init__(self):
        self.events = collections.deque(unique(N))


APP = App()


def remember(value, seen=[]):
    seen.append(value)


for i in range(N):
    remember(float(i))


def closure():
    kept = unique(N)

    def inner():
        return kept

    return inner


CLOSURE = closure()

if hasattr(functools, "lru_cache"):

    @functools.lru_cache(maxsize=None)
    def cached(n):
        return float(n) + 0.5

    for i in range(N):
        cached(i)

LOCAL = threading.local()
LOCAL.rows = unique(N)
WEAK = weakref.WeakValueDictionary()


class Watched(object):
    def __init__(self):
        self.rows = unique(N)


def retained(**of_run):
    """What each name alone keeps in memory, by construction."""
    # 2.7 has its numbers in blocks of many, which belong to nobody.
    new = sys.version_info >= (3,)
    number = block(sys.getsizeof(1.5)) if new else 0

    def whole(items, *containers):
        return items + sum(block(sys.getsizeof(one)) for one in containers)

    rows = number * N
    result = {
        "__main__.Holder.CACHE": whole(rows, Holder.CACHE, Holder.CACHE["rows"]),
        "__main__.SHARED": whole(rows, SHARED),
        "__main__.ALSO_SHARED": whole(rows, SHARED),
        "__main__.QUEUE": whole(rows, QUEUE),
        "__main__.APP": whole(rows, APP.events),
        "__main__.BY_ID": rows + N * whole(0, BY_ID[4000000]),
        "__main__.NUMBERS": whole(rows, NUMBERS),
        "__main__.BUFFER": whole(0, BUFFER),
        "__main__.CLOSURE": whole(rows, CLOSURE()),
        "__main__.SESSIONS": whole(rows * 2, SESSIONS) + N * whole(0, SESSIONS[1000000]),
        "__main__.LOCAL": whole(rows, LOCAL.rows),
        "__main__.run(): rows": whole(rows, of_run["rows"]),
        "__main__.run(): watched": whole(rows, of_run["watched"].rows),
        "__main__.remember": whole(rows, *(remember.__defaults__ or ())),
    }
    if new:
        result["__main__.ORDERED"] = whole(rows * 2, ORDERED)
        result["__main__.cached"] = whole(rows * 2)
    if numpy is not None:
        result["__main__.ARRAY"] = ARRAY.nbytes
        result["__main__.OBJECTS"] = OBJECTS.nbytes + rows
    return result


def run(account):
    rows = unique(N)
    watched = Watched()
    WEAK["watched"] = watched
    lock = threading.Lock()
    lock.acquire()
    wait = lock.acquire
    # The first time types are made ready that the account uses.
    account()
    # As text: since 3.14 the collector tracks every dictionary.
    line = account(json.dumps(retained(rows=rows, watched=watched))) + "\n"
    sys.stdout.write(line)
    sys.stdout.flush()
    wait()
    del watched, rows


def name_of(of):
    if of.__module__ in ("builtins", "__builtin__"):
        return of.__name__
    return "%s.%s" % (of.__module__, of.__name__)


def account(retained="null"):
    """Counts by type over what the collector tracks, and bytes of blocks where getsizeof has them all."""
    gc.collect()
    gc.disable()
    objects = gc.get_objects()
    getsizeof = sys.getsizeof
    counts, sizes = {}, {}
    head = 32 if sys.version_info < (3, 8) else 16
    # From 3.13 on getsizeof leaves out the values behind an instance.
    whole = (Slotted, Plain, Many) if sys.version_info < (3, 13) else (Slotted,)
    for one in objects:
        of = type(one)
        counts[of] = counts.get(of, 0) + 1
        if of in whole:
            sizes[of] = sizes.get(of, 0) + block(getsizeof(one))
        elif of in (list, set):
            own = of.__basicsize__ + head
            sizes[of] = sizes.get(of, 0) + block(own)
            if getsizeof(one) > own:
                key = (of, "storage")
                sizes[key] = sizes.get(key, 0) + block(getsizeof(one) - own)
    del one, of, objects
    # Several types may have one name.
    by_name = {}
    for of, n in counts.items():
        by_name[name_of(of)] = by_name.get(name_of(of), 0) + n
    result = {
        "counts": by_name,
        "sizes": dict((name_of(of), n) for of, n in sizes.items() if isinstance(of, type)),
        "storage": dict(
            (name_of(of[0]), n) for of, n in sizes.items() if not isinstance(of, type)
        ),
    }
    return json.dumps(result)[:-1] + ', "retained": %s}' % retained


def block(size):
    """What pymalloc and glibc give for so many bytes."""
    if size <= 512:
        return (size + 15) // 16 * 16
    return (size + 8 + 15) // 16 * 16 - 8


run(account)
