# Builds its tables, then forks children that collect garbage, as a prefork scheduler does.
import gc
import os
import sys
import time

TABLE = [{"id": i, "name": f"task-{i}", "deps": [i, i + 1]} for i in range(130_000)]
if "freeze" in sys.argv:
    gc.collect()
    gc.freeze()
for _ in range(4):
    if os.fork() == 0:
        work = [[str(i) for i in range(20_000)] for _ in range(3)]
        gc.collect()
        time.sleep(3600)
print("ready", flush=True)
time.sleep(3600)
