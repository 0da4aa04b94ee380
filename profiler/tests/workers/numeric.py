"""Allocates in three functions over and over: by numpy, by pandas, and by Python alone."""

import io
import sys
import time

import numpy
import pandas

TABLE = "a,b,c\n" + "\n".join("%d,%d.5,name%d" % (n, n, n % 7) for n in range(4000))


def make_array():
    return numpy.arange(20000).astype("float64").copy()


def parse_table():
    return pandas.read_csv(io.StringIO(TABLE))


def make_bytes():
    return bytearray(100000)


print("ready")
sys.stdout.flush()
while True:
    for _ in range(20):
        make_array()
        make_bytes()
    parse_table()
    time.sleep(0.002)
