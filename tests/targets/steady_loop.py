"""A loop that notices when it was held up, beside threads that wait for a lock all the time.

    python steady_loop.py

prints ``ready``; then, for every line on stdin, one line of JSON about the time since the
line before: ``rounds`` of the loop, ``longest_ns`` between two of them, ``waits`` for the lock.
"""

import json
import queue
import sys
import threading
import time

asked: "queue.SimpleQueue[bool]" = queue.SimpleQueue()
taken = threading.Lock()
waits = [0]


def read() -> None:
    for _line in sys.stdin:
        asked.put(True)
    asked.put(False)


def wait() -> None:
    """Nobody ever releases it: each wait goes its whole way through libc's slow path."""
    while True:
        taken.acquire(timeout=0.001)
        waits[0] += 1


def main() -> None:
    taken.acquire()
    free = threading.Lock()
    for work in (read, wait, wait):
        threading.Thread(target=work, daemon=True).start()
    print("ready", flush=True)
    rounds = longest = 0
    last = time.perf_counter_ns()
    while True:
        with free:
            rounds += 1
        now = time.perf_counter_ns()
        longest = max(longest, now - last)
        last = now
        if rounds % 1000 == 0 and not asked.empty():
            if not asked.get():
                return
            print(
                json.dumps({"rounds": rounds, "longest_ns": longest, "waits": waits[0]}),
                flush=True,
            )
            rounds = longest = waits[0] = 0
            last = time.perf_counter_ns()


main()
