"""Objects read by address from this very process, against the objects themselves."""

from __future__ import annotations

import gc
import os
import sys
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probes.errors import MemoryFault, MemoryReadError
from tracer.pymem.attributes import AttributeReader
from tracer.pymem.layout import load, supported_versions
from tracer.pymem.memory import ProcessMemory, SegmentMemory
from tracer.pymem.objects import MAX_TEXT, ObjectReader

pytestmark = pytest.mark.skipif(
    sys.version_info[:2] not in supported_versions(), reason="this Python has no layout"
)


@pytest.fixture(scope="module")
def objects() -> ObjectReader:
    return ObjectReader(ProcessMemory(os.getpid()), load(sys.version_info[:2]))


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=200))
def test_str_of_every_kind(text: str) -> None:
    reader = ObjectReader(ProcessMemory(os.getpid()), load(sys.version_info[:2]))
    assert reader.text(id(text)) == text


class Text(str):
    """A str that is not compact."""

    __slots__ = ()


@pytest.mark.parametrize("text", ["", "é", "日本", "𝄞x", "long " * 1000, "\0", "x" * 47])
def test_str_and_its_subclasses(objects: ObjectReader, text: str) -> None:
    assert objects.text(id(text)) == text[:MAX_TEXT]
    own = Text(text)
    assert objects.text(id(own)) == text[:MAX_TEXT]


def test_lone_surrogates_are_replaced(objects: ObjectReader) -> None:
    name = "a\udcffb"
    assert objects.text(id(name)) == "a\ufffdb"


@given(st.integers(-(1 << 89), 1 << 89))
def test_int(number: int) -> None:
    reader = ObjectReader(ProcessMemory(os.getpid()), load(sys.version_info[:2]))
    assert reader.integer(id(number)) == number


def test_bool_is_an_int_and_great_ones_are_refused(objects: ObjectReader) -> None:
    assert objects.integer(id(True)) == 1
    huge = 1 << 200
    with pytest.raises(MemoryReadError):
        objects.integer(id(huge))


def test_bytes_and_tuples(objects: ObjectReader) -> None:
    data = bytes(range(256)) * 5
    items = (1, "two", None, data)
    assert objects.byte_string(id(data)) == data
    assert objects.items(id(items)) == tuple(id(item) for item in items)
    assert objects.items(id(())) == ()


@given(
    st.dictionaries(
        st.one_of(st.text(max_size=8), st.integers(), st.binary(max_size=3)),
        st.integers(),
        max_size=60,
    ),
    st.data(),
)
def test_dicts_with_all_sorts_of_keys(made: dict[Any, int], data: st.DataObject) -> None:
    reader = ObjectReader(ProcessMemory(os.getpid()), load(sys.version_info[:2]))
    for key in data.draw(st.lists(st.sampled_from(sorted(made, key=repr)))) if made else ():
        made.pop(key, None)
    assert reader.entries(id(made)) == [(id(key), id(value)) for key, value in made.items()]


class Plain:
    """Attributes in values that the class shares keys for."""

    def __init__(self, **values: object) -> None:
        self.__dict__.update({})
        for name, value in values.items():
            setattr(self, name, value)


class Slotted:
    __slots__ = ("alpha",)


class OfC(Exception):
    """An instance with a dict at a fixed offset."""


NAMES = ("alpha", "beta", "_native_id")


