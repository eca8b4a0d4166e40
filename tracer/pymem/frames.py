"""Python stacks of another process's threads, read while they may be running.

A stack is a linked list of frames; nothing in it says whether it changed while
it was read. So the chain is read breadth-first for all wanted threads at once
(one system call per level), the code objects are looked up, and then every
frame is read again: only a chain that is the same byte for byte is taken as
true. A chain that keeps changing is returned marked as torn.

Sources: Include/internal/pycore_frame.h (3.14 on: pycore_interpframe_structs.h),
``_PyFrame_IsIncomplete``, ``PyThreadState_GetFrame``; Objects/codeobject.c.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from collector.context import Frame
from probes.errors import ImplausibleMemory, MemoryReadError
from tracer.pymem.layout import Layout
from tracer.pymem.linetable import CODE_UNIT, line_at
from tracer.pymem.memory import MemoryReader
from tracer.pymem.objects import ObjectReader
from tracer.pymem.runtime import TRIES, ThreadState

MAX_DEPTH = 4096
_FOREIGN_FRAMES = 64  # frames of no Python code (entries from C) that a short stack may hide
_MAX_CODES = 1 << 15
_GLOBALS_SLOTS = 32  # __name__ is put into a module's namespace first
_WORD = 8


@dataclass(frozen=True, slots=True)
class Stack:
    """Frames, innermost first. ``torn``: it kept changing, the frames may not belong together.

    ``truncated``: there are more frames below.
    """

    frames: tuple[Frame, ...]
    torn: bool
    truncated: bool


@dataclass(slots=True)
class _Code:
    """What a code object says; ``check`` are the bytes that must be unchanged to believe it."""

    check: bytes
    name: str
    file: str
    first_line: int
    line_table: bytes
    start: int
    end: int
    first_traceable: int
    module: str | None
    lines: dict[int, int | None] = field(default_factory=dict)

    def line(self, offset: int) -> int | None:
        """The line of the instruction at byte ``offset``; remembered."""
        if offset not in self.lines:
            self.lines[offset] = line_at(self.line_table, self.first_line, offset)
        return self.lines[offset]


@dataclass(slots=True)
class _Chain:
    """One thread's frames as read: the addresses and their bytes, innermost first."""

    state: ThreadState
    heads: list[tuple[int, bytes]] = field(default_factory=list)
    frames: list[tuple[int, bytes]] = field(default_factory=list)
    next: int = 0
    room: int = 0
    gone: bool = False
    broken: bool = False
    truncated: bool = False

    def follow(self, address: int, answer: bytes | None) -> None:
        """Take the pointer read at ``address``, on the way to the innermost frame."""
        if answer is None:
            self.gone, self.next = True, 0
            return
        self.heads.append((address, answer))
        self.next = int.from_bytes(answer, "little")


