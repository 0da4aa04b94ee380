# Builds eight reports, one after the other, as a worker does in a day.
import json
import random

random.seed(1)
SUMMARIES = {}
for name in range(8):
    rows = [json.dumps({"id": i, "text": "x" * random.randint(600, 1400)}) for i in range(40_000)]
    SUMMARIES[name] = rows[::9]
    del rows
