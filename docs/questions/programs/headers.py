# Reads large batches of records and keeps a header of every fifth in a cache.
import random
import time

random.seed(1)
HEADERS = {}
for batch in range(6):
    records = []
    for i in range(60_000):
        records.append(bytes(random.randint(700, 1100)))
        if i % 5 == 0:
            HEADERS[batch, i] = bytes(600)
    del records
print("ready", flush=True)
time.sleep(3600)
