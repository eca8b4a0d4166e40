"""Waits for locks in known ways and says what it did; run by CPython 3.8 to 3.15.

Says "ready", then obeys lines on stdin, each answered by one line of JSON:

``lock CLASS SECONDS [TIMEOUT]``  a thread waits for a held lock that is let go later
``gil SECONDS``                  a thread wants the GIL while C code holds it
``free COUNT``                   COUNT uncontended ``with lock:``
"""

import json
import sys
import threading
import time


def now():
    return time.monotonic_ns()


class Semaphores(threading.Semaphore):
    """Released by ``release`` like a lock."""

    def __init__(self):
        super().__init__(1)


kept = []


def held(kind):
    kinds = {"Lock": threading.Lock, "RLock": threading.RLock, "Semaphore": Semaphores}
    lock = kinds[kind]()
    lock.acquire()  # type: ignore[attr-defined]
    return lock


def wait_for_lock(kind, seconds, timeout):
    lock = held(kind)
    truth = {}

    def waiter():
        truth["tid"] = threading.get_native_id()
        truth["start_ns"] = now()
        truth["got"] = lock.acquire() if timeout is None else lock.acquire(timeout=timeout)
        truth["end_ns"] = now()

    thread = threading.Thread(target=waiter)
    thread.start()
    time.sleep(seconds)
    truth["release_ns"] = now()
    lock.release()
    thread.join()
    kept.append(lock)
    truth["address"] = id(lock)
    return truth


def c_call(steps):
    """One call of C code that keeps the GIL; the time it took in seconds."""
    begin = time.perf_counter()
    sum(range(steps))
    return time.perf_counter() - begin


def starve(steps):
    """A thread wants the GIL just when another has gone into C code with it."""
    truth, begun = {}, threading.Event()

    def victim():
        truth["tid"] = threading.get_native_id()
        begun.wait()
        truth["end_ns"] = now()

    def hog():
        truth["hog_start_ns"] = now()
        begun.set()
        c_call(steps)

    threads = [threading.Thread(target=victim), threading.Thread(target=hog)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return truth


def hold_gil(seconds):
    step = min(c_call(200000) for _ in range(5)) / 200000
    while True:  # on a busy machine the hog may have lost the GIL before its C code
        truth = starve(int(seconds / step))
        if truth["end_ns"] - truth["hog_start_ns"] > seconds * 1e9 / 2:
            return truth


def free(count):
    lock = threading.Lock()
    for _ in range(count):
        with lock:
            pass
    return {"count": count}


def main():
    print("ready", flush=True)
    for line in sys.stdin:
        what, *rest = line.split()
        if what == "lock":
            timeout = float(rest[2]) if len(rest) > 2 else None
            answer = wait_for_lock(rest[0], float(rest[1]), timeout)
        elif what == "gil":
            answer = hold_gil(float(rest[0]))
        else:
            answer = free(int(rest[0]))
        print(json.dumps(answer), flush=True)


main()
