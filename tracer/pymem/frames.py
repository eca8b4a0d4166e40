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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from operator import itemgetter
from typing import NamedTuple

from collector.context import Frame
from probes.errors import ImplausibleMemory
from tracer.pymem.codes import Code, CodeReader
from tracer.pymem.kernel_stacks import KernelFrame
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
    owner: int
    previous: int
    namespace: int


class Call(NamedTuple):
    """A Python frame: what to show of it, where it lies, its code and where it stands in it."""

    frame: Frame
    raw: RawFrame
    code: Code
    offset: int  # bytes from the code's first instruction


@dataclass(frozen=True, slots=True)
class Stack:
    """Frames, innermost first. ``torn``: it kept changing, the frames may not belong together.

    ``truncated``: there are more frames below.
    """

    frames: tuple[Frame, ...]
    torn: bool
    truncated: bool


class Place(NamedTuple):
    """Where frames stand: at a byte offset of a code. ``begun``: a traceback would show it."""

    frame: Frame
    code: Code
    offset: int
    begun: bool


_FOREIGN = Place(Frame(None, "", ""), Code(0, b"", "", "", 0, b"", 0, 0, 0, None), 0, begun=False)
_Key = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Glance:
    """A stack that was read once and not looked up in full: cheap for many threads.

    ``raws`` are its frames, those that are not Python's own among them; ``places`` has
    those of all threads that were read together, by code, instruction and owner.
    """

    raws: Sequence[RawFrame]
    heads: Sequence[tuple[int, bytes]]
    places: Mapping[_Key, Place | None]
    torn: bool

    def standing(self) -> Iterator[tuple[RawFrame, Place]]:
        """Python's own frames that have begun, innermost first, up to one that makes no sense."""
        for raw in self.raws:
            place = self.places.get(raw[2:5], _FOREIGN)
            if place is None:
                return
            if place.begun:
                yield raw, place

    def calls(self, limit: int = MAX_DEPTH) -> tuple[Call, ...]:
        """The innermost frames in full."""
        return tuple(
            Call(place.frame, raw, place.code, place.offset)
            for raw, place in islice(self.standing(), limit)
        )

    def evidence(self) -> list[tuple[int, bytes]]:
        """All that was read, with its addresses: while it is the same, the stack is."""
        return [*self.heads, *[(raw.address, raw.raw) for raw in self.raws]]


@dataclass(slots=True)
class _Chain:
    """One thread's frames as read: the addresses and their bytes, innermost first."""

    state: ThreadState
    heads: list[tuple[int, bytes]] = field(default_factory=list)
    frames: list[RawFrame] = field(default_factory=list)
    next: int = 0
    near_at: int = 0
    near: bytes = b""
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
            "owner": layout["_PyInterpreterFrame.owner"],
            "previous": layout["_PyInterpreterFrame.previous"],
            "namespace": layout["_PyInterpreterFrame.f_globals"],
        }
        form, end, order = "<", 0, sorted(fields, key=fields.__getitem__)
        for name in order:
            if fields[name] < end:
                raise ImplausibleMemory("the fields of a frame overlap")
            form += f"{fields[name] - end}x" + ("B" if name == "owner" else "Q")
            end = fields[name] + (1 if name == "owner" else _WORD)
        self._struct = struct.Struct(form)
        self._in_order = itemgetter(*[order.index(name) for name in fields])
        self._mask = ~layout.constants["stackref_tag_mask"]
        self.span = self._struct.size

    def parse(
        self, addresses: Sequence[int], raws: Sequence[bytes | None]
    ) -> list[RawFrame | None]:
        """The fields of the frames that were read at some addresses."""
        # Stacks of many threads have thousands of frames: the tuple's own constructor is faster.
        new, unpack, order, mask = tuple.__new__, self._struct.unpack, self._in_order, self._mask
        parsed = [None if raw is None else order(unpack(raw)) for raw in raws]
        return [
            None if one is None else new(RawFrame, (address, raw, one[0] & mask, *one[1:]))
            for address, raw, one in zip(addresses, raws, parsed, strict=True)
        ]


