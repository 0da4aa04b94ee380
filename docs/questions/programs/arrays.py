# Holds 4,000 arrays of 160 KiB, drops them, and keeps a short record of every fifth.
import os
import sys
import time

if "late" in sys.argv:  # too late: glibc has read the variable when the process began
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "131072"

import numpy as np

np.ones(400 << 10, np.uint8)  # a mapped block is freed, as any import of data does
arrays, records = [], []
for i in range(4_000):
    arrays.append(np.ones(160 << 10, np.uint8))
    if i % 5 == 0:
        records.append(bytes(700))
del arrays
print("ready", flush=True)
time.sleep(3600)
