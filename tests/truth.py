"""Parkscope's word against the target's own log.

``compare`` takes one ``Observation`` and says, in a ``Report``, which logged waits were
not flagged or flagged as something else, which flagged parks nobody logged, and how
far the times are off. All times come from one clock, CLOCK_MONOTONIC.

A logged wait ends when its thread runs Python code again. Where other threads compute
meanwhile, the wait itself ends earlier and a park for the GIL follows (or comes first:
the GIL may be lost on the way to the call): all together are compared with the log.
The begin of a wait for the GIL itself is only as sure as a thread that computes can be:
it may have been preempted before it had to let go.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from probes.kinds import KINDS
from probes.wire import Flag
from tests.observe import Observation, TrueWait

SLACK_NS = 1_000_000
"""A logged wait is longer than the park by the way into the kernel and back."""
ATTACH_NS = 50_000_000
"""A park older than the attach that ends so soon after it may never have been looked at."""
SWITCHES_NS = 10_000_000
"""Where others compute, the GIL may be lost for a switch interval at either end."""
GIL_SCAN_NS = 25_000_000
"""The begin of a wait for the GIL may be seen one scan late where no probe tells it."""


@dataclass(frozen=True, slots=True)
class SeenPark:
    """One park as Parkscope told it; ``said_ns`` is when ``park_long`` reached the sink."""

    park_id: int
    tid: int
    kind: str
    start_ns: int
    end_ns: int
    open: bool
    before_attach: bool
    idle: bool | None
    said_ns: int | None
    thread: str | None

    @property
    def duration_ns(self) -> int:
        """How long it lasted, or has lasted when the session ended."""
        return self.end_ns - self.start_ns

    def overlap_ns(self, start_ns: int, end_ns: int) -> int:
        """How much of it lies in that time."""
        return min(self.end_ns, end_ns) - max(self.start_ns, start_ns)

    def __str__(self) -> str:
        flag = "long" if self.park_id else "short"
        return (
            f"[{flag} {self.kind} {self.thread or self.tid} at {self.start_ns / 1e6:.3f} ms"
            f" for {self.duration_ns / 1e6:.3f} ms{' open' if self.open else ''}]"
        )


@dataclass(slots=True)
class Report:
    """What the comparison found. Errors are in ms, seen minus true."""

    scenario: str
    interpreter: str
    backend: str
    expected: int = 0
    missed: list[str] = field(default_factory=list)
    wrong_kind: list[str] = field(default_factory=list)
    invented: list[str] = field(default_factory=list)
    wrong_idle: list[str] = field(default_factory=list)
    wrong_mark: list[str] = field(default_factory=list)
    start_ms: list[float] = field(default_factory=list)
    duration_ms: list[float] = field(default_factory=list)
    contended_ms: list[float] = field(default_factory=list)
    contended_plain_ms: list[float] = field(default_factory=list)
    gil_start_ms: list[float] = field(default_factory=list)
    gil_end_ms: list[float] = field(default_factory=list)
    latency_ms: list[float] = field(default_factory=list)
    worst: list[str] = field(default_factory=list)

    @property
    def faults(self) -> list[str]:
        """Everything that may not be, whatever the timing."""
        named = (
            ("missed", self.missed),
            ("wrong kind", self.wrong_kind),
            ("invented", self.invented),
            ("wrong idle flag", self.wrong_idle),
            ("wrong before_attach", self.wrong_mark),
        )
        return [f"{name}: {one}" for name, found in named for one in found]

    def figures(self) -> str:
        """One line of times: p50 / p99 / max of each error."""
        parts = [
            f"{name} {spread(values)}"
            for name, values in (
                ("start", self.start_ms),
                ("duration", self.duration_ms),
                ("contended", self.contended_ms),
                ("gil start", self.gil_start_ms),
                ("gil end", self.gil_end_ms),
                ("latency", self.latency_ms),
            )
            if values
        ]
        return f"{self.expected} long; ms p50/p99/max: " + ", ".join(parts)

    def __str__(self) -> str:
        head = f"{self.scenario} on {self.interpreter} by {self.backend}: {self.figures()}"
        return "\n  ".join([head, *self.faults, *self.worst])


def percentile(values: Iterable[float], share: float) -> float:
    """Of the absolute values."""
    return float(np.percentile(np.abs(np.array(list(values))), share))


def spread(values: Sequence[float]) -> str:
    """p50 / p99 / max of the absolute values."""
    return "/".join(f"{percentile(values, share):.3f}" for share in (50, 99, 100))


def merge(reports: Sequence[Report]) -> Report:
    """Several runs of the same scenario as one report."""
    first = reports[0]
    merged = Report(first.scenario, first.interpreter, first.backend)
    for report in reports:
        merged.expected += report.expected
        for name in Report.__slots__:
            value = getattr(report, name)
            if isinstance(value, list):
                getattr(merged, name).extend(value)
    return merged


def seen_parks(observation: Observation) -> dict[int, list[SeenPark]]:
    """All parks by thread, in order of begin."""
    said: dict[int, tuple[int, Any]] = {
        event.data["park_id"]: (reached, event)
        for event, reached in zip(observation.events, observation.reached_ns, strict=True)
        if event.event == "park_long"
    }
    by_thread: dict[int, list[SeenPark]] = {}
    for row in observation.rows:
        park_id = int(row["park_id"])
        when, event = said.get(park_id, (None, None)) if park_id else (None, None)
        park = SeenPark(
            park_id=park_id,
            tid=int(row["tid"]),
            kind=KINDS[row["kind"]],
            start_ns=int(row["start_ns"]),
            end_ns=int(row["start_ns"]) + int(row["duration_ns"]),
            open=row["end"] == 0,
            before_attach=bool(row["flags"] & Flag.BEFORE_ATTACH),
            idle=None if event is None else event.idle,
            said_ns=when,
            thread=None if event is None else event.thread_name,
        )
        by_thread.setdefault(park.tid, []).append(park)
    for parks in by_thread.values():
        parks.sort(key=lambda park: park.start_ns)
    return by_thread


def compare(observation: Observation, slack_ns: int = SLACK_NS) -> Report:
    """See the module's text. Waits less than ``slack_ns`` over the threshold may be missed."""
    return _Comparison(observation, slack_ns).run()


