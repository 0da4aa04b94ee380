"""Tasks that parse and write JSON, with a cache of results."""

import json
import random
from collections import OrderedDict

from moments import Pace, moment

random.seed(1)
WORDS = ["".join(random.choices("abcdefghijklmnop", k=random.randint(3, 14))) for _ in range(4000)]
cache = OrderedDict()


def document(size):
    return {
        "id": random.getrandbits(48),
        "tags": random.choices(WORDS, k=random.randint(2, 40)),
        "text": " ".join(random.choices(WORDS, k=size)),
        "rows": [
            {"name": random.choice(WORDS), "value": random.random(), "note": " ".join(random.choices(WORDS, k=90))}
            for _ in range(random.randint(1, size // 4 + 1))
        ],
    }


def task(key):
    raw = json.dumps(document(random.choice((8, 30, 120, 400)))).encode()
    parsed = json.loads(raw)
    parsed["rows"].sort(key=lambda row: row["value"])
    cache[key] = (raw, parsed["text"])
    if random.random() < 0.3:
        cache.move_to_end(next(iter(cache)))


def tasks(count, keep):
    for number in range(count):
        task(random.randrange(1 << 30))
        while len(cache) > keep:
            cache.popitem(last=False)


pace = Pace(0.25)
for _ in range(6):
    tasks(110, 3000)
    pace.wait()
moment("warm")
for _ in range(8):
    tasks(110, 3000)
    pace.wait()
moment("full")
while len(cache) > 300:
    cache.popitem(last=random.random() < 0.5)
moment("expired")
for _ in range(6):
    tasks(90, 900)
    pace.wait()
moment("again")
cache.clear()
for _ in range(6):
    tasks(4, 10)
    pace.wait()
moment("final")
