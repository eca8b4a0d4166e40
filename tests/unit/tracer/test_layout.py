"""Layout files: complete, checked, and never believed about a target that says otherwise."""

from __future__ import annotations

import struct
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probes.errors import ImplausibleMemory, InternalError, MemoryReadError, UnsupportedPython
from tracer.pymem.layout import (
    COOKIE,
    MAX_OFFSET,
    check_debug_values,
    load,
    merge_debug_offsets,
    parse,
    supported_versions,
)
from tracer.pymem.memory import SegmentMemory

RUNTIME = 0x10000


def text_of(minor: int) -> str:
    return (resources.files("tracer.pymem") / f"layouts/cp3{minor}.toml").read_text()


def table(minor: int, **changed: int) -> bytes:
    """A _Py_DebugOffsets whose fields are those of the layout file unless changed."""
    layout = load((3, minor))
    values = []
    for name, field in layout.debug_fields:
        usual = 4096 if name.endswith("size") else 8
        values.append(changed.get(name, layout.offsets.get(field, usual)))
        if name.endswith(".size") and name not in changed:
            values[-1] = 1 << 20
    head = COOKIE + struct.pack("<QQ", 3 << 24 | minor << 16 | 0xF0, 0)
    return head + struct.pack(f"<{len(values)}Q", *values)


@pytest.mark.parametrize("version", supported_versions(), ids=lambda version: f"{version[1]}")
def test_every_file_is_complete(version: tuple[int, int]) -> None:
    layout = load(version)
    assert layout.version == version
    assert layout["PyThreadState.next"] == 8
    assert all(0 <= offset < MAX_OFFSET for offset in layout.offsets.values())


def test_the_supported_versions() -> None:
    assert supported_versions() == ((3, 11), (3, 12), (3, 13), (3, 14), (3, 15))


@pytest.mark.parametrize("version", [(3, 10), (3, 16), (4, 0), (2, 7)])
def test_other_versions_are_refused_not_guessed(version: tuple[int, int]) -> None:
    with pytest.raises(UnsupportedPython, match="not supported"):
        load(version)


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("next = 8", "nxet = 8", "PyThreadState.next"),
        ("next = 8", "next = -8", "PyThreadState.next"),
        ("next = 8", 'next = "8"', "PyThreadState.next"),
        ("next = 8", f"next = {MAX_OFFSET}", "PyThreadState.next"),
        ('"direct"', '"sideways"', "sideways"),
        ("current_frame = 72", "", "PyThreadState.current_frame"),
        ("stackref_tag_mask = 3", "", "constants"),
        ("f_executable = 0", "", "f_executable"),
        ("[strategy]", "[surprise]\n[strategy]", "surprise"),
        ("valid = 3", "", "PyDictValues.valid"),
        ('kind = "RLock"', 'kind = "Spin"', "_thread.RLock"),
        ("owner = 24", "owner = 5000", "_thread.RLock"),
        ('found_as = ["_thread", "RLock"]', "", "found_as"),
        ('state = "mutex"', 'state = "mutex"\nsurprise = 1', "surprise"),
        ("name_shift = 1", "", "name_shift"),
        ("load_deref = [83]", "", "load_deref"),
        ('"PyThreadState.interp"]', '"PyThreadState.no_such"]', "PyThreadState.no_such"),
    ],
)
def test_a_damaged_file_is_named(old: str, new: str, named: str) -> None:
    text = text_of(14)
    assert old in text
    with pytest.raises(InternalError, match=named):
        parse(text.replace(old, new, 1))


@pytest.mark.parametrize("minor", [13, 14, 15])
def test_the_targets_own_table_goes_before_the_file(minor: int) -> None:
    raw = table(minor, **{"thread_state.interp": 48})
    merged = merge_debug_offsets(load((3, minor)), SegmentMemory([(RUNTIME, raw)]), RUNTIME)
    assert merged["PyThreadState.interp"] == 48
    assert merged["PyThreadState.next"] == 8
    assert merged.offsets.keys() == load((3, minor)).offsets.keys()


@pytest.mark.parametrize("minor", [11, 12])
def test_versions_without_a_table_read_none(minor: int) -> None:
    layout = load((3, minor))
    assert merge_debug_offsets(layout, SegmentMemory([]), RUNTIME) is layout


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ((0, b"pydebugx"), ImplausibleMemory),
        ((8, struct.pack("<Q", 0x030E00F0)), UnsupportedPython),  # a 3.14 table in a 3.13
        ((16, struct.pack("<Q", 1)), UnsupportedPython),  # free-threaded
        ((24, struct.pack("<Q", 0)), ImplausibleMemory),  # runtime_state.size
        ((24 + 16, struct.pack("<Q", 1 << 40)), ImplausibleMemory),  # interpreters_head
    ],
)
def test_a_table_that_cannot_be_is_refused(
    change: tuple[int, bytes], error: type[Exception]
) -> None:
    raw = bytearray(table(13))
    at, new = change
    raw[at : at + len(new)] = new
    with pytest.raises(error):
        merge_debug_offsets(load((3, 13)), SegmentMemory([(RUNTIME, bytes(raw))]), RUNTIME)


def test_a_table_cut_short_is_a_fault() -> None:
    with pytest.raises(MemoryReadError):
        merge_debug_offsets(load((3, 13)), SegmentMemory([(RUNTIME, table(13)[:200])]), RUNTIME)


@given(st.lists(st.integers(0, (1 << 64) - 1), min_size=6, max_size=6))
def test_offsets_lie_inside_their_structures(values: list[int]) -> None:
    names = ["a.size", "a.x", "a.y", "b.x", "c.size", "c.some_size"]
    fits = (
        0 < values[0] < MAX_OFFSET
        and max(values[1:3]) <= values[0]
        and values[3] <= MAX_OFFSET
        and 0 < values[4] < MAX_OFFSET
        and 0 < values[5] < MAX_OFFSET
    )
    try:
        check_debug_values(names, values)
    except ImplausibleMemory:
        assert not fits
    else:
        assert fits
