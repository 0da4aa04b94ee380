"""Twelve threads, each with buffers of its own and a queue of them to the next."""

import queue
import random
import threading

from moments import Pace, moment

THREADS = 12
queues = [queue.SimpleQueue() for _ in range(THREADS)]
stages = threading.Barrier(THREADS + 1)


def worker(number):
    chance = random.Random(number)
    held = []

    def work(steps, keep):
        pace = Pace(0.2)
        for _ in range(steps):
            for _ in range(60):
                held.append(bytearray(chance.choice((600, 1500, 4000, 9000, 30000, 70000)) + chance.randrange(500)))
                while len(held) > keep:
                    block = held.pop(chance.randrange(len(held)))
                    if chance.random() < 0.3:
                        queues[(number + 1) % THREADS].put(block)
                while queues[number].qsize() > 10:
                    queues[number].get()
            pace.wait()

    for steps, keep in ((8, 300), (10, 600), (1, 20), (6, 100), (3, 5)):
        stages.wait()
        work(steps, keep)
        stages.wait()


threads = [threading.Thread(target=worker, args=(number,)) for number in range(THREADS)]
for thread in threads:
    thread.start()
for name in ("warm", "full", "dropped", "again", "few"):
    stages.wait()
    stages.wait()
    moment(name)
for thread in threads:
    thread.join()
for each in queues:
    while not each.empty():
        each.get()
moment("final")
