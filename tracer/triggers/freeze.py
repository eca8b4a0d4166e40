"""Whether a park still lasted when its process was frozen for a dump: true only if known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from collector.events import Event
from collector.park import Park


class Ended(Enum):
    """What is known by now; the values are what a dump says (``park_still_on``)."""

    YES = True
    NO = False
    NEVER_KNOWN = None
    UNKNOWN = "not yet"


@dataclass(slots=True)
class Question:
    """A park and the moment of a freeze (CLOCK_MONOTONIC ns)."""

    park_id: int
    pid: int
    tid: int
    frozen_ns: int
    end: Event | None = None
    """Its ``park_end``, once that has come."""

    @classmethod
    def of(cls, event: Event | None, frozen_ns: int, end: Event | None) -> Question | None:
        """The question about the park of an event; None where there is none."""
        if event is None or event.pid is None or event.tid is None:
            return None
        park_id = event.data.get("park_id")
        return None if park_id is None else cls(park_id, event.pid, event.tid, frozen_ns, end)

    def answer(self, park_of: Callable[[int, int], Park | None], end_error_ns: int) -> Ended:
        """What is known.

        A park lasts if it was seen to after the freeze, or ended by its own account later; a
        freeze itself ends nothing (``Park.stopped_ns``). Silence is no proof here.
        """
        if self.end is not None:
            end_ns = (self.end.start_ns or 0) + (self.end.duration_ns or 0)
            if self.end.data.get("end") == "lost" or abs(end_ns - self.frozen_ns) <= end_error_ns:
                return Ended.NEVER_KNOWN
            return Ended.YES if end_ns > self.frozen_ns else Ended.NO
        park = park_of(self.pid, self.tid)
        same = park is not None and park.park_id == self.park_id
        if park is None or not same or max(park.last_seen_ns, park.between_ns) <= self.frozen_ns:
            return Ended.UNKNOWN
        return Ended.YES
