"""A Celery application whose tasks parse, keep a little and drop the rest."""
import json
import os
import random

from celery import Celery

app = Celery("tasks", broker=os.environ["BROKER"], backend=os.environ["BROKER"])
app.conf.update(worker_prefetch_multiplier=4, task_ignore_result=True, worker_hijack_root_logger=False)
KEPT = []


@app.task(name="crunch")
def crunch(seed):
    rng = random.Random(seed)
    rows = [{"id": i, "name": "n" * rng.randint(1, 700), "tags": list(range(rng.randint(0, 30)))} for i in range(400)]
    text = json.dumps(rows)
    back = json.loads(text)
    KEPT.append(back[rng.randrange(len(back))])
    if len(KEPT) > 5000:
        del KEPT[::2]


if __name__ == "__main__":
    n = 0
    while True:
        n += 1
        crunch.delay(n)
        if n % 200 == 0:
            with app.connection_or_acquire() as connection:
                while connection.default_channel.client.llen("celery") > 500:
                    __import__("time").sleep(0.02)
