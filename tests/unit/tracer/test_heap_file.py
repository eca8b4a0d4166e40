"""Heap dumps as files: what was written is read, and nothing else is believed."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import resource
import signal
import stat
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probes.errors import (
    DamagedHeapDump,
    HeapDumpError,
    NotAHeapDump,
    RecordingError,
    UnknownHeapDumpVersion,
    UsageError,
)
from tracer.heap import codec
from tracer.heap.model import BORROWED, Closure, Heap, HeapType
from tracer.heap.reader import DTYPES, HeapFile
from tracer.heap.summary import info
from tracer.heap.writer import TRAILER, appearing, refuse_existing, write
from tracer.heap_view import info_lines

ANY_NUMBER = {"mark", "address", "length", "label_kind", "excess", "reference_kind", "size"}
"""Columns in which no number is wrong by itself."""


def small_heap() -> Heap:
    """A type, a list of two, a dict of one pair, a str and an instance with one attribute."""
    shape_count, shape_tail = [0, 1, 2, 0], [0, 1, 2 | BORROWED, 0]
    columns: dict[str, Any] = {
        "address": [16, 64, 128, 1 << 46, (1 << 46) + 48],
        "type": [0, 1, 2, 3, 1],
        "shape": [0, 1, 2, 3, 1],
        "size": [72, 120, 88],
        "items": [2, 1, 0],
        "degree": [0, 3, 4, 0, 1],
        "target": [0, 3, 4, 1, 2, 3, 4, 0],
        "length": [7],
        "shape_count": shape_count,
        "shape_tail": shape_tail,
        "label_kind": [4, 3, 5],
        "label_name": [1, 2, 1],
        "excess_node": [1, 4],
        "excess": [2, -1],
        "immortal_node": [0],
        "root_node": [2],
        "root_kind": [1],
        "root_name": [2],
        "reference_frame": [0],
        "reference_node": [3],
        "reference_kind": [6],
        "reference_name": [1],
        "text_node": [3],
        "text": [2],
        "mark_node": [3],
        "mark": [77],
    }
    types = [
        HeapType("builtins", "type", 0, False, "type", 408),
        HeapType("m", "C", 0, True, "scan", None),
        HeapType("builtins", "dict", 0, False, "dict", None),
        HeapType("builtins", "str", 0, False, "str", 50),
    ]
    return Heap(
        meta={"pid": 1},
        types=types,
        strings=["", "name", "ü\udc80"[:1]],
        columns={
            name: np.array(values, dtype=f"<{DTYPES.get(name, 'i8')}")
            if name != "target"
            else np.array(values, dtype="<u4")
            for name, values in columns.items()
        },
        closure=Closure(4, 3, 1, 0, 0, 1),
        threads=[{"native_id": 7, "name": None}],
        frames=[{"thread": 0, "function": "f"}],
    )


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    path = tmp_path / "dump"
    with appearing(path) as output, open(output, "wb", closefd=False) as stream:
        write(small_heap(), stream)
    return path


def test_what_was_written_is_read(dump: Path) -> None:
    written = small_heap()
    with HeapFile(dump) as file:
        read = file.load()
    for name in written.columns:
        if name not in {"size", "items"}:
            assert read.columns[name].tolist() == written.columns[name].tolist(), name
    assert read.columns["size"].tolist() == [408, 72, 120, 50, 88]
    assert (read.types, read.strings, read.closure) == (
        written.types,
        written.strings,
        written.closure,
    )
    assert (read.threads, read.frames) == (written.threads, written.frames)
    assert read.meta["pid"] == 1
    assert [one.name for one in read.types] == ["type", "m.C", "dict", "str"]


def test_it_is_the_owners_alone_and_appears_whole(dump: Path) -> None:
    assert dump.stat().st_mode & 0o777 == 0o600
    assert os.listdir(dump.parent) == ["dump"]


@given(
    st.sampled_from(["u1", "u4", "i4", "u8"]),
    st.lists(st.integers(0, 255), max_size=64),
    st.sampled_from(["planes", "delta"]),
)
def test_every_column_comes_back(dtype: str, values: list[int], encoding: str) -> None:
    column = np.array(values, dtype=f"<{dtype}")
    packed = codec.encode(column, encoding)
    assert codec.decode(packed, column.dtype, len(column), encoding).tolist() == values


@pytest.mark.parametrize(
    ("rows", "encoding"),
    [(3, "planes"), (5, "planes"), (1 << 40, "planes"), (-1, "delta"), (4, "x")],
)
def test_a_block_that_says_other_than_it_holds_is_refused(rows: int, encoding: str) -> None:
    packed = codec.encode(np.arange(4, dtype="<u4"), "planes")
    with pytest.raises(DamagedHeapDump):
        codec.decode(packed, np.dtype("<u4"), rows, encoding)


def test_some_other_file_is_no_dump(tmp_path: Path) -> None:
    path = tmp_path / "other"
    path.write_bytes(b"something else, long enough to hold the end of a dump")
    with pytest.raises(NotAHeapDump):
        HeapFile(path)


def test_no_cut_file_is_read(dump: Path) -> None:
    whole = dump.read_bytes()
    for size in range(len(whole)):
        dump.write_bytes(whole[:size])
        with pytest.raises(HeapDumpError):
            HeapFile(dump)


def test_no_changed_byte_goes_unnoticed(dump: Path) -> None:
    whole = dump.read_bytes()
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 0x55
        dump.write_bytes(damaged)
        # Four bytes of the end are reserved; a changed directory's length is made good by zstd.
        reserved = len(whole) - 12 <= at < len(whole) - 8
        try:
            with HeapFile(dump) as file:
                file.load()
            assert reserved, at
        except HeapDumpError:
            assert not reserved, at


def _rewritten(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """The dump with its directory changed, and all that guards it made right again."""
    data = path.read_bytes()
    at, size, _, _, magic = TRAILER.unpack(data[-TRAILER.size :])
    (length,) = struct.unpack_from("<Q", data, at)
    directory = json.loads(codec.decompress(data[at + 8 : at + size], length))
    change(directory)
    raw = json.dumps(directory).encode()
    text = codec.compress(raw)
    end = struct.pack("<Q", len(raw)) + text
    trailer = TRAILER.pack(at, len(end), zlib.crc32(text), 0, magic)
    path.write_bytes(data[:at] + end + trailer)


def test_a_newer_version_is_named(dump: Path) -> None:
    _rewritten(dump, lambda directory: directory.update(version=2))
    with pytest.raises(UnknownHeapDumpVersion, match="2"):
        HeapFile(dump)


@pytest.mark.parametrize(
    "change",
    [
        {"rows": 1 << 40}, {"rows": -1}, {"rows": 4}, {"rows": 6}, {"offset": 1 << 60},
        {"offset": -1}, {"bytes": -5}, {"bytes": 1 << 60}, {"dtype": "u8"}, {"dtype": "object"},
        {"encoding": "pickle"}, {"column": "size"}, {"column": "nothing"}, {"crc": 1},
        {"rows": "many"}, {"more": 1},
    ],
)  # fmt: skip
def test_a_directory_that_lies_is_refused(dump: Path, change: dict[str, Any]) -> None:
    def lie(directory: dict[str, Any]) -> None:
        block = next(one for one in directory["blocks"] if one["column"] == "type")
        block.update(change)

    _rewritten(dump, lie)
    with pytest.raises(HeapDumpError), HeapFile(dump) as file:
        file.load()


@pytest.mark.parametrize("name", sorted(set(DTYPES) - ANY_NUMBER))
def test_a_number_that_names_nothing_is_refused(tmp_path: Path, name: str) -> None:
    heap = small_heap()
    heap.columns[name] = heap.columns[name].copy()
    heap.columns[name][-1] = 200 if heap.columns[name].dtype.itemsize == 1 else 1_000_000
    path = tmp_path / "dump"
    with path.open("wb") as stream:
        write(heap, stream)
    with pytest.raises(DamagedHeapDump), HeapFile(path) as file:
        file.load()


def test_what_is_there_is_not_replaced_unasked(dump: Path) -> None:
    with pytest.raises(UsageError, match="exists"):
        refuse_existing(dump, force=False)
    refuse_existing(dump, force=True)
    with pytest.raises(UsageError, match="no directory"):
        refuse_existing(dump / "below", force=False)
    with pytest.raises(UsageError, match="no directory"):  # of which nothing can be asked
        refuse_existing(Path("x" * 300, "dump"), force=False)


def test_what_is_no_regular_file_is_not_replaced_at_all(tmp_path: Path) -> None:
    """Forced, too: a device of the system may be meant, as by ``-o /dev/null``."""
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to("nowhere")
    for path in (pipe, link, Path("/dev/stdout"), Path("/dev/null")):
        with pytest.raises(UsageError, match="no regular file"):
            refuse_existing(path, force=True)
    late = tmp_path / "late"
    with pytest.raises(UsageError, match="no regular file"), appearing(late, force=True):
        os.mkfifo(late)
    assert stat.S_ISFIFO(late.stat().st_mode)
    assert sorted(os.listdir(tmp_path)) == ["late", "link", "pipe"]


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with (
            pytest.raises(RecordingError, match="too large"),
            appearing(path) as output,
            open(output, "wb", closefd=False) as stream,
        ):
            write(small_heap(), stream)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, old)
    assert os.listdir(tmp_path) == []


@pytest.fixture(params=["unnamed", "named"])
def kind_of_disk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With and without files that have no name (open(2), O_TMPFILE)."""
    if request.param == "named":
        with_names = os.open

        def refuse(path: Any, flags: int, *more: Any, **others: Any) -> int:
            if flags & os.O_TMPFILE == os.O_TMPFILE:
                raise OSError(errno.EOPNOTSUPP, "not supported")
            return with_names(path, flags, *more, **others)

        monkeypatch.setattr("tracer.heap.writer.os.open", refuse)
    return str(request.param)


