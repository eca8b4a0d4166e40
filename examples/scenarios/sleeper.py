"""``time.sleep`` of several lengths, some of them woken up into a busy interpreter."""

from __future__ import annotations

import time

from truth_log import Clock, Computing, Log, join, main, start


def sleep(log: Log, clock: Clock, lengths: tuple[float, ...]) -> None:
    """Sleep each of the lengths."""
    for length in lengths:
        if clock.left() > length:
            with log.wait("sleep", f"time.sleep({length:g})", asked=length):
                time.sleep(length)


def run(log: Log, clock: Clock) -> None:
    """At rest and among a computing thread, in turns."""
    while clock.left() > 1.5:
        rest(log, clock)
        with Computing(log):
            rest(log, clock)


def rest(log: Log, clock: Clock) -> None:
    """Three sleepers, each with other lengths."""
    join(
        log,
        start(
            ("sleeper-short", sleep, log, clock, (0.15, 0.205, 0.15, 0.25)),
            ("sleeper-middle", sleep, log, clock, (0.205, 0.5)),
            ("sleeper-long", sleep, log, clock, (1.2,)),
        ),
    )


if __name__ == "__main__":
    main(run, seconds=8)