def test_attributes_wherever_they_stand(objects: ObjectReader) -> None:
    layout = load(sys.version_info[:2])
    attributes = AttributeReader(ProcessMemory(os.getpid()), layout, objects)
    one = Plain(alpha=1.5, beta="b")
    late = Plain(beta="b", other=3)
    forced = Plain(alpha=one)
    forced.__dict__["added"] = 1
    replaced = Plain()
    replaced.__dict__ = {"alpha": late, "beta": one}
    error = OfC()
    error.alpha = forced  # type: ignore[attr-defined]
    many = Plain(**{f"name{number}": number for number in range(64)})
    many.beta = one  # type: ignore[attr-defined]
    slotted = Slotted()
    for thing in (one, late, forced, replaced, error, many, threading.current_thread()):
        wanted = [id(vars(thing)[name]) if name in vars(thing) else 0 for name in NAMES]
        assert attributes.of(id(thing), NAMES) == wanted, thing
        assert attributes.of(id(thing), NAMES) == wanted, thing  # now from what is known
    assert attributes.of(id(slotted), NAMES) == [0, 0, 0]


def test_a_dict_is_found_in_a_dict(objects: ObjectReader) -> None:
    assert objects.lookup(id(sys.modules), ("threading", "no such module")) == [id(threading), 0]


def test_what_is_not_of_the_type_is_refused(objects: ObjectReader) -> None:
    things: tuple[object, ...] = ("text", 5, {"a": 1}, (1,), b"x", object(), None, 1.5)
    for thing in things:
        for kind, read in (
            (str, objects.text),
            (int, objects.integer),
            (dict, objects.entries),
            (tuple, objects.items),
            (bytes, objects.byte_string),
        ):
            if not isinstance(thing, kind):
                with pytest.raises(MemoryReadError):
                    read(id(thing))


def test_batches_leave_out_what_cannot_be_read(objects: ObjectReader) -> None:
    numbers = [10**6 + number for number in range(1500)]
    addresses = [id(number) for number in numbers]
    addresses[7], addresses[900], addresses[-1] = 8, 1 << 62, id("text")
    found = objects.integers(addresses)
    assert [found[7], found[900], found[-1]] == [None, None, None]
    assert found[8:900] == numbers[8:900]
    assert objects.texts([id("text"), 0, id(5)]) == ["text", None, None]


def test_a_dict_that_changes_is_told_or_right(objects: ObjectReader) -> None:
    """While another thread adds and removes keys, what is read is one state of the dict."""
    keys = [f"key {number}" for number in range(2000)]
    allowed = {id(key) for key in keys}
    shared: dict[str, str] = {}
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            for key in keys:
                shared.update({key: key})
            shared.clear()

    thread = threading.Thread(target=churn)
    gc.disable()
    thread.start()
    try:
        for _ in range(300):
            try:
                entries = objects.entries(id(shared))
            except MemoryReadError:
                continue
            assert all(key == value and key in allowed for key, value in entries)
    finally:
        stop.set()
        thread.join()
        gc.enable()


def test_segments_join_where_they_adjoin() -> None:
    memory = SegmentMemory([(0x2010, b"cd"), (0x2000, b"0123456789abcdef"[:16]), (0x3000, b"z")])
    assert memory.read(0x200F, 3) == b"fcd"
    for address, size in ((0x2012, 1), (0x1FFF, 2), (0x2011, 2), (0x3000, 0), (0x3000, 1 << 30)):
        with pytest.raises(MemoryFault) as caught:
            memory.read(address, size)
        assert (caught.value.address, caught.value.size) == (address, size)
    assert memory.read_many([(0x2010, 2), (0, 4), (0x3000, 1)]) == [b"cd", None, b"z"]


def test_process_memory_and_what_it_cannot_read() -> None:
    memory = ProcessMemory(os.getpid())
    data = bytes(range(256)) * 1024
    place = id(data) + bytes.__basicsize__ - 1
    assert memory.read(place, len(data)) == data
    requests = [(place + at, 300) for at in range(0, 200_000, 100)]
    requests[1030] = (16, 8)
    found = memory.read_many(requests)
    assert found[1030] is None
    assert all(
        part == data[at * 100 : at * 100 + 300] for at, part in enumerate(found) if at != 1030
    )
    for address in (0, -1, 1 << 64, 1 << 47):
        with pytest.raises(MemoryFault):
            memory.read(address, 8)