class FrameReader:
    """Stacks of threads of one target."""

    def __init__(self, memory: MemoryReader, layout: Layout, objects: ObjectReader) -> None:
        self._memory = memory
        self._objects = objects
        self._layout = layout
        self._code = layout.either("_PyInterpreterFrame.f_executable", "_PyInterpreterFrame.f_code")
        self._ip = layout.either("_PyInterpreterFrame.instr_ptr", "_PyInterpreterFrame.prev_instr")
        self._previous = layout["_PyInterpreterFrame.previous"]
        self._globals = layout["_PyInterpreterFrame.f_globals"]
        self._owner = layout["_PyInterpreterFrame.owner"]
        self._mask = ~layout.constants["executable_tag_mask"]
        self._foreign = layout.constants["first_foreign_owner"]
        self._last_owner = layout.constants["last_owner"]
        self._span = max(
            self._code, self._ip, self._previous, self._globals, self._owner
        ) + _WORD
        self._code_span = layout["PyCodeObject.co_code_adaptive"]
        self._codes: dict[int, _Code] = {}

    def stacks(self, states: Iterable[ThreadState], limit: int) -> dict[int, Stack]:
        """The stacks of some threads, keyed by thread state address.

        ``limit`` innermost Python frames each. A thread whose state is gone is left out.
        """
        todo = list(states)
        found: dict[int, Stack] = {}
        for attempt in range(TRIES):
            last = attempt == TRIES - 1
            again = []
            for chain, stack in self._read(todo, limit):
                if stack is None:
                    continue
                if stack.torn and not last:
                    again.append(chain.state)
                    continue
                found[chain.state.address] = stack
            todo = again
            if not todo:
                break
        return found

    def _read(
        self, states: list[ThreadState], limit: int
    ) -> list[tuple[_Chain, Stack | None]]:
        """One attempt at all those stacks; None for a thread that has gone."""
        limit = min(limit, MAX_DEPTH)
        chains = [_Chain(state, next=state.address, room=limit) for state in states]
        self._find_tops(chains)
        live = [chain for chain in chains if not chain.gone]
        self._descend(live, limit + _FOREIGN_FRAMES)
        codes = self._look_up(live)
        frames = {chain.state.address: self._resolve(chain, codes, limit) for chain in live}
        self._verify(live)
        return [
            (
                chain,
                None if chain.gone else Stack(
                    frames[chain.state.address], chain.broken, chain.truncated
                ),
            )
            for chain in chains
        ]

    def _find_tops(self, chains: list[_Chain]) -> None:
        """Where each stack begins: one pointer, or two where a _PyCFrame is between."""
        layout = self._layout
        if layout.strategies["current_frame"] == "via_cframe":
            self._follow(chains, layout["PyThreadState.cframe"])
            self._follow(chains, layout["_PyCFrame.current_frame"])
        else:
            self._follow(chains, layout["PyThreadState.current_frame"])

    def _follow(self, chains: list[_Chain], offset: int) -> None:
        live = [chain for chain in chains if chain.next]
        answers = self._memory.read_many([(chain.next + offset, _WORD) for chain in live])
        for chain, answer in zip(live, answers, strict=True):
            chain.follow(chain.next + offset, answer)

    def _descend(self, chains: list[_Chain], limit: int) -> None:
        """Follow ``previous`` in all chains at once, one system call per level."""
        live = [chain for chain in chains if chain.next]
        for _ in range(limit):
            if not live:
                return
            raws = self._memory.read_many([(chain.next, self._span) for chain in live])
            for chain, raw in zip(live, raws, strict=True):
                self._step(chain, raw)
            live = [chain for chain in live if chain.next]
        for chain in live:
            chain.truncated = True

    def _step(self, chain: _Chain, raw: bytes | None) -> None:
        """Take one frame; ``next`` becomes 0 where the chain ends or enough was read."""
        if raw is None or raw[self._owner] > self._last_owner:
            chain.broken, chain.next = True, 0
            return
        chain.frames.append((chain.next, raw))
        chain.next = _word(raw, self._previous)
        chain.room -= raw[self._owner] < self._foreign
        if chain.room < 0:  # one more than wanted has been seen: there are more
            chain.next = 0

    def _look_up(self, chains: list[_Chain]) -> Mapping[int, _Code]:
        """The code objects of all frames, by address; those that are none are left out."""
        first_use: dict[int, int] = {}
        for chain in chains:
            for _, raw in chain.frames:
                if raw[self._owner] < self._foreign:
                    address = _word(raw, self._code) & self._mask
                    first_use.setdefault(address, _word(raw, self._globals))
        raws = self._memory.read_many([(at, self._code_span) for at in first_use])
        found = {}
        for (address, namespace), raw in zip(first_use.items(), raws, strict=True):
            if raw is None:
                continue
            try:
                found[address] = self._code_at(address, raw, namespace)
            except MemoryReadError:
                continue  # the frame that names it is torn
        return found

    def _code_at(self, address: int, raw: bytes, namespace: int) -> _Code:
        """The code object at ``address``, whose header is ``raw``; remembered while unchanged."""
        check = self._check_value(raw)
        known = self._codes.get(address)
        if known is not None and known.check == check:
            return known
        layout, objects = self._layout, self._objects
        kind = objects.type_info(_word(raw, layout["PyObject.ob_type"]))
        units = _word(raw, layout["PyVarObject.ob_size"])
        if kind.name != "code" or not kind.static or not 0 < units < 1 << 24:
            raise ImplausibleMemory(f"no code object at {address:#x}")
        at_line = layout["PyCodeObject.co_firstlineno"]
        at_traceable = layout["PyCodeObject._co_firsttraceable"]
        start = address + layout["PyCodeObject.co_code_adaptive"]
        code = _Code(
            check=check,
            name=objects.text(_word(raw, layout["PyCodeObject.co_qualname"])),
            file=objects.text(_word(raw, layout["PyCodeObject.co_filename"])),
            first_line=int.from_bytes(raw[at_line : at_line + 4], "little", signed=True),
            line_table=objects.byte_string(_word(raw, layout["PyCodeObject.co_linetable"])),
            start=start,
            end=start + units * CODE_UNIT,
            first_traceable=int.from_bytes(
                raw[at_traceable : at_traceable + 4], "little", signed=True
            ),
            module=self._module_name(namespace),
        )
        if len(self._codes) >= _MAX_CODES:
            self._codes.clear()
        self._codes[address] = code
        return code

    def _check_value(self, raw: bytes) -> bytes:
        """The parts of a code object that never change: reused memory differs in them."""
        layout = self._layout
        parts = [(layout["PyObject.ob_type"], 16), (layout["PyCodeObject.co_firstlineno"], 4)]
        parts += [
            (layout[f"PyCodeObject.{name}"], 8)
            for name in ("co_filename", "co_name", "co_qualname", "co_linetable")
        ]
        return b"".join(raw[at : at + size] for at, size in parts)

    def _module_name(self, namespace: int) -> str | None:
        """``__name__`` of a frame's globals."""
        try:
            (name,) = self._objects.lookup(namespace, ("__name__",), _GLOBALS_SLOTS)
            return self._objects.text(name) if name else None
        except MemoryReadError:
            return None

    def _resolve(
        self, chain: _Chain, codes: Mapping[int, _Code], limit: int
    ) -> tuple[Frame, ...]:
        """Named frames of a chain; it is marked broken where a frame makes no sense."""
        frames: list[Frame] = []
        for _, raw in chain.frames:
            owner = raw[self._owner]
            if owner >= self._foreign:
                continue
            if len(frames) == limit:
                chain.truncated = True
                break
            code = codes.get(_word(raw, self._code) & self._mask)
            if code is None:
                chain.broken = True
                break
            offset = _word(raw, self._ip) - code.start
            if not -CODE_UNIT <= offset < code.end - code.start:
                chain.broken = True
                break
            if owner != _OWNED_BY_GENERATOR and offset < code.first_traceable * CODE_UNIT:
                continue  # not begun yet: no traceback shows it either
            frames.append(Frame(code.module, code.name, code.file, code.line(offset)))
        return tuple(frames)

    def _verify(self, chains: list[_Chain]) -> None:
        """Read everything again; a chain that differs is marked broken."""
        seen = [(address, raw) for chain in chains for address, raw in chain.heads + chain.frames]
        answers = iter(self._memory.read_many([(address, len(raw)) for address, raw in seen]))
        for chain in chains:
            read = chain.heads + chain.frames
            same = [next(answers) == raw for _, raw in read]
            chain.broken = chain.broken or not all(same)


_OWNED_BY_GENERATOR = 1  # enum _frameowner, the same in every version


def _word(raw: bytes, at: int) -> int:
    return int.from_bytes(raw[at : at + _WORD], "little")
