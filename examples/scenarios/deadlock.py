"""Two threads each hold the lock that the other one wants. Nobody ever gets out."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

from truth_log import Clock, Log, main, start

Lock = Any  # what threading.Lock() and threading.RLock() return has no common name


def take_both(
    log: Log,
    first: tuple[Lock, str],
    second: tuple[Lock, str],
    both_hold: threading.Barrier,
    holders: dict[str, int],
) -> None:
    """Take ``first``, wait until the other thread has its own, then want ``second``."""
    with first[0]:
        holders[first[1]] = threading.get_native_id()
        both_hold.wait()
        log.for_ever("lock", second[1], holder=holders[second[1]])
        with second[0]:
            raise AssertionError("there is no way to get here")


def run(log: Log, clock: Clock) -> None:
    """Lock them up, look at it for a while, leave without joining."""
    a, b = (threading.Lock(), "lock A"), (threading.RLock(), "lock B")
    both_hold = threading.Barrier(2)
    holders: dict[str, int] = {}
    start(
        ("takes-a-then-b", take_both, log, a, b, both_hold, holders),
        ("takes-b-then-a", take_both, log, b, a, both_hold, holders),
    )
    while clock.left() > 0:
        length = min(0.5, clock.left())
        with log.wait("sleep", "looking on", asked=length):
            time.sleep(length)
    os._exit(0)  # an orderly end would wait for the two


if __name__ == "__main__":
    main(run, seconds=5)
