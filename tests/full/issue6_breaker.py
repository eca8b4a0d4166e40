"""Issue 6, line 4: a breaker's whole life as it is seen; lost compare-and-swaps on cursors."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

from tests import breaker_life
from tests.full import Figure, NotMeasured, at_least, at_most, exactly, must_show
from tests.full.issue6_throughput import run
from tests.interpreters import interpreters, launch, scratch
from tests.map_build import compile_map
from tests.processes import started, wait_ready, wait_until

TIMES = 3
MEMBERS = [one for one in interpreters() if one.version[:2] >= (3, 11)]
FAR, OFTEN = 0.005, 0.2
"""Between these shares of lost attempts the model is compared: below, few are seen; above,
arrivals are no longer independent of one another. Where there is no work in between, the
latency is hardly more than the reading of the clock that it is taken with."""
WITHIN = 1.5


@must_show("closed, open, half-open, open, half-open, closed: seen", issue=6, line=4)
def life() -> Iterator[Figure]:
    """In metrics and live view while it lasts, and in events as the program knows it."""
    if os.geteuid():
        raise NotMeasured("needs root")
    for python in MEMBERS:
        changes, errors, failed = 0, [], 0
        with scratch(python) as directory:
            package = compile_map(directory / "package", python)
            if package is None:
                continue
            for _ in range(TIMES):
                process = launch(
                    python,
                    breaker_life.PROGRAM,
                    [package],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                )
                with started(process):
                    wait_ready(process)
                    with breaker_life.watched(process.pid) as watch:
                        answers = breaker_life.live(process, watch)
                        wait_until(
                            lambda w=watch: len(w.changes()) >= len(breaker_life.CHANGES),  # type: ignore[misc]
                            "the changes",
                        )
                    errors += breaker_life.wrong(watch.changes(), answers, process.pid)
                    changes += len(watch.changes())
                    failed += answers[0]["failed"]
        wanted = TIMES * len(breaker_life.CHANGES)
        note = f"{TIMES} lives, {failed} iterations that failed"
        yield Figure(changes, f"{python.id}: changes told", exactly(wanted), note)
        yield Figure(len(errors), f"{python.id}: of these not true", exactly(0), "; ".join(errors))


@must_show("cursors: lost compare-and-swaps ÷ arrival rate × latency", issue=6, line=4)
def cursors() -> Iterator[Figure]:
    compared = 0
    for row in run("cursors.py"):
        note = (
            f"{row['arrivals_per_us']:.3f}/us × {row['latency_ns']:.0f} ns ="
            f" {row['model']:.2%}, measured {row['measured']:.2%} of {row['attempts']:,}"
        )
        what = f"work {row['window']} in between, pause {row['pause']}"
        if not row["window"] or not FAR <= row["model"] <= OFTEN:
            yield Figure(row["measured"], f"{what}: measured", note=note)
            continue
        compared += 1
        ratio = row["measured"] / row["model"]
        yield Figure(max(ratio, 1 / max(ratio, 1e-9)), f"{what}: off by a factor of",
                     at_most(WITHIN), note)  # fmt: skip
    yield Figure(compared, "rows in which the model says 0.5 to 20 %", at_least(4))
