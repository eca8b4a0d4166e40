"""Writes a heap dump: blocks of columns, then what they are, see FORMAT.md.

The file appears whole or not at all: it is written without a name, mode 0600, and gets
its own at the end.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import orjson

from probes.errors import RecordingError, UsageError
from tracer.heap import codec
from tracer.heap.model import VERSION, Heap

MAGIC = b"PKSHEAP\n"
TRAILER = struct.Struct("<QQII8s")  # offset and bytes of the directory, its CRC, 0, magic
BLOCK_ROWS = 1 << 20
Encoder = Callable[[], tuple[str, str, npt.NDArray[Any]]]


def refuse_existing(path: Path, *, force: bool) -> None:
    """Raise UsageError when ``path`` is there and may not be replaced, or has no folder.

    A device, a pipe or a link is never replaced: as root, ``-o /dev/null`` would be the end of it.
    """
    if os.path.lexists(path) and not force:
        raise _exists(path)
    _refuse_special(path)
    if not os.path.isdir(path.parent):  # unlike Path's, it never raises
        raise UsageError(f"{path.parent} is no directory", hint="Choose another '-o'.")


@contextlib.contextmanager
def appearing(path: Path, *, force: bool = False) -> Iterator[int]:
    """A descriptor to write to; when all went well, what was written stands at ``path``.

    Until then it has no name, so that nothing is left whatever kills us. Raises UsageError
    when something stands there by then and ``force`` is not given, RecordingError when it
    cannot be written (disk full, limits).
    """
    try:
        handle, partial = _unseen(path)
    except OSError as error:
        raise _failed(path, error) from None
    try:
        yield handle
        os.fsync(handle)
        _show(handle, partial, path, force=force)
    except FileExistsError:
        raise _exists(path) from None
    except OSError as error:
        raise _failed(path, error) from None
    finally:
        os.close(handle)
        if partial is not None:
            partial.unlink(missing_ok=True)


def _unseen(path: Path) -> tuple[int, Path | None]:
    """A new file where ``path`` will be: without a name, where the file system has that."""
    try:
        return os.open(path.parent, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600), None
    except OSError as error:
        if error.errno not in _NO_UNNAMED:
            raise
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    return handle, Path(name)


def _show(handle: int, partial: Path | None, path: Path, *, force: bool) -> None:
    """Give the file its name. Raises FileExistsError unless ``force``d."""
    _refuse_special(path)
    if partial is None and not force:
        _link(handle, path)
    elif partial is None:
        hidden = path.with_name(f".{path.name}.{os.getpid()}")
        hidden.unlink(missing_ok=True)
        _link(handle, hidden)
        os.replace(hidden, path)
    elif not force and os.path.lexists(path):
        raise FileExistsError
    else:
        os.replace(partial, path)


def _link(handle: int, path: Path) -> None:
    """linkat(2) with AT_SYMLINK_FOLLOW, which Python makes only of a link from a directory."""
    descriptors = os.open("/proc/self/fd", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.link(str(handle), path, src_dir_fd=descriptors, follow_symlinks=True)
    finally:
        os.close(descriptors)


_NO_UNNAMED = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL})


def _refuse_special(path: Path) -> None:
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return  # it is not there, or what follows says what is wrong with it
    if not stat.S_ISREG(mode):
        raise UsageError(
            f"{path} is no regular file, it is not replaced", hint="Choose another '-o'."
        )


def _exists(path: Path) -> UsageError:
    return UsageError(f"{path} exists", hint="Choose another '-o', or add '--force' to replace it.")


def _failed(path: Path, error: OSError) -> RecordingError:
    return RecordingError(
        f"{path} could not be written: {error.strerror}",
        hint="Make room or choose another place with '-o'; nothing was left there.",
    )


def write(heap: Heap, stream: IO[bytes], progress: Callable[[int], None] = lambda _: None) -> int:
    """Write ``heap``; the bytes written. ``progress`` is told of each block's rows.

    Raises OSError.
    """
    stream.write(MAGIC)
    blocks: list[dict[str, Any]] = []
    with ThreadPoolExecutor(max_workers=2) as pool:
        waiting: list[Any] = []
        for block in _blocks(heap):
            waiting.append(pool.submit(_encode, block))
            if len(waiting) > 4:
                _put(stream, blocks, waiting.pop(0).result(), progress)
        for one in waiting:
            _put(stream, blocks, one.result(), progress)
    for name, value in _documents(heap):
        raw = orjson.dumps(value)
        _put(stream, blocks, ((name, "json", "", len(raw)), codec.compress(raw)), progress)
    directory = {"version": VERSION, "meta": heap.meta, "closure": heap.closure.to_dict(),
                 "blocks": blocks}  # fmt: skip
    text = codec.compress(raw := orjson.dumps(directory))
    at = stream.tell()
    stream.write(struct.pack("<Q", len(raw)) + text)
    stream.write(TRAILER.pack(at, 8 + len(text), zlib.crc32(text), 0, MAGIC))
    return stream.tell()


def _put(
    stream: IO[bytes],
    blocks: list[dict[str, Any]],
    encoded: tuple[tuple[str, str, str, int], bytes],
    progress: Callable[[int], None],
) -> None:
    (column, encoding, dtype, rows), packed = encoded
    blocks.append(
        {"column": column, "encoding": encoding, "dtype": dtype, "rows": rows,
         "offset": stream.tell(), "bytes": len(packed), "crc": zlib.crc32(packed)}
    )  # fmt: skip
    stream.write(packed)
    progress(rows)


def _documents(heap: Heap) -> Iterator[tuple[str, Any]]:
    yield (
        "types",
        [[one.module, one.qualname, one.node, one.heap, one.kind, one.size] for one in heap.types],
    )
    yield "strings", heap.strings
    yield "threads", heap.threads
    yield "frames", heap.frames


def _encode(encoder: Encoder) -> tuple[tuple[str, str, str, int], bytes]:
    column, encoding, values = encoder()
    return (column, encoding, values.dtype.str[1:], len(values)), codec.encode(values, encoding)


_DELTA = frozenset(
    {"address", "mark_node", "excess_node", "immortal_node", "text_node", "frame_of_reference"}
)


def _blocks(heap: Heap) -> Iterator[Encoder]:
    """What makes each block, called by a worker: the values exist for a short time only."""
    for name, values in heap.columns.items():
        if name in {"target", "degree"}:
            continue
        encoding = "delta" if name in _DELTA else "planes"
        for first in range(0, len(values), BLOCK_ROWS):
            yield _slice(name, encoding, values, first)
    yield from _target_blocks(heap)


def _slice(name: str, encoding: str, values: npt.NDArray[Any], first: int) -> Encoder:
    return lambda: (name, encoding, np.ascontiguousarray(values[first : first + BLOCK_ROWS]))


def _target_blocks(heap: Heap) -> Iterator[Encoder]:
    """Targets as distances from their sources, some nodes at a time."""
    degree, target = heap.columns["degree"], heap.columns["target"]
    start = 0
    for first in range(0, len(degree), BLOCK_ROWS // 4):
        part = degree[first : first + BLOCK_ROWS // 4]
        end = start + int(part.sum(dtype=np.int64))

        def make(
            first: int = first, part: Any = part, start: int = start, end: int = end
        ) -> tuple[str, str, npt.NDArray[Any]]:
            sources = np.repeat(np.arange(first, first + len(part), dtype=np.int32), part)
            distances = target[start:end].view(np.int32) - sources
            return "target", "planes", distances.astype(np.int32, copy=False)

        if end > start:
            yield make
        start = end
