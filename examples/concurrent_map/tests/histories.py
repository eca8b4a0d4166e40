"""Whether what threads did to a map, and were told by it, can have been one thing after another.

Two judgements. ``not_linearizable`` needs nothing but the calls and their times: each key's
calls must have an order that respects the times and explains each answer (Wing & Gong 1993,
"Testing and verifying concurrent objects", with the memory of Lowe 2017, "Testing for
linearizability"; keys are judged one by one, which is the same: Herlihy & Wing's locality).
``Timeline`` takes the versions that the map gives to its changes for the order, checks that
they can be it, and holds whole walks against the states between them.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple

ABSENT = 0
LOAD, STORE, LOAD_OR_STORE, LOAD_AND_DELETE, SWAP, COMPARE_AND_DELETE = range(6)
WEAK, STRICT, SNAPSHOT, VIEW = range(4)
COMPLETE, STOPPED, STALE, ERROR = range(4)


class Call(NamedTuple):
    """One call on one key, as ``RawMap.record`` gives it; times in ns."""

    operation: int
    key: int
    value: int
    expected: int
    result: int
    began: int
    ended: int
    version: int = 0


def effect(call: Call, there: int) -> int | None:
    """What the key's value is after the call, or None: with ``there`` it answers otherwise."""
    operation, result = call.operation, call.result
    if operation == STORE:
        return call.value
    if operation in {SWAP, COMPARE_AND_DELETE}:
        matches = there != ABSENT and there == call.expected
        if result != matches:
            return None
        if not matches:
            return there
        return call.value if operation == SWAP else ABSENT
    if result != there:
        return None
    if operation == LOAD_OR_STORE and there == ABSENT:
        return call.value
    return ABSENT if operation == LOAD_AND_DELETE else there


class Wrong(NamedTuple):
    """The first answer that no order of the calls explains, and what stood to choice."""

    call: Call
    states: tuple[int, ...]


_Configuration = tuple[int, frozenset[int]]
"""A value, and which of the calls under way have had their effect on the way to it."""


def _grown(configurations: set[_Configuration], under_way: dict[int, Call]) -> set[_Configuration]:
    """All that can be reached by letting calls under way have their effect."""
    found = set(configurations)
    left = list(configurations)
    while left:
        there, done = left.pop()
        for number, call in under_way.items():
            if number in done:
                continue
            after = effect(call, there)
            if after is not None and (then := (after, done | {number})) not in found:
                found.add(then)
                left.append(then)
    return found


def _judge_key(calls: Sequence[Call]) -> Wrong | None:
    # At one time calls begin before others end: that allows more orders, never fewer.
    events = sorted(
        [(call.began, 0, number) for number, call in enumerate(calls)]
        + [(call.ended, 1, number) for number, call in enumerate(calls)]
    )
    configurations: set[_Configuration] = {(ABSENT, frozenset())}
    under_way: dict[int, Call] = {}
    for _, is_end, number in events:
        if not is_end:
            under_way[number] = calls[number]
            continue
        had_effect = {
            (there, done - {number})
            for there, done in _grown(configurations, under_way)
            if number in done
        }
        if not had_effect:
            return Wrong(calls[number], tuple(there for there, _ in configurations))
        configurations = had_effect
        del under_way[number]
    return None


def by_key(calls: Iterable[Call]) -> dict[int, list[Call]]:
    """The calls of each key."""
    keys: dict[int, list[Call]] = defaultdict(list)
    for call in calls:
        keys[call.key].append(call)
    return dict(keys)


def not_linearizable(calls: Iterable[Call]) -> list[Wrong]:
    """For each key whose calls have no order, where it ends. Every key begins absent."""
    return [wrong for one in by_key(calls).values() if (wrong := _judge_key(one)) is not None]


def overlapping(calls: Iterable[Call]) -> int:
    """How many calls began while another one of the same key was under way."""
    count = 0
    for one in by_key(calls).values():
        latest = -1
        for call in sorted(one, key=lambda call: call.began):
            count += call.began < latest
            latest = max(latest, call.ended)
    return count


# --- walks ----------------------------------------------------------------------------------


class Walk(NamedTuple):
    """One whole walk, as ``RawMap.record_walks`` gives it.

    ``begun`` is when its view was open; ``before`` and ``after`` are versions of the map
    around the walk, ``version`` is its view's.
    """

    mode: int
    outcome: int
    began: int
    begun: int
    ended: int
    before: int
    after: int
    version: int
    items: bytes
    loads: bytes


def pairs(numbers: bytes) -> list[tuple[int, int]]:
    """Key and value, key and value …"""
    flat = array("Q", numbers)
    return list(zip(flat[::2], flat[1::2], strict=True))


class Change(NamedTuple):
    """A change that has a version: of a call, or a clear() (then the key is -1)."""

    version: int
    began: int
    ended: int
    key: int
    before: int
    value: int


@dataclass
class _Past:
    """The values of one key, each from its version on."""

    versions: list[int] = field(default_factory=lambda: [0])
    values: list[int] = field(default_factory=lambda: [ABSENT])

    def at(self, version: int) -> int:
        return self.values[bisect_right(self.versions, version) - 1]

    def during(self, first: int, last: int) -> set[int]:
        """Those that it had from version ``first`` to ``last``."""
        return set(
            self.values[bisect_right(self.versions, first) - 1 : bisect_right(self.versions, last)]
        )


