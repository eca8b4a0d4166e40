"""What parked threads wait for and who has it: true, or not said.

Everything is read twice. What a waiter's frames and lock said the first time must stand
there unchanged at the end; a holder is looked for again from its thread state on and must
be found in the same place.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import NamedTuple

from collector.context import Blame, Frame, NameFound, Party, Resource
from probes.errors import MemoryReadError
from tracer.pymem.attributes import AttributeReader
from tracer.pymem.frames import FrameReader, Glance
from tracer.pymem.graph import GraphReader
from tracer.pymem.layout import Layout
from tracer.pymem.locks.candidates import CandidateReader
from tracer.pymem.locks.holders import Claim, HolderReader
from tracer.pymem.locks.kinds import Kinds, LockState
from tracer.pymem.locks.names import SLICE_NS, NameSearch
from tracer.pymem.locks.releases import ReleaseReader
from tracer.pymem.locks.slots import SlotReader
from tracer.pymem.locks.waits import Found, WaitReader
from tracer.pymem.memory import MemoryReader
from tracer.pymem.objects import ObjectReader
from tracer.pymem.runtime import GilState, RuntimeReader, ThreadState

DEPTH = 512
"""Frames of a thread that are looked through for ``with`` bodies."""
MAX_SEARCHED = 2048
"""Threads whose stacks are looked through for one holder: 2 µs a frame."""
SHOWN = 32
"""Frames of a holder that are given."""
_THREAD_LOCKS = ("_tstate_lock", "_handle", "_os_thread_handle")
_GIL_TRIES = 16
_MAX_SUSPECTED = 4  # locks for which candidates are looked for at once
_UNNAMED = frozenset({"GIL", "Thread", "lock"})  # or named by something else than their place


class Wait(NamedTuple):
    """A park, as the kernel tells of it. ``address``: that is waited at, 0 if unknown.

    ``timed``: it ends by itself; None if unknown. ``told``: the address that the park was
    reported with, 0 if it was not.
    """

    kind: str
    address: int
    timed: bool | None = None
    told: int = 0


@dataclass(frozen=True, slots=True)
class Threads:
    """The target's threads: states by tid, and how to name them and find their objects."""

    states: Mapping[int, ThreadState]
    name: Callable[[int], str | None]
    objects: Callable[[int], Iterable[int]]

    def by_ident(self, interpreter: int, ident: int) -> int:
        """The tid of the thread with that ident, 0 if there is none."""
        for tid, state in self.states.items():
            if state.ident == ident and state.interpreter == interpreter:
                return tid
        return 0

    def by_state(self, address: int) -> int:
        """The tid of the thread with the thread state at ``address``, 0 if there is none."""
        return next((tid for tid, one in self.states.items() if one.address == address), 0)


