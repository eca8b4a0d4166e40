"""Programs with long waits that look like deadlocks and are none: ``no_deadlock.py NAME``.

Each runs until it is killed; every long wait in it ends, or is one that a signal may end.
"""

import queue
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

LOCKS = [threading.Lock() for _ in range(4)]


def start(function, *args):
    threading.Thread(target=function, args=args, daemon=True).start()


def ordered():
    """Many take several locks in one order, and keep them for long."""

    def work(first):
        while True:
            with LOCKS[first], LOCKS[first + 1]:
                time.sleep(0.12)

    for first in (0, 1, 2, 0, 1, 2):
        start(work, first)


def timed():
    """Two want each other's lock, and give up after a while."""

    def work(mine, other):
        while True:
            with LOCKS[mine]:
                time.sleep(0.01)
                if LOCKS[other].acquire(timeout=0.6):
                    LOCKS[other].release()

    start(work, 0, 1)
    start(work, 1, 0)


def quiet():
    """Everybody waits for work, the main thread for a signal."""
    stop = threading.Event()
    signal.signal(signal.SIGUSR1, lambda *_: stop.set())
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(time.sleep, [0.01] * 4))
        items = queue.Queue()
        start(items.get)
        print("ready", flush=True)
        stop.wait()


def joined():
    """The main thread joins a worker that waits for what a signal's handler puts."""
    items = queue.Queue()
    signal.signal(signal.SIGUSR1, lambda *_: items.put(1))
    worker = threading.Thread(target=items.get)
    worker.start()
    print("ready", flush=True)
    worker.join()


def fed():
    """The consumer holds a lock that a producer wants; another one, which sleeps, feeds it."""
    items = queue.Queue()

    def seldom():
        while True:
            time.sleep(0.7)
            items.put(1)

    def want():
        with LOCKS[0]:
            pass

    start(seldom)
    with LOCKS[0]:
        start(want)
        print("ready", flush=True)
        while True:
            items.get()


def released_by_others():
    """Two take a lock over and over and never let go of it; somebody else does that."""

    def take(lock):
        while True:
            lock.acquire()

    def let_go(lock):
        while True:
            time.sleep(0.5)
            if lock.locked():
                lock.release()

    for lock in LOCKS[:2]:
        start(take, lock)
        start(let_go, lock)


def main():
    globals()[sys.argv[1]]()
    print("ready", flush=True)
    while True:
        time.sleep(60)


if __name__ == "__main__":
    main()
