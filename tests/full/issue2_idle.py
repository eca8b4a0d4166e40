"""Issue 2, line 3: a minute without an alarm, then one real wait that is shown."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.full import Figure, exactly, must_show
from tests.idle_programs import PROGRAMS, watch

SECONDS = 60.0
BACKEND = os.environ.get("PARKSCOPE_BACKEND", "bcc")


def measurement(name: str) -> Callable[[], Iterator[Figure]]:
    """One program."""

    def measure() -> Iterator[Figure]:
        with tempfile.TemporaryDirectory(prefix="parkscope-") as directory:
            seen = watch(name, Path(directory), BACKEND, SECONDS)
        alarms = "; ".join(f"{event.kind} in {event.thread_name}" for event in seen.false_alarms)
        yield Figure(
            len(seen.false_alarms),
            f"{name}: alarms in {SECONDS:g} s",
            exactly(0),
            alarms or f"{seen.idle_parks} idle parks",
        )
        locks = [event for event in seen.alarms if event.kind == "lock"]
        off_ms = [((event.start_ns or 0) - seen.start_ns) / 1e6 for event in locks]
        note = f"begin off by {off_ms[0]:.3f} ms" if off_ms else ""
        yield Figure(len(locks), f"{name}: real waits shown", exactly(1), note)

    return measure


for program in PROGRAMS:
    must_show(f"{program}: idle", issue=2, line=3)(measurement(program))
