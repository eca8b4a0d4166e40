"""Holds numpy arrays, of objects and of numbers: says "ready", stands still."""

import time

import numpy


class Held:
    pass


OBJECTS = numpy.array([Held() for _ in range(60)], dtype=object).reshape(3, 20)
NUMBERS = numpy.zeros((50, 20))
VIEW = NUMBERS[1:]
print("ready", NUMBERS.__sizeof__(), flush=True)
while True:
    time.sleep(3600)
