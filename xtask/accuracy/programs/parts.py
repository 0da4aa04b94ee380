"""Thousands of parts of 160 KiB, received into buffers and dropped, with a few small results between."""

from moments import moment

first = bytearray(400 << 10)
del first
parts, results = [], []
for number in range(2_500):
    parts.append(bytearray(160 << 10))
    if number % 50 == 0:
        results.append(bytes(600))
moment("full")
parts.clear()
moment("final")
