"""A burst of blocks of mixed sizes, of which one in fifty stays."""

import random

from moments import moment

chance = random.Random(1)
blocks = [bytes(chance.randrange(520, 6000)) for _ in range(60_000)]
moment("full")
chance.shuffle(blocks)
blocks = blocks[:1_200]
moment("final")
