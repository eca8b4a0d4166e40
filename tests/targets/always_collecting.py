"""Collects garbage again and again, with ``argv`` milliseconds in between."""

import gc
import sys
import time

rest = float(sys.argv[1]) / 1000
objects = [[i, {}] for i in range(200_000)]
print("ready")
while True:
    gc.collect()
    time.sleep(rest)
