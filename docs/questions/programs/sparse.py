# numpy asks for huge pages for its large blocks; sparse arrays that come to lie there are resident whole.
import ctypes
import time

import numpy as np

np.ones(31 << 20, np.uint8)  # a mapped block is freed: glibc's mmap threshold grows
blocks = [np.ones(26 << 20, np.uint8) for _ in range(5)]
above = np.ones(3 << 20, np.uint8)
del blocks
ctypes.CDLL("libc.so.6").malloc_trim(0)
sparse = []
for _ in range(50):  # three pages of each 2.3 MB are written
    array = np.empty(2_300_000, np.uint8)
    array[:: 1 << 20] = 1
    sparse.append(array)
print("ready", flush=True)
time.sleep(3600)
