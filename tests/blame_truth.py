"""What Parkscope says of a park's place and of its holder, against the target's own log."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path, PurePath
from typing import Any

from collector.events import Event
from examples.scenarios import TRUTH_LOG, scenarios
from tests.observe import Observation, TrueWait

SLACK_NS = 1_000_000


@dataclass(slots=True)
class BlameReport:
    """Counts over long parks that the log tells of; ``faults`` says which were wrong."""

    places: int = 0
    places_right: int = 0
    places_unknown: int = 0
    holders: int = 0
    holders_right: int = 0
    holders_unknown: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def places_wrong(self) -> int:
        """Another function or line was named."""
        return self.places - self.places_right - self.places_unknown

    @property
    def holders_wrong(self) -> int:
        """Another thread was named."""
        return self.holders - self.holders_right - self.holders_unknown


def compare_blame(observation: Observation) -> BlameReport:
    """All long parks of one run whose place or holder the program has logged."""
    report = BlameReport()
    for wait in observation.truth:
        for event in _parks_of(wait, observation):
            if wait.function is not None:
                _check_place(report, wait, event, observation.scenario)
            if wait.holder is not None:
                _check_holder(report, wait, event)
    return report


def merge_blame(reports: list[BlameReport]) -> BlameReport:
    """Several runs as one."""
    merged = BlameReport()
    for report in reports:
        for name in BlameReport.__slots__:
            setattr(merged, name, getattr(merged, name) + getattr(report, name))
    return merged


def _parks_of(wait: TrueWait, observation: Observation) -> list[Event]:
    """The ``park_long`` events that are this wait and no other: of its kind, begun inside of it."""
    end_ns = wait.end_ns if wait.end_ns is not None else 1 << 62
    if wait.wake_ns is not None and wait.contended:
        end_ns = min(end_ns, wait.wake_ns)
    return [
        event
        for event in observation.events
        if event.event == "park_long"
        and event.tid == wait.tid
        and event.kind == wait.kind
        and event.start_ns is not None
        and wait.start_ns - SLACK_NS <= event.start_ns < end_ns
        and event.ts_ns < end_ns
    ]


def _check_place(report: BlameReport, wait: TrueWait, event: Event, scenario: str) -> None:
    stack: list[dict[str, Any]] | None = event.data["stack"]
    report.places += 1
    if stack is None:
        report.places_unknown += 1
        return
    own = next((one for one in stack if PurePath(one["file"]).name == wait.file), None)
    lines = _blocking_lines(scenario, wait.file or "", wait.line or 0)
    if own and own["function"].rpartition(".")[2] == wait.function and own["line"] in lines:
        report.places_right += 1
        return
    report.faults.append(
        f"{wait.thread} is in {wait.file} {wait.function} {list(lines)}, said: {stack[:3]}"
    )


def _check_holder(report: BlameReport, wait: TrueWait, event: Event) -> None:
    report.holders += 1
    holder = event.data["holder"]
    if holder is None:
        report.holders_unknown += 1
        report.faults.append(
            f"{wait.thread} waits for {wait.what}: no holder, resource {event.data['resource']},"
            f" candidates {[(one['tid'], one['how']) for one in event.data['candidates']]}"
        )
    elif holder["tid"] == wait.holder:
        report.holders_right += 1
    else:
        report.faults.append(f"{wait.thread}: held by {wait.holder}, said: {holder}")


def _blocking_lines(scenario: str, file: str, line: int) -> range:
    """The lines of the statement that blocks: the body of the ``with``, or what follows."""
    return _statements(scenarios()[scenario].path, TRUTH_LOG, file).get(line, range(0))


@cache
def _statements(program: Path, logger: Path, file: str) -> dict[int, range]:
    """By the line of a ``with`` or of a call of ``for_ever``, the lines of what comes next."""
    source = program if program.name == file else logger
    found = {}
    for node in ast.walk(ast.parse(source.read_text())):
        body = getattr(node, "body", None)
        if not isinstance(body, list):
            continue
        if isinstance(node, ast.With):
            found[node.lineno] = range(body[0].lineno, (body[-1].end_lineno or 0) + 1)
        for one, following in pairwise(body):
            if isinstance(one, ast.Expr):
                last = following.body[0].lineno if isinstance(following, ast.With) else None
                end = last if last is not None else (following.end_lineno or 0) + 1
                found[one.lineno] = range(following.lineno, end)
    return found
