"""Builds many small objects, forks, and collects garbage in the child, which prints its number and stays.
With an argument what was built is frozen before the fork."""
import gc
import os
import sys

rows = [{"id": i, "name": "task-%d" % i, "deps": [i, i + 1]} for i in range(60000)]
texts = ["text %d" % i * 9 for i in range(60000)]
if len(sys.argv) > 1:
    gc.collect()
    gc.freeze()
ready, tell = os.pipe()
child = os.fork()
if child == 0:
    gc.collect()
    os.write(tell, b"x")
    os.close(tell)
    # The input of both is the test's.
    while True:
        gc.collect()
        sys.stdin.read()
        os._exit(0)
os.read(ready, 1)
sys.stdout.write("%d\n" % child)
sys.stdout.flush()
os.waitpid(child, 0)