@pytest.mark.usefixtures("kind_of_disk")
@pytest.mark.parametrize("force", [False, True])
def test_what_appeared_meanwhile_is_replaced_only_by_force(tmp_path: Path, force: bool) -> None:
    path = tmp_path / "dump"
    with contextlib.ExitStack() as stack:
        if not force:
            stack.enter_context(pytest.raises(UsageError, match="exists"))
        output = stack.enter_context(appearing(path, force=force))
        os.write(output, b"new")
        path.write_bytes(b"somebody else's")
    assert path.read_bytes() == (b"new" if force else b"somebody else's")
    assert os.listdir(tmp_path) == ["dump"]
    with appearing(tmp_path / "other") as output:
        os.write(output, b"another")
    assert (tmp_path / "other").stat().st_mode & 0o777 == 0o600
    assert sorted(os.listdir(tmp_path)) == ["dump", "other"]


def test_nothing_is_left_by_one_that_was_killed(tmp_path: Path) -> None:
    child = os.fork()
    if not child:
        with appearing(tmp_path / "dump") as output:
            os.write(output, b"half of it")
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert os.listdir(tmp_path) == []


def test_many_blocks_are_one_column(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tracer.heap.writer.BLOCK_ROWS", 4)
    stream = io.BytesIO()
    write(small_heap(), stream)
    path = Path(f"/proc/self/fd/{os.memfd_create('dump')}")
    path.write_bytes(stream.getvalue())
    with HeapFile(path) as file:
        assert file.column("address").tolist() == small_heap().columns["address"].tolist()
        assert file.load().columns["target"].tolist() == small_heap().columns["target"].tolist()


def test_what_a_dump_says_of_itself_is_no_more_than_that(tmp_path: Path) -> None:
    """A file that somebody sent steers no terminal, and its figures are those of its objects."""
    heap = small_heap()
    lies = {"path": 1, "bytes": "all", "objects": -1, "types": [], "closure": 5, "threads": 7}
    heap.meta.update(lies, pid="\x1b[2J", capture="\x1b[2J", program={"\x1b[2J": 1})
    path = tmp_path / "dump"
    with path.open("wb") as stream:
        write(heap, stream)
    facts = info(path)
    assert (facts["path"], facts["objects"]) == (str(path), heap.nodes)
    assert facts["threads"] == heap.threads
    assert "\x1b" not in "".join(info_lines(facts))
