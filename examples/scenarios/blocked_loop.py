"""An asyncio loop that stands still because coroutines make blocking calls."""

from __future__ import annotations

import asyncio
import socket
import threading
import time

from truth_log import Clock, Log, join, main, start


def hold(log: Log, lock: threading.Lock, held: threading.Event, length: float) -> None:
    """Another thread has the lock for a while."""
    with lock:
        held.set()
        with log.wait("sleep", "holding the lock", asked=length):
            time.sleep(length)


def answer(log: Log, peer: socket.socket, length: float) -> None:
    """Another thread answers late."""
    with log.wait("sleep", "not answering", asked=length):
        time.sleep(length)
    peer.sendall(b"x")


async def tick() -> None:
    """What the loop is there for: something short, often."""
    while True:  # noqa: ASYNC110 - there is nothing to wait for
        await asyncio.sleep(0.02)


async def sleep_in_coroutine(log: Log, length: float) -> None:
    """The classic: ``time.sleep`` instead of ``asyncio.sleep``."""
    with log.wait("sleep", "time.sleep in a coroutine", asked=length):
        time.sleep(length)  # noqa: ASYNC251 - the very fault that this shows


async def lock_in_coroutine(log: Log, length: float) -> None:
    """A ``threading.Lock`` that a thread holds."""
    lock, held = threading.Lock(), threading.Event()
    threads = start(("holder", hold, log, lock, held, length))
    held.wait()
    with log.wait("lock", "a lock in a coroutine", holder=threads[0].native_id):
        lock.acquire()
    lock.release()
    join(log, threads)


async def recv_in_coroutine(log: Log, length: float) -> None:
    """A blocking ``recv``."""
    own, peer = socket.socketpair()
    with own, peer:
        threads = start(("peer", answer, log, peer, length))
        with log.wait("io", "recv in a coroutine"):
            own.recv(1)
        join(log, threads)


async def serve(log: Log, clock: Clock) -> None:
    """One blocking call after the other, the loop running freely between them."""
    ticking = asyncio.ensure_future(tick())
    calls = (sleep_in_coroutine, lock_in_coroutine, recv_in_coroutine)
    for length, _ in clock.lengths():
        for call in calls:
            if clock.left() > length:
                await call(log, length)
                await asyncio.sleep(0.04)
    ticking.cancel()


def run(log: Log, clock: Clock) -> None:
    """The loop runs in the main thread, as it mostly does."""
    asyncio.run(serve(log, clock))


if __name__ == "__main__":
    main(run, seconds=8)
