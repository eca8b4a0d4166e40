"""Three threads queue up behind one that holds a lock far too long."""

from __future__ import annotations

import threading
import time

from truth_log import Clock, Computing, Log, join, main, start


def hold(log: Log, clock: Clock, lock: threading.Lock) -> None:
    """Hold the lock for various lengths; in every second round a thread computes."""
    for length, turn in clock.lengths():
        with log.wait("lock", "the lock"):
            lock.acquire()
        if turn % 2:
            with Computing(log):
                held(log, length)
                lock.release()
                time.sleep(0.03)  # the others wake up while it computes
        else:
            held(log, length)
            lock.release()
            time.sleep(0.03)


def held(log: Log, length: float) -> None:
    """What the holder does with the lock: nothing, slowly."""
    with log.wait("sleep", "holding the lock", asked=length):
        time.sleep(length)


def queue_up(log: Log, clock: Clock, lock: threading.Lock) -> None:
    """Want the lock all the time, for a moment each."""
    while clock.left() > 0:
        with log.wait("lock", "the lock"):
            lock.acquire()
        time.sleep(0.005)
        lock.release()
        time.sleep(0.005)


def run(log: Log, clock: Clock) -> None:
    """One holder, three that wait."""
    lock = threading.Lock()
    waiters = [(f"waiter-{i}", queue_up, log, clock, lock) for i in range(3)]
    join(log, start(("holder", hold, log, clock, lock), *waiters))


if __name__ == "__main__":
    main(run, seconds=8)
