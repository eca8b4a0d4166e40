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

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from collector.context import Frame
from probes.errors import ImplausibleMemory
from tracer.pymem.codes import Code, CodeReader
from tracer.pymem.layout import Layout
from tracer.pymem.linetable import CODE_UNIT
from tracer.pymem.memory import MemoryReader
from tracer.pymem.objects import ObjectReader
from tracer.pymem.runtime import ThreadState

MAX_DEPTH = 4096
TRIES = 3
"""How often a stack is read that changes under the reader's hands; then it is torn."""
_FOREIGN_FRAMES = 64  # frames of no Python code (entries from C) that a short stack may hide
_WORD = 8


class RawFrame(NamedTuple):
    """The fields of an interpreter frame that matter, and where and as what they were read."""

    address: int
    raw: bytes
    code: int
    instruction: int
    previous: int
    namespace: int
    owner: int


class Call(NamedTuple):
    """A Python frame: what to show of it, where it lies, its code and where it stands in it."""

    frame: Frame
    raw: RawFrame
    code: Code
    offset: int  # bytes from the code's first instruction


@dataclass(frozen=True, slots=True)
class Stack:
    """Frames, innermost first. ``torn``: it kept changing, the frames may not belong together.

    ``truncated``: there are more frames below. ``calls`` are the frames with all that is
    known of them; ``evidence`` is all that was read, with its addresses: while it is the
    same, the stack is.
    """

    frames: tuple[Frame, ...]
    torn: bool
    truncated: bool
    calls: tuple[Call, ...] = ()
    evidence: Sequence[tuple[int, bytes]] = ()


@dataclass(slots=True)
class _Chain:
    """One thread's frames as read: the addresses and their bytes, innermost first."""

    state: ThreadState
    heads: list[tuple[int, bytes]] = field(default_factory=list)
    frames: list[RawFrame] = field(default_factory=list)
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

    def read(self) -> list[tuple[int, bytes]]:
        """All that was read, with its addresses: the way to the top, then the frames."""
        return self.heads + [(frame.address, frame.raw) for frame in self.frames]


class _Parser:
    """Takes interpreter frames apart with one ``unpack`` each."""

    def __init__(self, layout: Layout) -> None:
        either = layout.either
        fields = {
            "code": either("_PyInterpreterFrame.f_executable", "_PyInterpreterFrame.f_code"),
            "instruction": either(
                "_PyInterpreterFrame.instr_ptr", "_PyInterpreterFrame.prev_instr"
            ),
            "previous": layout["_PyInterpreterFrame.previous"],
            "namespace": layout["_PyInterpreterFrame.f_globals"],
            "owner": layout["_PyInterpreterFrame.owner"],
        }
        form, end, order = "<", 0, sorted(fields, key=fields.__getitem__)
        for name in order:
            if fields[name] < end:
                raise ImplausibleMemory("the fields of a frame overlap")
            form += f"{fields[name] - end}x" + ("B" if name == "owner" else "Q")
            end = fields[name] + (1 if name == "owner" else _WORD)
        self._struct = struct.Struct(form)
        self._places = [order.index(name) for name in fields]
        self._mask = ~layout.constants["stackref_tag_mask"]
        self.span = self._struct.size

    def parse(self, address: int, raw: bytes) -> RawFrame:
        """The fields of the frame that was read at ``address``."""
        values = self._struct.unpack(raw)
        code, instruction, previous, namespace, owner = [values[at] for at in self._places]
        return RawFrame(address, raw, code & self._mask, instruction, previous, namespace, owner)


