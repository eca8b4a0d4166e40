"""Allocates in known ways and says what it did; run by CPython 3.8 to 3.15.

Says "ready", then obeys lines on stdin, each answered by one line of JSON:

``large WHAT COUNT``  COUNT requests over 4 KiB by ``bytes``, ``list`` or ``numpy``
``grow COUNT``        COUNT objects that stay
``pools``             how many pools that took, by block size
"""

import itertools
import json
import os
import re
import sys
import threading

BYTES_HEADER = sys.getsizeof(b"")
POINTER = 8
kept = []
printed = []


def large_bytes(count):
    sizes = [5000 + at for at in range(count)]
    for size in sizes:
        bytes(size)
    return [size + BYTES_HEADER for size in sizes]


def large_list(count):
    """Half of them made whole, half by growing, which asks anew each time it is full."""
    sizes = [5000 + at for at in range(count // 2)]
    for size in sizes:
        [None] * size
    requests = [size * POINTER for size in sizes]
    while len(requests) < count:
        growing, empty = [], sys.getsizeof([])
        before = 0
        while before < 40_000 and len(requests) < count:
            growing.append(None)
            now = sys.getsizeof(growing) - empty
            if now != before and now > 4096:
                requests.append(now)
            before = now
    return requests


def large_numpy(count):
    import numpy as np

    requests = []
    for at in range(count // 2):
        size = 600 + at
        np.empty(size)
        np.zeros(size)
        requests += [size * 8, size * 8]
    return requests


def print_pools():
    """Keep what the interpreter prints on stderr of its pools; reading it takes pools, too."""
    read_end, write_end = os.pipe()
    real = os.dup(2)
    os.dup2(write_end, 2)
    os.close(write_end)
    with os.fdopen(read_end) as stream:
        reader = threading.Thread(target=lambda: printed.append(stream.read()))
        reader.start()
        sys._debugmallocstats()
        os.dup2(real, 2)
        os.close(real)
        reader.join()


def pools(text):
    """Pools in use by block size."""
    rows = re.findall(r"^ +\d+ +(\d+) +(\d+) +\d+ +\d+ *$", text, re.MULTILINE)
    return {int(size): int(count) for size, count in rows}


def grow(count):
    """Only objects that stay, so that no pool is emptied and taken again."""
    print_pools()
    for size in (20, 60, 200, 400):
        kept.extend(map(bytes, itertools.repeat(size, count)))
    print_pools()
    return {}


def grown():
    """By how many pools, by block size."""
    before, after = map(pools, printed[-2:])
    return {str(size): after[size] - before.get(size, 0) for size in after}


def main():
    if "numpy" in sys.argv:
        import numpy as np  # noqa: F401 before it is watched: its import allocates too
    print("ready", flush=True)
    for line in sys.stdin:
        what, *rest = line.split()
        if what == "large":
            allocate = {"bytes": large_bytes, "list": large_list, "numpy": large_numpy}[rest[0]]
            answer = {"tid": threading.get_native_id(), "sizes": allocate(int(rest[1]))}
        else:
            answer = grow(int(rest[0])) if what == "grow" else grown()
        print(json.dumps(answer), flush=True)


main()
