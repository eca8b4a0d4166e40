"""Who is inside the ``with`` body of a lock: the proof that a thread holds a plain lock.

A thread holds it while one of its frames stands inside the body by the code's exception
table and the slot that the table's depth gives has that lock's ``__exit__``. A waiter that
is still inside ``__enter__`` has it there, too, but stands outside of the body; stale slots
lie above the depth. Read a second time from the thread's state on before it is said.

Sources: ``BEFORE_WITH`` (3.14 on: ``LOAD_SPECIAL``) and ``WITH_EXCEPT_START`` in
Python/bytecodes.c; Include/cpython/methodobject.h, classobject.h, descrobject.h.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from probes.errors import MemoryReadError
from tracer.pymem.codes import CodeReader
from tracer.pymem.frames import Call, Stack
from tracer.pymem.layout import Layout
from tracer.pymem.locks.kinds import Kinds
from tracer.pymem.locks.slots import SlotReader, Slots
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


class HolderReader:
    """``with`` bodies that threads stand in. Raises nothing for what cannot be read."""

    def __init__(
        self,
        layout: Layout,
        objects: ObjectReader,
        codes: CodeReader,
        kinds: Kinds,
        slots: SlotReader,
        waits: WaitReader,
    ) -> None:
        self._layout = layout
        self._objects = objects
        self._codes = codes
        self._kinds = kinds
        self._slots = slots
        self._waits = waits
        self._bound = layout.strategies["with_exit"] == "bound_method"

    def claims(self, stacks: Mapping[int, Stack]) -> list[Claim]:
        """All bodies that these threads (by any key) stand in, innermost first per thread."""
        calls: list[tuple[int, int, Call, tuple[int, ...]]] = []
        for thread, stack in stacks.items():
            for level, call in enumerate(stack.calls):
                depths = self._bodies(call)
                if depths:
                    calls.append((thread, level, call, depths))
        found = self._slots.read([call for _, _, call, _ in calls])
        exits: list[tuple[int, int, Slots, int, int, int]] = []
        for (thread, level, _, depths), slots in zip(calls, found, strict=True):
            if slots is None:
                continue
            for depth in depths:
                low, high = slots.stack(depth - 2), slots.stack(depth - 1)
                exits.append((thread, level, slots, depth, low, high))
        managers = self._managers([(low, high) for *_, low, high in exits])
        return self._made(stacks, exits, managers)

    def _bodies(self, call: Call) -> tuple[int, ...]:
        try:
            return self._codes.bodies(call.code, call.offset)
        except MemoryReadError:
            return ()

    def _managers(self, pairs: list[tuple[int, int]]) -> list[int]:
        """For each pair of words at the top of a body's part of the stack, its manager; or 0.

        ``bound_method``: the upper is the bound ``__exit__``. ``function_and_self``: the
        lower is ``__exit__``, the upper what it is called with, if it is not bound.
        """
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

    def _made(
        self,
        stacks: Mapping[int, Stack],
        exits: list[tuple[int, int, Slots, int, int, int]],
        managers: list[int],
    ) -> list[Claim]:
        locks = self._kinds.locks(managers)
        claims = []
        for (thread, level, slots, depth, low, high), manager in zip(exits, managers, strict=True):
            if not manager:
                continue
            lock = manager if manager in locks else self._lock_of(manager)
            inner = stacks[thread].calls[: level + 1]
            place = (slots.address, slots.call.code.address, depth, low, high, manager, lock)
            lost = self._lost(inner, lock) if lock else ""
            claims.append(Claim(thread, manager, lock, level, place, lost))
        return claims

    def _lock_of(self, manager: int) -> int:
        """The lock that a Condition's ``__exit__`` lets go of; 0 for any other object."""
        try:
            if self._kinds.class_of(manager) != ("threading", "Condition"):
                return 0
        except MemoryReadError:
            return 0
        return self._waits.condition_lock(manager)

    def _lost(self, inner: Iterable[Call], lock: int) -> str:
        """Why a thread inside of the body may not have the lock now; "" if it has."""
        waits = []
        for call in inner:
            module, function = call.frame.module, call.frame.function
            if module == "threading" and function.startswith("Condition.wait"):
                waits.append(call)
            elif module not in _LIBRARY and self._releases(call):
                return "inside `with`, in code that may have released it"
        for slots in self._slots.read(waits):
            if slots is None or self._waits.condition_lock(self._slots.first(slots)) in (0, lock):
                return "inside `with`, waiting for a condition that lets go of it"
        return ""

    def _releases(self, call: Call) -> bool:
        try:
            return not _RELEASES.isdisjoint(self._codes.details(call.code).attributes)
        except MemoryReadError:
            return True
