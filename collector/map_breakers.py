"""Circuit breakers over native maps: from the records of their changes to ``breaker`` events."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from collector.breaker import State
from collector.context import ContextProvider, MapFacts
from collector.events import Event
from probes.wire import PAYLOAD, BreakerState, Kind

PREFIX = "map:"
"""What the names of such breakers begin with: ``map:sessions``."""

_STATES = {
    BreakerState.CLOSED: State.CLOSED.value,
    BreakerState.OPEN: State.OPEN.value,
    BreakerState.HALF_OPEN: State.HALF_OPEN.value,
    BreakerState.UNKNOWN: "unknown",
}


class MapBreakers:
    """One per session."""

    def __init__(self, context: ContextProvider) -> None:
        self._context = context

    def events(self, records: npt.NDArray[Any]) -> list[Event]:
        """The changes among decoded records, oldest first."""
        found = records[records["kind"] == Kind.BREAKER].view(PAYLOAD[Kind.BREAKER])
        known: dict[tuple[int, int], MapFacts | None] = {}
        events = []
        for row in found[np.argsort(found["ts_ns"], kind="stable")]:
            key = int(row["pid"]), int(row["map"])
            if key not in known:  # once for all changes of a batch
                known[key] = self._context.native_map(*key, int(row["profile"]))
            events.append(_event(row, known[key]))
        return events


def _event(row: Any, facts: MapFacts | None) -> Event:
    address = int(row["map"])
    name = None if facts is None else facts.name
    return Event(
        "breaker",
        int(row["ts_ns"]),
        pid=int(row["pid"]),
        tid=int(row["tid"]),
        data={
            "name": f"{PREFIX}{name or hex(address)}",
            "from": _STATES[BreakerState(int(row["from"]))],
            "to": _STATES[BreakerState(int(row["to"]))],
            "why": _why(row),
            "failures": int(row["failures"]),
            "samples": int(row["samples"]),
            "map": name,
            "address": hex(address),
            "type": None if facts is None else facts.type,
            "profile": None if facts is None else facts.profile,
        },
    )


def _why(row: Any) -> str:
    """By the states: a native map does not say more."""
    old, new = BreakerState(int(row["from"])), BreakerState(int(row["to"]))
    if new is BreakerState.HALF_OPEN:
        return "the rest is over: one probe is let through"
    if old is BreakerState.HALF_OPEN:
        well = new is BreakerState.CLOSED
        return "the probe got through" if well else "the probe did not get through"
    if new is BreakerState.OPEN and row["samples"]:
        return f"{row['failures']} of the last {row['samples']} iterations failed"
    return "the program says so"
