"""The switch rate of this very process, which knows how often it has slept."""

from __future__ import annotations

import os
import threading

from tracer.backends.bcc.switch_rate import LOOK_NS, MAX_THREADS, SwitchRate

SECOND = 1_000_000_000


def test_counts_every_voluntary_switch() -> None:
    rate = SwitchRate([os.getpid()], 0)
    never = threading.Event()
    for _ in range(100):
        never.wait(0.0001)
    assert rate.per_second(SECOND) >= 100
    assert rate.per_second(10 * SECOND) >= 10


def test_many_threads_are_sampled_and_stand_for_all() -> None:
    stop, begin = threading.Event(), threading.Event()
    count = 2 * MAX_THREADS
    slept = threading.Barrier(count + 1)

    def sleeper() -> None:
        begin.wait()
        for _ in range(4):
            stop.wait(0.0001)
        slept.wait()
        stop.wait()

    threads = [threading.Thread(target=sleeper) for _ in range(count)]
    for thread in threads:
        thread.start()
    rate = SwitchRate([os.getpid()], 0)
    begin.set()
    slept.wait()
    seen = rate.per_second(SECOND)
    stop.set()
    for thread in threads:
        thread.join()
    assert seen >= count * 4


def test_it_takes_a_while_to_know() -> None:
    rate = SwitchRate([os.getpid()], SECOND)
    assert not rate.known(SECOND + LOOK_NS - 1)
    assert rate.known(SECOND + LOOK_NS)


def test_a_process_that_has_gone_switches_no_more() -> None:
    assert SwitchRate([2**22 - 1], 0).per_second(SECOND) == 0
