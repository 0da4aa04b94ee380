"""Many threads that each use a large buffer now and then, at most sixteen at once."""

import threading

from moments import moment

THREADS = 48
BUFFER = 8 << 20
slots = threading.Semaphore(16)
done = threading.Barrier(THREADS + 1)
over = threading.Event()


def work():
    for _ in range(4):
        with slots:
            buffer = bytearray(BUFFER)
            del buffer
    done.wait()
    over.wait()


threads = [threading.Thread(target=work) for _ in range(THREADS)]
for thread in threads:
    thread.start()
done.wait()
moment("final")
over.set()
for thread in threads:
    thread.join()
