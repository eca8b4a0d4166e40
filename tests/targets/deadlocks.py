"""Deadlocks of every sort, by name. Says what it made as one JSON line, then waits in it.

    deadlocks.py NAME [LENGTH]

``rings`` of LENGTH threads take their things in turn; ``tids`` are listed in the order
of who waits for whom. With ``--hold-off`` the last thread closes the ring only when a
line comes on stdin, so that a tracer can attach first.
"""

from __future__ import annotations

import ctypes
import json
import queue
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Callable

HELD: list[Any] = []
TIDS: list[int] = []


def say(**facts: Any) -> None:
    print("ready", flush=True)
    print(json.dumps(facts), flush=True)


def ring(length: int, make: Callable[[int], Any]) -> None:
    """Thread n holds thing n and wants thing n + 1."""
    HELD.extend(make(n) for n in range(length))
    both = threading.Barrier(length)
    tids = [0] * length

    def member(n: int) -> None:
        tids[n] = threading.get_native_id()
        with HELD[n]:
            both.wait()
            if n == length - 1:
                GATE.wait()
            with HELD[(n + 1) % length]:
                raise AssertionError("there is no way to get here")

    for n in range(length):
        threading.Thread(target=member, args=(n,), name=f"ring-{n}", daemon=True).start()
    while not all(tids):
        time.sleep(0.001)
    TIDS.extend(tids)


def locks(length: int) -> None:
    ring(length, lambda _n: threading.Lock())


def mixed(length: int) -> None:
    ring(length, lambda n: threading.RLock() if n % 2 else threading.Lock())


def joins(_length: int) -> None:
    """One holds a lock and joins a thread that wants the lock."""
    lock, taken = threading.Lock(), threading.Event()
    HELD.append(lock)

    def wants() -> None:
        taken.wait()
        GATE.wait()
        with lock:
            pass

    other = threading.Thread(target=wants, name="wants", daemon=True)

    def joins_it() -> None:
        with lock:
            taken.set()
            other.join()

    first = threading.Thread(target=joins_it, name="joins", daemon=True)
    other.start()
    first.start()
    TIDS.extend([first.native_id or 0, other.native_id or 0])


def itself(_length: int) -> None:
    """A thread that wants a lock that it holds."""
    lock = threading.Lock()
    HELD.append(lock)

    def twice() -> None:
        with lock:
            GATE.wait()
            with lock:
                pass

    thread = threading.Thread(target=twice, name="twice", daemon=True)
    thread.start()
    TIDS.append(thread.native_id or 0)


def feed(_length: int) -> None:
    """The main thread waits for a queue under a lock that the only producer wants."""
    lock = threading.Lock()
    items: queue.Queue[int] = queue.Queue()
    HELD.extend([lock, items])

    def produce() -> None:
        GATE.wait()
        with lock:
            items.put(1)

    producer = threading.Thread(target=produce, name="producer", daemon=True)
    with lock:
        producer.start()
        TIDS.extend([threading.get_native_id(), producer.native_id or 0])
        say(tids=TIDS)
        open_gate()
        items.get()


def pool(_length: int) -> None:
    """Both workers of a pool wait for tasks that stand in line behind them."""
    workers = ThreadPoolExecutor(2)
    both = threading.Barrier(2)

    def inner() -> int:
        return 1

    def outer() -> int:
        TIDS.append(threading.get_native_id())
        both.wait()
        later: Future[int] = workers.submit(inner)
        return later.result()

    tasks = [workers.submit(outer) for _ in range(2)]
    while len(TIDS) < 2:
        time.sleep(0.001)
    TIDS.append(threading.get_native_id())
    say(tids=TIDS)
    open_gate()
    tasks[0].result()


def gil(_length: int) -> None:
    """One keeps the GIL while it waits for a mutex of C, whose owner waits for the GIL."""
    lets_go, keeps = ctypes.CDLL(None), ctypes.PyDLL(None)
    mutex = ctypes.create_string_buffer(64)  # zeros: PTHREAD_MUTEX_INITIALIZER
    owned = threading.Event()

    def own() -> None:
        lets_go.pthread_mutex_lock(mutex)
        owned.set()
        while True:
            lets_go.usleep(1000)

    def want() -> None:
        GATE.wait()
        keeps.pthread_mutex_lock(mutex)

    owner = threading.Thread(target=own, name="owner", daemon=True)
    wants = threading.Thread(target=want, name="wants", daemon=True)
    owner.start()
    owned.wait()
    wants.start()
    HELD.append(mutex)
    TIDS.extend([wants.native_id or 0, owner.native_id or 0])


GATE = threading.Event()


def open_gate() -> None:
    """Close the ring, when it was asked to hold off after a line on stdin."""
    if "--hold-off" in sys.argv:
        sys.stdin.readline()
    GATE.set()


def main() -> None:
    name = sys.argv[1]
    length = int(sys.argv[2]) if len(sys.argv) > 2 and sys.argv[2].isdigit() else 2
    made = {"locks": locks, "mixed": mixed, "joins": joins, "itself": itself, "feed": feed}
    {**made, "pool": pool, "gil": gil}[name](length)
    say(tids=TIDS)
    open_gate()
    while True:
        time.sleep(60)


if __name__ == "__main__":
    main()
