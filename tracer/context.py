"""Names and stacks for the collector, read from live targets at the moment of a park."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Protocol

from collector.context import (
    UNKNOWN,
    Blame,
    Census,
    MapFacts,
    NameFound,
    ParkedAt,
    Party,
    Resource,
    ThreadContext,
    WakerStack,
    Waking,
)
from collector.wait_graph import NATIVE
from probes.errors import ParkscopeError
from tracer import procfs
from tracer.native.profiles import Profile
from tracer.native.reader import NativeMapReader
from tracer.native_mutex import mutex_owner
from tracer.pymem import PythonReader
from tracer.target import Target, alive

STACK_LIMIT = 32
"""Frames of a park, innermost first: idle rules and diagnoses look no deeper."""


class KernelStacks(Protocol):
    """Stacks of running threads that the kernel has taken (``struct ps_stack``), by key."""

    def kernel_stack(self, key: int) -> bytes | None:
        """One of them, None when it is not kept any more."""

    def forget_codes(self, pid: int) -> None:
        """Have the code objects of that process looked at anew."""


class TargetContext:
    """A ``ContextProvider`` over live targets; never raises for one that has gone.

    A parked thread's stack holds still, so what is read here is the park's own
    stack if the thread is still in the same park afterwards: the caller, who has
    its ``since_ns``, checks that.
    """

    def __init__(self, targets: Iterable[Target] = (), profiles: Sequence[Profile] = ()) -> None:
        self._readers: dict[int, PythonReader] = {}
        self._profiles = profiles
        self._maps: dict[int, NativeMapReader] = {}
        self._stacks: KernelStacks | None = None
        for target in targets:
            self.add(target)

    def add(self, target: Target) -> None:
        """Begin to answer for a target; one that is added again replaces the earlier one.

        Raises NotCPython and UnsupportedPython when its Python cannot be read,
        PermissionDenied, TargetGone.
        """
        self._readers.pop(target.pid, None)
        reader = self._readers[target.pid] = PythonReader(target)
        self._maps[target.pid] = NativeMapReader(reader, self._profiles)
        with suppress(ParkscopeError):  # still starting up, or busy: the first park takes longer
            reader.warm_up()

    def ready(self, pid: int) -> bool:
        """Whether the process's interpreter is up: it has threads and a GIL.

        Raises what ``PythonReader.threads`` raises.
        """
        reader = self._readers.get(pid)
        return reader is not None and bool(reader.threads()) and bool(reader.gil_conditions())

    def gil(self, pid: int) -> tuple[tuple[tuple[int, int], ...], tuple[int, ...]]:
        """A process's GIL ranges and conditions as they are now; empty without a reader."""
        reader = self._readers.get(pid)
        if reader is None:
            return (), ()
        return tuple(reader.gil_ranges()), tuple(reader.gil_conditions())

    def remove(self, pid: int) -> None:
        """Stop answering for a process."""
        self._readers.pop(pid, None)
        self._maps.pop(pid, None)

    def reader(self, pid: int) -> PythonReader | None:
        """The reader of a process, None when its Python cannot be read."""
        return self._readers.get(pid)

    def describe(
        self, pid: int, tid: int, since_ns: int, parked: ParkedAt | None = None, /
    ) -> ThreadContext:
        """Name and innermost frames of a parked thread; ``UNKNOWN`` when nothing can be read.

        What it waits for is found out for a park that is ``parked`` at a lock or a GIL.
        """
        reader = self._readers.get(pid)
        if reader is None or not alive(reader.target):
            return UNKNOWN
        try:
            return self._describe(reader, tid, parked)
        except ParkscopeError:
            return UNKNOWN  # gone, or changing too fast to be read: no names, the park stands

    def _describe(self, reader: PythonReader, tid: int, parked: ParkedAt | None) -> ThreadContext:
        if reader.thread(tid) is None:  # the list has just been read again
            return self._native(reader, tid)
        name = reader.name(tid)
        found = reader.stack(tid, STACK_LIMIT)
        if found is None:
            return ThreadContext(thread_name=name, python=True)
        frames, torn = found
        return ThreadContext(
            thread_name=name,
            python=True,
            frames=frames,
            torn=torn,
            blame=None
            if parked is None
            else self.blames(reader.target.pid, {tid: parked}).get(tid),
            read_ns=time.monotonic_ns(),
        )

    def blames(self, pid: int, waits: Mapping[int, ParkedAt], /) -> dict[int, Blame]:
        """What many parked threads of a process wait for, by tid; without those unknown."""
        reader = self._readers.get(pid)
        if reader is None or not alive(reader.target):
            return {}
        try:
            shards = {tid: one for tid, one in waits.items() if one.place is not None}
            others = {tid: one[:2] for tid, one in waits.items() if tid not in shards}
            found = reader.blames(others) if others else {}
            found |= self._maps[pid].blames(shards) if shards else {}
            now_ns = time.monotonic_ns()
            found = {tid: replace(blame, read_ns=now_ns) for tid, blame in found.items()}
            for tid, parked in waits.items():
                if parked.kind == "lock" and (
                    tid not in found or found[tid].resource.type == "lock"
                ):
                    blame = self._native_blame(reader, tid)
                    found |= {} if blame is None else {tid: blame}
        except ParkscopeError:
            return {}
        return found

    def _native_blame(self, reader: PythonReader, tid: int) -> Blame | None:
        """Of what no Python object stands for: a mutex, or of a native thread any futex.

        Only where nobody but its own process can end the wait, and no clock.
        """
        pid = reader.target.pid
        mutex = mutex_owner(reader.memory, pid, tid)
        if mutex is not None:
            address, owner = mutex
            known = reader.thread(owner) is not None
            stack = reader.stack(owner, STACK_LIMIT) if known else None
            frames = None if stack is None or stack[1] else stack[0]
            holder = Party(owner, reader.name(owner), "owns the mutex", frames)
            resource = Resource("mutex", None, address)
            return Blame(resource, holder, needs=(owner,), timed=False, read_ns=time.monotonic_ns())
        if reader.thread(tid) is None and procfs.waits_privately(pid, tid):
            return Blame(Resource(NATIVE), timed=False)
        return None

    def census(self, pid: int, /) -> Census | None:
        """All threads of a process; None when they cannot be listed for certain."""
        reader = self._readers.get(pid)
        if reader is None:
            return None
        try:
            before, known = procfs.thread_ids(pid), reader.threads()
            handlers = procfs.handles_signals(pid)
            if procfs.thread_ids(pid) != before or not known.keys() <= before:
                return None  # threads come and go: somebody acts
        except ParkscopeError:
            return None
        return Census({tid: tid in known for tid in before}, handlers)

    def native_map(self, pid: int, address: int, profile: int, /) -> MapFacts | None:
        """What a native map is called, None while that cannot be read."""
        reader = self._readers.get(pid)
        if reader is None or not alive(reader.target):
            return None
        try:
            return self._maps[pid].facts(address, profile)
        except ParkscopeError:
            return None

    def find_name(self, pid: int, resource: Resource, /) -> NameFound:
        """Go on looking for the name of a resource that had none, for a few milliseconds."""
        reader = self._readers.get(pid)
        if reader is None or not alive(reader.target):
            return NameFound(None, done=True)
        try:
            return reader.find_name(resource)
        except ParkscopeError:
            return NameFound(None, done=True)

    def _native(self, reader: PythonReader, tid: int) -> ThreadContext:
        """A thread that Python does not know, provided that it lives and Python runs."""
        if not reader.started or not procfs.has_thread(reader.target.pid, tid):
            return UNKNOWN
        return ThreadContext(python=False, frames=())

    def name_stacks_of(self, stacks: KernelStacks) -> None:
        """From now on these are named: the keys of wakers are theirs."""
        self._stacks = stacks

    def waker_stack(
        self, _pid: int, _tid: int, _since_ns: int, waking: Waking, /
    ) -> WakerStack | None:
        """Where a waker stood, by what of its stack can still be named for certain."""
        reader, stacks = self._readers.get(waking.pid), self._stacks
        if reader is None or stacks is None or not waking.stack:
            return None
        raw = stacks.kernel_stack(waking.stack)
        if raw is None:
            return None
        try:
            found, whole = reader.name_kernel_stack(raw)
        except ParkscopeError:
            return None
        if not whole:  # other code may be where some has died
            stacks.forget_codes(waking.pid)
        return found

    def thread_name(self, pid: int, tid: int) -> str | None:
        """Python's name of a thread, None when unknown."""
        reader = self._readers.get(pid)
        if reader is None:
            return None
        try:
            return reader.name(tid)
        except ParkscopeError:
            return None
