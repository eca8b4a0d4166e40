"""One call into C that never looks up keeps the GIL for half a second."""

from __future__ import annotations

import threading
import time

from truth_log import SHORTEST_NS, Clock, Log, join, main, now_ns, start

HOLD_SECONDS = 0.5


def calibrated() -> int:
    """How many numbers ``sum`` adds up in one hold on this machine.

    ``sum(range(n))`` runs in C without ever asking whether somebody wants the GIL.
    """
    count = 1000 * 1000
    seconds = timed(count)
    while seconds < HOLD_SECONDS / 4:
        count *= 2
        seconds = timed(count)
    return int(count * HOLD_SECONDS / seconds)


def timed(count: int) -> float:
    """Seconds that the sum of ``count`` numbers takes."""
    began = now_ns()
    sum(range(count))
    return (now_ns() - began) / 1e9


def hog(log: Log, clock: Clock, count: int) -> None:
    """Rest, then hold the GIL, again and again."""
    while clock.left() > 2 * HOLD_SECONDS:
        with log.wait("sleep", "resting", asked=0.3):
            time.sleep(0.3)
        sum(range(count))


def compute(log: Log, clock: Clock, hogs: list[threading.Thread]) -> None:
    """Python code that is stopped by the hog: the gap in its own clock is the wait."""
    log.without_gaps()
    while hogs[0].is_alive():  # who ends before it may have to wait for it while it ends
        before = now = log.mark()
        while now < clock.end_ns and now - before < SHORTEST_NS:
            before, now = now, now_ns()
        log.covered(now)
        if now - before >= SHORTEST_NS:
            log.write(
                kind="gil",
                what="the GIL",
                start_ns=before,
                end_ns=now,
                contended=True,
                holder=hogs[0].native_id,
            )
        with log.wait("sleep", "between two computations", asked=0.1):
            time.sleep(0.1)


def wake_up(log: Log, hogs: list[threading.Thread]) -> None:
    """A short sleep whose end nobody sees: it comes back into the hog's hold."""
    log.without_gaps()
    while hogs[0].is_alive():
        with log.wait("sleep", "a short sleep", asked=0.03):
            time.sleep(0.03)


def run(log: Log, clock: Clock) -> None:
    """One hog, two kinds of victims."""
    count = calibrated()
    log.computing += 1
    hogs = start(("hog", hog, log, clock, count))
    victims = start(
        ("victim-computing", compute, log, clock, hogs),
        ("victim-waking", wake_up, log, hogs),
    )
    join(log, hogs + victims)


if __name__ == "__main__":
    main(run, seconds=6)
