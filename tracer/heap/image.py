"""A memory image of a process at one moment: what capture hands to the walk.

The bytes lie in one file (a memfd, or a saved image), page by page where they were
copied; what was not copied is a hole and reads as zeros. Addresses outside of every
segment were not captured: ``facts.skipped`` says which of them and why.
"""

from __future__ import annotations

import bisect
import json
import os
import struct
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from collector.closing import Closing, open_to_read
from probes.errors import MemoryFault, NotAnImage
from tracer.pymem.memory import MAX_READ, OneByOne

PAGE = 4096

_FREED_AT_ONCE = 2 << 20
_NAP_S = 1e-4

_HEAD = struct.Struct("<8sQ")  # magic, bytes of JSON that follow
_MAGIC = b"PKSIMG1\n"
_MAX_JSON = 256 << 20


@dataclass(frozen=True, slots=True)
class Segment:
    """[start, end) of the target's addresses; its bytes lie at ``offset`` of the file.

    All three are multiples of the page. Segments are sorted and do not overlap. ``path``
    is as /proc/PID/maps shows it: a file, ``[heap]``, ``[stack]``, or empty. It comes
    from the target and is escaped by whoever shows it.
    """

    start: int
    end: int
    offset: int
    writable: bool
    path: str


@dataclass(frozen=True, slots=True)
class Skipped:
    """Memory that was left out on purpose: [start, end) and the reason, in words.

    ``free_of_references``: it was looked at, and held no address of any object: it is the
    inside of a buffer or a value, or a part of a table whose entries were all deleted.
    """

    start: int
    end: int
    path: str
    reason: str
    free_of_references: bool = False

    @property
    def size_bytes(self) -> int:
        """How much address space it is."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class CaptureFacts:
    """How an image came about. Times are CLOCK_MONOTONIC ns, sizes are bytes.

    ``pause_ns`` is the longest stop of all threads, by the injector's clock;
    ``stops_ns`` are all stops of the dump, in order. ``window_ns`` is the longest time
    that a thread of the target had registers which were not its own (0: nothing was
    injected). ``dirty_bytes`` were copied while the target stood still. ``state`` is
    the state of the target's main thread before the dump (proc(5)). ``predicted_ns``
    is the pause that the engine was chosen for.
    """

    pid: int
    engine: str
    pause_ns: int
    bytes_copied: int
    dirty_bytes: int
    rounds: int
    threads: int
    started_ns: int
    frozen_ns: int
    gc_retries: int
    state: str
    predicted_ns: int = 0
    window_ns: int = 0
    stops_ns: tuple[int, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass
class Image(Closing, OneByOne):
    """An image; ``fd`` is owned by it. Also a ``tracer.pymem.memory.MemoryReader``.

    ``in_memory``: the file is in memory and nobody will read it after the image is closed.
    """

    fd: int
    size: int
    segments: tuple[Segment, ...]
    facts: CaptureFacts
    in_memory: bool = False
    _starts: list[int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._starts = [segment.start for segment in self.segments]

    def close(self) -> None:
        """Give the memory back. A second call does nothing."""
        if self.fd < 0:
            return
        try:
            if self.in_memory:
                _empty(self.fd, self.size)
        finally:
            os.close(self.fd)
            self.fd = -1

    def segment_of(self, address: int) -> Segment | None:
        """The segment that holds ``address``."""
        index = bisect.bisect_right(self._starts, address) - 1
        if index < 0 or address >= self.segments[index].end:
            return None
        return self.segments[index]

    def read(self, address: int, size: int) -> bytes:
        """Exactly ``size`` bytes, across adjoining segments too. Raises MemoryFault."""
        if not 0 < size <= MAX_READ:
            raise MemoryFault(address, size)
        parts, at, left = [], address, size
        while left:
            segment = self.segment_of(at)
            if segment is None:
                raise MemoryFault(address, size)
            length = min(left, segment.end - at)
            part = os.pread(self.fd, length, segment.offset + at - segment.start)
            if len(part) != length:
                raise MemoryFault(address, size)
            parts.append(part)
            at += length
            left -= length
        return b"".join(parts)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the image to a new file, mode 0600; holes stay holes. Raises OSError."""
        about = {
            "size": self.size,
            "segments": [list(_plain(segment)) for segment in self.segments],
            "facts": asdict(self.facts),
        }
        text = json.dumps(about).encode()
        start = -(-(_HEAD.size + len(text)) // PAGE) * PAGE
        out = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(out, _HEAD.pack(_MAGIC, len(text)) + text, 0)
            os.ftruncate(out, start + self.size)
            for at, end in data_ranges(self.fd, self.size):
                _copy(self.fd, out, at, end, start)
        finally:
            os.close(out)


def _empty(fd: int, size: int) -> None:
    """Give back what the file holds, and the CPU in between.

    The kernel takes 150 ms for a gigabyte, at a stretch if the file were just closed, and
    the target may be waiting for that CPU.
    """
    freed = 0
    with suppress(OSError):
        for start, end in reversed(list(data_ranges(fd, size))):
            for at in range(end, start, -_FREED_AT_ONCE):
                left = max(at - _FREED_AT_ONCE, start)
                os.ftruncate(fd, left)
                freed += at - left
                if freed >= _FREED_AT_ONCE:
                    time.sleep(_NAP_S)
                    freed = 0


def load(path: str | os.PathLike[str]) -> Image:
    """An image that ``Image.save`` wrote; the file itself serves as memory.

    Raises NotAnImage for anything else, OSError.
    """
    fd = open_to_read(path)
    try:
        return _parse(fd)
    except NotAnImage:
        os.close(fd)
        raise
    except (ValueError, KeyError, TypeError, OverflowError, struct.error) as error:
        os.close(fd)
        raise NotAnImage(f"{os.fspath(path)} is no memory image: {error}") from None


def _parse(fd: int) -> Image:
    magic, length = _HEAD.unpack(os.pread(fd, _HEAD.size, 0))
    if magic != _MAGIC or length > _MAX_JSON:
        raise NotAnImage("this is no memory image")
    about = json.loads(os.pread(fd, length, _HEAD.size))
    start = -(-(_HEAD.size + length) // PAGE) * PAGE
    size = os.fstat(fd).st_size
    segments = tuple(
        Segment(int(lo), int(hi), int(offset) + start, bool(writable), str(name))
        for lo, hi, offset, writable, name in about["segments"]
    )
    _check(segments, size)
    facts = dict(about["facts"])
    facts["skipped"] = tuple(Skipped(**one) for one in facts["skipped"])
    facts["stops_ns"] = tuple(facts["stops_ns"])
    facts["notes"] = tuple(facts["notes"])
    return Image(fd, size, segments, CaptureFacts(**facts))


def _check(segments: Sequence[Segment], size: int) -> None:
    """Raise NotAnImage unless the segments are sorted, apart and inside the file."""
    before = 0
    for one in segments:
        length = one.end - one.start
        if not (before <= one.start < one.end and 0 <= one.offset <= size - length):
            raise NotAnImage(f"the segment at {one.start:#x} does not fit into the image")
        if (one.start | one.end | one.offset) % PAGE:
            raise NotAnImage(f"the segment at {one.start:#x} is not made of pages")
        before = one.end


def _plain(segment: Segment) -> tuple[Any, ...]:
    return segment.start, segment.end, segment.offset, segment.writable, segment.path


def data_ranges(fd: int, size: int) -> list[tuple[int, int]]:
    """[start, end) of the parts of a sparse file that are no holes, in bytes."""
    found, at = [], 0
    while at < size:
        try:
            begin = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:
            break  # ENXIO: only a hole follows
        at = min(os.lseek(fd, begin, os.SEEK_HOLE), size)
        found.append((begin, at))
    return found


def _copy(source: int, destination: int, at: int, end: int, shift: int) -> None:
    while at < end:
        data = os.pread(source, min(end - at, MAX_READ), at)
        if not data:
            return
        at += os.pwrite(destination, data, at + shift)
