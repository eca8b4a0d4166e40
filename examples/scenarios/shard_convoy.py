"""Requests queue up at one shard of a native concurrent map that a clean-up keeps too long.

Needs the package ``concurrent_map`` (examples/concurrent_map). Nobody else parks for long: the
clean-up goes on step by step, the main thread looks in now and then.
"""

from __future__ import annotations

import threading
import time
from itertools import cycle

from concurrent_map import ConcurrentMap
from truth_log import Clock, Log, main, start

sessions: ConcurrentMap[str, int] = ConcurrentMap(name="sessions", shards=4)
POPULAR = "user-1"
STEP = 0.15


def clean_up(clock: Clock) -> None:
    """Go through a shard with its lock held, for various lengths, after some good times."""
    for steps in cycle((4, 1, 8, 2)):
        rest(3)
        if clock.left() < 2 * steps * STEP:
            return
        with sessions.exclusive(POPULAR) as shard:
            go_through(shard, steps)


def go_through(shard: object, steps: int) -> None:
    """Something slow; meanwhile nobody else gets at ``shard``."""
    assert shard is not None
    rest(steps)


def rest(steps: int) -> None:
    """A while in small steps."""
    for _ in range(steps):
        time.sleep(STEP)


def serve(log: Log, clock: Clock, cleaner: threading.Thread) -> None:
    """Store the popular session again and again."""
    served, shard = 0, f"shard {sessions.shard_of(POPULAR)}"
    while clock.left() > 0:
        with log.wait("map", shard, holder=cleaner.native_id):
            sessions.store(POPULAR, served)
        served += 1
        time.sleep(0.005)


def run(log: Log, clock: Clock) -> None:
    """One that cleans up, three that serve."""
    for number in range(1000):
        sessions.store(f"user-{number}", number)
    (cleaner,) = start(("cleaner", clean_up, clock))
    threads = [cleaner, *start(*((f"server-{n}", serve, log, clock, cleaner) for n in range(3)))]
    while any(thread.is_alive() for thread in threads):
        threads[-1].join(STEP)
        rest(1)


if __name__ == "__main__":
    main(run, seconds=8)
