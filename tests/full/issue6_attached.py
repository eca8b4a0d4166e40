"""Issue 6, line 3: attached to a real run of the concurrent map."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from collector.events import Event
from tests.benchmarks.pairs import SLICE_S, Workload, interpreter, measure_pairs
from tests.benchmarks.quiet import going_first, last_cpu
from tests.benchmarks.tools import parkscope
from tests.full import Figure, NotMeasured, at_least, exactly, must_show
from tests.interpreters import Interpreter, launch
from tests.native_maps import CONVOY, ask, built
from tests.observe import Attached, attached
from tests.processes import started, wait_ready, wait_until
from tracer.session import SessionOptions

PYTHONS = ("system-3.11", "pyenv-3.11", "pyenv-3.12", "pyenv-3.13")
CONVOYS = 5
WAITERS = 3
HOLD_MS = 450
ROUNDS = 400


@contextmanager
def running(python: Interpreter) -> Iterator[subprocess.Popen[bytes]]:
    """The program on the real extension, built for this interpreter."""
    with tempfile.TemporaryDirectory(prefix="parkscope-map-") as directory:
        package = built(Path(directory), python)
        if package is None:
            raise NotMeasured("the example's sources, a compiler or Python.h are not here")
        process = launch(
            python, CONVOY, [str(package)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        with started(process):
            wait_ready(process)
            yield process


def _lines() -> tuple[int, int]:
    """Where the target's holder and its waiters stand."""
    text = CONVOY.read_text().splitlines()
    numbered = list(enumerate(text, start=1))
    holds = next(n for n, line in numbered if line.endswith("# holds the shard"))
    waits = next(n for n, line in numbered if line.endswith("# waits for the shard"))
    return holds, waits


def _ends(session: Attached) -> list[Event]:
    return [e for e in list(session.sink.events) if e.event == "park_end" and e.kind == "map"]


def _is_right(event: Event, truth: dict[str, Any]) -> bool:
    """Map, shard, holder and both lines, as the target knows them."""
    holds, waits = _lines()
    holder = event.data["holder"]
    return (
        event.tid in truth["waiters"]
        and event.data["map"] == "sessions"
        and event.data["shard"] == truth["shard"]
        and event.data["stack"][0]["line"] == waits
        and holder is not None
        and holder["tid"] == truth["holder"]
        and holder["stack"][0]["line"] == holds
    )


@must_show("shard convoy: map, shard, holder and lines; all right", issue=6, line=3)
def convoy() -> Iterator[Figure]:
    for name in PYTHONS:
        try:
            python = interpreter(name)
        except NotMeasured:
            continue
        right = said = 0
        with running(python) as process:
            options = SessionOptions((process.pid,), "bcc")
            with attached(options) as session:
                for number in range(1, CONVOYS + 1):
                    truth = ask(process, f"convoy {HOLD_MS} {WAITERS}")
                    wait_until(
                        lambda n=number: len(_ends(session)) >= n * WAITERS,  # type: ignore[misc]
                        "the parks' ends",
                    )
                    latest = _ends(session)[said:]
                    right += sum(_is_right(event, truth) for event in latest)
                    said += len(latest)
        wanted = CONVOYS * WAITERS
        yield Figure(right, f"{name}: named in full", exactly(wanted), f"{said} of kind map said")


def _differences(said: Any, stats: Any) -> list[str]:
    """Figures of the last ``native_map`` event that are not the map's own."""
    ranges: dict[str, dict[str, int]] = {
        mode: dict.fromkeys(outcomes, 0) for mode, outcomes in stats["ranges"].items()
    }
    for one in said["ranges"]:
        ranges[one["mode"]][one["outcome"]] = one["count"]
    ended = sum(sum(outcomes.values()) for outcomes in stats["ranges"].values())
    fine = sum(one["complete"] + one["stopped"] for one in stats["ranges"].values())
    pairs = {
        "ranges": (ranges, stats["ranges"]),
        "ranges_begun": (said["ranges_begun"], stats["ranges_begun"]),
        "items": (sum(one["items"] for one in said["ranges"]), stats["range_items"]),
        "success_rate": (said["success_rate"], fine / ended),
        "stale_ratio": (said["stale_ratio"], stats["stale_hits"] / ended),
        "waits": (said["waits"]["count"], stats["waits"]),
        "splits": (said["splits"], stats["splits"]),
        "moved": (said["moved"], stats["moved"]),
        "retired": (said["retired"], stats["retired"]),
        "retries": (said["retries"], stats["retries"]),
        "partial": (said["partial"], []),
    }
    return [name for name, (ours, theirs) in pairs.items() if ours != theirs]


@must_show("success rate, stale ratio and all counts that differ from stats()", issue=6, line=3)
def rates() -> Iterator[Figure]:
    for name in PYTHONS:
        try:
            python = interpreter(name)
        except NotMeasured:
            continue
        with running(python) as process:
            # A budget under which nothing is given up: what is shed cannot be equal.
            with attached(SessionOptions((process.pid,), "bcc", budget=1.0)) as session:
                ask(process, f"convoy {HOLD_MS} {WAITERS}")
                ask(process, f"ranges {ROUNDS}")
                truth = ask(process, "stats")
            said = [
                event.data
                for event in session.sink.events
                if event.event == "native_map" and event.data["map"] == "sessions"
            ][-1]
        wrong = _differences(said, truth["stats"])
        ended = sum(one["count"] for one in said["ranges"])
        note = f"{ended:,} ranges, {said['success_rate']:.3f} fine, stale {said['stale_ratio']:.4f}"
        yield Figure(len(wrong), f"{name}: {', '.join(wrong) or 'none differs'}", exactly(0), note)


@must_show("mixed load on the map, attached ÷ unattached", issue=6, line=3, bound=at_least(0.97))
def throughput() -> Figure:
    with going_first(), running(interpreter("system-3.11", "pyenv-3.11")) as process:
        os.sched_setaffinity(process.pid, last_cpu())  # as all loads: the tracer has the others
        target = Workload(process)
        target.work(SLICE_S / 2)
        ratios = measure_pairs(target, parkscope)
    return Figure(ratios.median, note=ratios.note())
