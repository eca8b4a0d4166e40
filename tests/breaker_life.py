"""The whole life of a guarded map's breaker, in the program and as Parkscope shows it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from collector.events import Event
from collector.map_breakers import PREFIX
from collector.metrics import catalogue as m
from collector.sinks import Sink
from collector.sinks.live import LiveSink
from collector.sinks.metrics import STATES as STATE_NAMES
from collector.sinks.metrics import MetricsSink
from tests.native_maps import ask
from tests.observe import Attached
from tests.processes import wait_until
from tracer.live_view import ViewState, plain_picture
from tracer.session import SessionOptions

PROGRAM = Path(__file__).parent / "targets" / "map_breaker.py"
NAME = f"{PREFIX}orders"
LIFE = ("fail", "rest", "half", "again", "rest", "half", "through")
"""What the program is told, …"""
STATES = ("open", "open", "half-open", "open", "open", "half-open", "closed")
"""… and the breaker's state after each of it."""
CHANGES = (
    ("closed", "open"), ("open", "half-open"), ("half-open", "open"), ("open", "half-open"),
    ("half-open", "closed"),
)  # fmt: skip
PATIENCE_S = 20.0


class Watched:
    """A session with a live view and metrics beside the sink that keeps all."""

    def __init__(self, pid: int, *sinks: Sink) -> None:
        self.live, self.metrics = LiveSink(), MetricsSink()
        options = SessionOptions((pid,), "bcc", alloc=False)
        self.session = Attached(options, [self.live, self.metrics, *sinks])

    def changes(self) -> list[Event]:
        """The breaker's changes that were said so far."""
        return changes(self.session.sink.events)

    def in_metrics(self) -> str | None:
        """The state that the metrics give."""
        readings = self.metrics.snapshot
        return next((one for one in STATE_NAMES if readings.get(m.BREAKER_STATE, NAME, one)), None)

    def in_live_view(self) -> str:
        """What the live view shows now."""
        return plain_picture(self.live.snapshot, ViewState(), 160)


def changes(events: Sequence[Event]) -> list[Event]:
    """Of maps' breakers among events; Parkscope's own are called ``probe:…``."""
    told = [event for event in list(events) if event.event == "breaker"]
    return [event for event in told if event.data["name"].startswith(PREFIX)]


@contextmanager
def watched(pid: int, *sinks: Sink) -> Iterator[Watched]:
    """Attached for as long as the block lasts."""
    watch = Watched(pid, *sinks)
    watch.session.start()
    try:
        yield watch
    finally:
        watch.session.stop()


def live(process: subprocess.Popen[bytes], watch: Watched) -> list[dict[str, Any]]:
    """The whole life; each state has to be seen in metrics and live view while it lasts."""
    answers = []
    for command, state in zip(LIFE, STATES, strict=True):
        answers.append(ask(process, command))
        assert answers[-1]["state"].replace("_", "-") == state
        wait_until(lambda s=state: watch.in_metrics() == s, f"{state} in metrics", PATIENCE_S)  # type: ignore[misc]
        wait_until(lambda s=state: is_shown(watch, s), f"{state} in the live view", PATIENCE_S)  # type: ignore[misc]
    return answers


def is_shown(watch: Watched, state: str) -> bool:
    """Whether the live view shows that state; of a closed breaker it shows nothing."""
    picture = watch.in_live_view()
    return f"· {NAME} {state}" in picture if state != "closed" else f"· {NAME}" not in picture


def wrong(events: list[Event], answers: list[dict[str, Any]], pid: int) -> list[str]:
    """What was said otherwise than the program knows it."""
    truth = answers[-1]["changes"]
    found = []
    said = [(event.data["from"], event.data["to"]) for event in events]
    if said != list(CHANGES) or len(truth) != len(CHANGES):
        return [f"changes {said}, in truth {truth}"]
    before_ns = 0
    for event, true in zip(events, truth, strict=True):
        data = event.data
        pairs = {
            "from": (data["from"], true["from"].replace("_", "-")),
            "to": (data["to"], true["to"].replace("_", "-")),
            "failures": (data["failures"], true["failures"]),
            "samples": (data["samples"], true["samples"]),
            "thread": ((event.pid, event.tid), (pid, true["tid"])),
            "map": ((data["map"], data["address"]), ("orders", answers[0]["address"])),
            "name": (data["name"], NAME),
            "time": (before_ns < event.ts_ns <= true["ns"], True),
        }
        found += [
            f"{key}: {ours}, not {theirs}"
            for key, (ours, theirs) in pairs.items()
            if ours != theirs
        ]
        before_ns = true["ns"]
    return found
