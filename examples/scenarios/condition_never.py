"""A condition that nobody notifies: only its time limit, at the very end, helps.

Beside it other waits that nobody ends either, with shorter limits.
"""

from __future__ import annotations

import threading

from truth_log import Clock, Log, join, main, start


def wait_for_nothing(log: Log, clock: Clock) -> None:
    """One wait for all of the time that there is."""
    condition = threading.Condition()
    with condition:
        left = clock.left()
        with log.wait("lock", "a condition never notified", asked=left):
            condition.wait(left)


def wait_for_events(log: Log, clock: Clock) -> None:
    """``Event.wait`` that times out."""
    event = threading.Event()
    for length, _ in clock.lengths():
        with log.wait("lock", "an event never set", asked=length):
            event.wait(length)


def wait_for_semaphore(log: Log, clock: Clock) -> None:
    """``Semaphore.acquire`` that times out."""
    semaphore = threading.Semaphore(0)
    for length, _ in clock.lengths():
        with log.wait("lock", "a semaphore never released", asked=length):
            semaphore.acquire(timeout=length)


def wait_for_lock(log: Log, clock: Clock) -> None:
    """``Lock.acquire`` that times out."""
    lock = threading.Lock()
    lock.acquire()
    for length, _ in clock.lengths():
        with log.wait("lock", "a lock never released", asked=length):
            lock.acquire(timeout=length)


def run(log: Log, clock: Clock) -> None:
    """One thread per way to wait in vain."""
    threads = start(
        ("condition", wait_for_nothing, log, clock),
        ("event", wait_for_events, log, clock),
        ("semaphore", wait_for_semaphore, log, clock),
        ("lock", wait_for_lock, log, clock),
    )
    join(log, threads)


if __name__ == "__main__":
    main(run, seconds=8)
