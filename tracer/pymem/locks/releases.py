"""Whether code may have let go of a lock: what it calls ``release`` on.

The instructions before each use of the name say what it is used on: a variable, a global,
an attribute of one. It is looked up as it is now; what cannot be told counts as the lock.

Sources: Python/bytecodes.c (``LOAD_ATTR``, ``LOAD_GLOBAL``, ``LOAD_FAST``…), dis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from probes.errors import MemoryReadError
from tracer.pymem.codes import Code, CodeReader
from tracer.pymem.layout import Instructions, Layout
from tracer.pymem.linetable import CODE_UNIT
from tracer.pymem.locks.slots import Slots
from tracer.pymem.locks.waits import WaitReader
from tracer.pymem.memory import MemoryReader
from tracer.pymem.objects import ObjectReader

MAX_CODE = 1 << 16
"""Bytes of a code object's instructions; in longer ones nothing is told."""

_OTHER_WAYS = frozenset({"_release_save", "release_lock", "__exit__"})
_KNOWN = frozenset({("threading", "Semaphore")})


@dataclass(frozen=True, slots=True)
class Receiver:
    """A variable (its slot) or a global (its name), and attributes of it."""

    slot: int | None
    name: str
    attributes: tuple[str, ...] = ()


def receivers(
    raw: bytes, names: Sequence[str], instructions: Instructions
) -> list[Receiver | None]:
    """What ``release`` is used on in some code, None where that cannot be told.

    ``raw``: the instructions as they are in memory, specialized or not.
    """
    found: list[Receiver | None] = []
    top: Receiver | None = None
    at, argument = 0, 0
    while at + 1 < len(raw):
        opcode, argument = raw[at], argument << 8 | raw[at + 1]
        at += CODE_UNIT * (1 + instructions.caches.get(opcode, 0))
        if opcode in instructions.extended_arg:
            continue
        name = ""
        if opcode in instructions.load_attr | instructions.load_global:
            index = argument >> (
                1 if opcode in instructions.load_global else instructions.name_shift
            )
            name = names[index] if index < len(names) else ""
        if opcode in instructions.load_attr and name == "release":
            found.append(top)
        top = _top(opcode, argument, name, top, instructions)
        argument = 0
    return found


def _top(
    opcode: int, argument: int, name: str, top: Receiver | None, instructions: Instructions
) -> Receiver | None:
    """What is on top of the value stack after an instruction, where that can be told."""
    if opcode in instructions.load_fast | instructions.load_deref:
        return Receiver(argument, "")
    if opcode in instructions.load_fast_pair:
        return Receiver(argument & 15, "")
    if opcode in instructions.load_global and name:
        return Receiver(None, name)
    if opcode in instructions.load_attr and top is not None and name:
        return replace(top, attributes=(*top.attributes, name))
    return None


class ReleaseReader:
    """What frames may have let go of. Raises nothing for what cannot be read."""

    def __init__(
        self,
        memory: MemoryReader,
        layout: Layout,
        objects: ObjectReader,
        codes: CodeReader,
        waits: WaitReader,
    ) -> None:
        self._memory = memory
        self._layout = layout
        self._objects = objects
        self._codes = codes
        self._kinds = waits.kinds
        self._attributes = waits.attributes
        self._slots = waits.slots

    def may_release(self, slots: Slots | None, lock: int) -> bool:
        """Whether the code of a frame may let go of a lock, as far as its own calls go."""
        if slots is None or not _OTHER_WAYS.isdisjoint(slots.details.attributes):
            return True
        if "release" not in slots.details.attributes:
            return False
        try:
            found = self._receivers(slots.call.code)
            return not found or any(not self._is_other(slots, one, lock) for one in found)
        except MemoryReadError:
            return True

    def _receivers(self, code: Code) -> list[Receiver | None]:
        details = self._codes.details(code)
        if code.end - code.start > MAX_CODE:
            return []
        raw = self._memory.read(code.start, code.end - code.start)
        line = self._layout.constants["op_instrumented_line"]
        if line and line in raw[::CODE_UNIT]:
            return []  # traced: the instructions themselves are elsewhere
        return receivers(raw, details.names, self._layout.instructions)

    def _is_other(self, slots: Slots, receiver: Receiver | None, lock: int) -> bool:
        """Whether a receiver is certainly something whose release lets go of no such lock."""
        address = 0 if receiver is None else self._resolve(slots, receiver)
        if not address or address == lock:
            return False
        return bool(self._kinds.locks([address])) or self._kinds.class_of(address) in _KNOWN

    def _resolve(self, slots: Slots, receiver: Receiver) -> int:
        """The object, 0 where it is not to be found among variables, globals, attributes."""
        if receiver.slot is None:
            namespace = slots.call.raw.namespace
            (address,) = self._objects.lookup(namespace, (receiver.name,))
        elif receiver.slot < len(slots.details.cells):
            word = slots.words[receiver.slot]
            is_cell = slots.details.cells[receiver.slot]
            address = self._slots.content(word) if is_cell else word
        else:
            return 0
        for name in receiver.attributes:
            if not address:
                return 0
            address = self._attribute(address, name)
        return address

    def _attribute(self, address: int, name: str) -> int:
        kind = self._objects.type_of(address)
        if kind.static and kind.name == "module":
            at = self._layout["PyModuleObject.md_dict"]
            return self._objects.lookup(self._objects.pointer(address + at), (name,))[0]
        return self._attributes.of(address, (name,))[0]
