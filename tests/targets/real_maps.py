"""Uses native maps from PyPI as it is told, one command per line on stdin; answers in JSON.

``cereggii THREADS KEYS``  threads fill an AtomicDict that has to grow; then it is iterated over
``immutables N``           N iterations over a Map, and N mutations begun
"""

import json
import sys
import threading

import cereggii
import immutables

atomic = cereggii.AtomicDict(min_size=64)
mapping = immutables.Map(a=1, b=2)


def log_size():
    return atomic._debug()["meta"]["log_size"]


def fill(threads, keys):
    before = log_size()
    start = threading.Barrier(threads)

    def work(first):
        start.wait()
        for key in range(first, keys, threads):
            atomic[key] = key

    running = [threading.Thread(target=work, args=(first,)) for first in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    for _ in range(5):
        sum(1 for _ in atomic.fast_iter())
    return {"splits": log_size() - before, "iterators": 5, "address": id(atomic)}


def walk(count):
    for _ in range(count):
        list(mapping.items())
        with mapping.mutate() as changing:
            changing["c"] = 3
            changing.finish()
    return {"iterators": count, "address": id(mapping)}


def main():
    print("ready", flush=True)
    for line in sys.stdin:
        name, *numbers = line.split()
        first, *rest = map(int, numbers)
        found = fill(first, rest[0]) if name == "cereggii" else walk(first)
        print(json.dumps(found), flush=True)


main()
