"""What a parked thread waits on: the object, found twice, and what it is part of.

The kernel says at which address a thread waits; the innermost frame has the object that
was called. Both must agree. What the object belongs to (a Condition, an Event, a Queue…)
is told by the frames above it and their ``self``.

Sources: Modules/_threadmodule.c, Python/parking_lot.c; Lib/threading.py, Lib/queue.py,
Lib/concurrent/futures/_base.py (3.11 to 3.15).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from probes.errors import MemoryReadError
from tracer.pymem.attributes import AttributeReader
from tracer.pymem.frames import Call, Glance
from tracer.pymem.layout import Layout
from tracer.pymem.locks.kinds import Kinds, LockState
from tracer.pymem.locks.slots import SlotReader, Slots, every_word
from tracer.pymem.memory import MemoryReader
from tracer.pymem.objects import ObjectReader, word

_WORD = 8
LIBRARY = frozenset({"threading", "queue", "concurrent.futures._base"})
_DEEPEST = 8
"""So many frames of the library stand between a wait and the code that asked for it."""


@dataclass(frozen=True, slots=True)
class _Layer:
    """A method of the library which, when it waits by means of ``below``, is the wait itself."""

    module: str
    function: str
    owner: str
    below: str


_LAYERS = tuple(
    _Layer(module, f"{owner}.{method}", owner, below)
    for module, owner, methods, below in (
        ("threading", "Event", ("wait",), "Condition"),
        ("threading", "Semaphore", ("acquire",), "Condition"),
        ("threading", "Barrier", ("_enter", "_wait"), "Condition"),
        ("queue", "Queue", ("get", "put", "join"), "Condition"),
        ("concurrent.futures._base", "Future", ("result", "exception"), "Condition"),
        ("threading", "Thread", ("_wait_for_tstate_lock",), "Lock"),
        ("threading", "Thread", ("join",), "Thread"),
    )
    for method in methods
)
_TRANSPARENT = frozenset({("threading", "Condition.wait_for")})
_BY_CALL = {(one.module, one.function, one.below): one for one in _LAYERS}


@dataclass(frozen=True, slots=True)
class Found:
    """What a thread waits on.

    ``type`` and ``address``: of the resource. ``lock``: the C object behind it, None where
    none is known. ``frames``: what was read of the thread's frames, with addresses: while
    it is the same, the thread is in the same wait.
    """

    type: str
    address: int
    lock: LockState | None
    frames: tuple[tuple[int, bytes], ...] = ()


class WaitReader:
    """What parked threads wait on. Raises nothing for what cannot be read."""

    def __init__(
        self,
        memory: MemoryReader,
        layout: Layout,
        objects: ObjectReader,
        kinds: Kinds,
        attributes: AttributeReader,
        slots: SlotReader,
    ) -> None:
        self._memory = memory
        self._layout = layout
        self._objects = objects
        self.kinds = kinds
        self.attributes = attributes
        self.slots = slots

    def find(self, waits: Mapping[int, tuple[Glance, int, int]]) -> dict[int, Found]:
        """What each thread waits on, by its key; left out where that cannot be told.

        ``waits``: a thread's stack, the address that the kernel says it waits at, and the
        one that the park was told with (0 if none): the same, or that of the lock behind it.
        """
        addresses = self.parked([address for _, address, _ in waits.values()])
        found = {}
        for key, (stack, given, told) in waits.items():
            address = addresses.get(given, given)
            if told not in (0, given, address):
                continue
            one = self._find(stack, address, given)
            if one is not None:
                found[key] = one
        return found

    def parked(self, addresses: Sequence[int]) -> dict[int, int]:
        """Of waits in the parking lot, what each is for: semaphore → address of the lock.

        The semaphore stands in a ``struct wait_entry`` on the waiter's stack, which is
        believed when its neighbour in the queue points back at it.
        """
        layout = self._layout
        if layout.strategies["parking"] == "none":
            return {}
        before = layout["wait_entry.sema"] - layout["wait_entry.addr"]
        node = layout["wait_entry.node"] - layout["wait_entry.sema"]
        size = before + node + 2 * _WORD
        entries = self._memory.read_many([(at - before, size) for at in addresses])
        links = [word(raw, before + node + _WORD) if raw else 0 for raw in entries]
        backs = self._memory.read_many([(link, _WORD) for link in links])
        return {
            address: word(raw, 0)
            for address, raw, back in zip(addresses, entries, backs, strict=True)
            if raw and back and word(back, 0) == address + node and word(raw, 0)
        }

    def _find(self, stack: Glance, address: int, given: int) -> Found | None:
        calls = stack.calls(_DEEPEST)
        if not calls or not address:
            return None
        frames = self.slots.read(calls[:1] + _library(calls[1:]))
        lock = self._waited_on(frames[0], address)
        if lock is None:
            return Found("lock", given, None, tuple(stack.evidence()))
        evidence = [*stack.evidence(), *[(one.address, one.raw) for one in frames if one]]
        found = Found(lock.kind, lock.address, lock, tuple(evidence))
        return self._outermost(found, frames)

    def _waited_on(self, slots: Slots | None, address: int) -> LockState | None:
        """The object in the innermost frame that is waited for at ``address``.

        An object that has the waited-for byte in itself is known by the address, too.
        """
        words = every_word([slots])
        inside = {address - form.at for form in self.kinds.forms().values() if form.pointer is None}
        for near, inherited in ((words | inside, False), (None, False), (words, True)):
            addresses = self._bound(words) if near is None else near
            for lock in self.kinds.locks(sorted(addresses), inherited).values():
                if lock.wait_address == address:
                    return lock
        return None

    def _bound(self, words: set[int]) -> set[int]:
        """What the built-in methods among some objects are bound to."""
        layout, at = self._layout, self._layout["PyCFunctionObject.m_self"]
        addresses = sorted(words)
        found = set()
        for head in self._objects.heads(addresses):
            if head is None:
                continue
            try:
                kind = self._objects.type_info(word(head, layout["PyObject.ob_type"]))
            except MemoryReadError:
                continue
            if kind.static and kind.name == "builtin_function_or_method":
                found.add(word(head, at))
        return found - {0}

    def _outermost(self, found: Found, frames: Sequence[Slots | None]) -> Found:
        """What the lock is waited on for, by the library's frames around the call."""
        for slots in frames:
            if slots is None or slots.call.frame.module not in LIBRARY:
                break
            frame, owner = slots.call.frame, self.slots.first(slots)
            if frame.module == "threading" and frame.function == "Condition.wait":
                # The same method takes the condition's own lock again in the end.
                if found.address != slots.variable("waiter"):
                    break
                found = self._as(found, owner, "threading", "Condition")
                continue
            if (frame.module, frame.function) in _TRANSPARENT:
                continue
            layer = _BY_CALL.get((frame.module or "", frame.function, found.type))
            if layer is None:
                break
            found = self._as(found, owner, layer.module, layer.owner)
        return found

    def _as(self, found: Found, owner: int, module: str, name: str) -> Found:
        """The wait as one for ``owner``, if that is such an object."""
        try:
            if owner and self.kinds.class_of(owner) == (module, name):
                return replace(found, type=name, address=owner)
        except MemoryReadError:
            pass
        return found

    def condition_locks(self, conditions: Sequence[int]) -> dict[int, int]:
        """Conditions' own locks; without those that cannot be read."""
        found = self.attributes.of_many(conditions, ("_lock",))
        return {at: one[0] for at, one in zip(conditions, found, strict=True) if one and one[0]}


def _library(calls: Sequence[Call]) -> tuple[Call, ...]:
    """The calls before the first that is not the library's."""
    inner = []
    for call in calls:
        if call.frame.module not in LIBRARY:
            break
        inner.append(call)
    return tuple(inner)
