"""Two caches whose entries lie among others that stay, classes that are made while the program runs, and
entries that are known elsewhere by weak references that go with them. Asked for one of them by name, it drops it, gives
back what it can, and says by how many bytes it became smaller. Works on Python 3."""
import ctypes
import gc
import sys
import weakref

trim = ctypes.CDLL("libc.so.6").malloc_trim


class Entry(object):
    __slots__ = ("text", "data")

    def __init__(self, n):
        self.text = "entry %d" % (n + 10000000)
        # Blocks of malloc's, of many sizes.
        self.data = bytes(600 + n * 37 % 3000) if n % 8 == 0 else None


CACHE = {}
SPARSE = {}
KEPT = []
for n in range(120000):
    CACHE[n + 1000000] = Entry(n)
    # Far apart, so that little of it goes back.
    if n % 50 == 0:
        SPARSE[n + 1000000] = Entry(n)
    if n % 5000 == 0:
        KEPT.append(Entry(n))


class Base(object):
    pass


# The base refers to each by a weak reference, and so does `object`.
MODELS = []
for n in range(4000):
    bases = (Base,) if n % 2 else ()
    MODELS.append(type("Model%d" % n, bases, {"check": lambda self: None, "rows": [float(n)] * 60}))


class Seen(object):
    __slots__ = ("number", "__weakref__")

    def __init__(self, n):
        self.number = n + 10000000


REGISTRY = weakref.WeakSet()
SEEN = []
for n in range(60000):
    SEEN.append(Seen(n))
    REGISTRY.add(SEEN[-1])
del bases


def resident():
    with open("/proc/self/smaps_rollup") as rollup:
        return sum(int(line.split()[1]) for line in rollup if line.startswith("Anonymous:")) << 10


def settle():
    gc.collect()
    trim(0)


settle()
resident()
settle()
sys.stdout.write("ready\n")
sys.stdout.flush()
for line in sys.stdin:
    before = resident()
    globals()[line.strip()].clear()
    del globals()[line.strip()]
    settle()
    sys.stdout.write("%d\n" % (before - resident()))
    sys.stdout.flush()
