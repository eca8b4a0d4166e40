"""What is read of native maps in a target's memory: their names, and who holds a shard.

By offsets that a profile declares, so nothing is guessed: without an owner field nobody is
the holder. What a declaration says is checked as far as it can be: the owner must be a
thread of the process, another one than the waiter, before and after its stack is read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from collector.context import Blame, MapFacts, ParkedAt, Party, Resource
from probes.errors import MemoryReadError, ParkscopeError, PermissionDenied
from tracer import procfs
from tracer.native.profiles import Lock, Profile
from tracer.pymem import PythonReader

MAX_NAME = 80
SEARCH_PERIOD_NS = 900_000_000
MAX_SEARCHES = 4
"""In one period: looking for where a map lives takes some milliseconds each time, and holds
up the loop."""
_STACK_LIMIT = 32
_WORD = 8


class NativeMapReader:
    """Of one target. ``profiles`` by their number."""

    def __init__(
        self,
        reader: PythonReader,
        profiles: Sequence[Profile],
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._reader = reader
        self._profiles = profiles
        self._now_ns = now_ns
        self._searches = 0
        self._period_ns = 0
        self._begun: set[int] = set()

    def facts(self, address: int, profile: int) -> MapFacts | None:
        """What the map at ``address`` is called; None for an unknown profile."""
        known = self._profile(profile)
        if known is None or not address:
            return None
        name = self._own_name(address, known)
        if name is None:
            name = self._search(Resource(known.map.type, None, address))
        return MapFacts(known.map.type, name, known.name)

    def blames(self, waits: Mapping[int, ParkedAt]) -> dict[int, Blame]:
        """What threads that are parked in native maps wait for, by tid."""
        found = {}
        for tid, parked in waits.items():
            known = None if parked.place is None else self._profile(parked.place.profile)
            if known is None or parked.place is None:
                continue
            address = parked.place.map
            name = self._own_name(address, known) if address else None
            resource = Resource(known.map.type, name, address or parked.address)
            found[tid] = self._held(tid, parked.address, known, Blame(resource))
        unnamed = {tid: one for tid, one in found.items() if one.resource.name is None}
        return {**found, **self._reader.named(unnamed)} if unnamed else found

    def _profile(self, number: int) -> Profile | None:
        return self._profiles[number] if 0 <= number < len(self._profiles) else None

    def _own_name(self, address: int, profile: Profile) -> str | None:
        """By the map's own field, which may be None."""
        offset = profile.map.name_offset
        if offset is None:
            return None
        with suppress(MemoryReadError):
            raw = self._reader.memory.read(address + offset, _WORD)
            text = self._reader.text(int.from_bytes(raw, "little"))
            return text[:MAX_NAME] or None
        return None

    def _search(self, resource: Resource) -> str | None:
        """By where the object lives; looked on for some milliseconds now and then."""
        now_ns = self._now_ns()
        if now_ns - self._period_ns >= SEARCH_PERIOD_NS:
            self._period_ns, self._searches = now_ns, 0
        if self._searches >= MAX_SEARCHES:
            return None
        self._searches += 1
        if resource.address in self._begun:
            found = self._reader.find_name(resource)
            if found.done:  # after a while it is looked for anew
                self._begun.discard(resource.address)
            return found.name
        self._begun.add(resource.address)
        pid = self._reader.target.pid
        return self._reader.named({pid: Blame(resource)})[pid].resource.name

    def _held(self, tid: int, lock: int, profile: Profile, blame: Blame) -> Blame:
        """The same with the holder, where the lock says who that is."""
        timed = self._timed(tid, lock, profile.lock)
        if timed is None and profile.lock.futex_offset is not None:
            return blame  # it has what it waited for, and is on its way back
        blame = replace(blame, timed=timed)
        owner = self._owner(lock, profile.lock)
        if not owner or owner == tid:
            return blame
        known = self._reader.thread(owner) is not None
        stack = self._reader.stack(owner, _STACK_LIMIT) if known else None
        frames = None if stack is None or stack[1] else stack[0]
        name = self._reader.name(owner) if known else None
        if self._owner(lock, profile.lock) != owner:
            return blame
        holder = Party(owner, name, "holds the shard", frames)
        return replace(blame, holder=holder, needs=(owner,))

    def _timed(self, tid: int, lock: int, declared: Lock) -> bool | None:
        """Whether a wait has a time limit; None where it is not parked at the lock's futex."""
        if declared.futex_offset is None:
            return None
        try:
            address, limited = procfs.futex_wait(self._reader.target.pid, tid)
        except PermissionDenied:
            return None
        return limited if address == lock + declared.futex_offset else None

    def _owner(self, lock: int, declared: Lock) -> int:
        """The native id of who has the lock, 0 where that is nobody or not known."""
        if declared.owner == "none" or not lock:
            return 0
        try:
            raw = self._reader.memory.read(lock + declared.owner_offset, declared.owner_width)
        except MemoryReadError:
            return 0
        owner = int.from_bytes(raw, "little")
        if not owner:
            return 0
        try:
            if declared.owner == "ident":
                return self._reader.tid_of_ident(owner)
            return self._native_id(owner)
        except ParkscopeError:
            return 0

    def _native_id(self, owner: int) -> int:
        """A thread id as the process numbers it, as it is numbered here; 0 if it has none."""
        pid = self._reader.target.pid
        tids = procfs.thread_ids(pid)
        if procfs.same_pid_namespace(pid):
            return owner if owner in tids else 0
        return procfs.namespace_ids(pid, tids).get(owner, 0)
