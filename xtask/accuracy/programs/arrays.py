"""numpy: temporaries of many sizes, results kept, one array that grows by doubling."""

import random
from collections import deque

import numpy as np

from moments import Pace, moment

random.seed(9)
numbers = np.random.default_rng(9)
kept = deque()
log = np.zeros(1000)
used = 0


def handle(keep):
    global log, used
    size = random.choice((50, 120, 200, 350, 500))
    a, b = numbers.normal(size=(size, size)), numbers.normal(size=(size, size))
    c = np.sqrt(np.abs(a * b + a.T - 0.5)) / (1 + b**2)
    parts = np.array_split(c, 7)
    sums = [part.sum(axis=0) for part in parts]
    kept.append((np.concatenate(sums), c[::2, ::2].copy()))
    while len(kept) > keep:
        kept.popleft()
    for value in sums:
        if used + len(value) > len(log):
            log = np.concatenate([log, np.zeros(len(log))])
        log[used : used + len(value)] = value
        used += len(value)


pace = Pace(0.25)
handle(2)
moment("warm")
for _ in range(8):
    for _ in range(25):
        handle(150)
    pace.wait()
moment("full")
for _ in range(8):
    for _ in range(25):
        handle(150)
    pace.wait()
moment("turned")
kept.clear()
moment("cleared")
for _ in range(6):
    for _ in range(4):
        handle(5)
    pace.wait()
moment("final")
