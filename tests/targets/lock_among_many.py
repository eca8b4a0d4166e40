"""A thread that waits for a lock, one that has it, and many others in other waits.

    python lock_among_many.py COUNT

One line of JSON: {"waiter", "holder"} (native ids). Every thread has a dozen frames.
"""

import json
import sys
import threading

threading.stack_size(256 * 1024)


class Pool:
    def __init__(self):
        self.lock = threading.Lock()


POOL = Pool()
never = threading.Event()
there = threading.Event()


def deep(depth, function):
    return deep(depth - 1, function) if depth else function()


def hold():
    with POOL.lock:
        there.set()
        never.wait()


def want():
    with POOL.lock:
        raise AssertionError


def run(function):
    thread = threading.Thread(target=deep, args=(8, function), daemon=True)
    thread.start()
    return thread.native_id


holder = run(hold)
there.wait()
waiter = run(want)
for _ in range(int(sys.argv[1]) - 3):
    run(never.wait)
print(json.dumps({"waiter": waiter, "holder": holder}), flush=True)
never.wait()
