"""Handles requests of very different sizes one after the other, and keeps something of each if it is told to."""

import json
import sys
import time

leaks = sys.argv[1:] == ["leaks"]


class Session:
    def __init__(self, number):
        self.number = number
        self.data = {"user": f"u{number}", "items": [number / 7, number / 3]}


SESSIONS = {}


def handle(number):
    rows = number * 7919 % 6000
    document = json.loads(json.dumps([{"a": row, "b": str(row)} for row in range(rows)]))
    if leaks:
        for more in range(5):
            SESSIONS[number * 5 + more] = Session(number)
    time.sleep(0.002)
    return len(document)


print("READY", flush=True)
number = 0
while True:
    number += 1
    handle(number)
