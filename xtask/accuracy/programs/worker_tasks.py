"""The tasks of a Celery worker."""

import json
import os
import random

from celery import Celery

app = Celery("worker_tasks", broker=os.environ["ACCURACY_BROKER"], backend=os.environ["ACCURACY_BROKER"])
app.conf.update(worker_prefetch_multiplier=1, worker_send_task_events=False, broker_connection_retry_on_startup=True)
sessions = {}


@app.task
def render(seed, rows):
    chance = random.Random(seed)
    table = [{"id": row, "text": "x" * chance.randrange(900), "sum": chance.random()} for row in range(rows)]
    page = json.dumps(table)
    sessions[chance.randrange(400)] = page[: len(page) // 2]
    return page[:2000]


@app.task
def upload(size):
    body = bytearray(size)
    body[::4096] = b"\1" * len(body[::4096])
    sessions[size % 400] = bytes(body[: size // 3])
    return size


@app.task
def forget(share):
    for key in sorted(sessions)[: int(len(sessions) * share)]:
        del sessions[key]
    return len(sessions)
