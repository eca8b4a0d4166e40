"""Structured arrays to Arrow record batches and back: one column per field, bijective.

A payload is one encapsulated Arrow IPC message (a record batch without its schema:
the format version fixes it), uncompressed inside and zstd around, so that the size it
unpacks to is bounded by the frame header before anything is unpacked.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from collector.trace.format import BadFrame

if TYPE_CHECKING:
    import pyarrow as pa

_ZSTD_LEVEL = 1
_MESSAGE_OVERHEAD = 4096
"""Room for an Arrow message's metadata and the padding of its buffers."""

_COMPRESSION_SLOT = 3
_HEADER_SLOT = 2


@lru_cache(maxsize=8)
def schema_of(dtype: np.dtype[Any]) -> pa.Schema:
    """Arrow's schema for a structured dtype of integers, no column nullable."""
    import pyarrow as pa

    names = dtype.names or ()
    return pa.schema(
        [pa.field(name, pa.from_numpy_dtype(dtype[name]), nullable=False) for name in names]
    )


def record_batch(rows: npt.NDArray[Any]) -> pa.RecordBatch:
    """Some rows in columns."""
    import pyarrow as pa

    schema = schema_of(rows.dtype)
    columns = [pa.array(np.ascontiguousarray(rows[name])) for name in schema.names]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def encode(rows: npt.NDArray[Any]) -> tuple[bytes, int]:
    """The stored payload of some rows and the size that it unpacks to."""
    message = record_batch(rows).serialize()
    return compress(message), message.size


def compress(raw: Any) -> bytes:
    """One zstd frame of anything with the buffer protocol."""
    import pyarrow as pa

    stored: bytes = pa.Codec("zstd", compression_level=_ZSTD_LEVEL).compress(raw, asbytes=True)
    return stored


def decompress(stored: bytes, raw_length: int) -> bytes:
    """The ``raw_length`` bytes that went in; BadFrame when they are not what comes out."""
    import pyarrow as pa

    try:
        raw: bytes = pa.Codec("zstd").decompress(stored, raw_length, asbytes=True)
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise BadFrame("payload does not unpack") from error
    return raw


def decode(stored: bytes, raw_length: int, rows: int, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """The rows of a payload, dtype as asked for.

    Raises BadFrame when the payload is larger than ``rows`` rows can be, packed a
    second time inside, of other columns or of another number of rows, or has nulls.
    """
    import pyarrow as pa

    names = dtype.names or ()
    if raw_length > rows * dtype.itemsize + _MESSAGE_OVERHEAD + 64 * len(names):
        raise BadFrame("payload larger than its rows")
    raw = decompress(stored, raw_length)
    try:
        message = pa.ipc.read_message(raw)
        if message.type != "record batch" or _packed_inside(message.metadata.to_pybytes()):
            raise BadFrame("not a plain record batch")
        batch = pa.ipc.read_record_batch(message, schema_of(dtype))
        batch.validate(full=True)
        if batch.num_rows != rows or any(column.null_count for column in batch.columns):
            raise BadFrame("not the rows that were announced")
        decoded = np.empty(rows, dtype)
        for name, column in zip(names, batch.columns, strict=True):
            decoded[name] = column.to_numpy(zero_copy_only=True)
    except (pa.ArrowException, OSError, EOFError, ValueError, MemoryError) as error:
        raise BadFrame("payload is no record batch of ours") from error
    return decoded


def _packed_inside(metadata: bytes) -> bool:
    """Whether an Arrow message says that its buffers are compressed.

    No writer of this format does that; a file made by somebody else could in this
    way unpack to any size. Read from the flatbuffer itself (Apache Arrow,
    format/Message.fbs: Message.header, RecordBatch.compression), since pyarrow
    shows the field only after it has unpacked. Raises BadFrame out of bounds.
    """
    try:
        (message,) = struct.unpack_from("<I", metadata, 0)
        header = _field(metadata, message, _HEADER_SLOT)
        if header is None:
            return True
        (step,) = struct.unpack_from("<I", metadata, header)
        return _field(metadata, header + step, _COMPRESSION_SLOT) is not None
    except struct.error as error:
        raise BadFrame("metadata out of bounds") from error


def _field(data: bytes, table: int, slot: int) -> int | None:
    """Where a flatbuffer table keeps one of its fields; None when it has it not."""
    (back,) = struct.unpack_from("<i", data, table)
    vtable = table - back
    if vtable < 0:
        raise BadFrame("metadata out of bounds")
    (vtable_size,) = struct.unpack_from("<H", data, vtable)
    entry = 4 + 2 * slot
    if entry + 2 > vtable_size:
        return None
    (offset,) = struct.unpack_from("<H", data, vtable + entry)
    return table + int(offset) if offset else None
