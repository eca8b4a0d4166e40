"""Who may have a lock of which no holder is certain: what speaks for each thread.

None of this is proof. A manager that has the lock may not have taken it; a function that
calls ``acquire`` may not have come to it, or may have let go of the lock since.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from probes.errors import MemoryReadError
from tracer.pymem.codes import CodeReader
from tracer.pymem.frames import Call, FrameReader, Glance
from tracer.pymem.graph import GraphReader
from tracer.pymem.layout import Layout
from tracer.pymem.locks.holders import HolderReader
from tracer.pymem.locks.slots import SlotReader, Slots
from tracer.pymem.locks.waits import LIBRARY
from tracer.pymem.objects import ObjectReader

MAX_FRAMES = 512
"""Frames that are looked into for one lock."""
MAX_CANDIDATES = 8

_ACQUIRES = frozenset({"acquire", "enter_context", "__enter__"})


class CandidateReader:
    """Candidates for locks. Raises nothing for what cannot be read."""

    def __init__(
        self,
        layout: Layout,
        objects: ObjectReader,
        frames: FrameReader,
        graph: GraphReader,
        holders: HolderReader,
        slots: SlotReader,
    ) -> None:
        self._layout = layout
        self._objects = objects
        self._frames = frames
        self._codes: CodeReader = frames.codes
        self._graph = graph
        self._holders = holders
        self._slots = slots

    def find(self, lock: int, stacks: Mapping[int, Glance]) -> dict[int, str]:
        """What speaks for each of some threads (by any key); the strongest word for each."""
        self._graph.forget()
        found = self._by_managers(lock, stacks)
        for thread, how in self._by_calls(lock, stacks).items():
            found.setdefault(thread, how)
        return dict(islice(found.items(), MAX_CANDIDATES))

    def _by_managers(self, lock: int, stacks: Mapping[int, Glance]) -> dict[int, str]:
        """Threads inside of a ``with`` whose manager has the lock, or a generator inside one."""
        bodies = self._holders.within(stacks)
        contents = self._graph.contents([manager for _, manager in bodies])
        found: dict[int, str] = {}
        generators: dict[int, int] = {}
        for (one, _), held in zip(bodies, contents, strict=True):
            if held is None:
                continue
            if lock in held.values:
                found.setdefault(one.thread, "inside `with` of an object that has it")
            generators.update(dict.fromkeys(held.values, one.thread))
        for thread in self._inside(lock, generators):
            found.setdefault(thread, "inside `with` of a generator that is inside `with`")
        return found

    def _inside(self, lock: int, objects: Mapping[int, int]) -> list[int]:
        """What those belong to of some objects that are generators inside of the lock."""
        at = self._layout["PyGenObject.gi_iframe"]
        generators = [one for one in objects if one and self._is_generator(one)]
        calls = self._frames.suspended([one + at for one in generators])
        frames = {
            one: call for one, call in zip(generators, calls, strict=True) if call is not None
        }
        return [objects[one] for one, manager in self._holders.suspended(frames) if manager == lock]

    def _is_generator(self, address: int) -> bool:
        try:
            kind = self._objects.type_of(address)
        except MemoryReadError:
            return False
        return kind.static and kind.name == "generator"

    def _by_calls(self, lock: int, stacks: Mapping[int, Glance]) -> dict[int, str]:
        """Threads in a function that acquires something and that has the lock within reach."""
        calls = list(islice(self._acquiring(stacks), MAX_FRAMES))
        found: dict[int, str] = {}
        for (thread, call), slots in zip(
            calls, self._slots.read([call for _, call in calls]), strict=True
        ):
            if slots is not None and thread not in found and self._reaches(slots, lock):
                name = call.frame.function.rpartition(".")[2]
                found[thread] = f"in {name}(), which has it and calls acquire"
        return found

    def _acquiring(self, stacks: Mapping[int, Glance]) -> Iterator[tuple[int, Call]]:
        for thread, stack in stacks.items():
            for raw, place in stack.standing():
                call = Call(place.frame, raw, place.code, place.offset)
                if place.frame.module not in LIBRARY and self._acquires(call):
                    yield thread, call

    def _acquires(self, call: Call) -> bool:
        try:
            return not _ACQUIRES.isdisjoint(self._codes.details(call.code).attributes)
        except MemoryReadError:
            return False

    def _reaches(self, slots: Slots, lock: int) -> bool:
        """Whether a variable, an attribute of ``self`` or a global of the frame is the lock."""
        variables: Sequence[int] = slots.words[: len(slots.details.variables)]
        cells = zip(variables, slots.details.cells, strict=True)
        values = [self._slots.content(one) if cell else one for one, cell in cells]
        if lock in values:
            return True
        near = [*self._graph.contents(values[:1]), *self._graph.dicts([slots.call.raw.namespace])]
        return any(one is not None and lock in one.values for one in near)
