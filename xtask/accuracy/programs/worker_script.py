"""Sends tasks to the Celery worker, one after the other, and marks moments when it idles."""

import random

from moments import Pace, moment
from worker_tasks import forget, render, upload

random.seed(12)


def send(task, *arguments):
    return task.delay(*arguments).get(timeout=120, interval=0.01)


def mixed(steps):
    pace = Pace(0.3)
    for _ in range(steps):
        for _ in range(10):
            if random.random() < 0.75:
                send(render, random.getrandbits(30), random.choice((20, 100, 400, 1500)))
            else:
                send(upload, random.randrange(20_000, 3_000_000))
        pace.wait()


mixed(2)
moment("warm")
mixed(8)
moment("full")
mixed(7)
moment("turned")
send(forget, 0.9)
moment("forgotten")
mixed(2)
send(forget, 1.0)
moment("final")
