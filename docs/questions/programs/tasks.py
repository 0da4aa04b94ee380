# A Celery worker with two tasks: one leaves holes in the heap, one leaks.
import json
import random

from celery import Celery

app = Celery("tasks", broker="redis://127.0.0.1:6399/0")
app.conf.task_ignore_result = True

SUMMARIES = {}  # of each report one row in nine; replaced by the next report of that name
SESSIONS = {}  # one for each visitor; nothing removes it


class Session:
    def __init__(self, user):
        self.user = f"user-{user}"
        self.token = random.randbytes(40)
        self.pages = [user]


@app.task
def report(name):
    rows = [json.dumps({"id": i, "text": "x" * random.randint(600, 1400)}) for i in range(100_000)]
    SUMMARIES[name] = rows[::9]


@app.task
def visit(first):
    for user in range(first, first + 2_000):
        SESSIONS[user] = Session(user)
