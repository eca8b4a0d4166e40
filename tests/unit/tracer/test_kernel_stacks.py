"""Stacks that the kernel took are named by code that is certain to be the same, or not at all."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from collector.context import Frame
from tests.recorded import image, images, memory_of
from tracer.pymem.frames import FrameReader
from tracer.pymem.kernel_stacks import (
    MAX_FRAMES,
    STACK_SIZE,
    WALK_SIZE,
    KernelFrame,
    check_value,
    find_walk,
    forgetful,
    parse,
)
from tracer.pymem.layout import load, merge_debug_offsets
from tracer.pymem.memory import SegmentMemory
from tracer.pymem.objects import ObjectReader
from tracer.pymem.runtime import RuntimeReader, ThreadState

FREED = 0x7F3A5C001230
"""What an allocator writes over the first word of memory that it has got back."""


class Target:
    """A recorded process in which words can be changed."""

    def __init__(self, path: Path) -> None:
        recorded = image(path)
        memory = memory_of(recorded)
        self.layout = merge_debug_offsets(load(recorded.version), memory, recorded.runtime)
        states = RuntimeReader(memory, self.layout, recorded.runtime).thread_states()
        self._segments = [(start, bytearray(data)) for start, data in recorded.segments]
        self.memory = SegmentMemory(self._segments)  # type: ignore[arg-type]
        objects = ObjectReader(self.memory, self.layout)
        self.frames = FrameReader(self.memory, self.layout, objects)
        glances = self.frames.glance(states, MAX_FRAMES).values()
        calls = max((glance.calls() for glance in glances), key=len)
        self.taken = [
            KernelFrame(*call.raw[2:5], call.raw.namespace, self.check(call.raw.code))
            for call in calls
        ]
        self.named = tuple(call.frame for call in calls)

    def check(self, code: int) -> int:
        """What the kernel would make of a code object."""
        return check_value(
            self.memory.read(code, self.layout["PyCodeObject.co_code_adaptive"]), self.layout
        )

    def put(self, address: int, word: int) -> int:
        """Change a word; the one that was there."""
        before = int.from_bytes(self.memory.read(address, 8), "little")
        for start, data in self._segments:
            if start <= address < start + len(data):
                struct.pack_into("<Q", data, address - start, word)
        return before

    def fresh(self) -> FrameReader:
        """A reader that remembers nothing."""
        return FrameReader(self.memory, self.layout, ObjectReader(self.memory, self.layout))


@pytest.fixture(params=images("cp"), ids=lambda path: path.stem)
def target(request: pytest.FixtureRequest) -> Target:
    return Target(request.param)


def test_code_that_lives_is_named(target: Target) -> None:
    assert len(target.named) > 2
    assert target.frames.named(target.taken) == (target.named, True)
    assert target.fresh().named(target.taken) == (target.named, True)


def test_from_code_that_has_died_on_nothing_is_named(target: Target) -> None:
    """Its memory is as it was, but for the word that the allocator took."""
    place = len(target.taken) - 1
    before = target.put(target.taken[place].code, FREED)
    for reader in (target.frames, target.fresh()):
        assert reader.named(target.taken) == (target.named[:place], False)
    target.put(target.taken[place].code, 0)
    assert target.frames.named(target.taken) == (target.named[:place], False)
    target.put(target.taken[place].code, before)
    assert target.frames.named(target.taken) == (target.named, True)


@pytest.mark.parametrize("name", ["co_name", "co_qualname", "co_filename", "co_linetable"])
def test_other_code_at_the_same_address_is_not_it(target: Target, name: str) -> None:
    code = target.taken[0].code
    at = code + target.layout[f"PyCodeObject.{name}"]
    other = next(one.code for one in target.taken if one.code != code)
    (word,) = struct.unpack(
        "<Q", target.memory.read(other + target.layout[f"PyCodeObject.{name}"], 8)
    )
    changed = target.put(at, word) != word
    expected = ((), False) if changed else (target.named, True)
    assert target.frames.named(target.taken) == expected


def test_the_same_compiled_again_is_not_it(target: Target) -> None:
    at = target.layout.offsets.get("PyCodeObject.co_version")
    if at is None:
        assert "PyCodeObject.co_warmup" in target.layout.offsets
        return
    (word,) = struct.unpack("<Q", target.memory.read(target.taken[0].code + at, 8))
    target.put(target.taken[0].code + at, word + 1)
    assert target.frames.named(target.taken) == ((), False)


def test_what_died_while_it_was_read_is_not_remembered(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = target.fresh()
    whole, code = reader.codes.look_up, target.taken[0].code

    def dies_meanwhile(first_use: dict[int, int]) -> object:
        found = whole(first_use)
        found[code].frames[target.taken[0].instruction - found[code].start] = Frame(None, "no", "")
        target.put(code, FREED)
        return found

    before = int.from_bytes(target.memory.read(code, 8), "little")
    monkeypatch.setattr(reader.codes, "look_up", dies_meanwhile)
    assert reader.named(target.taken) == ((), False)
    monkeypatch.undo()
    target.put(code, before)
    assert reader.named(target.taken) == (target.named, True)


def test_the_kernels_structure_is_taken_apart() -> None:
    frame = struct.pack("<4Q", 0x1000, 2 << 56 | 0x1234, 0x2000, 77)
    raw = struct.pack("<QIHH", 1, 4711, 1, 1) + frame
    stack = parse(raw.ljust(STACK_SIZE, b"\xff"))
    assert (stack.tgid, stack.truncated) == (4711, True)
    assert stack.frames == (KernelFrame(0x1000, 0x1234, 2, 0x2000, 77),)
    endless = parse(struct.pack("<QIHH", 1, 4711, 0xFFFF, 0).ljust(STACK_SIZE, b"\1"))
    assert len(endless.frames) == MAX_FRAMES


def _thread(ident: int, address: int, words: dict[int, int]) -> tuple[ThreadState, bytes]:
    block = bytearray(4096)
    for at, word in words.items():
        struct.pack_into("<Q", block, 2048 + at, word)
    return ThreadState(address, 1, ident, 5), bytes(block)


def test_slots_are_where_most_threads_have_their_own_state() -> None:
    one = _thread(0x10800, 0xA0, {808: 0xA0, -40: 0xA0, 100: 0xA0, 0: 0xA0})
    two = _thread(0x20800, 0xB0, {808: 0xB0, -40: 0xB0, 100: 0xA0, 0: 0xB0})
    begins = _thread(0x30800, 0xD0, {})
    gone = ThreadState(0xC0, 1, 0x90000, 6)
    memory = SegmentMemory([(0x10000, one[1]), (0x20000, two[1]), (0x30000, begins[1])])
    walk = find_walk(memory, load((3, 12)), [one[0], two[0], begins[0], gone])
    assert walk is not None
    assert walk.slots == (808, -40)
    assert len(walk.packed()) == WALK_SIZE == 88
    assert forgetful(walk.packed())[:-8] == walk.packed()[:-8]
    assert forgetful(walk.packed()) != forgetful(walk.packed())
    assert find_walk(memory, load((3, 12)), [gone]) is None
