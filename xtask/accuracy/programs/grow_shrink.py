"""A table of records that grows, loses most of them at random, and does so again."""

import random

from moments import Pace, moment

random.seed(11)
records = []
numbers = 0


def record():
    global numbers
    numbers += 1
    return bytearray(random.choice((520, 700, 900, 1300, 2100, 5000)) + random.randrange(64))


def grow(steps, each):
    pace = Pace(0.25)
    for _ in range(steps):
        records.extend([record() for _ in range(each)])
        pace.wait()


def shrink(share):
    random.shuffle(records)
    del records[int(len(records) * share) :]


grow(2, 6000)
moment("warm")
grow(7, 9000)
moment("grown")
shrink(0.06)
moment("shrunk")
grow(6, 5000)
moment("again")
shrink(0.1)
grow(8, 60)
moment("final")
