"""Blocks of one size, of which each seventh stays: what is free lies between the survivors."""

from moments import moment

blocks = [bytes(700) for _ in range(60_000)]
moment("full")
blocks = blocks[::7]
moment("final")
