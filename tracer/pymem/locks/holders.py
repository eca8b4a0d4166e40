"""Who is inside the ``with`` body of a lock: the proof that a thread holds a plain lock.

A thread holds it while one of its frames stands inside the body by the code's exception
table and the slot that the table's depth gives has that lock's ``__exit__``. A waiter that
is still inside ``__enter__`` has it there, too, but stands outside of the body; stale slots
lie above the depth. Read a second time from the thread's state on before it is said.

Sources: ``BEFORE_WITH`` (3.14 on: ``LOAD_SPECIAL``) and ``WITH_EXCEPT_START`` in
Python/bytecodes.c; Include/cpython/methodobject.h, classobject.h, descrobject.h.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from probes.errors import MemoryReadError
from tracer.pymem.codes import CodeReader
from tracer.pymem.frames import Call, Glance, Place
from tracer.pymem.layout import Layout
from tracer.pymem.locks.kinds import Kinds
from tracer.pymem.locks.releases import ReleaseReader
from tracer.pymem.locks.slots import Slots
from tracer.pymem.locks.waits import WaitReader
from tracer.pymem.objects import ObjectReader, word

_RELEASES = frozenset({"release", "_release_save", "release_lock", "__exit__"})
_LIBRARY = frozenset(
    {"threading", "queue", "concurrent.futures._base", "concurrent.futures.thread", "logging"}
)
"""Modules whose code lets go of a lock only as is known here (``Condition.wait``)."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A thread that stands inside a ``with`` body.

    ``manager``: the object of the ``with`` statement. ``lock``: the lock that its
    ``__exit__`` lets go of (a Condition's own one), 0 where that is none that is known.
    ``level``: of the frame, 0 is the innermost. ``place``: what must be the same the
    second time. ``lost``: why the lock may have been let go of meanwhile, "" if it cannot.
    """

    thread: int
    manager: int
    lock: int
    level: int
    place: tuple[int, ...]
    lost: str = ""


class Body(NamedTuple):
    """A frame that stands in bodies. ``depths``: those of the bodies, innermost first."""

    thread: int
    level: int
    call: Call
    depths: tuple[int, ...]


class Exit(NamedTuple):
    """A place on a value stack where a manager's ``__exit__`` must be, and what is there."""

    thread: int
    level: int
    slots: Slots
    depth: int
    low: int
    high: int


class HolderReader:
    """``with`` bodies that threads stand in. Raises nothing for what cannot be read."""

    def __init__(
        self,
        layout: Layout,
        objects: ObjectReader,
        codes: CodeReader,
        kinds: Kinds,
        waits: WaitReader,
        releases: ReleaseReader,
    ) -> None:
        self._layout = layout
        self._objects = objects
        self._codes = codes
        self._kinds = kinds
        self._slots = waits.slots
        self._waits = waits
        self._lets_go = releases
        self._bound = layout.strategies["with_exit"] == "bound_method"

    def claims(self, stacks: Mapping[int, Glance], wanted: frozenset[int]) -> list[Claim]:
        """The bodies of any ``wanted`` lock or manager that these threads (by any key) stand in.

        Innermost first per thread.
        """
        exits = self._exits(self._all_bodies(stacks))
        managers = self.managers(exits)
        locks = self._locks_of(managers)
        return [
            self._claim(stacks[one.thread], one, manager, locks.get(manager, 0))
            for one, manager in zip(exits, managers, strict=True)
            if manager in wanted or locks.get(manager, 0) in wanted
        ]

    def _exits(self, bodies: Sequence[Body]) -> list[Exit]:
        found = self._slots.read([one.call for one in bodies])
        return [
            Exit(one.thread, one.level, slots, at, slots.stack(at - 2), slots.stack(at - 1))
            for one, slots in zip(bodies, found, strict=True)
            if slots is not None
            for at in one.depths
        ]

    def _all_bodies(self, stacks: Mapping[int, Glance]) -> list[Body]:
        found = []
        known: dict[int, tuple[int, ...]] = {}  # threads share places: a pool's stand at a few
        for thread, stack in stacks.items():
            for level, (raw, place) in enumerate(stack.standing()):
                depths = known.get(id(place))
                if depths is None:
                    depths = known[id(place)] = self._bodies(place)
                if depths:
                    call = Call(place.frame, raw, place.code, place.offset)
                    found.append(Body(thread, level, call, depths))
        return found

    def within(self, stacks: Mapping[int, Glance]) -> list[tuple[Exit, int]]:
        """Every body that these threads stand in, with its manager."""
        exits = self._exits(self._all_bodies(stacks))
        pairs = zip(exits, self.managers(exits), strict=True)
        return [(one, manager) for one, manager in pairs if manager]

    def suspended(self, calls: Mapping[int, Call]) -> list[tuple[int, int]]:
        """The same of frames that do not run (of generators), by any key: key, manager."""
        bodies = [Body(key, 0, call, self._bodies(call)) for key, call in calls.items()]
        exits = self._exits([one for one in bodies if one.depths])
        pairs = zip(exits, self.managers(exits), strict=True)
        return [(one.thread, manager) for one, manager in pairs if manager]

    def _bodies(self, place: Place | Call) -> tuple[int, ...]:
        try:
            return self._codes.bodies(place.code, place.offset)
        except MemoryReadError:
            return ()

    def managers(self, exits: Sequence[Exit]) -> list[int]:
        """The manager of each body, 0 where the words at its place are no ``__exit__``.

        ``bound_method``: the upper word is the bound ``__exit__``. ``function_and_self``: the
        lower is ``__exit__``, the upper what it is called with, if it is not bound.
        """
        pairs = [(one.low, one.high) for one in exits]
        if self._bound:
            return self._selves([high for _, high in pairs])
        bound = iter(self._selves([low for low, high in pairs if not high]))
        free = self._are_exits([low for low, _ in pairs])
        return [
            (high if is_exit else 0) if high else next(bound)
            for (_, high), is_exit in zip(pairs, free, strict=True)
        ]

    def _selves(self, methods: list[int]) -> list[int]:
        """What bound ``__exit__`` methods are bound to; 0 for anything else."""
        layout = self._layout
        found = []
        for head in self._objects.heads(methods):
            manager = 0
            name = self._kind(head)
            if head is not None and name == "builtin_function_or_method":
                definition = word(head, layout["PyCFunctionObject.m_ml"])
                if self._objects.c_name(definition) == "__exit__":
                    manager = word(head, layout["PyCFunctionObject.m_self"])
            elif head is not None and name == "method":
                manager = word(head, layout["PyMethodObject.im_self"])
            found.append(manager)
        return found

    def _are_exits(self, functions: list[int]) -> list[bool]:
        """Whether objects are unbound methods: of C they must be called ``__exit__``."""
        at_name = self._layout["PyDescrObject.d_name"]
        found = []
        for head in self._objects.heads(functions):
            kind = self._kind(head)
            fits = kind == "function"
            if head is not None and kind == "method_descriptor":
                try:
                    fits = self._objects.text(word(head, at_name)) == "__exit__"
                except MemoryReadError:
                    fits = False
            found.append(fits)
        return found

    def _kind(self, head: bytes | None) -> str:
        """Name of the type of an object, if it is one of the interpreter's own; else ""."""
        if head is None:
            return ""
        try:
            info = self._objects.type_info(word(head, self._layout["PyObject.ob_type"]))
        except MemoryReadError:
            return ""
        return info.name if info.static else ""

    def _claim(self, stack: Glance, one: Exit, manager: int, lock: int) -> Claim:
        slots = one.slots
        code = slots.call.code.address
        place = (slots.address, code, one.depth, one.low, one.high, manager, lock)
        lost = self._lost(stack.calls(one.level + 1), lock) if lock else ""
        return Claim(one.thread, manager, lock, one.level, place, lost)

    def _locks_of(self, managers: Iterable[int]) -> dict[int, int]:
        """The lock that each manager's ``__exit__`` lets go of; without those of other kinds.

        A lock is its own manager, a Condition has one.
        """
        every = sorted(set(managers) - {0})
        locks = dict.fromkeys(self._kinds.locks(every))
        conditions = self._kinds.instances(every, ("threading", "Condition"))
        return {**{at: at for at in locks}, **self._waits.condition_locks(conditions)}

    def _lost(self, inner: Iterable[Call], lock: int) -> str:
        """Why a thread inside of the body may not have the lock now; "" if it has."""
        waits, others = [], []
        for call in inner:
            module, function = call.frame.module, call.frame.function
            if module == "threading" and function.startswith("Condition.wait"):
                waits.append(call)
            elif module not in _LIBRARY and self._releases(call):
                others.append(call)
        if any(self._lets_go.may_release(slots, lock) for slots in self._slots.read(others)):
            return "inside `with`, in code that may have released it"
        for slots in self._slots.read(waits):
            condition = self._slots.first(slots)
            if self._waits.condition_locks([condition]).get(condition, 0) in (0, lock):
                return "inside `with`, waiting for a condition that lets go of it"
        return ""

    def _releases(self, call: Call) -> bool:
        try:
            return not _RELEASES.isdisjoint(self._codes.details(call.code).attributes)
        except MemoryReadError:
            return True
