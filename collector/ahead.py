"""Parks are read shortly before they cross, too: one that ends just then is not left unknown.

What is read of a parked thread is true if the park outlasted the reading. A park that
ends a moment after the threshold outlasts no reading that begins at the threshold.
So one that is about to cross is read ``LEAD_NS`` before. Its stack is that of the whole
park and is not read again; who holds what may change meanwhile, so that is read again at
the crossing. The earlier reading counts only if the park is over by then, and the holder
of then only if it is the thread that ended the park.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from collector.attribution import Attributor, Sight
from collector.chains import Blames, OpenParks
from collector.park import Park

LEAD_NS = 4_000_000
"""How long before a crossing. Stack and lock take some 2 ms; what is read earlier than it has
to be is read more often for parks that never cross."""
MANY = 32
"""When more are about to cross at once, they are read at the crossing only."""


class ComingParks(OpenParks, Protocol):
    """The detector, as far as it is needed here."""

    @property
    def next_deadline_ns(self) -> int | None:
        """When the next open park will cross the threshold, None if none can."""

    def crossing_by(self, until_ns: int, /) -> Sequence[Park]:
        """Open parks that will cross the threshold until then, if they last."""


class ReadAhead:
    """Keeps what was read of parks until they cross or end; one per session."""

    def __init__(self, attributor: Attributor, blames: Blames, parks: ComingParks) -> None:
        self._attributor = attributor
        self._blames = blames
        self._parks = parks
        self._read: dict[Park, Sight] = {}

    def due_ns(self, now_ns: int) -> int | None:
        """When ``look`` should be called, or else the next crossing is."""
        crossing_ns = self._parks.next_deadline_ns
        if crossing_ns is None:
            return None
        ahead_ns = crossing_ns - LEAD_NS
        return ahead_ns if ahead_ns > now_ns else crossing_ns

    def look(self, now_ns: int) -> None:
        """Read the parks that are about to cross: those a little later in the same go."""
        self._read = {
            park: sight
            for park, sight in self._read.items()
            if not park.park_id and self._parks.is_open(park)
        }
        crossing_ns = self._parks.next_deadline_ns
        if crossing_ns is None or not now_ns < crossing_ns <= now_ns + LEAD_NS:
            return
        coming = self._parks.crossing_by(now_ns + 2 * LEAD_NS)
        if len(coming) > MANY:
            return
        sights = [self._attributor.look(park) for park in coming if park not in self._read]
        self._blames.forget()
        self._blames.read(sight.park for sight in sights if not sight.idle)
        for sight in sights:
            blame = self._blames.known(sight.park) or sight.blame
            self._read[sight.park] = replace(sight, blame=blame)

    def sight(self, park: Park) -> Sight:
        """What is known of a park that has crossed; its blame is still to be read if it lasts."""
        earlier = self._read.pop(park, None)
        if earlier is None:
            return self._attributor.look(park)
        if not self._parks.is_open(park):
            return replace(earlier, blame=None, earlier=earlier)
        context = earlier.context
        # A wait for the GIL has slices: the thread may have gone a line further in between.
        if park.kind == "gil" or context.frames is None or context.torn:
            return replace(self._attributor.look(park), earlier=earlier)
        return replace(earlier, blame=context.blame, earlier=earlier)
