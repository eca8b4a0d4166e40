"""What the bytes of a trace mean: constants, frame header, its packing and its checks.

FORMAT.md has the byte tables; this module is the only one that knows them. It does
no input or output, and nothing in it trusts what it is given to parse.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from types import MappingProxyType
from typing import Any

FORMAT_VERSION = 1

FILE_MAGIC = b"\x89PSK\r\n\x1a\n"
"""As PNG's: the high bit and the line ends show a file that went through a text mode."""

FRAME_MAGIC = b"\xa7PSFRM\n\x5a"

_FILE_HEADER = struct.Struct("<8sI")
_CRC = struct.Struct("<I")
FILE_HEADER_SIZE = _FILE_HEADER.size + _CRC.size

_FRAME_HEADER = struct.Struct("<8sHHIQQIIIHHI")
FRAME_HEADER_SIZE = _FRAME_HEADER.size + _CRC.size

_TICK = struct.Struct("<QI")
_DROP = struct.Struct("<IQ")

BATCH_ROWS = 8192
BATCH_NS = 250_000_000
MAX_ROWS = 65_536
MAX_TICKS = 4096
MAX_DROPS = 64
MAX_PAYLOAD = 16 << 20


class FrameKind(IntEnum):
    """What a frame holds."""

    META = 1
    RECORDS = 2
    PARKS = 3
    EVENTS = 4
    END = 5


class TraceState(Enum):
    """The reader's verdict on a whole file."""

    CLEAN = "clean"
    TRUNCATED = "truncated"
    CORRUPT = "corrupt"


NO_DROPS: Mapping[int, int] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Tick:
    """The source's clock at the end of one of its batches, ``end_row`` rows into the frame."""

    now_ns: int
    end_row: int


@dataclass(frozen=True, slots=True)
class FrameHeader:
    """Everything about a frame but its payload.

    ``first_row`` counts the rows of the same kind in all frames before this one, so
    that a reader which lost frames knows how many rows went with them. ``dropped``
    counts, by record kind, what the source lost since the frame before. ``payload_length``
    is the stored (zstd) size and ``raw_length`` the size that it unpacks to.
    """

    kind: FrameKind
    sequence: int
    now_ns: int
    first_row: int
    rows: int
    payload_length: int = 0
    raw_length: int = 0
    payload_crc: int = 0
    ticks: tuple[Tick, ...] = ()
    dropped: Mapping[int, int] = field(default_factory=lambda: NO_DROPS)

    @property
    def size(self) -> int:
        """Bytes from the frame's magic to its payload."""
        return FRAME_HEADER_SIZE + len(self.ticks) * _TICK.size + len(self.dropped) * _DROP.size


class BadFrame(Exception):
    """These bytes are no frame. Never leaves the reader."""


def pack_file_header(version: int = FORMAT_VERSION) -> bytes:
    """The first 16 bytes of a trace."""
    head = _FILE_HEADER.pack(FILE_MAGIC, version)
    return head + _CRC.pack(zlib.crc32(head))


def file_version(head: bytes) -> int | None:
    """The version in a file header; None when its check sum does not hold.

    Raises BadFrame when the magic is another one.
    """
    if head[: len(FILE_MAGIC)] != FILE_MAGIC:
        raise BadFrame("not the magic of a trace")
    if len(head) < FILE_HEADER_SIZE:
        return None
    (crc,) = _CRC.unpack_from(head, _FILE_HEADER.size)
    if crc != zlib.crc32(head[: _FILE_HEADER.size]):
        return None
    _magic, version = _FILE_HEADER.unpack_from(head)
    return int(version)


def pack_frame(header: FrameHeader, payload: bytes) -> bytes:
    """One whole frame; the lengths and check sums are computed here."""
    fixed = _FRAME_HEADER.pack(
        FRAME_MAGIC,
        header.kind,
        FORMAT_VERSION,
        header.sequence,
        header.now_ns,
        header.first_row,
        header.rows,
        len(payload),
        header.raw_length,
        len(header.ticks),
        len(header.dropped),
        zlib.crc32(payload),
    )
    tables = b"".join(_TICK.pack(tick.now_ns, tick.end_row) for tick in header.ticks)
    tables += b"".join(_DROP.pack(kind, count) for kind, count in sorted(header.dropped.items()))
    return b"".join((fixed, _CRC.pack(zlib.crc32(tables, zlib.crc32(fixed))), tables, payload))


def tables_size(fixed: bytes) -> int:
    """How many bytes of tables follow the fixed part of a header.

    Raises BadFrame when the bytes cannot be a header, so that nobody reads on
    by a length that nothing vouches for.
    """
    if len(fixed) < FRAME_HEADER_SIZE or not fixed.startswith(FRAME_MAGIC):
        raise BadFrame("no frame begins here")
    fields = _FRAME_HEADER.unpack_from(fixed)
    ticks, drops = fields[9], fields[10]
    if ticks > MAX_TICKS or drops > MAX_DROPS:
        raise BadFrame("tables out of bounds")
    return int(ticks * _TICK.size + drops * _DROP.size)


def parse_frame_header(fixed: bytes, tables: bytes) -> FrameHeader:
    """The header from its two parts, every bound and its check sum verified.

    Raises BadFrame for anything that no writer of this version has written.
    """
    if len(tables) != tables_size(fixed):
        raise BadFrame("tables cut short")
    body = fixed[: _FRAME_HEADER.size]
    (crc,) = _CRC.unpack_from(fixed, _FRAME_HEADER.size)
    if crc != zlib.crc32(tables, zlib.crc32(body)):
        raise BadFrame("header check sum")
    fields: tuple[Any, ...] = _FRAME_HEADER.unpack(body)
    _, kind, version, sequence, now_ns, first_row, rows, length, raw, ticks, _, payload_crc = fields
    if version != FORMAT_VERSION or kind not in FrameKind.__members__.values():
        raise BadFrame("unknown kind or version of frame")
    if rows > MAX_ROWS or length > MAX_PAYLOAD or raw > MAX_PAYLOAD:
        raise BadFrame("frame out of bounds")
    split = ticks * _TICK.size
    return FrameHeader(
        kind=FrameKind(kind),
        sequence=sequence,
        now_ns=now_ns,
        first_row=first_row,
        rows=rows,
        payload_length=length,
        raw_length=raw,
        payload_crc=payload_crc,
        ticks=_parse_ticks(tables[:split], rows),
        dropped=dict(_DROP.iter_unpack(tables[split:])),
    )


def _parse_ticks(table: bytes, rows: int) -> tuple[Tick, ...]:
    """Ticks in file order; raises BadFrame unless clock and rows only ever go forward."""
    ticks = tuple(Tick(*entry) for entry in _TICK.iter_unpack(table))
    last = Tick(0, 0)
    for tick in ticks:
        if tick.now_ns < last.now_ns or not last.end_row <= tick.end_row <= rows:
            raise BadFrame("ticks run backwards")
        last = tick
    return ticks


def payload_holds(header: FrameHeader, payload: bytes) -> bool:
    """Whether the payload is the one that the header was written with."""
    return len(payload) == header.payload_length and zlib.crc32(payload) == header.payload_crc
