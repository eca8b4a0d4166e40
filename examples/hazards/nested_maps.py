"""Nested maps: the outer range does not care for inner deletes; only ``False`` ends a range.

A map of maps, walked with an inner range inside the outer one. Deleting in an inner map
changes nothing for the outer walk, in any mode. What goes wrong is in the inner one (a weak
range goes on with entries that were just deleted), and where somebody wants to leave early:
a callback that returns None, 0 or "" goes on, and one that raises leaves both ranges
as errors. ``return False`` ends its own range and no other.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from concurrent_map import ConcurrentMap
from rounds import kept, main, numbers

Mode: TypeAlias = Literal["weak", "strict", "snapshot", "view"]
MODES: tuple[Mode, ...] = ("weak", "strict", "snapshot", "view")
ROOMS, GUESTS = 20, 30
NO_ENDS: tuple[Any, ...] = (None, 0, "", [])


def rooms() -> ConcurrentMap[int, ConcurrentMap[int, int]]:
    """The outer map."""
    inner_maps = {n: numbers(GUESTS, f"room {n}") for n in range(ROOMS)}
    return kept(ConcurrentMap(inner_maps, name="rooms"))


def outer_is_unaffected(mode: Mode) -> bool:
    """Whether a range in ``mode`` over inner maps that are emptied meanwhile is a whole one."""
    house = rooms()
    inner_maps = list(house.values())
    ranges = house.stats()["ranges"][mode]["complete"]
    visited: list[int] = []

    def visit(number: int, room: ConcurrentMap[int, int]) -> None:
        visited.append(number)
        for one in inner_maps:
            one.load_and_delete(len(visited))
        room.clear()

    given = house.range(visit, mode)
    complete = house.stats()["ranges"][mode]["complete"] - ranges
    return given == ROOMS and sorted(visited) == list(range(ROOMS)) and complete == 1


def inner(mode: Mode, end: object) -> tuple[int, int]:
    """(entries given, those of them that were deleted before): find one guest, show out others.

    ``end`` is what the callback returns when it has what it wanted, at the third entry.
    """
    room = numbers(GUESTS, "room")
    given: list[int] = []
    ghosts: list[int] = []

    def meet(guest: int, _value: int) -> object:
        given.append(guest)
        if guest not in room:
            ghosts.append(guest)
        for other in range(GUESTS):
            if other != guest:
                room.load_and_delete(other)
        return end if len(given) == 3 else None

    room.range(meet, mode)
    return len(given), len(ghosts)


def in_weak() -> str | None:
    """The outer range is whole; the inner one gives deleted entries and does not end."""
    if not all(outer_is_unaffected(mode) for mode in MODES):
        return None
    results = [inner("weak", end) for end in NO_ENDS]
    if any(given <= 3 or not ghosts for given, ghosts in results):
        return None
    given, ghosts = results[0]
    return f"inner range went on: {given} given, {ghosts} of them deleted; outer unaffected"


def in_snapshot() -> str | None:
    """A picture has no ghosts, it has a moment; and ``False`` ends the inner range alone."""
    house = rooms()
    outer: list[int] = []
    seen: list[int] = []

    def visit(number: int, room: ConcurrentMap[int, int]) -> None:
        outer.append(number)
        before = len(room)
        guests = room.snapshot()

        def meet(guest: int, _value: int) -> object:
            seen.append(guest)
            room.clear()
            return False if len(seen) % 3 == 0 else None

        given = guests.range(meet)
        if (given, len(guests), len(room)) != (3, before, 0):
            raise RuntimeError(f"{given} given of {len(guests)}, {len(room)} left")

    given = house.range(visit, "snapshot")
    ranges = house.stats()["ranges"]["snapshot"]
    if given == len(outer) == ROOMS and len(seen) == 3 * ROOMS and ranges["complete"] == 1:
        return None
    return f"outer {given}, inner {len(seen)}, {ranges}"


if __name__ == "__main__":
    main("nested maps", weak=in_weak, mode="snapshot", cured=in_snapshot)
