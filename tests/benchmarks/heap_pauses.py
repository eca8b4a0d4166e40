"""What an image costs its target, by the target's own clock, and the rivals beside it."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.benchmarks.pairs import TARGETS, interpreter
from tests.benchmarks.quiet import going_first
from tests.capturing import take
from tests.interpreters import launch
from tests.processes import read_line, started, wait_ready

DUMPS = 20
SETTLE_S = 0.3
"""So long after a dump the target is left alone before the next control."""


@dataclass(slots=True)
class Pauses:
    """Per dump, in ms: the target's longest gap, that of its control, p99 of its requests."""

    gaps: list[float] = field(default_factory=list)
    controls: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    p99_control: list[float] = field(default_factory=list)
    own: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    engines: set[str] = field(default_factory=set)

    def median(self) -> float:
        """Median of the gaps, each less its own control (never below 0)."""
        return statistics.median(self.excess())

    def excess(self) -> list[float]:
        """Gap less control, for each dump."""
        pairs = zip(self.gaps, self.controls, strict=True)
        return [max(gap - control, 0.0) for gap, control in pairs]

    def note(self) -> str:
        """Everything else in one line."""
        parts = [
            f"{', '.join(sorted(self.engines))}: n={len(self.gaps)}",
            f"gap median {statistics.median(self.gaps):.2f} max {max(self.gaps):.1f}",
            f"control {statistics.median(self.controls):.2f} max {max(self.controls):.1f}",
            f"p99 of a request {statistics.median(self.p99):.3f}",
            f"control {statistics.median(self.p99_control):.3f}",
            f"{statistics.median(self.seconds):.1f} s each",
        ]
        if self.own:
            parts.insert(3, f"injector's clock {statistics.median(self.own):.2f}")
        return ", ".join(parts)


class PauseTarget:
    """tests/targets/pauses.py."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.pid = process.pid

    def ask(self, what: str) -> Any:
        """Its answer to ``look`` or ``inside``."""
        if self._process.stdin is None:
            raise ValueError("started without stdin=PIPE")
        self._process.stdin.write(f"{what}\n".encode())
        self._process.stdin.flush()
        return json.loads(read_line(self._process, 300))

    def measure(self, dump: Callable[[Pauses], None], times: int) -> Pauses:
        """So many dumps, each after a control of the same length."""
        pauses, seconds = Pauses(), 1.0
        for _ in range(times):
            time.sleep(SETTLE_S)
            self.ask("look")
            time.sleep(seconds)
            control = self.ask("look")
            began = time.monotonic()
            dump(pauses)
            seconds = time.monotonic() - began
            found = self.ask("look")
            # The loop may not have come round since the pause: what it saw comes later.
            later = self.ask("look")
            pauses.gaps.append(max(found["gap_ns"], later["gap_ns"]) / 1e6)
            pauses.controls.append(control["gap_ns"] / 1e6)
            pauses.p99.append(found["p99_ns"] / 1e6)
            pauses.p99_control.append(control["p99_ns"] / 1e6)
            pauses.seconds.append(seconds)
        return pauses


@contextmanager
def pause_target(megabytes: int, workload: str) -> Iterator[PauseTarget]:
    """A target with such a heap; it goes before what else runs here, but not before the dump."""
    process = launch(
        interpreter("pyenv-3.13", "system-3.11"),
        TARGETS / "pauses.py",
        [str(megabytes), workload],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=False,
    )
    with going_first(), started(process):
        wait_ready(process, 120)
        yield PauseTarget(process)


def by_engine(target: PauseTarget, times: int, engine: str | None = None) -> Pauses:
    """Images by that engine, or by the one that is chosen."""

    def dump(pauses: Pauses) -> None:
        with take(target.pid, engine) as image:
            pauses.engines.add(image.facts.engine)
            pauses.own.append(image.facts.pause_ns / 1e6)

    return target.measure(dump, times)


def by_gcore(target: PauseTarget, times: int) -> Pauses | None:
    """gdb's gcore into memory; None when it is not installed."""
    if shutil.which("gcore") is None:
        return None

    def dump(pauses: Pauses) -> None:
        with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
            subprocess.run(
                ["gcore", "-o", str(Path(directory) / "core"), str(target.pid)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                check=True,
            )
        pauses.engines.add("gcore")

    return target.measure(dump, times)


def from_inside(target: PauseTarget, times: int) -> Pauses:
    """The target looks at its own objects through ``gc.get_objects()``."""

    def dump(pauses: Pauses) -> None:
        target.ask("inside")
        pauses.engines.add("gc.get_objects()")

    return target.measure(dump, times)
