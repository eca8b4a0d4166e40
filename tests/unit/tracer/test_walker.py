"""The walk on made-up memory: where images begin and end, and how lists are found."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Sequence

import pytest

from probes.errors import ImplausibleMemory
from tracer.heap.image import CaptureFacts, Image, Segment
from tracer.heap.walker import KnownType, Walk
from tracer.pymem.layout import load

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
LAYOUT = load((3, 12))
FACTS = CaptureFacts(0, "", 0, 0, 0, 0, 0, 0, 0, 0, "")
BASE, SIZE = 0x10000, 0x4000
TYPE, LIST_TYPE, OBJECT = BASE, BASE + 0x400, BASE + 0x1010
READY_AND_GC = 1 << 12 | 1 << 14


def image_of(data: bytes, segments: Sequence[tuple[int, int, int]] = ()) -> Image:
    fd = os.memfd_create("image")
    os.write(fd, data)
    rows = segments or [(BASE, BASE + len(data), 0)]
    return Image(fd, len(data), tuple(Segment(*row, True, "") for row in rows), FACTS)


class Memory:
    """Words at addresses."""

    def __init__(self) -> None:
        self.data = bytearray(SIZE)

    def put(self, address: int, *words: int) -> None:
        struct.pack_into(f"<{len(words)}Q", self.data, address - BASE, *words)

    def type_at(self, address: int, basicsize: int) -> None:
        self.put(address, 1, TYPE)
        self.put(address + LAYOUT["PyTypeObject.tp_basicsize"], basicsize)
        self.put(address + LAYOUT["PyTypeObject.tp_flags"], READY_AND_GC)


def memory_with_a_list(head: int) -> Memory:
    """type, a type of lists, and one list [itself] that the collector's list at ``head`` holds."""
    memory = Memory()
    memory.type_at(TYPE, LAYOUT["PyTypeObject.SIZE"])
    memory.type_at(LIST_TYPE, 40)
    memory.put(head, OBJECT - 16, OBJECT - 16)
    memory.put(OBJECT - 16, head, head)
    memory.put(OBJECT, 2, LIST_TYPE, 1, OBJECT + 0x100, 1)
    memory.put(OBJECT + 0x100, OBJECT)
    return memory


def walk_of(memory: Memory) -> Walk:
    walk = Walk(image_of(bytes(memory.data)), LAYOUT)
    walk.know(KnownType(TYPE, "type", "type", 0, ()))
    walk.know(KnownType(LIST_TYPE, "list", "list", 0, ()))
    return walk


@pytest.mark.parametrize("head", [BASE + 0x2000, BASE + 0x2004])
def test_a_list_is_found_by_its_form_and_its_members_are_walked(head: int) -> None:
    with walk_of(memory_with_a_list(head)) as walk:
        assert walk.list_heads(BASE + 0x1800, 0x1000) == [head]
        walk.follow_list(head)
        walk.finish()
        totals = walk.totals()
    assert totals["gc_objects"] == 1
    assert totals["broken_lists"] == 0
    assert totals["nodes"] == 3


def test_what_it_refers_to_and_how_often_is_counted() -> None:
    head = BASE + 0x2000
    with walk_of(memory_with_a_list(head)) as walk:
        walk.follow_list(head)
        walk.finish()
        columns = walk.columns()
        assert columns["address"].tolist() == [TYPE, LIST_TYPE, OBJECT]
        assert columns["target"].tolist() == [2]
        assert columns["in_degree"].tolist() == [0, 0, 1]
        assert columns["size"][2] == 40 + 8 + 16  # the object, one item, the collector's head


@pytest.mark.parametrize("broken", [(OBJECT - 8, 0), (OBJECT - 16, 8), (OBJECT + 8, OBJECT)])
def test_a_list_that_does_not_hang_together_is_left(broken: tuple[int, int]) -> None:
    memory = memory_with_a_list(BASE + 0x2000)
    memory.put(*broken)
    with walk_of(memory) as walk:
        assert walk.list_heads(BASE + 0x1800, 0x1000) == []
        walk.follow_list(BASE + 0x2000)
        walk.finish()
        assert walk.totals()["broken_lists"] == 1


@pytest.mark.parametrize(
    "segments",
    [
        [(BASE, BASE + SIZE + 8, 0)],
        [(BASE, BASE + SIZE, 8)],
        [(BASE, BASE + 0x1000, 0), (BASE + 0x800, BASE + 0x1800, 0x1000)],
        [(BASE + 0x1000, BASE + 0x2000, 0), (BASE, BASE + 0x1000, 0x1000)],
        [(BASE, BASE, 0)],
        [(BASE + 4, BASE + 12, 0)],
        [(BASE, BASE + 8, (1 << 64) - 8)],
    ],
)
def test_segments_that_are_no_image_are_refused(segments: list[tuple[int, int, int]]) -> None:
    with pytest.raises(ImplausibleMemory, match="no segments"):
        Walk(image_of(bytes(SIZE), segments), LAYOUT)


def test_an_object_across_adjoining_segments_is_whole() -> None:
    memory = memory_with_a_list(BASE + 0x2000)
    cut = OBJECT + 8 - BASE
    image = image_of(bytes(memory.data), [(BASE, BASE + cut, 0), (BASE + cut, BASE + SIZE, cut)])
    with Walk(image, LAYOUT) as walk:
        walk.know(KnownType(TYPE, "type", "type", 0, ()))
        walk.know(KnownType(LIST_TYPE, "list", "list", 0, ()))
        walk.follow_list(BASE + 0x2000)
        walk.finish()
        assert walk.totals()["edges"] == 1


def test_a_list_that_never_ends_takes_no_more_than_the_image_is_worth() -> None:
    memory = memory_with_a_list(BASE + 0x2000)
    memory.put(OBJECT - 16, OBJECT - 16, OBJECT - 16)  # its own neighbour for ever
    memory.put(BASE + 0x2000, OBJECT - 16)
    with walk_of(memory) as walk:
        walk.follow_list(BASE + 0x2000)
        walk.finish()
        assert walk.totals()["broken_lists"] == 1
