"""Threads that wait because there is nothing to do. Nothing here is wrong."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time

from truth_log import Clock, Log, main, start

WORKERS = 8


def work(log: Log, all_there: threading.Barrier) -> None:
    """A worker's only task: once all are there they go back to wait for more."""
    all_there.wait()
    log.for_ever("lock", "work for the pool", idle=True)


async def serve(log: Log, ending: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]]) -> None:
    """A loop without anything to do."""
    ending.append((asyncio.get_running_loop(), asyncio.Event()))
    log.for_ever("io", "something to happen in the loop", idle=True)
    await ending[0][1].wait()


def run_loop(log: Log, ending: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]]) -> None:
    """A thread for the loop."""
    asyncio.run(serve(log, ending))


def run(log: Log, clock: Clock) -> None:
    """A pool, a loop and a timer, all of them idle; the main thread looks in often."""
    pool = concurrent.futures.ThreadPoolExecutor(WORKERS, thread_name_prefix="pool")
    all_there = threading.Barrier(WORKERS)
    for _ in range(WORKERS):
        pool.submit(work, log, all_there)
    ending: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
    loop_thread = start(("event-loop", run_loop, log, ending))[0]
    timer = threading.Timer(clock.left() + 60, print)
    timer.name = "timer"
    timer.start()
    log.for_ever("lock", "the timer's time", idle=True, thread=timer)
    while clock.left() > 0:
        with log.wait("sleep", "between two looks", asked=0.1):
            time.sleep(0.1)
    timer.cancel()
    ending[0][0].call_soon_threadsafe(ending[0][1].set)
    loop_thread.join()
    pool.shutdown()


if __name__ == "__main__":
    main(run, seconds=5)
