"""Reads a trace that may have been cut short, damaged or made to harm.

Every length is bounded before it is used, every frame carries two check sums, Arrow
and JSON are validated before anybody sees them. A frame that does not hold is
skipped and accounted for; the search for the next one goes by its magic.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from collector.closing import OpenFile, open_to_read
from collector.events import Event
from collector.park import PARK
from collector.trace import columns, lines
from collector.trace.format import (
    FILE_HEADER_SIZE,
    FORMAT_VERSION,
    FRAME_HEADER_SIZE,
    FRAME_MAGIC,
    BadFrame,
    FrameHeader,
    FrameKind,
    TraceState,
    file_version,
    parse_frame_header,
    payload_holds,
    tables_size,
)
from probes.errors import NotATrace, TraceError, UnknownTraceVersion
from probes.wire import RECORD, WIRE_VERSION

_SEARCH_BYTES = 1 << 20
_MAX_NOTES = 20
ROW_KINDS = (FrameKind.RECORDS, FrameKind.PARKS, FrameKind.EVENTS)
_NO_RECORDS: npt.NDArray[Any] = np.empty(0, RECORD)
_NO_PARKS: npt.NDArray[Any] = np.empty(0, PARK)


@dataclass(slots=True)
class Integrity:
    """How much of a trace could be read. Complete once ``frames()`` has run to its end.

    ``lost_rows`` counts rows by kind (records, parks, events) that stood in frames
    which are missing or damaged, as far as later frames tell; ``unwritten`` those that
    the writer accepted and could not write; ``dropped`` what the source lost, by
    record kind. ``notes`` says in words what was wrong, at most 20 times.
    """

    state: TraceState = TraceState.TRUNCATED
    frames: int = 0
    bad_frames: int = 0
    lost_frames: int = 0
    skipped_bytes: int = 0
    bad_lines: int = 0
    lost_rows: Counter[str] = field(default_factory=Counter)
    unwritten: Counter[str] = field(default_factory=Counter)
    dropped: Counter[int] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Keeps one sentence about a defect."""
        if len(self.notes) < _MAX_NOTES:
            self.notes.append(text)

    @property
    def damaged(self) -> bool:
        """Whether anything but the end is missing."""
        return bool(self.bad_frames or self.lost_frames or self.skipped_bytes or self.bad_lines)


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame that holds. Only the field of its kind is filled."""

    header: FrameHeader
    records: npt.NDArray[Any] = field(default_factory=lambda: _NO_RECORDS)
    parks: npt.NDArray[Any] = field(default_factory=lambda: _NO_PARKS)
    events: tuple[Event, ...] = ()


class TraceReader(OpenFile):
    """One trace file, open for reading. A context manager.

    ``meta`` is the writer's description of the recording, empty when it was damaged;
    ``end`` the totals of the end record and ``end_ns`` its time on the source's clock,
    None until it has been read (or when there is none).
    """

    def __init__(self, path: str | Path) -> None:
        """Raises NotATrace, UnknownTraceVersion, or TraceError when it cannot be opened."""
        self.path = Path(path)
        self.integrity = Integrity()
        self.end: dict[str, Any] | None = None
        self.end_ns: int | None = None
        try:
            super().__init__(open_to_read(self.path))
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise TraceError(f"cannot open {path}: {why}", hint="Check the path.") from error
        try:
            self._header_ok = self._check_version()
            self.meta = self._read_meta()
        except BaseException:
            self.close()
            raise

    def frames(self, only: Container[FrameKind] = ROW_KINDS) -> Iterator[Frame]:
        """RECORDS, PARKS and EVENTS frames in file order, from the beginning.

        Counts into a fresh ``integrity``, whose ``state`` is the verdict at the end (of
        kinds that are not asked for, check sums alone are looked at). Raises TraceError
        when the file system fails.
        """
        walk = _Walk(self._fd, self.path)
        self.integrity = walk.integrity
        if not self._header_ok:
            walk.integrity.skipped_bytes += FILE_HEADER_SIZE
            walk.integrity.note("the file header is damaged")
        for header, payload in walk:
            if header.kind in ROW_KINDS and header.kind not in only:
                walk.integrity.frames += 1
                continue
            try:
                frame = self._decode(header, payload)
            except BadFrame as error:
                walk.give_up(header, str(error))
                continue
            walk.integrity.frames += 1
            if frame is not None:
                yield frame
        self._judge(walk)

    def _decode(self, header: FrameHeader, payload: bytes) -> Frame | None:
        """What a frame holds; None for META and END. Raises BadFrame."""
        if header.kind is FrameKind.RECORDS:
            if header.rows == 0:
                return Frame(header)
            return Frame(header, records=_rows(header, payload, RECORD))
        if header.kind is FrameKind.PARKS:
            return Frame(header, parks=_rows(header, payload, PARK))
        raw = columns.decompress(payload, header.raw_length)
        if header.kind is FrameKind.EVENTS:
            events, bad = lines.load_events(raw)
            if len(events) + bad != header.rows:
                raise BadFrame("not the events that were announced")
            self.integrity.bad_lines += bad
            return Frame(header, events=tuple(events))
        facts = lines.load_object(raw)
        if header.kind is FrameKind.END:
            self.end, self.end_ns = facts, header.now_ns
        return None

    def _check_version(self) -> bool:
        """Whether the file header holds; raises when the file is none of ours."""
        head = _read(self._fd, self.path, 0, FILE_HEADER_SIZE)
        try:
            version = file_version(head)
        except BadFrame as error:
            try:
                _header_at(self._fd, self.path, FILE_HEADER_SIZE)
            except BadFrame:
                what = "is empty" if not head else "is no trace of Parkscope"
                raise NotATrace(f"{self.path} {what}") from error
            return False
        if version is not None and version != FORMAT_VERSION:
            raise UnknownTraceVersion(
                f"{self.path} has trace format {version}, this version reads {FORMAT_VERSION}"
            )
        return version is not None

    def _read_meta(self) -> dict[str, Any]:
        """The first frame's facts, empty when damaged; UnknownTraceVersion for another wire."""
        try:
            header = _header_at(self._fd, self.path, FILE_HEADER_SIZE)
            if header.kind is not FrameKind.META:
                return {}
            start = FILE_HEADER_SIZE + header.size
            payload = _read(self._fd, self.path, start, header.payload_length)
            if not payload_holds(header, payload):
                return {}
            meta = lines.load_object(columns.decompress(payload, header.raw_length))
        except BadFrame:
            return {}
        versions = meta.get("versions")
        wire = versions.get("wire") if isinstance(versions, dict) else None
        if wire != WIRE_VERSION:
            raise UnknownTraceVersion(
                f"{self.path} has records of version {wire}, this version reads {WIRE_VERSION}"
            )
        return meta

    def _judge(self, walk: _Walk) -> None:
        """Compares with the end record and comes to the verdict."""
        found = walk.integrity
        if self.end is not None:
            written = _counts(self.end.get("written"))
            for kind in ("records", "parks", "events"):
                found.lost_rows[kind] += max(0, written[kind] - walk.seen[kind])
            found.unwritten = _counts(self.end.get("unwritten"))
            for name, count in _counts(self.end.get("dropped")).items():
                if name.isdecimal():
                    found.dropped[int(name)] = max(found.dropped[int(name)], count)
        found.lost_rows = +found.lost_rows
        if found.damaged or not self.meta:
            found.state = TraceState.CORRUPT
        elif self.end is None or found.unwritten:
            found.state = TraceState.TRUNCATED
        else:
            found.state = TraceState.CLEAN


