"""Tables in pandas: built, joined, grouped, pivoted, kept for a while."""

import random
from collections import deque

import numpy as np
import pandas as pd

from moments import Pace, moment

random.seed(4)
numbers = np.random.default_rng(4)
kept = deque()


def frame(rows):
    return pd.DataFrame(
        {
            "key": numbers.integers(0, 2000, rows),
            "group": numbers.choice(["north", "south", "east", "west"], rows),
            "when": pd.Timestamp("2026-01-01") + pd.to_timedelta(numbers.integers(0, 10**6, rows), unit="s"),
            "amount": numbers.normal(100, 15, rows),
            "text": [f"row {number}" for number in numbers.integers(0, 10**6, rows)],
        }
    )


def work(rows, keep):
    left, right = frame(rows), frame(rows // 8)
    joined = left.merge(right, on="key", suffixes=("", "_other"))
    daily = joined.set_index("when").sort_index()["amount"].resample("1h").agg(["mean", "sum", "count"])
    table = joined.pivot_table(index="key", columns="group", values="amount", aggfunc="mean")
    joined["text"] = joined["text"].str.upper()
    kept.append((left, daily, table.fillna(0)))
    while len(kept) > keep:
        kept.popleft()
    return joined.groupby("group")["amount"].describe()


pace = Pace(0.35)
work(2000, 2)
moment("warm")
for _ in range(6):
    work(random.choice((8000, 20000, 40000)), 12)
    pace.wait()
moment("growing")
for _ in range(8):
    work(random.choice((8000, 20000, 40000)), 12)
    pace.wait()
moment("full")
kept.clear()
moment("cleared")
for _ in range(6):
    work(4000, 3)
    pace.wait()
moment("final")
