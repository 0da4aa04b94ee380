"""Sixteen threads that allocate buffers of many sizes and keep some."""
import random
import threading

ready = threading.Barrier(17)


def work(seed):
    rng = random.Random(seed)
    kept = []
    rounds = 0
    while True:
        kept.append(bytearray(rng.choice((40, 600, 3000, 20_000, 90_000, 300_000))))
        if len(kept) > 60:
            del kept[rng.randrange(len(kept))]
        rounds += 1
        if rounds == 500:
            ready.wait()


for i in range(16):
    threading.Thread(target=work, args=(i,), daemon=True).start()
ready.wait()
print("READY", flush=True)
threading.Event().wait()
