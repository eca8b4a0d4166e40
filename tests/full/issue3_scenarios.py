"""Issue 3, line 1: places and holders in every scenario, against the program's own log."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator

from examples.scenarios import scenarios
from tests import interpreters
from tests.blame_truth import BlameReport, compare_blame, merge_blame
from tests.full import Figure, NotMeasured, exactly, must_show
from tests.observe import observe

SECONDS = 8.0
REPEATS = int(os.environ.get("PARKSCOPE_REPEATS", "1"))
BACKEND = os.environ.get("PARKSCOPE_BACKEND", "bcc")


def figures(name: str, report: BlameReport) -> Iterator[Figure]:
    """Right, wrong and unknown, of the parks that the log tells of."""
    for fault in report.faults:
        sys.stderr.write(f"\n  {name}: {fault}")
    note = report.faults[0] if report.faults else f"of {report.places} long parks"
    yield Figure(report.places_wrong, f"{name}: wrong function or line", exactly(0), note)
    yield Figure(report.places_unknown, f"{name}: no stack", exactly(0))
    yield Figure(
        report.holders_wrong, f"{name}: wrong holder", exactly(0), f"of {report.holders} known"
    )
    yield Figure(report.holders_unknown, f"{name}: no holder", exactly(0))


def measurement(name: str) -> Callable[[], list[Figure]]:
    """All scenarios on one interpreter."""

    def measure() -> list[Figure]:
        found = {one.id: one for one in interpreters.interpreters()}
        if name not in found:
            raise NotMeasured(interpreters.absent().get(name, "not on this machine"))
        reports = [
            compare_blame(observe(found[name], scenario, BACKEND, SECONDS))
            for _ in range(REPEATS)
            for scenario in scenarios()
        ]
        return list(figures(name, merge_blame(reports)))

    return measure


for wanted in interpreters.WANTED:
    must_show(f"{wanted}: who waits where for whom", issue=3, line=1)(measurement(wanted))
