"""What an export writes: rows in C, texts of CSV and JSON, ids of objects."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probes.errors import InternalError
from tests.made_heaps import Made, MadeHeap
from tracer.heap import text_rows
from tracer.heap.heap_tables import csv_text, json_line
from tracer.heap.heapsnapshot import write_heapsnapshot
from tracer.heap.json_text import json_text, json_texts
from tracer.heap.text_rows import Column, Texts, format_rows

needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=20)


@needs_cc
@given(
    numbers=st.lists(st.integers(0, (1 << 64) - 1), min_size=1, max_size=50),
    width=st.sampled_from(["u1", "u2", "u4", "u8"]),
    piece=st.sampled_from([1, 64, 1 << 20]),
)
def test_rows_are_what_python_would_write(numbers: list[int], width: str, piece: int) -> None:
    values = np.array(numbers, np.uint64).astype(width)
    texts = Texts([b"", b"one", b"two and more"])
    which = np.array([number % 3 for number in numbers], np.uint8)
    none = int(np.iinfo(values.dtype).max)
    columns = [
        Column(b"<", values), Column(b"|", which, texts), Column(b"|", values, none=b"null"),
        Column(b">\n"),
    ]  # fmt: skip
    before = text_rows.PIECE_BYTES
    text_rows.PIECE_BYTES = piece
    try:
        written = b"".join(bytes(part) for part in format_rows(columns))
    finally:
        text_rows.PIECE_BYTES = before
    expected = [
        f"<{value}|{texts[number % 3].decode()}|{'null' if value == none else value}>\n"
        for value, number in zip(values.tolist(), numbers, strict=True)
    ]
    assert written.decode() == "".join(expected)


@needs_cc
def test_a_text_that_is_not_there_is_refused() -> None:
    with pytest.raises(InternalError, match="text"):
        list(format_rows([Column(b"", np.array([0, 2], np.uint8), Texts([b"a", b"b"]))]))
    with pytest.raises(InternalError, match="lengths"):
        list(format_rows([Column(b"", np.zeros(2, "u1")), Column(b"", np.zeros(3, "u1"))]))


@given(text=ANY_TEXT)
def test_csv_is_read_back_as_one_harmless_field(text: str) -> None:
    field = csv_text(text).decode()
    ((read, other),) = csv.reader(io.StringIO(f"{field},x\r\n", newline=""))
    assert other == "x"
    assert read.isprintable()
    assert read[:1] not in {"=", "+", "-", "@"}
    if text.isprintable() and text[:1] not in {"=", "+", "-", "@"}:
        assert read == text


@given(texts=st.lists(ANY_TEXT, max_size=5))
def test_json_is_read_back_as_it_was(texts: list[str]) -> None:
    assert json.loads(b"[" + b",".join(json_texts(texts)) + b"]") == texts
    assert [json.loads(json_text(text)) for text in texts] == texts
    assert json.loads(json_line({"texts": texts})) == {"texts": texts}


@needs_cc
def test_objects_have_one_id_each_though_regions_lie_64_gib_apart(tmp_path: Path) -> None:
    things = [Made(4096 + (at << 36), "Thing", root=True) for at in range(4)]
    near = [Made(4096 + 16 * at, "Thing", root=True) for at in range(1, 50)]
    written = bytearray()
    graph = MadeHeap([*things, *near]).graph(tmp_path / "heap")
    write_heapsnapshot(graph, written.extend, lambda _done, _total: None)
    found = json.loads(written)
    ids = found["nodes"][2::7]
    assert len(set(ids)) == len(ids) == found["snapshot"]["node_count"]
    assert max(ids) < 1 << 32
    assert (4096 + 16) >> 4 in ids


@needs_cc
def test_an_empty_part_is_no_trouble(tmp_path: Path) -> None:
    written = bytearray()
    graph = MadeHeap([Made(4096, "Thing", size=1 << 33)]).graph(tmp_path / "heap")
    said = write_heapsnapshot(graph, written.extend, lambda _done, _total: None)
    assert "4 GiB" in said["notes"][0]
    found = json.loads(written)
    assert found["snapshot"]["edge_count"] * 3 == len(found["edges"])
