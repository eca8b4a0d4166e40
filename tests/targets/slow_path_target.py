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


def hold_gil(seconds):
    step = min(c_call(200000) for _ in range(5)) / 200000
    steps = int(seconds / step)
    truth, asleep = {}, threading.Event()

    def victim():
        truth["tid"] = threading.get_native_id()
        asleep.set()
        time.sleep(0.01)
        truth["end_ns"] = now()

    def hog():
        truth["hog_start_ns"] = now()
        c_call(steps)
        truth["hog_end_ns"] = now()

    threads = [threading.Thread(target=victim), threading.Thread(target=hog)]
    threads[0].start()
    asleep.wait()
    threads[1].start()
    for thread in threads:
        thread.join()
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
