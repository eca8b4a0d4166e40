"""Columns to text, row by row, in C: JSON, CSV, whatever has something before each value.

What is written is made in pieces of a few MB, so the memory that an export takes does not
depend on how much there is.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from probes.errors import InternalError
from tracer.heap.build import built

PIECE_BYTES = 4 << 20
"""So much text is made at a time."""

Write = Callable[[bytes | memoryview], None]
Progress = Callable[[int, int], None]
"""Told of rows done, and of all."""

Chunk = Callable[[], tuple[int, list[bytes]]]
"""Makes the text of some rows: how many, and the pieces."""

_DIGITS = 20  # of the greatest number, and text/rows.c's


class _Column(ctypes.Structure):
    _fields_ = (
        ("before", ctypes.c_char_p),
        ("before_size", ctypes.c_uint64),
        ("values", ctypes.c_void_p),
        ("width", ctypes.c_uint64),
        ("starts", ctypes.c_void_p),
        ("text", ctypes.c_char_p),
        ("texts", ctypes.c_uint64),
        ("longest", ctypes.c_uint64),
        ("none", ctypes.c_char_p),
        ("none_size", ctypes.c_uint64),
    )


@cache
def _library() -> ctypes.CDLL:
    code = ctypes.CDLL(str(built("text")))
    code.rows_format.restype = ctypes.c_int64
    code.rows_format.argtypes = (
        ctypes.POINTER(_Column), ctypes.c_uint64, ctypes.c_uint64,
        ctypes.POINTER(ctypes.c_uint64), ctypes.c_void_p, ctypes.c_uint64,
    )  # fmt: skip
    return code


class Texts:
    """Texts as bytes, by number."""

    def __init__(self, texts: Sequence[bytes]) -> None:
        sizes = np.fromiter(map(len, texts), np.uint64, len(texts))
        self.joined = b"".join(texts)
        self.starts = np.concatenate([np.zeros(1, np.uint64), np.cumsum(sizes, dtype=np.uint64)])
        self.longest = int(sizes.max()) if len(texts) else 0

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, number: int) -> bytes:
        return self.joined[int(self.starts[number]) : int(self.starts[number + 1])]

    def sizes(self) -> npt.NDArray[np.uint64]:
        """Bytes of each."""
        return np.diff(self.starts)


@dataclass(frozen=True, slots=True)
class Column:
    """``before``: bytes before each value. ``values``: unsigned integers (None: no value).

    ``texts``: what the values are numbers of; without, they are written themselves.
    ``none``: what is written for the greatest number of the values' type.
    """

    before: bytes
    values: npt.NDArray[np.unsignedinteger] | None = None
    texts: Texts | None = None
    none: bytes | None = None


def format_rows(columns: Sequence[Column]) -> Iterator[bytes | memoryview]:
    """The text of all rows, in pieces; each is valid only until the next is asked for.

    Columns with values are of one length. Raises BackendUnavailable without a compiler.
    """
    arrays = [None if one.values is None else np.ascontiguousarray(one.values) for one in columns]
    lengths = {len(one) for one in arrays if one is not None}
    if len(lengths) != 1:
        raise InternalError("rows of columns of different lengths")
    (rows,) = lengths
    packed = (_Column * len(columns))(
        *(_packed(one, array) for one, array in zip(columns, arrays, strict=True))
    )
    widest = sum(_widest(one) for one in columns)
    room = PIECE_BYTES + widest
    buffer = ctypes.create_string_buffer(room)
    view = memoryview(buffer).cast("B")
    row = ctypes.c_uint64(0)
    while row.value < rows:
        size = _library().rows_format(packed, len(columns), rows, ctypes.byref(row), buffer, room)
        if size <= 0:
            raise InternalError("a row names a text that is not there")
        yield view[:size]


def _widest(column: Column) -> int:
    value = column.texts.longest if column.texts else _DIGITS
    return len(column.before) + value + len(column.none or b"")


def _packed(column: Column, values: npt.NDArray[np.unsignedinteger] | None) -> _Column:
    packed = _Column(before=column.before, before_size=len(column.before), width=1)
    if values is None:
        return packed
    if values.dtype.kind != "u":
        raise InternalError(f"{values.dtype} is not of unsigned integers")
    packed.values = values.ctypes.data if len(values) else None
    packed.width = values.dtype.itemsize
    if column.none is not None:
        packed.none, packed.none_size = column.none, len(column.none)
    if (texts := column.texts) is not None:
        packed.starts, packed.text = texts.starts.ctypes.data, texts.joined
        packed.texts, packed.longest = len(texts), texts.longest
    return packed


def chunk_of(columns: Sequence[Column]) -> tuple[int, list[bytes]]:
    """What a Chunk gives: the text of these rows, kept."""
    rows = next(len(one.values) for one in columns if one.values is not None)
    return rows, [bytes(piece) for piece in format_rows(columns)]


def write_chunks(chunks: Iterable[Chunk], write: Write, tell: Callable[[int], None]) -> None:
    """Make two chunks at a time and write them in their order; ``tell`` of each one's rows."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        waiting: list[Future[tuple[int, list[bytes]]]] = []

        def put() -> None:
            rows, pieces = waiting.pop(0).result()
            for piece in pieces:
                write(piece)
            tell(rows)

        for chunk in chunks:
            waiting.append(pool.submit(chunk))
            if len(waiting) > 2:
                put()
        while waiting:
            put()
