"""The scheduler's clock in terms of CLOCK_MONOTONIC.

The kernel notes when a thread came to its CPU on the run queue's clock, which runs at
the same pace as CLOCK_MONOTONIC but for NTP's slewing, with another zero. The offset
is measured with own threads that note the time and go to sleep, and are then looked
at through the same iterator as the targets. A thread can only be late to sleep after
it has noted the time, so the smallest difference is the best one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from probes.errors import BackendUnavailable
from probes.wire import RunState

SLEEPERS = 4
SLEEP_S = 0.02
STEP_NS = 20_000
"""Smaller corrections are not applied: they would be noise of the measurement."""
_CLOCK_NANOSLEEP = 230  # x86-64
_NOT_SLEEPING = "the kernel's structures are not as its BTF says"


class SchedulerClock:
    """Converts times of the scheduler's clock.

    A correction holds for times after it only, so the begin of one sleep converts
    to the same value for as long as it lasts.
    """

    def __init__(self) -> None:
        self._valid_from: list[int] = []
        self._offsets: list[int] = []

    @property
    def offset_ns(self) -> int:
        """Scheduler's clock minus CLOCK_MONOTONIC, as last measured."""
        return self._offsets[-1]

    def correct(self, offset_ns: int, now_ns: int) -> bool:
        """``offset_ns`` was measured at ``now_ns`` (CLOCK_MONOTONIC); whether it is used."""
        if self._offsets and abs(offset_ns - self.offset_ns) < STEP_NS:
            return False
        self._valid_from.append(now_ns + offset_ns if self._offsets else 0)
        self._offsets.append(offset_ns)
        return True

    def to_monotonic(self, raw: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        """Times of the scheduler's clock (ns, any shape) as CLOCK_MONOTONIC."""
        offsets = np.array(self._offsets, np.int64).astype(np.uint64)
        at = np.searchsorted(np.array(self._valid_from, np.uint64), raw, side="right") - 1
        times: npt.NDArray[np.uint64] = raw - offsets[at]
        return times


class Sleepers:
    """One measurement: threads that have noted the time and sleep for 20 ms."""

    def __init__(self) -> None:
        self._noted: dict[int, int] = {}
        self._threads = [
            threading.Thread(target=self._sleep, name="parkscope-clock", daemon=True)
            for _ in range(SLEEPERS)
        ]
        for thread in self._threads:
            thread.start()

    def _sleep(self) -> None:
        tid = threading.get_native_id()
        self._noted[tid] = time.monotonic_ns()
        time.sleep(SLEEP_S)

    def measure(self, samples: npt.NDArray[Any]) -> int | None:
        """The offset from raw ``samples`` of this process; None while no thread sleeps yet."""
        best: int | None = None
        for row in samples[np.isin(samples["tid"], list(self._noted))]:
            if row["state"] == RunState.SLEEPING and row["syscall"] == _CLOCK_NANOSLEEP:
                offset = int(row["since_ns"]) - self._noted[int(row["tid"])]
                best = offset if best is None else min(best, offset)
        return best


def calibrate(look: Callable[[], npt.NDArray[Any]]) -> int:
    """Measure the offset now (about 3 ms); ``look`` returns raw samples of this process.

    It also proves that the iterator reads the right fields. Raises BackendUnavailable
    when its samples do not show the sleeping threads as they are.
    """
    sleepers = Sleepers()
    deadline = time.monotonic() + SLEEP_S
    seen: list[int] = []
    while len(seen) < 2 and time.monotonic() < deadline:
        time.sleep(0.001)
        offset = sleepers.measure(look())
        if offset is not None:
            seen.append(offset)
    if not seen:
        raise BackendUnavailable(f"{_NOT_SLEEPING}: sleeping threads do not show as such")
    if max(seen) - min(seen) > STEP_NS * 100:
        raise BackendUnavailable(f"{_NOT_SLEEPING}: one sleep shows different begins")
    return min(seen)