class BlameReader:
    """Resources and holders of one target. Raises nothing for what cannot be read."""

    def __init__(
        self,
        memory: MemoryReader,
        layout: Layout,
        objects: ObjectReader,
        runtime: RuntimeReader,
        frames: FrameReader,
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._memory = memory
        self._objects = objects
        self._runtime = runtime
        self._frames = frames
        self._layout = layout
        self._kinds = Kinds(memory, layout, objects, runtime)
        self._attributes = AttributeReader(memory, layout, objects)
        self._slots = SlotReader(memory, layout, frames.codes)
        self._waits = WaitReader(
            memory, layout, objects, self._kinds, self._attributes, self._slots
        )
        self._names = NameSearch(memory, layout, objects, runtime, self._slots, now_ns)
        self._now_ns = now_ns
        releases = ReleaseReader(memory, layout, objects, frames.codes, self._waits)
        self._holders = HolderReader(
            layout, objects, frames.codes, self._kinds, self._waits, releases
        )
        self._candidates = CandidateReader(
            layout,
            objects,
            frames,
            GraphReader(memory, layout, objects),
            self._holders,
            self._slots,
        )

    def blames(self, waits: Mapping[int, Wait], threads: Threads) -> dict[int, Blame]:
        """What each of these parked threads waits for; left out where that cannot be told."""
        waits = {tid: wait for tid, wait in waits.items() if tid in threads.states}
        for interpreter in {threads.states[tid].interpreter for tid in waits}:
            self._kinds.refresh(interpreter)
        blames = {
            tid: blame
            for tid, wait in waits.items()
            if wait.kind == "gil" and (blame := self._gil(tid, threads)) is not None
        }
        locks = {tid: wait for tid, wait in waits.items() if wait.kind == "lock" and wait.address}
        blames.update(self._locks(locks, threads))
        return blames

    def warm_up(self, threads: Threads) -> None:
        """Read what the first ``blames`` would have to read besides: types, code, names."""
        for interpreter in {state.interpreter for state in threads.states.values()}:
            self._kinds.refresh(interpreter)
        stacks = self._glance(list(threads.states)[:MAX_SEARCHED], threads)
        self._holders.claims(stacks, frozenset())
        for tid in islice(stacks, 1):
            threads.name(tid)
            self._names.warm_up([stacks[tid]], threads.states[tid].interpreter)

    def _gil(self, tid: int, threads: Threads) -> Blame | None:
        state = threads.states[tid]
        gil = self._gil_of(state.interpreter)
        if not gil:
            return None
        holder = None
        held = self._gil_state(gil)
        found = threads.by_state(held.last_holder) if held and held.locked else 0
        if found and found != tid:
            holder = self._party(found, threads, "has the GIL")
            if self._gil_state(gil) != held:
                holder = None
        return Blame(
            Resource("GIL", None, self._runtime.gil_condition(gil)),
            holder=holder,
            needs=None if holder is None else (holder.tid,),
            timed=False,
            turn=0 if held is None else held.switches,
        )

    def _gil_of(self, interpreter: int) -> int:
        try:
            every = self._runtime.interpreters()
        except MemoryReadError:
            return 0
        return next((one.gil for one in every if one.address == interpreter), 0)

    def _gil_state(self, gil: int) -> GilState | None:
        """The GIL at a moment when it does not change hands; None when there is none."""
        for _ in range(_GIL_TRIES):
            try:
                state = self._runtime.gil_state(gil)
            except MemoryReadError:
                return None
            if not state.changing:
                return state
        return None

    def _locks(self, waits: Mapping[int, Wait], threads: Threads) -> dict[int, Blame]:
        stacks = self._glance(waits, threads)
        found = self._waits.find(
            {tid: (stack, waits[tid].address, waits[tid].told) for tid, stack in stacks.items()}
        )
        found = {tid: self._joined(one, stacks[tid], threads) for tid, one in found.items()}
        claims = self._claims(found.values(), stacks, threads)
        blames = {
            tid: self._blame(tid, one, waits[tid], claims, threads) for tid, one in found.items()
        }
        blames = self._suspected(found, self._confirmed(found, blames), threads)
        return self._named(blames, stacks, threads)

    def _named(
        self, blames: Mapping[int, Blame], stacks: Mapping[int, Glance], threads: Threads
    ) -> dict[int, Blame]:
        """The same with names, as far as they are found in the time of one slice of a search."""
        end_ns = self._now_ns() + SLICE_NS
        named = {}
        for tid, blame in blames.items():
            resource = blame.resource
            if resource.type not in _UNNAMED:
                order = [stacks[tid], *[one for other, one in stacks.items() if other != tid]]
                name = self._names.known(resource.address)
                if name is None:
                    self._names.begin(resource.address, order, threads.states[tid].interpreter)
                    left_ns = end_ns - self._now_ns()
                    if left_ns > 0:
                        name = self._names.resume(resource.address, left_ns).name
                resource = replace(resource, name=name)
            named[tid] = replace(blame, resource=resource)
        return named

    def named(self, blames: Mapping[int, Blame], threads: Threads) -> dict[int, Blame]:
        """The same with names of things that another reader has found, as far as known by now."""
        stacks = self._glance([tid for tid in blames if tid in threads.states], threads)
        known = {tid: blame for tid, blame in blames.items() if tid in stacks}
        return {**blames, **self._named(known, stacks, threads)}

    def find_name(self, resource: Resource) -> NameFound:
        """Another slice of the search for the name of a resource of an earlier ``Blame``."""
        if resource.type in _UNNAMED:
            return NameFound(resource.name, done=True)
        return self._names.resume(resource.address)

    def _glance(self, tids: Iterable[int], threads: Threads) -> dict[int, Glance]:
        states = [threads.states[tid] for tid in tids]
        stacks = self._frames.glance(states, DEPTH)
        by_address = {threads.states[tid].address: tid for tid in tids}
        return {by_address[address]: stack for address, stack in stacks.items() if not stack.torn}

    def _claims(
        self, found: Iterable[Found], stacks: Mapping[int, Glance], threads: Threads
    ) -> list[Claim]:
        """Who stands in a ``with`` body of something that is waited for, seen twice."""
        wanted = {one.address for one in found} | {one.lock.address for one in found if one.lock}
        if not any(one.type in ("Lock", "Semaphore") for one in found):
            return []
        others = [tid for tid in threads.states if tid not in stacks]
        seen = self._glance(others[:MAX_SEARCHED], threads)
        first = self._holders.claims({**stacks, **seen}, frozenset(wanted))
        again = self._glance({one.thread for one in first}, threads)
        claims = self._holders.claims(again, frozenset(wanted))
        second = {(one.thread, one.place): one for one in claims}
        pairs = [(one, second.get((one.thread, one.place))) for one in first]
        return [one if one.lost else two for one, two in pairs if two is not None]

    def _blame(
        self, tid: int, found: Found, wait: Wait, claims: list[Claim], threads: Threads
    ) -> Blame:
        resource = Resource(found.type, None, found.address)
        blame = Blame(resource, timed=wait.timed)
        if found.type == "Thread":
            return self._join(blame, threads)
        if found.type == "RLock" and found.lock is not None:
            return self._owned(blame, found.lock, threads.states[tid].interpreter, threads)
        if found.type == "Lock" and found.lock is not None:
            return self._claimed(blame, found.lock, claims, threads)
        if found.type == "Semaphore":
            inside = [one for one in claims if one.manager == found.address]
            return replace(blame, candidates=self._parties(inside, threads, "inside `with`"))
        if found.type == "Future":
            return self._running(blame, threads)
        return blame

    def _claimed(
        self, blame: Blame, lock: LockState, claims: list[Claim], threads: Threads
    ) -> Blame:
        """The one thread that is inside of a ``with`` of a held lock."""
        mine = [one for one in claims if one.lock == lock.address]
        certain = {one.thread for one in mine if not one.lost}
        if lock.held and len(certain) == 1:
            (claim, *_) = [one for one in mine if not one.lost]
            (holder,) = self._parties([claim], threads, "inside `with`")
            return replace(blame, holder=holder, needs=(holder.tid,))
        return replace(blame, candidates=self._parties(mine, threads, "inside `with`"))

    def _suspected(
        self, found: Mapping[int, Found], blames: Mapping[int, Blame], threads: Threads
    ) -> dict[int, Blame]:
        """The same with what speaks for a thread where no other word about a held lock is."""
        open_ = {
            tid: found[tid].lock
            for tid, one in blames.items()
            if one.resource.type == "Lock" and not one.holder and not one.candidates
        }
        locks = {lock.address for lock in open_.values() if lock is not None and lock.held}
        if not locks:
            return dict(blames)
        stacks = self._glance(list(threads.states)[:MAX_SEARCHED], threads)
        suspects = {}
        for address in sorted(locks)[:_MAX_SUSPECTED]:
            waiters = {tid for tid, one in found.items() if one.address == address}
            others = {tid: stack for tid, stack in stacks.items() if tid not in waiters}
            suspects[address] = tuple(
                self._party(tid, threads, how)
                for tid, how in self._candidates.find(address, others).items()
            )
        return {
            tid: replace(one, candidates=suspects.get(one.resource.address, one.candidates))
            if tid in open_
            else one
            for tid, one in blames.items()
        }

    def _owned(self, blame: Blame, lock: LockState, interpreter: int, threads: Threads) -> Blame:
        tid = threads.by_ident(interpreter, lock.owner) if lock.owner and lock.held else 0
        if not tid:
            return blame
        holder = self._party(tid, threads, "owns it")
        return replace(blame, holder=holder, needs=(tid,))

    def _join(self, blame: Blame, threads: Threads) -> Blame:
        """The joined thread, while it lives."""
        try:
            ident, native, name = self._attributes.of(
                blame.resource.address, ("_ident", "_native_id", "_name")
            )
            resource = replace(blame.resource, name=self._objects.text(name) if name else None)
            blame = replace(blame, resource=resource)
            numbers = self._objects.integers([ident, native])
        except MemoryReadError:
            return blame
        for tid, state in threads.states.items():
            if [state.ident, state.native_id] == numbers:
                holder = self._party(tid, threads, "runs until it ends")
                return replace(blame, holder=holder, needs=(tid,))
        return blame

    def _running(self, blame: Blame, threads: Threads) -> Blame:
        """The pool's worker that runs a future's task."""
        for tid, stack in self._glance(list(threads.states)[:MAX_SEARCHED], threads).items():
            works = [
                call
                for call in stack.calls()
                if call.frame.module == "concurrent.futures.thread"
                and call.frame.function == "_WorkItem.run"
            ]
            for slots in self._slots.read(works):
                try:
                    (future,) = self._attributes.of(self._slots.first(slots), ("future",))
                except MemoryReadError:
                    continue
                if future == blame.resource.address:
                    return replace(blame, holder=self._party(tid, threads, "runs its task"))
        return blame

    def _joined(self, found: Found, stack: Glance, threads: Threads) -> Found:
        """A lock of the interpreter's own that stands for a thread's end, as that thread."""
        innermost = stack.calls(1)[0].frame
        if found.type not in ("Lock", "lock") or innermost.function != "_shutdown":
            return found
        for state in {one.interpreter for one in threads.states.values()}:
            for thread in threads.objects(state):
                try:
                    parts = self._attributes.of(thread, _THREAD_LOCKS)
                except MemoryReadError:
                    continue
                locks = self._kinds.locks([one for one in parts if one])
                address = found.lock.wait_address if found.lock else found.address
                if any(one.wait_address == address for one in locks.values()):
                    return replace(found, type="Thread", address=thread)
        return found

    def _parties(self, claims: Iterable[Claim], threads: Threads, how: str) -> tuple[Party, ...]:
        found: dict[int, Party] = {}
        for claim in claims:
            found.setdefault(claim.thread, self._party(claim.thread, threads, claim.lost or how))
        return tuple(found.values())

    def _party(self, tid: int, threads: Threads, how: str) -> Party:
        return Party(tid, threads.name(tid), how, self._shown(threads.states[tid]))

    def _shown(self, state: ThreadState) -> tuple[Frame, ...] | None:
        """A thread's frames; None while they change too fast."""
        stack = self._frames.stacks([state], SHOWN).get(state.address)
        return None if stack is None or stack.torn else stack.frames

    def _confirmed(
        self, found: Mapping[int, Found], blames: Mapping[int, Blame]
    ) -> dict[int, Blame]:
        """Those whose waiter and whose lock are what they were."""
        places = [(tid, at, raw) for tid, one in found.items() for at, raw in one.frames]
        answers = self._memory.read_many([(at, len(raw)) for _, at, raw in places])
        moved = {tid for (tid, _, raw), now in zip(places, answers, strict=True) if now != raw}
        locks = {tid: one.lock for tid, one in found.items() if one.lock is not None}
        now = self._kinds.locks(sorted({lock.address for lock in locks.values()}), inherited=True)
        confirmed = {}
        for tid, blame in blames.items():
            lock = locks.get(tid)
            same = lock is None or now.get(lock.address) == lock
            if tid not in moved:
                confirmed[tid] = blame if same else replace(blame, holder=None, needs=None)
        return confirmed