class Timeline:
    """All changes of a map in the order of their versions.

    ``errors`` says why that order cannot be the real one; then nothing else is worth asking.
    """

    def __init__(self, calls: Iterable[Call], clears: Iterable[tuple[int, int, int]] = ()) -> None:
        self.errors: list[str] = []
        self._past: dict[int, _Past] = defaultdict(_Past)
        self._shapes: list[Change] = []
        self.changes = self._ordered(calls, clears)
        self._respects_time()

    def _ordered(
        self, calls: Iterable[Call], clears: Iterable[tuple[int, int, int]]
    ) -> list[Change]:
        made: list[tuple[int, int, int, Call | None]] = [
            (call.version, call.began, call.ended, call) for call in calls if call.version
        ]
        made += [(version, began, ended, None) for version, began, ended in clears]
        made.sort(key=lambda one: one[0])
        if [one[0] for one in made] != list(range(1, len(made) + 1)):
            self.errors.append("versions are missing, or were given twice")
        state: dict[int, int] = {}
        changes = []
        for version, began, ended, call in made:
            if call is None:
                changes.append(Change(version, began, ended, -1, ABSENT, ABSENT))
                for key in state:
                    self._set(version, key, ABSENT)
                state.clear()
            else:
                changes.append(self._apply(call, state))
        self._final = state
        self._shapes = [one for one in changes if one.key < 0 or not (one.before and one.value)]
        self._shape_versions = [one.version for one in self._shapes]
        return changes

    def _apply(self, call: Call, state: dict[int, int]) -> Change:
        before = state.get(call.key, ABSENT)
        value = effect(call, before)
        if value is None:
            self.errors.append(f"{call} found {before} by the order of versions")
            value = ABSENT
        self._set(call.version, call.key, value)
        if value:
            state[call.key] = value
        else:
            state.pop(call.key, None)
        return Change(call.version, call.began, call.ended, call.key, before, value)

    def _set(self, version: int, key: int, value: int) -> None:
        past = self._past[key]
        past.versions.append(version)
        past.values.append(value)

    def _respects_time(self) -> None:
        """No change has ended before one of a lower version began."""
        earliest = float("inf")
        for change in reversed(self.changes):
            if earliest < change.began:
                self.errors.append(f"a later version had ended before {change} began")
            earliest = min(earliest, change.ended)
        ends = [change.ended for change in self.changes]
        starts = [change.began for change in self.changes]
        self._latest_start = list(accumulate(starts, max))
        self._earliest_end = list(accumulate(ends[::-1], min))[::-1]

    def at(self, version: int) -> dict[int, int]:
        """The map at a version."""
        state = {key: past.at(version) for key, past in self._past.items()}
        return {key: value for key, value in state.items() if value}

    def wrong(self, walk: Walk) -> str | None:
        """What the walk breaks of its mode's contract, or None."""
        if walk.outcome == ERROR:
            return "it failed"
        if walk.mode in {SNAPSHOT, VIEW}:
            return self._wrong_picture(walk)
        items = pairs(walk.items)
        for key, value in items:
            if value not in self._past[key].during(walk.before, walk.after):
                return f"key {key} was given with {value}, which it had at no time of the walk"
        return self._wrong_strict(walk, items) if walk.mode == STRICT else None

    def wrong_cut(self, version: int, items: Sequence[tuple[int, int]]) -> str | None:
        """Whether the items are the map at that version, each once."""
        given = dict(items)
        if len(given) != len(items):
            return "a key was given twice"
        if given != self.at(version):
            return f"it is not the map at version {version}"
        return None

    def _wrong_picture(self, walk: Walk) -> str | None:
        if self.changes:
            # Changes that were over when it was asked for are in it; those begun later are not.
            later = self._earliest_end[walk.version] if walk.version < len(self.changes) else None
            if later is not None and later < walk.began:
                return f"version {walk.version} leaves out a change that had ended before"
            if walk.version and self._latest_start[walk.version - 1] > walk.begun:
                return f"version {walk.version} has a change that began after it was open"
        for key, value in pairs(walk.loads):
            if self._past[key].at(walk.version) != value:
                return f"key {key} was loaded with {value} from version {walk.version}"
        return self.wrong_cut(walk.version, pairs(walk.items))

    def _wrong_strict(self, walk: Walk, items: list[tuple[int, int]]) -> str | None:
        keys = {key for key, _ in items}
        if len(keys) != len(items):
            return "a key was given twice"
        first = bisect_right(self._shape_versions, walk.before)
        last = bisect_right(self._shape_versions, walk.after)
        states = (self.at(one) for one in (walk.before, *self._shape_versions[first:last]))
        if walk.outcome != STALE:
            if not any(keys == state.keys() for state in states):
                return "its keys are those of no moment of the walk"
            return None
        if not any(keys <= state.keys() for state in states):
            return "keys were given that were at no moment of the walk there together"
        # A version is given after the structure was counted: a change that overlaps in time
        # may be the one, whatever version it got.
        if first == last and not self._shape_overlaps(walk):
            return "it failed, and no key had come or gone"
        return None

    def _shape_overlaps(self, walk: Walk) -> bool:
        near = bisect_left(self._shape_versions, walk.before)
        return any(
            change.began <= walk.ended and change.ended >= walk.began
            for change in self._shapes[max(0, near - 64) : near + 64]
        )
