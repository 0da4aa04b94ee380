"""Arrays of which only a part is touched, and scipy's sparse matrices."""

import random
from collections import deque

import numpy as np
from scipy import sparse

from moments import Pace, moment

random.seed(10)
numbers = np.random.default_rng(10)
grids, matrices = deque(), deque()


def grid(keep):
    side = random.choice((400, 700, 1100, 1600))
    cells = np.zeros((side, side))
    for _ in range(random.randint(2, 30)):
        row, column = random.randrange(side - 20), random.randrange(side - 20)
        cells[row : row + 20, column : column + 20] += 1.0
    grids.append(cells)
    while len(grids) > keep:
        del grids[random.randrange(len(grids))]


def matrix(keep):
    side = random.choice((500, 1500, 4000))
    a = sparse.random_array((side, side), density=0.004, rng=numbers, format="csr")
    b = (a @ a.T).tocsr()
    b.eliminate_zeros()
    matrices.append(b.tocoo() if random.random() < 0.3 else b)
    while len(matrices) > keep:
        matrices.popleft()


pace = Pace(0.35)
grid(2)
matrix(2)
moment("warm")
for _ in range(7):
    for _ in range(5):
        grid(25)
    matrix(10)
    pace.wait()
moment("full")
for _ in range(7):
    for _ in range(5):
        grid(25)
    matrix(10)
    pace.wait()
moment("turned")
grids.clear()
moment("grids gone")
matrices.clear()
for _ in range(5):
    grid(3)
    pace.wait()
moment("final")
