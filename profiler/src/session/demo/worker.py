"""fragscope's demo: a worker whose heap fragments in the ways that workers' heaps do.

Standard library only, deterministic, Python 3.6 and later. It says READY once its heap is in the
state to look at, then goes on working quietly until its standard input closes.
"""
import json
import random
import signal
import sys
import threading
import time

rng = random.Random(20170131)


def json_tasks(rounds, cache):
    """Tasks that parse and build documents; a cache keeps a few strings of each."""
    for number in range(rounds):
        rows = [{"id": i, "body": "x" * rng.randint(520, 3000)} for i in range(200)]
        back = json.loads(json.dumps({"task": number, "rows": rows}))
        cache.append(back["rows"][rng.randrange(200)]["body"])


def images(rounds):
    """Buffers of 64 KiB to 4 MiB: freeing the first large one raises glibc's mmap threshold."""
    kept = []
    for _ in range(rounds):
        kept.append(bytearray(rng.randint(64 << 10, 4 << 20)))
        if len(kept) > 6:
            kept.pop(rng.randrange(len(kept)))
    return kept[-1:]


def grow_and_shrink(count, keep_one_in):
    """A peak of blocks of many sizes, of which a few survive all over the heap."""
    blocks = [bytes(rng.randint(520, 2600)) for _ in range(count)]
    return [block for i, block in enumerate(blocks) if i % keep_one_in == 0]


def small_objects(count, keep_percent):
    """Small objects, most of which go again: pymalloc's pools stay, sparsely used."""
    objects = [("%d" % i, i * 1.5, [i]) for i in range(count)]
    return [o for o in objects if rng.randrange(100) < keep_percent]


def threads(count):
    """Threads with buffers of their own, in thread arenas that keep what was freed."""
    kept = []

    def work(seed):
        own = random.Random(seed)
        buffers = [bytearray(own.randint(600, 60000)) for _ in range(250)]
        kept.append(buffers[:: 40])
        go_on.wait()

    go_on = threading.Event()
    started = [threading.Thread(target=work, args=(i,)) for i in range(count)]
    for thread in started:
        thread.start()
    while len(kept) < count:
        time.sleep(0.01)
    go_on.set()
    for thread in started:
        thread.join()
    return kept


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cache = []
    json_tasks(60, cache)
    kept = [
        images(60),
        grow_and_shrink(60000, 12),
        small_objects(400000, 20),
        threads(4),
    ]
    print("READY", flush=True)
    ended = threading.Event()

    def watch():
        sys.stdin.read()
        ended.set()

    threading.Thread(target=watch, daemon=True).start()
    while not ended.wait(0.12):
        json_tasks(3, cache)
        del cache[:-400]
        kept[0] = images(3)


main()
