"""Buffers of 64 KiB to 4 MiB, as of images: filled, copied, cut, kept for a while."""

import random
from collections import deque

from moments import Pace, moment

random.seed(5)
SIZES = [64, 96, 128, 200, 256, 500, 768, 1024, 1536, 2500, 4096]
PATTERN = bytes(range(256)) * 4
kept = deque()
small = []


def handle(keep):
    size = random.choice(SIZES) * 1024 + random.randrange(4096)
    raw = PATTERN * (size // len(PATTERN))
    canvas = bytearray(raw)
    third = len(canvas) // 3
    cut = bytes(canvas[third : 2 * third])
    canvas.extend(PATTERN)
    kept.append(cut)
    if random.random() < 0.4:
        kept.append(canvas)
    small.append(bytes(random.randrange(600, 3000)))
    while len(kept) > keep:
        del kept[random.randrange(len(kept))]


pace = Pace(0.25)
for _ in range(6):
    for _ in range(25):
        handle(90)
    pace.wait()
moment("warm")
for _ in range(10):
    for _ in range(30):
        handle(220)
    pace.wait()
moment("full")
while len(kept) > 12:
    del kept[random.randrange(len(kept))]
moment("dropped")
for _ in range(6):
    for _ in range(12):
        handle(12)
    pace.wait()
moment("again")
kept.clear()
for _ in range(6):
    handle(2)
    pace.wait()
moment("final")
