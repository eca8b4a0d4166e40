"""Online consumers of what the collector finds.

``SINKS`` names those that a command may choose; a sink is one module here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy.typing as npt

from collector.counters import Counters
from collector.events import Event


class Sink(Protocol):
    """Receives everything in order; health is part of the interface.

    A sink that cannot go on raises a ``ParkscopeError``; the pipeline then closes
    the others properly before the error reaches the person. No call may block on
    the target.
    """

    def on_records(self, records: npt.NDArray[Any], dropped: dict[int, int], now_ns: int) -> None:
        """Decoded records (dtype ``RECORD``) of one batch, with its losses by kind."""

    def on_parks(self, parks: npt.NDArray[Any]) -> None:
        """Parks that ended, long or not (dtype ``collector.parks.PARK``)."""

    def on_events(self, events: Sequence[Event]) -> None:
        """Semantic events, oldest first."""

    def on_health(self, counters: Counters, now_ns: int) -> None:
        """Counters, about once a second and once at the end."""

    def close(self) -> None:
        """Flush and finish; safe to call twice."""


SINKS: tuple[str, ...] = ("json_lines", "live", "metrics", "trace_file")
"""Modules of this package; a test compares them with what lies in the folder."""


class SinkBase:
    """A sink that does nothing: for those that need only some of what passes."""

    def on_records(self, records: npt.NDArray[Any], dropped: dict[int, int], now_ns: int) -> None:
        """Nothing."""

    def on_parks(self, parks: npt.NDArray[Any]) -> None:
        """Nothing."""

    def on_events(self, events: Sequence[Event]) -> None:
        """Nothing."""

    def on_health(self, counters: Counters, now_ns: int) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""
