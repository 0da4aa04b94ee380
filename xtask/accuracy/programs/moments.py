"""Marked moments of a program, and a pace that does not depend on the machine's speed.

At a marked moment the program writes a line to the pipe that ACCURACY_ASK names and waits for a
line from the one that ACCURACY_ANSWER names: meanwhile it is looked at. Before those that
ACCURACY_SETTLE names, with commas between, it goes on for a while as a worker does that has little to
do, so that allocators which purge by time have done so: they look at their clocks when they are called.
"""

import os
import time

_ask = _answer = None
if "ACCURACY_ASK" in os.environ:
    _ask = os.open(os.environ["ACCURACY_ASK"], os.O_WRONLY)
    _answer = os.open(os.environ["ACCURACY_ANSWER"], os.O_RDONLY)


def settle():
    """Goes on for longer than jemalloc's and mimalloc's delays, with little to do."""
    for _ in range(26):
        for _ in range(1_500):
            bytearray(40_000)
        time.sleep(0.5)


def moment(name):
    """Waits until it has been looked at."""
    if _ask is None:
        return
    if name in os.environ.get("ACCURACY_SETTLE", "").split(","):
        settle()
    os.write(_ask, name.encode() + b"\n")
    if os.read(_answer, 1) != b"\n":
        raise SystemExit("nobody looks at this program any more")


class Pace:
    """Steps that begin so many seconds apart, or later when one took longer."""

    def __init__(self, seconds):
        self.seconds = seconds
        self.next = time.monotonic()

    def wait(self):
        self.next += self.seconds
        left = self.next - time.monotonic()
        if left > 0:
            time.sleep(left)
        else:
            self.next -= left
