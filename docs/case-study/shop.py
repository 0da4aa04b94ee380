"""A Celery worker that parses JSON and keeps a little of each document in a bounded cache."""

import json
import random
from collections import OrderedDict

from celery import Celery

app = Celery("shop", broker="redis://127.0.0.1:6379/0")
app.conf.worker_prefetch_multiplier = 1
app.conf.task_ignore_result = True
app.conf.broker_connection_retry_on_startup = True

KEPT = 2000
CACHE = OrderedDict()


def document(number):
    """What an API might have answered: some hundred products, most of them described at length."""
    dice = random.Random(number)
    # One in twenty answers is a whole catalogue.
    products = dice.randrange(2000, 6000) if number % 20 == 0 else dice.randrange(50, 400)
    return json.dumps(
        [
            {
                "id": number * 10_000 + at,
                "name": "product %d" % at,
                "description": "x" * dice.randrange(300, 3000),
                "tags": ["tag%d" % dice.randrange(500) for _ in range(dice.randrange(12))],
                "prices": {"EUR": dice.random(), "USD": dice.random()},
            }
            for at in range(products)
        ]
    )


@app.task
def ingest(number):
    products = json.loads(document(number))
    # The newest few of each are kept, the oldest go.
    for product in products[:: max(1, len(products) // 12)]:
        CACHE[product["id"]] = product
    while len(CACHE) > KEPT:
        CACHE.popitem(last=False)
