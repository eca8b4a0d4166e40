"""How often the targets' threads give the CPU away by themselves.

Each contended wait is at least one voluntary switch, so the rate bounds what probes on
waits can cost before they have been tried.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from tracer.backends.bcc.scanner import Scanner

LOOK_NS = 50_000_000
"""Two samples lie at least so far apart."""


class SwitchRate:
    """Takes two looks at the switch counters of all threads by the task iterator.

    ``program``: descriptor of the loaded iterator program.
    """

    def __init__(self, program: int) -> None:
        self._scanner = Scanner(program)
        self._first: tuple[int, npt.NDArray[Any]] | None = None

    def sample(self, now_ns: int, pids: Iterable[int]) -> float | None:
        """Voluntary switches per second since the first call; None where it is too early.

        Raises OSError as the iterator does.
        """
        if self._first is None:
            for pid in pids:
                self._scanner.add(pid)
            self._first = (now_ns, self._counts())
            return None
        before, earlier = self._first
        if now_ns - before < LOOK_NS:
            return None
        counts = self._counts()
        _, old, new = np.intersect1d(earlier["tid"], counts["tid"], return_indices=True)
        # The record keeps the low 32 bits of the counter.
        switched = counts["aux"][new] - earlier["aux"][old]
        return float(switched.sum(dtype=np.uint64)) * 1e9 / (now_ns - before)

    def _counts(self) -> npt.NDArray[Any]:
        states = self._scanner.scan(count=False)["state"]
        counts: npt.NDArray[Any] = states[["tid", "aux"]].copy()
        return counts

    def close(self) -> None:
        """The look is over. Safe to call twice."""
        self._scanner.close()
