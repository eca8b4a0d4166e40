"""Triggers, actions and circuit breakers in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from collector.events import Event
from tracer import units
from tracer.diagnosis import plain
from tracer.escape import terminal


def trigger(event: Event) -> str | None:
    """``trigger stuck fires by park 3: heap-dump, exec``."""
    data = event.data
    actions = data.get("actions")
    names = ", ".join(map(str, actions)) if isinstance(actions, list) else "?"
    by = f"park {plain(data['park_id'])}" if data.get("park_id") else plain(data.get("on"))
    return f"trigger {terminal(str(data.get('trigger')), 40)} fires by {by}: {terminal(names)}"


def action(event: Event) -> str | None:
    """What became of it, one line."""
    data = event.data
    name = f"{plain(data.get('action'))} of {terminal(str(data.get('trigger')), 40)}"
    status, why = data.get("status"), terminal(str(data.get("why")))
    if status == "skipped":
        count = data.get("count")
        times = f" {units.number(count)} times" if isinstance(count, int) and count > 1 else ""
        return f"{name} skipped{times}: {why}"
    if status == "failed":
        return f"{name} failed: {why}"
    result = data.get("result")
    text = f"{name} done{_details(result if isinstance(result, Mapping) else {})}"
    return text if data.get("why") is None else f"{text}, but {why}"


def breaker(event: Event) -> str | None:
    """State changes of actions' breakers; what happens to probes the governor says."""
    data = event.data
    name = str(data.get("name"))
    if name.startswith("probe:"):
        return None
    why = terminal(str(data.get("why")))
    return f"breaker {terminal(name, 60)} {plain(data.get('to'))}: {why}"


def _details(result: Mapping[str, Any]) -> str:
    """Where it is, and of a dump when it was taken."""
    text = f": {terminal(str(result['path']))}" if result.get("path") else ""
    after_ns, pause_ns = result.get("freeze_after_crossing_ns"), result.get("pause_ns")
    if isinstance(after_ns, int) and after_ns >= 0:
        text += f", frozen {units.duration(after_ns)} after the crossing"
        if result.get("park_still_on") is not True:
            over = result.get("park_still_on") is False
            text += ", when the park was over" if over else ", perhaps after the park"
        if result.get("engine") == "precopy":
            text += " (precopy copies first)"
    if isinstance(pause_ns, int):
        text += f", paused {units.duration(max(0, pause_ns))}"
    return text
