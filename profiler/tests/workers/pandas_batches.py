"""Batches of data frames: group, join, drop, again."""
import sys

import pandas as pd

print("READY", flush=True)
kept = []
for batch in range(1_000_000):
    frame = pd.DataFrame({"key": [f"k{(i * 7919 + batch) % 997}" for i in range(20_000)], "value": range(20_000)})
    totals = frame.groupby("key").value.agg(["sum", "mean", "count"]).reset_index()
    joined = frame.merge(totals, on="key").sort_values("value")
    kept.append(joined.sample(50, random_state=batch))
    del kept[:-200]
    if batch == 20:
        print("WARM", flush=True)
