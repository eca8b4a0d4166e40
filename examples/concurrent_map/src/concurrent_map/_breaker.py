"""A circuit breaker: closed, open, half-open. It knows outcomes and a clock, not maps."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

State: TypeAlias = Literal["closed", "open", "half_open"]
Outcome: TypeAlias = Literal["complete", "stopped", "failed"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Transition:
    """One change of state. ``number`` counts them from 1; ``at_s`` is the breaker's clock."""

    number: int
    old: State
    new: State
    at_s: float
    reason: str
    failures: int
    """Failures in the window when the state changed."""
    samples: int
    """Outcomes in the window."""


class Permit:
    """The right to one guarded run; its outcome counts only while this right lasts."""

    __slots__ = ("began_s", "epoch", "is_probe")

    def __init__(self, epoch: int, began_s: float, *, is_probe: bool) -> None:
        self.epoch, self.began_s, self.is_probe = epoch, began_s, is_probe


class Breaker:
    """Opens when more than ``percent`` of the last ``window`` outcomes are failures.

    The share is of the whole window, also while it is not full yet: with 60 and 100 it
    takes 61 failures. After ``rest_s`` seconds of the clock one run is let through as a
    probe; there is never a second one, unless the first has not ended after another
    ``rest_s``: then it is given up, and whatever becomes of it counts no more.

    ``on_change`` is called outside the lock, for one transition at a time, in order, in a
    thread that caused one. What it raises is logged: the change has been made.
    """

    def __init__(
        self,
        *,
        percent: float,
        window: int,
        rest_s: float,
        clock: Callable[[], float],
        on_change: Callable[[Transition], object] | None = None,
    ) -> None:
        if not 0 <= percent < 100:
            raise ValueError("percent must be at least 0 and less than 100")
        if window < 1:
            raise ValueError("window must be 1 or more")
        if not rest_s >= 0:
            raise ValueError("rest_s must not be negative")
        self.percent, self.window, self.rest_s = percent, window, rest_s
        self.state: State = "closed"
        self.number = 0
        self._clock, self._on_change = clock, on_change
        self._lock = threading.Lock()
        self._outcomes: deque[bool] = deque(maxlen=window)
        self._failures = 0
        self._opened_s = 0.0
        self._epoch = 0  # of permits: another one makes those given so far void
        self._probe: Permit | None = None
        self._abandoned: deque[Permit] = deque()
        self._untold: deque[Transition] = deque()
        self._telling = False

    @property
    def failures(self) -> int:
        """Failures among the outcomes in the window."""
        return self._failures

    @property
    def samples(self) -> int:
        """Outcomes in the window."""
        return len(self._outcomes)

    def retry_in_s(self) -> float:
        """Seconds until a probe may be made; 0 when it may, or when the breaker is closed."""
        now_s = self._clock()
        with self._lock:
            self._settle_abandoned(now_s)
            left_s = 0.0 if self.state == "closed" else self._rested_s() - now_s
        self._tell()
        return max(0.0, left_s)

    def _rested_s(self) -> float:
        since_s = self._opened_s if self._probe is None else self._probe.began_s
        return since_s + self.rest_s

    def ask(self) -> Permit | None:
        """The right to run, or None while the breaker is open or another one is the probe."""
        now_s = self._clock()
        with self._lock:
            self._settle_abandoned(now_s)
            permit = self._permit(now_s)
        self._tell()
        return permit

    def _permit(self, now_s: float) -> Permit | None:
        if self.state == "closed":
            return Permit(self._epoch, now_s, is_probe=False)
        if now_s < self._rested_s():
            return None
        self._epoch += 1
        self._probe = Permit(self._epoch, now_s, is_probe=True)
        if self.state == "open":
            self._change("half_open", now_s, "rested: one probe")
        return self._probe

    def settle(self, permit: Permit, outcome: Outcome) -> bool:
        """Say how the run ended; whether that counted. Only the first word for a permit does.

        "stopped" (its caller wanted no more) is as good as "complete" while the breaker is
        closed. A probe that was stopped has shown nothing: the next run is the probe.
        """
        now_s = self._clock()
        with self._lock:
            self._settle_abandoned(now_s)
            counted = self._settle(permit, outcome, now_s)
        self._tell()
        return counted

    def abandon(self, permit: Permit) -> None:
        """As ``settle(permit, "stopped")``, at the next call of another method.

        Takes no lock: a finalizer may run in the middle of any of them, in the same thread.
        """
        if permit.epoch >= 0:
            self._abandoned.append(permit)

    def counts(self, permit: Permit) -> bool:
        """Whether the run's outcome would still count."""
        return permit.epoch == self._epoch

    def _settle_abandoned(self, now_s: float) -> None:
        while self._abandoned:
            self._settle(self._abandoned.popleft(), "stopped", now_s)

    def _settle(self, permit: Permit, outcome: Outcome, now_s: float) -> bool:
        if permit.epoch != self._epoch:
            return False
        permit.epoch = -1
        if permit.is_probe:
            self._settle_probe(outcome, now_s)
        else:
            self._note(outcome == "failed")
            if self._failures * 100 > self.percent * self.window:
                self._open("too many failures", now_s)
        return True

    def _note(self, failed: bool) -> None:
        if len(self._outcomes) == self.window:
            self._failures -= self._outcomes[0]
        self._outcomes.append(failed)
        self._failures += failed

    def _settle_probe(self, outcome: Outcome, now_s: float) -> None:
        self._probe = None
        if outcome == "failed":
            self._open("the probe failed", now_s)
        elif outcome == "stopped":
            rested_s = self._opened_s
            self._open("the probe was stopped", now_s)
            self._opened_s = rested_s
        else:
            self._change("closed", now_s, "the probe got through")
            self._outcomes.clear()
            self._failures = 0

    def _open(self, reason: str, now_s: float) -> None:
        self._opened_s = now_s
        self._epoch += 1
        self._change("open", now_s, reason)

    def _change(self, new: State, at_s: float, reason: str) -> None:
        self.number += 1
        old, self.state = self.state, new
        said = (self.number, old, new, at_s, reason, self._failures, len(self._outcomes))
        self._untold.append(Transition(*said))

    def _tell(self) -> None:
        """Tell what is untold, unless another thread is at it: it will come to ours too."""
        while True:
            with self._lock:
                if self._telling or not self._untold:
                    return
                self._telling = True
                transition = self._untold.popleft()
            try:
                if self._on_change is not None:
                    self._on_change(transition)
            except Exception:  # noqa: BLE001 - the change has been made
                _log.exception("what on_change() was told of a breaker went wrong")
            finally:
                with self._lock:
                    self._telling = False
