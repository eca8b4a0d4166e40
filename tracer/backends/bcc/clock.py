"""The scheduler's clock in terms of CLOCK_MONOTONIC.

The kernel notes when a thread came to its CPU on the run queue's clock, which runs at
the same pace as CLOCK_MONOTONIC but for NTP's slewing, with another zero. The offset
is measured with own threads that note the time and go to sleep, and are then looked
at through the same iterator as the targets. A thread that is preempted in between
seems to sleep late; one whose CPU the hypervisor took away meanwhile seems to sleep
early, because that time is missing in the sum of its run time. So the offset is the
smallest difference that others confirm.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from probes.errors import BackendUnavailable
from probes.kinds import FUTEX
from probes.wire import RunState

SLEEPERS = 7
CONFIRMED_BY = 2
CALIBRATE_NS = 10_000_000_000
MEASURE_NS = 4_000_000
"""So long after sleepers have been started they surely sleep."""
PATIENCE_S = 2.0
STEP_NS = 20_000
"""Smaller corrections are not applied: they would be noise of the measurement."""
_ODD = "the kernel's structures are not as its BTF says"


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
    """One measurement: threads that have noted the time and wait until ``wake``."""

    def __init__(self) -> None:
        self._noted: dict[int, int] = {}
        self._held = threading.Lock()
        self._held.acquire()
        self._threads = [
            threading.Thread(target=self._sleep, name="parkscope-clock", daemon=True)
            for _ in range(SLEEPERS)
        ]
        for thread in self._threads:
            thread.start()

    def _sleep(self) -> None:
        tid = threading.get_native_id()
        self._noted[tid] = time.monotonic_ns()
        with self._held:
            pass

    def measure(self, samples: npt.NDArray[Any]) -> int | None:
        """The offset from raw ``samples`` of this process; None while not all sleep."""
        asleep = (samples["state"] == RunState.SLEEPING) & (samples["syscall"] == FUTEX)
        offsets = sorted(
            int(row["since_ns"]) - self._noted[int(row["tid"])]
            for row in samples[asleep]
            if int(row["tid"]) in self._noted
        )
        if len(offsets) < SLEEPERS:
            return None
        for low, high in zip(offsets, offsets[CONFIRMED_BY:], strict=False):
            if high - low < STEP_NS:
                return low
        return offsets[len(offsets) // 2]

    def wake(self) -> None:
        """Let the threads end. Safe to call twice."""
        if self._held.locked():
            self._held.release()
        for thread in self._threads:
            thread.join()


def calibrate(look: Callable[[], npt.NDArray[Any]]) -> int:
    """Measure the offset now (about 3 ms); ``look`` returns raw samples of this process.

    It also proves that the iterator reads the right fields. Raises BackendUnavailable
    when its samples do not show the sleeping threads as they are.
    """
    sleepers = Sleepers()
    deadline = time.monotonic() + PATIENCE_S
    seen: list[int] = []
    try:
        while len(seen) < 2:
            time.sleep(0.001)
            offset = sleepers.measure(look())
            if offset is not None:
                seen.append(offset)
            elif time.monotonic() > deadline:
                raise BackendUnavailable(f"{_ODD}: sleeping threads do not show as such")
    finally:
        sleepers.wake()
    if seen[0] != seen[1]:
        raise BackendUnavailable(f"{_ODD}: the same sleeps show different begins")
    return seen[0]


class ClockKeeper:
    """A scheduler clock that is measured again from time to time, without waiting.

    Measures once when made; raises what ``calibrate`` raises. ``look`` returns raw
    samples of this process, ``told`` takes each new offset (ns). ``due_ns``: when
    ``tend`` should be called while a measurement is under way.
    """

    def __init__(self, look: Callable[[], npt.NDArray[Any]], told: Callable[[int], None]) -> None:
        self._look, self._told = look, told
        self._clock = SchedulerClock()
        self._sleepers: Sleepers | None = None
        self._next_ns = 0
        self._correct(calibrate(look))

    @property
    def due_ns(self) -> int:
        """Nothing is due between measurements: ``tend`` finds out by itself."""
        return self._next_ns if self._sleepers is not None else 1 << 63

    def to_monotonic(self, raw: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        """See ``SchedulerClock``."""
        return self._clock.to_monotonic(raw)

    def tend(self, now_ns: int) -> None:
        """Begin a measurement when one is due, or end it."""
        if now_ns < self._next_ns:
            return
        if self._sleepers is None:
            self._sleepers = Sleepers()
            self._next_ns = now_ns + MEASURE_NS
            return
        offset = self._sleepers.measure(self._look())
        if offset is None:
            self._next_ns = now_ns + MEASURE_NS
            return
        self.close()
        self._correct(offset)

    def close(self) -> None:
        """End a measurement that is under way. Safe to call twice."""
        if self._sleepers is not None:
            self._sleepers.wake()
            self._sleepers = None

    def _correct(self, offset_ns: int) -> None:
        now_ns = time.monotonic_ns()
        self._next_ns = now_ns + CALIBRATE_NS
        if self._clock.correct(offset_ns, now_ns):
            self._told(offset_ns)
