"""A heap of so many megabytes, a tight loop that measures its own gaps, and busy threads.

``argv``: megabytes, ``ordinary`` or ``everywhere``. The loop writes into a few megabytes
of its objects, or into all of them at random. Says ``ready``; then per line on stdin one
line of JSON. ``look``: ``gap_ns``, the longest gap of the loop since the last line, and
``p99_ns`` of its requests (200 turns each), to 8 us. Whoever looks must not keep the loop
from the GIL, or that would be the gap: requests are counted, not kept. ``inside``: dumps
from inside, by ``gc.get_objects()``, and says how many objects and how long.
"""

import gc
import json
import random
import sys
import threading
import time
import zlib

HOT, REQUEST = 50_000, 200
STEP, STEPS = 13, 4096  # requests are counted by their length in 8 us, up to 33 ms
now = time.perf_counter_ns
seen = {"gap": 0}
lengths = [0] * STEPS


def build(megabytes):
    """Lists in lists: about 180 bytes each, with two small objects of their own."""
    return [[i, str(i), None] for i in range(megabytes * 5600)]


def loop(objects):
    choose = random.Random(0).randrange
    places = [choose(len(objects)) for _ in range(1 << 20)]
    if "everywhere" not in sys.argv:
        places = [place % HOT for place in places]
    mask, at, before = len(places) - 1, 0, now()
    while True:
        began = now()
        for _ in range(REQUEST):
            objects[places[at & mask]][2] = at
            at += 1
            moment = now()
            if moment - before > seen["gap"]:  # noqa: PLR1730 - the call would be the loop
                seen["gap"] = moment - before
            before = moment
        lengths[min(now() - began >> STEP, STEPS - 1)] += 1


def crunch():
    data = bytes(1 << 20)
    while True:
        zlib.crc32(data)
        time.sleep(0.001)


def handle(objects):
    count = 0
    while True:
        time.sleep(0.002)
        for at in range(count, count + 50):
            objects[at % HOT][2] = (count, [at])
        count += 50


def look():
    gap, seen["gap"] = seen["gap"], 0
    counts, lengths[:] = lengths[:], [0] * STEPS
    left = sum(counts) // 100
    for length in reversed(range(STEPS)):
        left -= counts[length]
        if left < 0:
            break
    return {"gap_ns": gap, "p99_ns": length << STEP}


def inside():
    gc.disable()
    gc.unfreeze()
    began = now()
    total = 0
    found = gc.get_objects()
    for one in found:
        total += sys.getsizeof(one, 0)
        total += len(gc.get_referents(one))
    count = len(found)
    del found
    said = {"objects": count, "duration_ns": now() - began, "total": total}
    gc.freeze()
    gc.enable()
    return said


def main():
    gc.disable()
    objects = build(int(sys.argv[1]))
    gc.freeze()  # the collector's own pauses would be seen as ours
    gc.enable()
    for target in ((loop, objects), (crunch,), (handle, objects), (handle, objects)):
        threading.Thread(target=target[0], args=target[1:], daemon=True).start()
    print("ready")
    for line in iter(sys.stdin.readline, ""):
        print(json.dumps({"look": look, "inside": inside}[line.strip()]()))


main()
