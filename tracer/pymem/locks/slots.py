"""The variables and the value stack of frames that are looked into."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from probes.errors import MemoryReadError
from tracer.pymem.codes import CodeReader, Details
from tracer.pymem.frames import Call
from tracer.pymem.layout import Layout
from tracer.pymem.memory import MemoryReader
from tracer.pymem.objects import word

_WORD = 8


@dataclass(frozen=True, slots=True)
class Slots:
    """One frame's words behind its header, as addresses of objects: variables, then stack.

    The stack's words above its present depth are stale. ``raw`` is the frame as it was read
    in one piece, header and slots, at ``address``.
    """

    call: Call
    details: Details
    words: tuple[int, ...]
    raw: bytes

    @property
    def address(self) -> int:
        """Of the frame."""
        return self.call.raw.address

    def variable(self, name: str) -> int:
        """Address of what a variable is bound to (of the cell, if it is one); 0 if unbound."""
        names = self.details.variables
        return self.words[names.index(name)] if name in names else 0

    def stack(self, depth: int) -> int:
        """The word at index ``depth`` of the value stack; 0 outside of it."""
        at = len(self.details.variables) + depth
        return self.words[at] if depth >= 0 and at < len(self.words) else 0


class SlotReader:
    """Reads frames whole; each with one piece of memory, so that header and slots agree."""

    def __init__(self, memory: MemoryReader, layout: Layout, codes: CodeReader) -> None:
        self._memory = memory
        self._codes = codes
        self._first = layout["_PyInterpreterFrame.localsplus"]
        self._at_cell = layout["PyCellObject.ob_ref"]
        self.mask = ~layout.constants["stackref_tag_mask"]

    def read(self, calls: Iterable[Call]) -> list[Slots | None]:
        """The slots of some frames; None where a frame is no longer what the call says."""
        wanted: list[tuple[Call, Details | None]] = []
        for call in calls:
            try:
                wanted.append((call, self._codes.details(call.code)))
            except MemoryReadError:
                wanted.append((call, None))
        answers = iter(
            self._memory.read_many(
                [
                    (call.raw.address, self._first + _WORD * details.slots)
                    for call, details in wanted
                    if details is not None
                ]
            )
        )
        return [
            None if details is None else self._parse(call, details, next(answers))
            for call, details in wanted
        ]

    def first(self, slots: Slots | None) -> int:
        """The first argument of a call, ``self`` of a method; 0 where there is none."""
        if slots is None or not slots.details.arguments:
            return 0
        return self.content(slots.words[0]) if slots.details.cells[0] else slots.words[0]

    def content(self, cell: int) -> int:
        """What a cell holds, 0 if it is empty or cannot be read."""
        (raw,) = self._memory.read_many([(cell + self._at_cell, _WORD)])
        return word(raw or b"", 0)

    def _parse(self, call: Call, details: Details, raw: bytes | None) -> Slots | None:
        if raw is None or not raw.startswith(call.raw.raw):
            return None
        words = struct.unpack_from(f"<{details.slots}Q", raw, self._first)
        return Slots(call, details, tuple([one & self.mask for one in words]), raw)


def every_word(slots: Sequence[Slots | None]) -> set[int]:
    """All plausible addresses in these frames."""
    return {one for found in slots if found for one in found.words if one and not one & 7}
