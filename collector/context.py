"""What is known about a parked thread besides its records: a lookup protocol.

The detector knows times, system calls and addresses. Thread names and Python
frames are read from the target by the tracer, come from the scenario in the
mock, and from the recorded events in a replay: all through ``ContextProvider``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol


@dataclass(frozen=True, slots=True)
class Frame:
    """One Python call. ``line`` is None where it could not be read for certain."""

    module: str | None
    function: str
    file: str
    line: int | None = None


@dataclass(frozen=True, slots=True)
class Resource:
    """What a thread waits on, as a person would call it.

    ``type``: ``Lock``, ``RLock``, ``Condition``, ``Event``, ``Semaphore``, ``Queue``,
    ``Barrier``, ``Thread`` (a join), ``Future``, ``GIL``, ``mutex`` (of native code); any
    other native lock is ``lock``.
    ``name``: where it lives (``app.cache._lock``), None while unknown. ``address``: of
    the object in the target, of the wait itself where no object is known.
    """

    type: str
    name: str | None = None
    address: int = 0


@dataclass(frozen=True, slots=True)
class Party:
    """A thread that a wait depends on. ``how`` says how that is known."""

    tid: int
    thread_name: str | None
    how: str
    frames: tuple[Frame, ...] | None = None


@dataclass(frozen=True, slots=True)
class Blame:
    """What a wait is for and who has it.

    ``holder`` is true or None: never a guess. ``candidates`` are weaker: each says in
    ``how`` what speaks for it. ``needs``: native ids of the threads of which at least
    one has to act for the wait to end, None where that cannot be said for certain.
    ``timed``: it ends by itself at a time limit; None when that is not known. ``read_ns``
    is the source's time by which it had been read, 0 where that is unknown. ``turn`` grows by
    one whenever another thread takes the thing (a GIL), 0 where that is unknown.
    """

    resource: Resource
    holder: Party | None = None
    candidates: tuple[Party, ...] = ()
    needs: tuple[int, ...] | None = None
    timed: bool | None = None
    read_ns: int = 0
    turn: int = 0


@dataclass(frozen=True, slots=True)
class Link:
    """One thread in a chain of waits: it has what the one before it waits for.

    ``does`` says what it does itself: ``waits`` (for ``resource``, which the next link
    has), ``sleep``, ``recvfrom on fd 5``, ``runs``; None where that is not certain.
    """

    party: Party
    does: str | None = None
    resource: Resource | None = None


@dataclass(frozen=True, slots=True)
class ThreadContext:
    """What is known about one thread at one moment.

    ``thread_name`` is Python's name (``threading.Thread.name``), never the
    kernel's comm. ``python`` is False for a thread that no interpreter knows
    (a native library's pool), None where that could not be found out.
    ``frames`` are the innermost first, possibly not all of them; None where they
    could not be read (empty: read, and there are none). ``torn`` marks a stack
    that kept changing while it was read. ``read_ns`` is the source's time by which
    it had been read, 0 where that is unknown. ``blame``: what it waits for, None where
    that could not be found out. ``chain``: where that leads to, if it is known already
    (in a replay); None when it has to be found out.
    """

    thread_name: str | None = None
    python: bool | None = None
    frames: tuple[Frame, ...] | None = None
    torn: bool = False
    read_ns: int = 0
    blame: Blame | None = None
    chain: tuple[Link, ...] | None = None


UNKNOWN = ThreadContext()


class ParkedAt(NamedTuple):
    """Kind and wait address of a park (``Park.kind``, ``Park.address``; 0 when unknown).

    ``place``: in which native map that is, for a park on one.
    """

    kind: str
    address: int
    place: InMap | None = None


class InMap(NamedTuple):
    """Where in a native map a thread waits.

    ``map``: the map object's address, 0 if unknown. ``shard`` is None if unknown.
    ``profile``: number of the profile that told of it.
    """

    map: int
    shard: int | None
    profile: int


@dataclass(frozen=True, slots=True)
class MapFacts:
    """A native map as people know it: its class, its name if it has one, whose profile."""

    type: str
    name: str | None = None
    profile: str | None = None


class Waking(NamedTuple):
    """Who ended a park, and the source's key of the Python stack it had then (0: none)."""

    pid: int
    tid: int
    stack: int


@dataclass(frozen=True, slots=True)
class WakerStack:
    """Innermost frames of a thread at the moment when it woke another one.

    ``truncated``: there are more below that are not known.
    """

    frames: tuple[Frame, ...]
    truncated: bool


class NameFound(NamedTuple):
    """One slice of the search for a resource's name: ``done`` when more would not help."""

    name: str | None
    done: bool


@dataclass(frozen=True, slots=True)
class Census:
    """All threads of a process at one moment.

    ``threads``: native id, and whether an interpreter knows the thread. ``handlers``:
    a signal other than SIGINT may run a handler in the main thread.
    """

    threads: Mapping[int, bool]
    handlers: bool


class ContextProvider(Protocol):
    """Answers about threads; never raises for a target that has gone."""

    def describe(
        self, pid: int, tid: int, since_ns: int, parked: ParkedAt | None = None, /
    ) -> ThreadContext:
        """The thread parked since ``since_ns``; ``UNKNOWN`` when nothing can be read.

        With ``parked``, the answer has ``blame`` where that can be found out.
        """

    def blames(self, pid: int, waits: Mapping[int, ParkedAt], /) -> dict[int, Blame]:
        """What many parked threads of a process wait for, by tid; without those unknown."""

    def find_name(self, pid: int, resource: Resource, /) -> NameFound:
        """Go on looking for the name of a resource that had none, for a few milliseconds."""

    def census(self, pid: int, /) -> Census | None:
        """All threads of a process; None where they are not known for certain."""

    def native_map(self, pid: int, address: int, profile: int, /) -> MapFacts | None:
        """What a native map is called; asked once a second while it has no name."""

    def thread_name(self, pid: int, tid: int, /) -> str | None:
        """Python's name of a thread, None when unknown."""

    def waker_stack(
        self, pid: int, tid: int, since_ns: int, waking: Waking, /
    ) -> WakerStack | None:
        """Where the waker of a park (that of ``tid``, begun at ``since_ns``) stood, if known."""


class NoBlames:
    """What of a ``ContextProvider`` goes beyond describing a parked thread: it finds nothing."""

    def waker_stack(
        self, _pid: int, _tid: int, _since_ns: int, _waking: Waking, /
    ) -> WakerStack | None:
        """Always None."""
        return None

    def blames(self, _pid: int, _waits: Mapping[int, ParkedAt], /) -> dict[int, Blame]:
        """Always empty."""
        return {}

    def find_name(self, _pid: int, _resource: Resource, /) -> NameFound:
        """Nothing, and no more to come."""
        return NameFound(None, done=True)

    def census(self, _pid: int, /) -> Census | None:
        """Always None."""
        return None

    def native_map(self, _pid: int, _address: int, _profile: int, /) -> MapFacts | None:
        """Always None."""
        return None
