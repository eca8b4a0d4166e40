"""Requests queue up at one shard of a native concurrent map that a clean-up keeps too long.

Needs the package ``concurrent_map`` (examples/concurrent_map).
"""

from __future__ import annotations

import threading
import time
from itertools import cycle

from concurrent_map import ConcurrentMap
from truth_log import Clock, Log, join, main, start

sessions: ConcurrentMap[str, int] = ConcurrentMap(name="sessions", shards=4)
POPULAR = "user-1"


def clean_up(log: Log, clock: Clock) -> None:
    """Go through a shard with its lock held, for various lengths."""
    for length in cycle((0.5, 0.15, 1.2, 0.25)):
        if clock.left() < length:
            return
        with sessions.exclusive(POPULAR) as shard:
            go_through(log, shard, length)
        time.sleep(0.03)


def go_through(log: Log, shard: object, length: float) -> None:
    """Something slow, meanwhile nobody else gets at ``shard``."""
    assert shard is not None
    with log.wait("sleep", "with the shard held", asked=length):
        time.sleep(length)


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
    (cleaner,) = start(("cleaner", clean_up, log, clock))
    servers = [(f"server-{n}", serve, log, clock, cleaner) for n in range(3)]
    join(log, [cleaner, *start(*servers)])


if __name__ == "__main__":
    main(run, seconds=8)
