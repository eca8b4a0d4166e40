"""Issue 2, line 2: every scenario on every interpreter, against the program's own log."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator

from examples.scenarios import scenarios
from tests import interpreters
from tests.full import Bound, Figure, NotMeasured, at_most, exactly, must_show
from tests.observe import observe
from tests.truth import Report, compare, merge, percentile

SECONDS = 8.0
REPEATS = int(os.environ.get("PARKSCOPE_REPEATS", "1"))
BACKEND = os.environ.get("PARKSCOPE_BACKEND", "bcc")

TIMES: tuple[tuple[str, str, Bound | None], ...] = (
    ("start_ms", "start error p99", at_most(0.5, "ms")),
    ("duration_ms", "duration error p99", at_most(1, "ms")),
    ("contended_ms", "wait + GIL park against the log p99", at_most(1, "ms")),
    ("contended_plain_ms", "the same, also where the thread stood ready for a CPU", None),
    ("gil_start_ms", "GIL begin against the log p99", None),
    ("gil_end_ms", "GIL end error p99", at_most(20, "ms")),
    ("latency_ms", "park_long after the crossing p99", at_most(25, "ms")),
)


def run(interpreter: interpreters.Interpreter, scenario: str) -> Report:
    """All runs of one scenario; its table line goes to stderr."""
    reports = [compare(observe(interpreter, scenario, BACKEND, SECONDS)) for _ in range(REPEATS)]
    merged = merge(reports)
    sys.stderr.write(f"\n  {merged}")
    return merged


def figures(name: str, reports: list[Report]) -> Iterator[Figure]:
    """Counts over all scenarios, and each time's p99 with its median, maximum and count."""
    expected = sum(report.expected for report in reports)
    for label, kind in (
        ("missed", "missed"),
        ("of a wrong kind", "wrong_kind"),
        ("invented", "invented"),
        ("wrongly idle or not", "wrong_idle"),
    ):
        found = [one for report in reports for one in getattr(report, kind)]
        note = "; ".join(found[:2]) if found else f"of {expected} long parks"
        yield Figure(len(found), f"{name}: {label}", exactly(0), note)
    for kind, label, bound in TIMES:
        values = [value for report in reports for value in getattr(report, kind)]
        if values:
            worst = max(reports, key=lambda one: max(map(abs, getattr(one, kind)), default=0.0))
            note = (
                f"n={len(values)}, p50 {percentile(values, 50):.3f},"
                f" max {percentile(values, 100):.3f} in {worst.scenario}"
            )
            yield Figure(percentile(values, 99), f"{name}: {label}", bound, note)


def measurement(name: str) -> Callable[[], list[Figure]]:
    """All scenarios on one interpreter."""

    def measure() -> list[Figure]:
        found = {one.id: one for one in interpreters.interpreters()}
        if name not in found:
            raise NotMeasured(interpreters.absent().get(name, "not on this machine"))
        return list(figures(name, [run(found[name], scenario) for scenario in scenarios()]))

    return measure


for wanted in interpreters.WANTED:
    must_show(f"{wanted}: every scenario", issue=2, line=2)(measurement(wanted))
