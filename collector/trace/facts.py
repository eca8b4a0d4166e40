"""What a recording says of itself in its first frame."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from collector.source import SourceInfo
from probes.kinds import KINDS
from probes.wire import Kind


def recording_facts(
    info: SourceInfo,
    targets: Sequence[Mapping[str, Any]],
    options: Mapping[str, Any],
    version: str,
) -> dict[str, Any]:
    """The META facts: this host, the backend, the targets and options as given.

    Of the host only what the reading of a trace needs: no name, address or
    environment. ``targets`` and ``options`` are written as they are; who passes
    command lines here decides that they may be read by whoever reads the trace.
    """
    return {
        "parkscope": version,
        "host": {
            "machine": platform.machine(),
            "kernel": platform.release(),
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
        },
        "clock": clock_pair(),
        "backend": asdict(info),
        "targets": [dict(target) for target in targets],
        "options": dict(options),
        "kinds": {"records": {str(int(kind)): kind.name.lower() for kind in Kind}, "parks": KINDS},
    }


def clock_pair() -> dict[str, int]:
    """CLOCK_MONOTONIC and wall clock (ns since 1970, UTC) of one moment.

    The wall clock is read between two readings of the other; of three tries the
    tightest counts, so that a preemption in between does not shift the pair.
    """
    tries = []
    for _ in range(3):
        before = time.monotonic_ns()
        wall = time.time_ns()
        after = time.monotonic_ns()
        tries.append((after - before, before + (after - before) // 2, wall))
    width, monotonic, wall = min(tries)
    return {"monotonic_ns": monotonic, "realtime_ns": wall, "within_ns": width}