class FrameReader:
    """Stacks of threads of one target."""

    def __init__(self, memory: MemoryReader, layout: Layout, objects: ObjectReader) -> None:
        self._memory = memory
        self._layout = layout
        self._parser = _Parser(layout)
        self._foreign = layout.constants["first_foreign_owner"]
        self._last_owner = layout.constants["last_owner"]
        self.codes = CodeReader(memory, layout, objects)

    def glance(self, states: Iterable[ThreadState], limit: int) -> dict[int, Stack]:
        """What ``stacks`` gives, read once: whoever draws conclusions reads ``evidence`` again."""
        read = self._read(list(states), limit, again=False)
        return {chain.state.address: stack for chain, stack in read if stack is not None}

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
        self, states: list[ThreadState], limit: int, again: bool = True
    ) -> list[tuple[_Chain, Stack | None]]:
        """One attempt at all those stacks; None for a thread that has gone."""
        limit = min(limit, MAX_DEPTH)
        chains = [_Chain(state, next=state.address, room=limit) for state in states]
        self._find_tops(chains)
        live = [chain for chain in chains if not chain.gone]
        self._descend(live, limit + _FOREIGN_FRAMES)
        codes = self._look_up(live)
        frames = {chain.state.address: self._resolve(chain, codes, limit) for chain in live}
        if again:
            self._verify(live)
        return [
            (
                chain,
                None
                if chain.gone
                else Stack(
                    frames=tuple([call.frame for call in frames[chain.state.address]]),
                    torn=chain.broken,
                    truncated=chain.truncated,
                    calls=tuple(frames[chain.state.address]),
                    evidence=chain.read(),
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
            raws = self._memory.read_many([(chain.next, self._parser.span) for chain in live])
            for chain, raw in zip(live, raws, strict=True):
                self._step(chain, raw)
            live = [chain for chain in live if chain.next]
        for chain in live:
            chain.truncated = True

    def _step(self, chain: _Chain, raw: bytes | None) -> None:
        """Take one frame; ``next`` becomes 0 where the chain ends or enough was read."""
        frame = None if raw is None else self._parser.parse(chain.next, raw)
        if frame is None or frame.owner > self._last_owner:
            chain.broken, chain.next = True, 0
            return
        chain.frames.append(frame)
        chain.next = frame.previous
        chain.room -= frame.owner < self._foreign
        if chain.room < 0:  # one more than wanted has been seen: there are more
            chain.next = 0

    def _look_up(self, chains: list[_Chain]) -> dict[int, Code]:
        """The code objects of all frames, by address; those that are none are left out."""
        first_use: dict[int, int] = {}
        for chain in chains:
            for frame in chain.frames:
                if frame.owner < self._foreign:
                    first_use.setdefault(frame.code, frame.namespace)
        return self.codes.look_up(first_use)

    def _resolve(self, chain: _Chain, codes: Mapping[int, Code], limit: int) -> list[Call]:
        """Named frames of a chain; it is marked broken where a frame makes no sense."""
        frames: list[Call] = []
        for raw in chain.frames:
            if raw.owner >= self._foreign:
                continue
            if len(frames) == limit:
                chain.truncated = True
                break
            code = codes.get(raw.code)
            offset = 0 if code is None else raw.instruction - code.start
            if code is None or not -CODE_UNIT <= offset < code.end - code.start:
                chain.broken = True
                break
            if raw.owner != _OWNED_BY_GENERATOR and offset < code.first_traceable:
                continue  # not begun yet: no traceback shows it either
            frames.append(Call(code.frame(offset), raw, code, offset))
        return frames

    def _verify(self, chains: list[_Chain]) -> None:
        """Read everything again; a chain that differs is marked broken."""
        read = [chain.read() for chain in chains]
        answers = iter(
            self._memory.read_many([(at, len(raw)) for parts in read for at, raw in parts])
        )
        for chain, parts in zip(chains, read, strict=True):
            same = [next(answers) == raw for _, raw in parts]
            chain.broken = chain.broken or not all(same)


_OWNED_BY_GENERATOR = 1  # enum _frameowner, the same in every version


def _word(raw: bytes, at: int) -> int:
    return int.from_bytes(raw[at : at + _WORD], "little")
