"""Four threads that write in an order which an image of one moment must show.

Each thread has two arrays of SLOTS pages. For n = 1, 2, … it writes n into page n % SLOTS
of the first array, then into the same page of the second. So at any moment there is a
last N: the first array holds N, N-1 … N-SLOTS+1, the second the same, but perhaps N-SLOTS
in place of N. The first line after ``ready`` is JSON: the arrays' addresses, and blocks
that never change with their SHA-256. ``argv``: megabytes of ordinary objects besides.
"""

import array
import hashlib
import json
import os
import random
import sys
import threading

SLOTS, WORDS = 64, 512


def block(size, seed):
    """Bytes of a kind (mapped by malloc when large) that nobody writes to any more."""
    return array.array("Q", random.Random(seed).sample(range(1 << 40, 1 << 41), size // 8))


def write(first, second):
    n = 0
    while True:
        for _ in range(SLOTS):
            n += 1
            at = n % SLOTS * WORDS
            first[at] = n
            second[at] = n


def about(one):
    address, length = one.buffer_info()
    return [address, length * 8, hashlib.sha256(one.tobytes()).hexdigest()]


objects = [[i, str(i), {i: None}] for i in range(int(sys.argv[1]) * 2400 if sys.argv[1:] else 0)]
pairs = [[array.array("Q", bytes(SLOTS * WORDS * 8)) for _ in "ab"] for _ in range(4)]
still = [block(size, size) for size in (64, 4096, 40000, 300000, 2000000)]
for pair in pairs:
    threading.Thread(target=write, args=pair, daemon=True).start()
print("ready")
print(
    json.dumps(
        {
            "pairs": [[one.buffer_info()[0] for one in pair] for pair in pairs],
            "still": [about(one) for one in still],
            "self": id(objects),
            "pid": os.getpid(),
        }
    )
)
sys.stdin.read()
