"""Consumers that wait in ``queue.get`` for a producer that does not keep up."""

from __future__ import annotations

import queue
import time

from truth_log import Clock, Computing, Log, join, main, start


def produce(
    log: Log, clock: Clock, queues: list[queue.Queue[str | None] | queue.SimpleQueue[str | None]]
) -> None:
    """One item for everybody after each length of time, then the end."""
    for length, turn in clock.lengths():
        if turn % 2:
            with Computing(log):
                make(log, length)
                give(queues, "item")
                time.sleep(0.03)  # the consumers wake up while it computes
        else:
            make(log, length)
            give(queues, "item")
    give(queues, None)


def make(log: Log, length: float) -> None:
    """What takes the producer so long."""
    with log.wait("sleep", "producing", asked=length):
        time.sleep(length)


def give(
    queues: list[queue.Queue[str | None] | queue.SimpleQueue[str | None]], item: str | None
) -> None:
    """The same to all."""
    for one in queues:
        one.put(item)


def consume(log: Log, items: queue.Queue[str | None] | queue.SimpleQueue[str | None]) -> None:
    """Take items until there are no more."""
    while True:
        with log.wait("lock", "queue.get"):
            item = items.get()
        if item is None:
            return


def consume_with_limit(
    log: Log, items: queue.Queue[str | None] | queue.SimpleQueue[str | None]
) -> None:
    """The same with a time limit."""
    while True:
        with log.wait("lock", "queue.get with a limit"):
            item = items.get(timeout=60)
        if item is None:
            return


def run(log: Log, clock: Clock) -> None:
    """Both kinds of queue, with and without a limit."""
    queues = [queue.Queue(), queue.Queue(), queue.SimpleQueue()]
    threads = start(
        ("producer", produce, log, clock, queues),
        ("consumer", consume, log, queues[0]),
        ("consumer-limit", consume_with_limit, log, queues[1]),
        ("consumer-simple", consume, log, queues[2]),
    )
    join(log, threads)


if __name__ == "__main__":
    main(run, seconds=8)
