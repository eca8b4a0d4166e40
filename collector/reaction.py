"""What acts on events: the protocol of triggers, which the tracer implements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from collector.counters import Counters
from collector.events import Event


class Reaction(Protocol):
    """Looks at every event and may set something off; what came of that is events, too.

    No call may wait for anything: the loop has a target to watch. Events that are
    returned go to the sinks, and are not handed back here.
    """

    def on_events(self, events: Sequence[Event]) -> Sequence[Event]:
        """Semantic events, oldest first; what follows from them."""

    def on_health(self, counters: Counters, now_ns: int) -> Sequence[Event]:
        """About once a second: what changes without an event may be looked at."""

    def tend(self, now_ns: int) -> Sequence[Event]:
        """After every batch: what is due, and what has been done meanwhile."""

    def due_ns(self) -> int | None:
        """When ``tend`` should be called at the latest; None: nothing is pending."""

    def finish(self, now_ns: int, *, patient: bool) -> Sequence[Event]:
        """The session ends: give what is being done a moment, and say what is not done.

        ``patient``: it ends by itself, and nobody waits for it.
        """

    def close(self) -> None:
        """Leave nothing behind; safe to call twice."""
