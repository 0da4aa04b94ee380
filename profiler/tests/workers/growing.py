"""Grows at a known pace, and says what it holds: a line each few milliseconds, of the time in ns, the
objects, and the bytes of the blocks of all that SESSIONS holds. Works on Python 2.7 and 3.

With an argument the first is made and then no more.
"""
import sys
import time

PACE = 20000


class Session(object):
    __slots__ = ("user", "token", "number")

    def __init__(self, number):
        # Texts and numbers of its own.
        self.user = "user-%09d" % number
        self.token = b"t" * 39 + b"%d" % (number % 10)
        self.number = number + 1000000


def block(size):
    """What pymalloc and glibc give for so many bytes."""
    if size <= 512:
        return (size + 15) // 16 * 16
    return (size + 8 + 15) // 16 * 16 - 8


SESSIONS = []
each = None
start = time.time()
out = open(sys.argv[1], "w")
rest = len(sys.argv) > 2
while True:
    now = time.time()
    want = 30000 if rest else int((now - start) * PACE) + 30000
    while len(SESSIONS) < want:
        SESSIONS.append(Session(len(SESSIONS)))
    if each is None:
        one = SESSIONS[-1]
        # 2.7 has its numbers in blocks of many, which belong to nobody.
        parts = [one, one.user, one.token] + ([one.number] if sys.version_info >= (3,) else [])
        each = sum(block(sys.getsizeof(part)) for part in parts)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
    total = len(SESSIONS) * each + block(sys.getsizeof(SESSIONS))
    out.write("%d %d %d\n" % (time.time() * 1e9, len(SESSIONS), total))
    out.flush()
    time.sleep(0.004)
