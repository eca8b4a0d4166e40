"""From a parked thread to the end of its chain: who has what it waits for, and does what.

What is read here may be stale a moment later, so a chain is built in two steps, as a
stack is: ``Chains.look`` reads, ``confirmed`` cuts off whatever has moved since.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Protocol

from collector.context import Blame, ContextProvider, Link
from collector.park import Park
from probes.kinds import fd_of, syscall_name

MAX_LINKS = 32
"""A longer chain is cut: nobody reads on, and a target could make one of any length."""

EXPLAINED = ("lock", "gil", "map")
"""Kinds of park that somebody else in the process can end."""


class OpenParks(Protocol):
    """What the detector knows of parks that last (``collector.parks.ParkDetector``)."""

    def park_of(self, pid: int, tid: int) -> Park | None:
        """The park that a thread is in, None when none is known of."""

    def is_open(self, park: Park) -> bool:
        """Whether this very park still lasts, as far as is known."""


@dataclass(frozen=True, slots=True)
class SeenLink:
    """A link and the park that its thread was seen in; None: in none that is known of."""

    link: Link
    park: Park | None


class Blames:
    """What parked threads wait for, each read once until ``forget`` is called."""

    def __init__(self, context: ContextProvider, parks: OpenParks) -> None:
        self._context = context
        self._parks = parks
        self._known: dict[Park, Blame | None] = {}

    def forget(self) -> None:
        """Time has passed: what was read may no longer hold."""
        self._known.clear()

    def known(self, park: Park) -> Blame | None:
        """What has been read of a park already."""
        return self._known.get(park)

    def of(self, park: Park) -> Blame | None:
        """What one park is for; None where that could not be read."""
        if park not in self._known:
            self.read([park])
        return self._known[park]

    def read(self, parks: Iterable[Park]) -> None:
        """Read what many parks are for, those of one process in one go."""
        missing: dict[int, dict[int, Park]] = {}
        for park in parks:
            if park not in self._known:
                missing.setdefault(park.pid, {})[park.tid] = park
        for pid, of_process in missing.items():
            asked = {tid: p.parked for tid, p in of_process.items() if p.kind in EXPLAINED}
            found = self._context.blames(pid, asked) if asked else {}
            for tid, park in of_process.items():
                self._known[park] = found.get(tid)

    def park_of(self, pid: int, tid: int) -> Park | None:
        """The park that a thread is in, None when none is known of."""
        return self._parks.park_of(pid, tid)


class Chains:
    """Builds chains; one per session."""

    def __init__(self, blames: Blames, parks: OpenParks) -> None:
        self._blames = blames
        self._parks = parks

    def look(self, park: Park, blame: Blame | None) -> tuple[SeenLink, ...]:
        """The chain that begins at a park, without the parked thread itself."""
        links: list[SeenLink] = []
        seen = {park.tid}
        while blame is not None and blame.holder is not None and len(links) < MAX_LINKS:
            holder = blame.holder
            held_up = self._blames.park_of(park.pid, holder.tid)
            blame = None if held_up is None else self._blames.of(held_up)
            resource = None if blame is None else blame.resource
            links.append(SeenLink(Link(holder, _does(held_up), resource), held_up))
            if holder.tid in seen:
                break
            seen.add(holder.tid)
        return tuple(links)

    def confirmed(self, links: Iterable[SeenLink], pid: int) -> tuple[Link, ...]:
        """What still holds after the source was drained once more."""
        sure: list[Link] = []
        for seen in links:
            if self._still(seen, pid):
                sure.append(seen.link)
                continue
            party = replace(seen.link.party, frames=None)
            sure.append(Link(party, None, None))
            break  # what it waited for is over, and with it all that depends on that
        return tuple(sure)

    def _still(self, seen: SeenLink, pid: int) -> bool:
        if seen.park is None:
            return self._parks.park_of(pid, seen.link.party.tid) is None
        return self._parks.is_open(seen.park)


def _does(park: Park | None) -> str | None:
    """What a thread does that is, or is not, in a park."""
    if park is None:
        return "runs"
    if park.kind in EXPLAINED:
        return "waits"
    if park.kind == "sleep":
        return "sleep"
    call, fd = syscall_name(park.syscall), fd_of(park.syscall, park.address)
    if call is None:
        return None
    return call if fd is None else f"{call} on fd {fd}"
