"""How a column block of a heap dump is encoded: see FORMAT.md.

``pyarrow`` is here for its zstd only: the standard library has none before 3.14.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from probes.errors import DamagedHeapDump

LEVEL = 3
"""zstd's level. Higher ones cost more than they save on columns: measured, see FORMAT.md."""

MAX_BLOCK_BYTES = 1 << 30
"""No block is larger when decoded."""


@cache
def _codec() -> Any:
    import pyarrow as pa

    return pa.Codec("zstd", compression_level=LEVEL)


def compress(raw: bytes | npt.NDArray[Any]) -> bytes:
    """Zstd of some bytes."""
    packed: bytes = _codec().compress(raw, asbytes=True)
    return packed


def decompress(packed: bytes, size: int) -> bytes:
    """Exactly ``size`` bytes out of zstd. Raises DamagedHeapDump."""
    if not 0 <= size <= MAX_BLOCK_BYTES:
        raise DamagedHeapDump(f"a block claims to hold {size} bytes")
    if not size:
        return b""
    try:
        raw: bytes = _codec().decompress(packed, decompressed_size=size, asbytes=True)
    except (OSError, ValueError) as error:
        raise DamagedHeapDump(f"a block cannot be decompressed: {error}") from None
    if len(raw) != size:
        raise DamagedHeapDump("a block is shorter than it says")
    return raw


def encode(values: npt.NDArray[Any], encoding: str) -> bytes:
    """A block's bytes. ``values``: one-dimensional, little-endian integers."""
    if encoding == "delta":
        values = np.diff(values, prepend=values.dtype.type(0))
    planes = np.ascontiguousarray(values).view(np.uint8).reshape(-1, values.dtype.itemsize)
    return compress(np.ascontiguousarray(planes.T))


def decode(packed: bytes, dtype: np.dtype[Any], rows: int, encoding: str) -> npt.NDArray[Any]:
    """The values of a block. Raises DamagedHeapDump."""
    if encoding not in {"planes", "delta"} or not 0 <= rows <= MAX_BLOCK_BYTES // dtype.itemsize:
        raise DamagedHeapDump(f"a block is encoded as {encoding!r}, which is not known")
    raw = np.frombuffer(decompress(packed, rows * dtype.itemsize), np.uint8)
    planes = raw.reshape(dtype.itemsize, rows)
    # A copy always: one row would be a view of bytes, which nobody may write to.
    values = np.array(planes.T, order="C").reshape(-1).view(dtype)
    if encoding == "delta":
        values = np.cumsum(values, dtype=dtype)  # wraps around as the differences did
    return values