class _Walk:
    """Goes from frame to frame by their headers and accounts for what lies between."""

    def __init__(self, fd: int, path: Path) -> None:
        self._fd = fd
        self._path = path
        self._sequence = 0
        self.seen: Counter[str] = Counter()
        self.integrity = Integrity()

    def __iter__(self) -> Iterator[tuple[FrameHeader, bytes]]:
        offset = FILE_HEADER_SIZE
        while True:
            try:
                header = _header_at(self._fd, self._path, offset)
                start = offset + header.size
                payload = _read(self._fd, self._path, start, header.payload_length)
                if len(payload) < header.payload_length:
                    raise BadFrame("cut short")
            except BadFrame:
                found = self._search(offset + 1)
                if found is None:
                    self._tail(offset)
                    return
                self.integrity.skipped_bytes += found - offset
                self.integrity.note(f"{found - offset} bytes at {offset} are no frame")
                offset = found
                continue
            offset = start + header.payload_length
            if not self._in_order(header):
                self.give_up(header, "out of order")
            elif not payload_holds(header, payload):
                self.give_up(header, "payload check sum")
            else:
                yield header, payload
                if header.kind is FrameKind.END:
                    self._after_end(offset)
                    return

    def give_up(self, header: FrameHeader, why: str) -> None:
        """A frame whose header holds and whose payload is of no use."""
        self.integrity.bad_frames += 1
        self.integrity.note(f"frame {header.sequence} ({header.kind.name}): {why}")
        if header.kind in ROW_KINDS and why != "out of order":
            self.integrity.lost_rows[header.kind.name.lower()] += header.rows

    def _in_order(self, header: FrameHeader) -> bool:
        """Takes note of a frame; False when it cannot stand here."""
        name = header.kind.name.lower()
        if header.sequence < self._sequence or header.first_row < self.seen[name]:
            return False
        if header.kind is FrameKind.META and header.sequence != 0:
            return False
        missing = header.sequence - self._sequence
        if missing:
            self.integrity.lost_frames += missing
            self.integrity.note(f"{missing} frames are missing before frame {header.sequence}")
        self._sequence = header.sequence + 1
        if header.kind in ROW_KINDS:
            self.integrity.lost_rows[name] += header.first_row - self.seen[name]
        self.seen[name] = header.first_row + header.rows
        for kind, count in header.dropped.items():
            self.integrity.dropped[kind] += count
        return True

    def _search(self, offset: int) -> int | None:
        """Where the next frame whose header holds begins."""
        while True:
            chunk = _read(self._fd, self._path, offset, _SEARCH_BYTES)
            place = chunk.find(FRAME_MAGIC)
            while place >= 0:
                try:
                    _header_at(self._fd, self._path, offset + place)
                    return offset + place
                except BadFrame:
                    place = chunk.find(FRAME_MAGIC, place + 1)
            if len(chunk) < _SEARCH_BYTES:
                return None
            offset += len(chunk) - len(FRAME_MAGIC) + 1

    def _tail(self, offset: int) -> None:
        """What stands after the last frame: nothing, half a frame, or damage."""
        size = os.fstat(self._fd).st_size
        if size <= offset:
            return
        try:
            header = _header_at(self._fd, self._path, offset)
        except BadFrame:
            if size - offset < FRAME_HEADER_SIZE or self._cut_in_tables(offset, size):
                self.integrity.note(f"the last frame is cut short, {size - offset} bytes of it")
                return
            self.integrity.skipped_bytes += size - offset
            self.integrity.note(f"{size - offset} bytes at the end are no frame")
            return
        if self._in_order(header) and header.kind in ROW_KINDS:
            self.integrity.lost_rows[header.kind.name.lower()] += header.rows
        self.integrity.note("the last frame is cut short")

    def _cut_in_tables(self, offset: int, size: int) -> bool:
        fixed = _read(self._fd, self._path, offset, FRAME_HEADER_SIZE)
        try:
            return offset + FRAME_HEADER_SIZE + tables_size(fixed) > size
        except BadFrame:
            return False

    def _after_end(self, offset: int) -> None:
        extra = os.fstat(self._fd).st_size - offset
        if extra > 0:
            self.integrity.skipped_bytes += extra
            self.integrity.note(f"{extra} bytes follow the end record")


def _header_at(fd: int, path: Path, offset: int) -> FrameHeader:
    """The frame header at an offset; BadFrame when there is none that holds."""
    fixed = _read(fd, path, offset, FRAME_HEADER_SIZE)
    tables = _read(fd, path, offset + FRAME_HEADER_SIZE, tables_size(fixed))
    return parse_frame_header(fixed, tables)


def _rows(header: FrameHeader, payload: bytes, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    return columns.decode(payload, header.raw_length, header.rows, dtype)


def _read(fd: int, path: Path, offset: int, size: int) -> bytes:
    """Up to ``size`` bytes; fewer only at the end of the file."""
    parts: list[bytes] = []
    while size:
        try:
            part = os.pread(fd, size, offset)
        except OSError as error:
            raise TraceError(f"cannot read {path}: {error.strerror}") from error
        if not part:
            break
        parts.append(part)
        offset += len(part)
        size -= len(part)
    return b"".join(parts)


def _counts(value: Any) -> Counter[str]:
    """Name to number, whatever somebody may have written instead."""
    if not isinstance(value, dict):
        return Counter()
    return Counter({k: n for k, n in value.items() if type(n) is int and 0 < n < 1 << 63})