class FrameReader:
    """Stacks of threads of one target."""

    def __init__(self, memory: MemoryReader, layout: Layout, objects: ObjectReader) -> None:
        self._memory = memory
        self._layout = layout
        self._parser = _Parser(layout)
        self._foreign = layout.constants["first_foreign_owner"]
        self._last_owner = layout.constants["last_owner"]
        self.codes = CodeReader(memory, layout, objects)

    def glance(self, states: Iterable[ThreadState], limit: int) -> dict[int, Glance]:
        """What ``stacks`` begins with, by thread state address: read once, not verified."""
        chains = self._chains(list(states), limit)
        places = self._look_up(chains)
        return {
            chain.state.address: Glance(chain.frames, chain.heads, places, chain.broken)
            for chain in chains
            if not chain.gone
        }

    def suspended(self, addresses: Sequence[int]) -> list[Call | None]:
        """The frames at some addresses (of generators that do not run), each by itself."""
        raws = self._memory.read_many([(at, self._parser.span) for at in addresses])
        frames = self._parser.parse(addresses, raws)
        codes = self.codes.look_up({one.code: one.namespace for one in frames if one})
        found: list[Call | None] = []
        for frame in frames:
            code = codes.get(frame.code) if frame else None
            place = self._place(frame, code) if frame else None
            found.append(
                Call(place.frame, frame, place.code, place.offset) if frame and place else None
            )
        return found

    def named(self, frames: Sequence[KernelFrame]) -> tuple[tuple[Frame, ...], bool]:
        """Frames that were seen earlier; up to the first whose code is not for certain the same.

        And whether there is none such.
        Each code object lived and was the same before it was looked up and after.
        """
        codes = self.codes.look_up_same(frames)
        found: list[Frame] = []
        for one in frames:
            raw = RawFrame(0, b"", one.code, one.instruction, one.owner, 0, one.namespace)
            place = self._place(raw, codes.get((one.code, one.check)))
            if place is None:
                return tuple(found), False
            if place.begun:
                found.append(place.frame)
        return tuple(found), True

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

    def _read(self, states: list[ThreadState], limit: int) -> list[tuple[_Chain, Stack | None]]:
        """One attempt at all those stacks; None for a thread that has gone."""
        limit = min(limit, MAX_DEPTH)
        chains = self._chains(states, limit)
        places = self._look_up(chains)
        live = [chain for chain in chains if not chain.gone]
        frames = {chain.state.address: self._resolve(chain, places, limit) for chain in live}
        self._verify(live)
        return [
            (
                chain,
                None
                if chain.gone
                else Stack(frames[chain.state.address], chain.broken, chain.truncated),
            )
            for chain in chains
        ]

    def _chains(self, states: list[ThreadState], limit: int) -> list[_Chain]:
        chains = [_Chain(state, next=state.address, room=limit) for state in states]
        self._find_tops(chains)
        self._descend([chain for chain in chains if not chain.gone], limit + _FOREIGN_FRAMES)
        return chains

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
        """Follow ``previous`` in all chains at once, with few system calls."""
        live = [chain for chain in chains if chain.next]
        foreign, last_owner = self._foreign, self._last_owner
        for _ in range(limit):
            if not live:
                return
            addresses = [chain.next for chain in live]
            raws = self._next_frames(live)
            for chain, frame in zip(live, self._parser.parse(addresses, raws), strict=True):
                if frame is None or frame[4] > last_owner:
                    chain.broken, chain.next = True, 0
                    continue
                chain.frames.append(frame)
                chain.next = frame[5]
                if frame[4] < foreign:
                    chain.room -= 1
                    if chain.room < 0:  # one more than wanted has been seen: there are more
                        chain.next = 0
            live = [chain for chain in live if chain.next]
        for chain in live:
            chain.truncated = True

    def _next_frames(self, chains: list[_Chain]) -> list[bytes | None]:
        """The frame that each chain has come to.

        A caller's frame lies below that of its callee, mostly in the same piece of memory: what
        lies below is read with it, for most of the price of a read is that it is one.
        """
        span = self._parser.span
        far = [one for one in chains if not 0 <= one.next - one.near_at <= len(one.near) - span]
        for size in (_NEAR, span):
            starts = [chain.next + span - size for chain in far]
            answers = self._memory.read_many([(start, size) for start in starts]) if far else ()
            for chain, start, raw in zip(far, starts, answers, strict=True):
                chain.near_at, chain.near = start, raw or b""
            far = [chain for chain in far if not chain.near]  # at the beginning of a mapping
        return [one.near[one.next - one.near_at :][:span] if one.near else None for one in chains]

    def _look_up(self, chains: list[_Chain]) -> dict[_Key, Place | None]:
        """Where Python's own frames stand, by code, instruction and owner; None: in no code."""
        pairs: dict[_Key, RawFrame] = {}
        first_use: dict[int, int] = {}
        for chain in chains:
            for frame in chain.frames:
                if frame.owner < self._foreign and frame[2:5] not in pairs:
                    pairs[frame[2:5]] = frame
                    first_use.setdefault(frame.code, frame.namespace)
        codes = self.codes.look_up(first_use)
        return {pair: self._place(frame, codes.get(frame.code)) for pair, frame in pairs.items()}

    def _place(self, frame: RawFrame, code: Code | None) -> Place | None:
        offset = 0 if code is None else frame.instruction - code.start
        if code is None or not -CODE_UNIT <= offset < code.end - code.start:
            return None
        # One that has not begun is shown by no traceback; a generator's frame always has.
        begun = frame.owner == _OWNED_BY_GENERATOR or offset >= code.first_traceable
        return Place(code.frame(offset), code, offset, begun)

    def _resolve(
        self, chain: _Chain, places: Mapping[_Key, Place | None], limit: int
    ) -> tuple[Frame, ...]:
        """Named frames of a chain; it is marked broken where a frame makes no sense."""
        frames: list[Frame] = []
        for raw in chain.frames:
            if raw.owner >= self._foreign:
                continue
            if len(frames) == limit:
                chain.truncated = True
                break
            place = places[raw[2:5]]
            if place is None:
                chain.broken = True
                break
            if place.begun:
                frames.append(place.frame)
        return tuple(frames)

    def _verify(self, chains: list[_Chain]) -> None:
        """Read everything again; a chain that differs is marked broken."""
        read = [chain.read() for chain in chains]
        answers = iter(
            self._memory.read_many([(at, len(raw)) for parts in read for at, raw in parts])
        )
        for chain, parts in zip(chains, read, strict=True):
            same = [next(answers) == raw for _, raw in parts]
            chain.broken = chain.broken or not all(same)


_NEAR = 1024
_OWNED_BY_GENERATOR = 1  # enum _frameowner, the same in every version


def _word(raw: bytes, at: int) -> int:
    return int.from_bytes(raw[at : at + _WORD], "little")
