"""A busy program to attach to: threads that allocate and count their rounds in a shared file.

worker.py COUNTERS MIB THREADS SECONDS

COUNTERS holds numbers of 8 bytes: one for each thread, then READY, MAIN, PID as below. Lines on a
piped stdin are commands: exit, exec, fork, eat. It ends when that pipe closes; without one, with
SECONDS.
"""
import mmap
import os
import random
import select
import stat
import struct
import sys
import threading
import time

READY, MAIN, PID = 100, 101, 102

path, mib, threads, seconds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
end = time.monotonic() + seconds
descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
os.ftruncate(descriptor, 4096)
counters = mmap.mmap(descriptor, 4096)


def put(slot, value):
    struct.pack_into("<Q", counters, 8 * slot, value)


def allocate(slot):
    own, kept, rounds = random.Random(slot), [None] * 3000, 0
    while True:
        for _ in range(200):
            kept[own.randrange(3000)] = bytes(own.randrange(16, 4000))
        rounds += 1
        put(slot, rounds)


def start_threads():
    for slot in range(threads):
        threading.Thread(target=allocate, args=(slot,), daemon=True).start()


def eat():
    """Grows until somebody ends it."""
    eaten = []
    while True:
        eaten.append(bytearray(os.urandom(1) * (1 << 20)))
        time.sleep(0.002)


def fork():
    """A child that allocates too, and says its number in the slot after PID."""
    if os.fork() == 0:
        put(PID + 1, os.getpid())
        # The copied descriptor would keep the pipe open for reading only: no command goes here.
        kept = [None] * 3000
        while os.getppid() != 1 and time.monotonic() < end:
            kept[random.randrange(3000)] = bytes(random.randrange(16, 4000))
            put(PID + 2, struct.unpack_from("<Q", counters, 8 * (PID + 2))[0] + 1)


def main():
    base, total = [], 0
    while total < mib << 20:
        base.append(bytes(random.randrange(520, 2400)))
        total += len(base[-1])
    start_threads()
    put(PID, os.getpid())
    put(READY, 1)
    commanded = stat.S_ISFIFO(os.fstat(0).st_mode)
    rounds = 0
    while commanded or time.monotonic() < end:
        rounds += 1
        put(MAIN, rounds)
        if not commanded:
            time.sleep(0.02)
        elif select.select([0], [], [], 0.02)[0]:
            command = os.read(0, 100).decode().strip()
            if command in ("", "exit"):
                os._exit(0)
            elif command == "exec":
                put(READY, 0)
                os.execv(sys.executable, [sys.executable, "-S", *sys.argv])
            elif command == "fork":
                fork()
            elif command == "eat":
                eat()


main()