class _Comparison:
    def __init__(self, observation: Observation, slack_ns: int) -> None:
        self._slack_ns = slack_ns
        self._seen = seen_parks(observation)
        self._o = observation
        self._report = Report(observation.scenario, observation.interpreter, observation.backend)
        self._explained: set[int] = set()
        self._coarse = observation.backend == "proc"
        # A sampled begin is late by up to this much, so the park is shorter.
        self._start_error_ns = observation.info.start_error_ns
        if self._coarse:
            self._start_error_ns += observation.slowest_scan_ns

    def run(self) -> Report:
        for wait in self._o.truth:
            for kind, start_ns, end_ns in self._parts(wait):
                self._check(wait, kind, start_ns, end_ns)
            self._sum_up(wait)
        for parks in self._seen.values():
            for park in parks:
                if park.park_id and not park.idle and park.park_id not in self._explained:
                    self._report.invented.append(str(park))
        return self._report

    def _parts(self, wait: TrueWait) -> list[tuple[str, int, int | None]]:
        """The parks that a logged wait consists of, as far as the log itself knows."""
        wake_ns, end_ns = wait.wake_ns, wait.end_ns
        if wake_ns is None or end_ns is None or not wait.contended:
            return [(wait.kind, wait.start_ns, end_ns)]
        if wake_ns + GIL_SCAN_NS >= end_ns:
            return [(wait.kind, wait.start_ns, end_ns)]
        return [(wait.kind, wait.start_ns, wake_ns), ("gil", wake_ns, end_ns)]

    def _check(self, wait: TrueWait, kind: str, start_ns: int, end_ns: int | None) -> None:
        until_ns = end_ns if end_ns is not None else 1 << 62
        chain = [
            park
            for park in self._seen.get(wait.tid, [])
            if park.overlap_ns(start_ns, until_ns) > park.duration_ns // 2
        ]
        self._explained |= {p.park_id for p in chain if p.kind in (kind, "gil") and p.park_id}
        if end_ns is not None and end_ns < self._o.armed_ns:
            return
        self._check_flags(wait, kind, start_ns, end_ns, chain)
        own = [park for park in chain if park.kind == kind]
        if own and end_ns is not None:
            self._measure(wait, kind, start_ns, end_ns, own, chain)

    def _check_flags(
        self, wait: TrueWait, kind: str, start_ns: int, end_ns: int | None, chain: list[SeenPark]
    ) -> None:
        flagged = [park for park in chain if park.park_id]
        name = f"{kind} {wait.thread} ({wait.what}) at {start_ns / 1e6:.3f} ms"
        if end_ns is not None:
            name += f" for {(end_ns - start_ns) / 1e6:.3f} ms"
        long_ns = self._o.long_park_ns
        seen = " ".join(map(str, chain)) or "nothing"
        if end_ns is not None and end_ns - start_ns < long_ns:
            self._report.invented += [f"{park} in {name}" for park in flagged]
            return
        if not flagged:
            if self._must_be_flagged(wait, kind, start_ns, end_ns, chain):
                self._report.expected += 1
                self._report.missed.append(f"{name}; seen {seen}")
            return
        self._report.expected += 1
        if all(park.kind != kind for park in flagged):
            if not (wait.contended and flagged[0].kind == "gil"):
                self._report.wrong_kind.append(f"{name}; seen {seen}")
            return
        first = next(park for park in flagged if park.kind == kind)
        if first.idle is not None and first.idle != wait.idle:
            self._report.wrong_idle.append(f"{name}: idle is {first.idle}")
        if start_ns < self._o.began_ns and not first.before_attach:
            self._report.wrong_mark.append(f"{name} began before the attach")
        if start_ns > self._o.armed_ns and first.before_attach:
            self._report.wrong_mark.append(f"{name} began after the attach")
        if first.said_ns is not None and not wait.idle:
            crossing_ns = max(start_ns + long_ns, self._o.armed_ns)
            self._report.latency_ms.append((first.said_ns - crossing_ns) / 1e6)

    def _must_be_flagged(
        self,
        wait: TrueWait,
        kind: str,
        start_ns: int,
        end_ns: int | None,
        chain: list[SeenPark],
    ) -> bool:
        """A wait just above the threshold may be a park just below it."""
        if end_ns is None:
            return True
        if start_ns < self._o.armed_ns:
            if end_ns < self._o.armed_ns + ATTACH_NS:
                return False
            start_ns = self._o.armed_ns if self._coarse else start_ns
        least_ns = self._o.long_park_ns + self._slack_ns + self._start_error_ns
        if wait.contended:
            least_ns += SWITCHES_NS
        if self._start_error_ns < SLACK_NS and kind == "gil":
            least_ns += GIL_SCAN_NS
        pieces = [park.duration_ns for park in chain]
        slack_ns = self._slack_ns + len(pieces) * self._start_error_ns
        if wait.contended:  # letting go of the GIL takes a while too, and is no park
            slack_ns += GIL_SCAN_NS
        covered = sum(pieces) >= end_ns - start_ns - slack_ns
        if covered and max(pieces, default=0) < self._o.long_park_ns:
            # Woken in vain and asleep again, or the wait for the GIL made it long.
            return not (self._coarse or wait.contended) and len(pieces) == 1
        return end_ns - start_ns > least_ns

    def _sum_up(self, wait: TrueWait) -> None:
        """A wait and the GIL parks around it, together, against the log.

        Where the sum falls short, the time is left out that the thread itself says it
        stood ready for a CPU: on its way into the wait it is preempted like any other.
        """
        start_ns, end_ns = wait.start_ns, wait.end_ns
        if wait.kind == "gil" or wait.idle or end_ns is None or end_ns < self._o.armed_ns:
            return
        if end_ns - start_ns < self._o.long_park_ns or start_ns < self._o.armed_ns:
            return
        chain = [
            park
            for park in self._seen.get(wait.tid, [])
            if park.overlap_ns(start_ns, end_ns) > park.duration_ns // 2
        ]
        with_gil = wait.contended or any(park.kind == "gil" for park in chain)
        if not with_gil or all(park.kind != wait.kind for park in chain):
            return
        plain_ns = sum(park.duration_ns for park in chain) - (end_ns - start_ns)
        error_ns = min(0, plain_ns + wait.ready_ns) if plain_ns < 0 else plain_ns
        self._report.contended_plain_ms.append(plain_ns / 1e6)
        self._report.contended_ms.append(error_ns / 1e6)
        if abs(error_ns) > SLACK_NS and not self._coarse:
            self._report.worst.append(
                f"with the GIL off by {error_ns / 1e6:.3f} ms: {wait.thread} ({wait.what}) at"
                f" {start_ns / 1e6:.3f} for {(end_ns - start_ns) / 1e6:.3f}, ready for"
                f" {wait.ready_ns / 1e6:.3f}; {' '.join(map(str, chain))}"
            )

    def _measure(
        self,
        wait: TrueWait,
        kind: str,
        start_ns: int,
        end_ns: int,
        own: list[SeenPark],
        chain: list[SeenPark],
    ) -> None:
        if end_ns - start_ns < self._o.long_park_ns or wait.idle:
            return
        report, true_ms = self._report, (end_ns - start_ns) / 1e6
        contended = wait.contended or any(park.kind == "gil" for park in chain)
        start_ms = (own[0].start_ns - start_ns) / 1e6
        if kind == "gil":
            report.gil_start_ms.append(start_ms)
        elif not (contended or (own[0].before_attach and self._coarse)):
            report.start_ms.append(start_ms)
        if kind == "gil":
            report.gil_end_ms.append((own[-1].end_ns - end_ns) / 1e6)
        elif not contended:
            error_ms = sum(park.duration_ns for park in own) / 1e6 - true_ms
            report.duration_ms.append(error_ms)
            if abs(error_ms) > 1 and not self._coarse:
                report.worst.append(
                    f"off by {error_ms:.3f} ms: {wait.thread} ({wait.what}) at"
                    f" {start_ns / 1e6:.3f} for {true_ms:.3f}; {' '.join(map(str, chain))}"
                )
