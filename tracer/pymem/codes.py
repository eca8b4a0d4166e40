"""Code objects of another process: names, lines, and where their ``with`` bodies lie.

Sources: Include/cpython/code.h; InternalDocs/exception_handling.md (3.11, 3.12:
Objects/exception_handling_notes.txt) for the exception table; the stack comments of
``WITH_EXCEPT_START`` in Python/bytecodes.c (3.11: Python/ceval.c).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from collector.context import Frame
from probes.errors import ImplausibleMemory, MemoryFault, MemoryReadError
from tracer.pymem.kernel_stacks import KernelFrame, check_value
from tracer.pymem.layout import Layout
from tracer.pymem.linetable import CODE_UNIT, line_at
from tracer.pymem.memory import MemoryReader
from tracer.pymem.objects import ObjectReader, word

MAX_SLOTS = 1 << 13
"""A frame with more variables and stack slots than this is not looked into."""
_MAX_CODES = 1 << 15
_MAX_TABLE = 1 << 16  # bytes of an exception table
_GLOBALS_SLOTS = 32  # __name__ is put into a module's namespace first
_WORD = 8
_FREE, _CELL, _LOCAL = 0x80, 0x40, 0x20  # CO_FAST_*, Include/internal/pycore_code.h


@dataclass(frozen=True, slots=True)
class Handler:
    """One entry of an exception table: [start, end) in bytes, jumps to ``target``.

    ``depth``: how many slots of the value stack survive the jump.
    """

    start: int
    end: int
    target: int
    depth: int


@dataclass(slots=True)
class Details:
    """What of a code object only matters for a frame that is looked into.

    ``variables``: names of the first slots of a frame (locals, cells, free variables),
    ``cells`` says which of them hold a cell. ``names``: of globals and attributes it uses.
    """

    variables: tuple[str, ...]
    cells: tuple[bool, ...]
    arguments: int
    stack_size: int
    names: tuple[str, ...]
    handlers: tuple[Handler, ...]
    bodies: dict[int, tuple[int, ...]] = field(default_factory=dict)

    @property
    def attributes(self) -> frozenset[str]:
        """The same names, without order."""
        return frozenset(self.names)

    @property
    def slots(self) -> int:
        """How many words a frame of this code has at most behind its header."""
        return len(self.variables) + self.stack_size


@dataclass(slots=True)
class Code:
    """What a code object says; ``check`` are the bytes that must be unchanged to believe it."""

    address: int
    check: bytes
    name: str
    file: str
    first_line: int
    line_table: bytes
    start: int
    end: int
    first_traceable: int  # bytes
    module: str | None
    frames: dict[int, Frame] = field(default_factory=dict)
    details: Details | None = None

    def frame(self, offset: int) -> Frame:
        """A frame that stands at the instruction at byte ``offset``; remembered."""
        known = self.frames.get(offset)
        if known is None:
            line = line_at(self.line_table, self.first_line, offset)
            known = self.frames[offset] = Frame(self.module, self.name, self.file, line)
        return known


class CodeReader:
    """Code objects of one target, remembered while they are unchanged."""

    def __init__(self, memory: MemoryReader, layout: Layout, objects: ObjectReader) -> None:
        self._memory = memory
        self._objects = objects
        self._layout = layout
        self._span = layout["PyCodeObject.co_code_adaptive"]
        self._codes: dict[int, Code] = {}
        pointers = ("co_filename", "co_name", "co_qualname", "co_linetable")
        starts = [layout[f"PyCodeObject.{name}"] for name in pointers]
        starts += [layout["PyObject.ob_type"], layout["PyVarObject.ob_size"]]
        line = layout["PyCodeObject.co_firstlineno"]
        self._constant = [(at, at + _WORD) for at in starts] + [(line, line + 4)]
        constants = layout.constants
        self._with_start = constants["op_with_except_start"]
        self._push = {constants["op_push_exc_info"], constants["op_instrumented_line"]} - {0}

    def look_up(self, first_use: Mapping[int, int]) -> dict[int, Code]:
        """Code objects by address; those that are none are left out.

        ``first_use``: the globals of one frame of each.
        """
        raws = self._memory.read_many([(at, self._span) for at in first_use])
        found = {}
        for (address, namespace), raw in zip(first_use.items(), raws, strict=True):
            if raw is None:
                continue
            try:
                found[address] = self._code_at(address, raw, namespace)
            except MemoryReadError:
                continue  # the frame that names it is torn
        return found

    def look_up_same(self, frames: Sequence[KernelFrame]) -> dict[tuple[int, int], Code]:
        """Code objects that are still those of earlier frames, by address and check value.

        One that has died leaves its memory as it was for a while, but not what it refers to:
        that must not even be remembered.
        """
        before = self._checks({one.code for one in frames})
        same = [one for one in frames if before.get(one.code) == one.check]
        codes = self.look_up({one.code: one.namespace for one in same})
        after = self._checks(codes)
        for address in codes:
            if after.get(address) != before[address]:
                self._codes.pop(address, None)
        return {
            (one.code, one.check): codes[one.code]
            for one in same
            if one.code in codes and after.get(one.code) == one.check
        }

    def _checks(self, addresses: Iterable[int]) -> dict[int, int]:
        """The kernel's check value of code objects as they are now; without those that are dead."""
        wanted = list(addresses)
        raws = self._memory.read_many([(at, self._span) for at in wanted])
        return {
            address: check_value(raw, self._layout)
            for address, raw in zip(wanted, raws, strict=True)
            if raw is not None and _lives(raw)
        }

    def _code_at(self, address: int, raw: bytes, namespace: int) -> Code:
        """The code object at ``address``, whose header is ``raw``; remembered while unchanged."""
        check = self._check_value(raw)
        known = self._codes.get(address)
        if known is not None and known.check == check:
            return known
        layout, objects = self._layout, self._objects
        kind = objects.type_info(word(raw, layout["PyObject.ob_type"]))
        units = word(raw, layout["PyVarObject.ob_size"])
        if kind.name != "code" or not kind.static or not 0 < units < 1 << 24:
            raise ImplausibleMemory(f"no code object at {address:#x}")
        start = address + layout["PyCodeObject.co_code_adaptive"]
        code = Code(
            address=address,
            check=check,
            name=objects.text(word(raw, layout["PyCodeObject.co_qualname"])),
            file=objects.text(word(raw, layout["PyCodeObject.co_filename"])),
            first_line=self._int(raw, "co_firstlineno"),
            line_table=objects.byte_string(word(raw, layout["PyCodeObject.co_linetable"])),
            start=start,
            end=start + units * CODE_UNIT,
            first_traceable=CODE_UNIT * self._int(raw, "_co_firsttraceable"),
            module=self._module_name(namespace),
        )
        if len(self._codes) >= _MAX_CODES:
            self._codes.clear()
        self._codes[address] = code
        return code

    def _int(self, raw: bytes, field_name: str) -> int:
        at = self._layout[f"PyCodeObject.{field_name}"]
        return int.from_bytes(raw[at : at + 4], "little", signed=True)

    def _check_value(self, raw: bytes) -> bytes:
        """The parts of a code object that never change: reused memory differs in them."""
        return b"".join([raw[at:end] for at, end in self._constant])

    def _module_name(self, namespace: int) -> str | None:
        """``__name__`` of a frame's globals."""
        try:
            (name,) = self._objects.lookup(namespace, ("__name__",), _GLOBALS_SLOTS)
            return self._objects.text(name) if name else None
        except MemoryReadError:
            return None

    def details(self, code: Code) -> Details:
        """What is inside of a code object. Raises ImplausibleMemory and MemoryFault."""
        if code.details is None:
            raw = self._memory.read(code.address, self._span)
            if self._check_value(raw) != code.check:
                raise ImplausibleMemory(f"the code object at {code.address:#x} has changed")
            code.details = self._details(raw)
        return code.details

    def _details(self, raw: bytes) -> Details:
        layout, objects = self._layout, self._objects
        count, stack_size = self._int(raw, "co_nlocalsplus"), self._int(raw, "co_stacksize")
        arguments = self._int(raw, "co_argcount")
        names = objects.items(word(raw, layout["PyCodeObject.co_localsplusnames"]))
        kinds = objects.byte_string(word(raw, layout["PyCodeObject.co_localspluskinds"]))
        if not len(names) == len(kinds) == count or not 0 <= stack_size <= MAX_SLOTS - count:
            raise ImplausibleMemory("a code object's variables do not fit together")
        table = objects.byte_string(word(raw, layout["PyCodeObject.co_exceptiontable"]))
        attributes = objects.items(word(raw, layout["PyCodeObject.co_names"]))
        return Details(
            variables=tuple(name or "" for name in objects.texts(names)),
            cells=tuple(bool(kind & (_FREE | _CELL)) for kind in kinds),
            arguments=min(max(arguments, 0), count),
            stack_size=stack_size,
            names=tuple(name or "" for name in objects.texts(attributes)),
            handlers=tuple(parse_handlers(table[:_MAX_TABLE])),
        )

    def bodies(self, code: Code, offset: int) -> tuple[int, ...]:
        """The ``with`` bodies that the instruction at byte ``offset`` lies in, innermost first.

        Each is told by its depth: the ``__exit__`` of its manager ends at slot depth - 1 of
        the value stack for as long as the body lasts. Neither the call of ``__enter__`` nor
        that of ``__exit__`` belongs to a body.
        """
        details = self.details(code)
        known = details.bodies.get(offset)
        if known is None:
            if len(details.bodies) >= MAX_SLOTS:
                details.bodies.clear()
            known = details.bodies[offset] = tuple(self._find_bodies(code, details, offset))
        return known

    def _find_bodies(self, code: Code, details: Details, offset: int) -> list[int]:
        """The way that an exception would take which every handler raises again."""
        found: list[int] = []
        passed: set[int] = set()
        at = offset
        while (entry := _covering(details.handlers, at)) is not None and entry.start not in passed:
            passed.add(entry.start)
            outer = not found or entry.depth < found[-1]
            if outer and entry.depth > 0 and self._is_with(code, entry.target):
                found.append(entry.depth)
            at = entry.target
        return found

    def _is_with(self, code: Code, target: int) -> bool:
        """Whether a handler is a ``with`` statement's: PUSH_EXC_INFO, WITH_EXCEPT_START."""
        if not 0 <= target <= code.end - code.start - 2 * CODE_UNIT:
            return False
        try:
            raw = self._memory.read(code.start + target, 2 * CODE_UNIT)
        except MemoryFault:
            return False
        return raw[0] in self._push and raw[CODE_UNIT] == self._with_start


def _lives(raw: bytes) -> bool:
    """Whether an object's reference count is one; an allocator's free list has a pointer there.

    The count has 32 bits, from 3.14 on 16 more that overflow into and 16 of flags
    (Include/refcount.h); allocators of the target have no memory below 4 GiB.
    """
    return bool(word(raw, 0) & 0xFFFFFFFF) and not word(raw, 0) >> 32 & 0xFFFF


def parse_handlers(table: bytes) -> list[Handler]:
    """The entries of an exception table. Any bytes are accepted; it ends where they do."""
    found: list[Handler] = []
    numbers: list[int] = []
    value, more = 0, False
    for byte in table:
        if byte & 128:  # begins an entry
            numbers, value, more = [], 0, False
        value = (value << 6 if more else 0) | byte & 63
        more = bool(byte & 64)
        if more:
            value &= 0xFFFFFF
            continue
        numbers.append(value)
        if len(numbers) == 4:
            start, size, target, depth = numbers
            unit = CODE_UNIT
            found.append(Handler(start * unit, (start + size) * unit, target * unit, depth >> 1))
            numbers = []
    return found


def _covering(handlers: tuple[Handler, ...], offset: int) -> Handler | None:
    return next((one for one in handlers if one.start <= offset < one.end), None)
