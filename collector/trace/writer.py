"""Writes a trace: frames as they fill up, one write(2) each, nothing lost in silence.

A frame is written when its kind has ``BATCH_ROWS`` rows or the source's clock has
moved ``BATCH_NS`` since the frame before, so that SIGKILL costs at most one batch.
Power loss is another matter: nothing is forced to the disk before ``close``.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from collector.events import SCHEMA_VERSION, Event
from collector.trace import columns, lines
from collector.trace.format import (
    BATCH_NS,
    BATCH_ROWS,
    FORMAT_VERSION,
    MAX_DROPS,
    MAX_TICKS,
    NO_DROPS,
    FrameHeader,
    FrameKind,
    Tick,
    pack_file_header,
    pack_frame,
)
from probes.errors import RecordingError
from probes.wire import RECORD, WIRE_VERSION

_EVENT_BYTES = 1 << 20
_OPEN_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_COUNTED = ("records", "parks", "events", "drops")


class _Rows:
    """Rows of one dtype on their way into frames; copies what it keeps."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self._buffer = np.empty(BATCH_ROWS, dtype)
        self.count = 0

    @property
    def full(self) -> bool:
        """Whether a frame's worth is there."""
        return self.count == BATCH_ROWS

    def take(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Copies as many rows as there is room for; returns the others."""
        fit = min(len(rows), BATCH_ROWS - self.count)
        self._buffer[self.count : self.count + fit] = rows[:fit]
        self.count += fit
        return rows[fit:]

    def drain(self) -> npt.NDArray[Any]:
        """Everything kept, as a view that holds until the next ``take``."""
        rows = self._buffer[: self.count]
        self.count = 0
        return rows


class TraceWriter:
    """One trace file, being written. Not thread-safe: the collector has one loop.

    ``meta`` says what the recording is (host, targets, options, backend …); the
    versions are added here.
    """

    def __init__(self, path: str | Path, meta: Mapping[str, Any], *, force: bool = False) -> None:
        """Creates the file (mode 0600) with its first frame in it.

        Raises RecordingError when it exists (unless ``force``: a regular file is
        replaced, anything else refused) or cannot be written; symlinks are not followed.
        """
        self.path = Path(path)
        self._accepted: Counter[str] = Counter()
        self._written: Counter[str] = Counter()
        self._dropped_total: Counter[int] = Counter()
        self._records = _Rows(RECORD)
        self._parks: _Rows | None = None
        self._lines: list[bytes] = []
        self._line_bytes = 0
        self._dropped: Counter[int] = Counter()
        self._ticks: list[Tick] = []
        self._sequence = 0
        self._offset = 0
        self._now_ns = 0
        self._flushed_ns: int | None = None
        self._failure: str | None = None
        self._fd = _create(self.path, force)
        try:
            self._write_start(meta)
        except BaseException:
            os.close(self._fd)
            raise

    @property
    def unwritten(self) -> Counter[str]:
        """Rows by kind (records, parks, events, drops) that were accepted and are in no frame.

        While all is well they wait for the next one; after a RecordingError they are lost.
        """
        return self._accepted - self._written

    def add_records(
        self, records: npt.NDArray[Any], dropped: Mapping[int, int], now_ns: int
    ) -> None:
        """Records (dtype ``RECORD``) and losses by kind of one source batch, ended at ``now_ns``.

        Raises RecordingError, as every method below.
        """
        losses = +Counter(dropped)
        self._accept(records=len(records), drops=losses.total())
        self._dropped.update(losses)
        rest = records
        while len(rest):
            rest = self._records.take(rest)
            if self._records.full:
                self._write_records()
        self._now_ns = max(self._now_ns, now_ns)
        first = self._flushed_ns is None
        if len(records) or losses or first:  # silence is not noted, but for where it begins
            self._ticks.append(Tick(self._now_ns, self._records.count))
        if len(self._ticks) == MAX_TICKS:
            self._write_records()
        self.advance(now_ns)

    def add_parks(self, parks: npt.NDArray[Any]) -> None:
        """Parks that ended (structured array of integers, the same dtype each time)."""
        self._accept(parks=len(parks))
        if self._parks is None:
            self._parks = _Rows(parks.dtype)
        rest = parks
        while len(rest):
            rest = self._parks.take(rest)
            if self._parks.full:
                self._write_parks()

    def add_events(self, events: Sequence[Event]) -> None:
        """Events, oldest first. One of over 1 MiB is written without its ``data``."""
        self._accept(events=len(events))
        for event in events:
            line = lines.dump(event.to_dict()) + b"\n"
            if len(line) > _EVENT_BYTES:
                line = lines.dump(replace(event, data={"oversized_bytes": len(line)}).to_dict())
                line += b"\n"
            self._lines.append(line)
            self._line_bytes += len(line)
            if self._line_bytes >= _EVENT_BYTES or len(self._lines) == BATCH_ROWS:
                self._write_events()
            self.advance(event.ts_ns)

    def advance(self, now_ns: int) -> None:
        """The source's clock has come to ``now_ns``; writes what has waited long enough."""
        self._now_ns = max(self._now_ns, now_ns)
        if self._flushed_ns is None:
            self._flushed_ns = self._now_ns
        if self._now_ns - self._flushed_ns >= BATCH_NS:
            self.flush()

    def flush(self) -> None:
        """Writes everything that waits: records, then parks, then events."""
        self._flushed_ns = self._now_ns
        while self._records.count or self._dropped:
            self._write_records()
        if self._parks is not None and self._parks.count:
            self._write_parks()
        if self._lines:
            self._write_events()

    def close(self, totals: Mapping[str, Any] | None = None) -> None:
        """Flushes, writes the end record and closes; safe to call twice.

        After a failed write it tries to leave an end record that tells what is missing,
        and raises nothing more: the failure was raised where it happened.
        """
        if self._fd < 0:
            return
        failed_before = self._failure is not None
        try:
            self._finish(totals or {})
        except RecordingError:
            if not failed_before:
                raise
        finally:
            os.close(self._fd)
            self._fd = -1
            self._failure = self._failure or "it is closed"

    def _finish(self, totals: Mapping[str, Any]) -> None:
        try:
            if self._failure is None:
                self.flush()
        finally:
            self._failure = None
            self._write_end(totals)

    def _accept(self, **rows: int) -> None:
        """From here on the rows are either in the file or in ``unwritten``."""
        self._accepted.update(rows)
        if self._failure is not None:
            raise RecordingError(f"cannot write {self.path}: {self._failure}")

    def _write_start(self, meta: Mapping[str, Any]) -> None:
        """File header and META in one write: a trace without them is never seen."""
        versions = {"format": FORMAT_VERSION, "wire": WIRE_VERSION, "events": SCHEMA_VERSION}
        raw = lines.dump({**meta, "versions": versions})
        self._put(FrameKind.META, 1, columns.compress(raw), len(raw), before=pack_file_header())

    def _write_records(self) -> None:
        rows = self._records.drain()
        payload, raw_length = columns.encode(rows) if len(rows) else (b"", 0)
        ticks, self._ticks = tuple(self._ticks), []
        dropped = dict(self._dropped.most_common(MAX_DROPS))
        for kind in dropped:
            del self._dropped[kind]
        self._put(FrameKind.RECORDS, len(rows), payload, raw_length, ticks=ticks, dropped=dropped)
        self._written["drops"] += sum(dropped.values())
        self._dropped_total.update(dropped)

    def _write_parks(self) -> None:
        if self._parks is not None:
            rows = self._parks.drain()
            self._put(FrameKind.PARKS, len(rows), *columns.encode(rows))

    def _write_events(self) -> None:
        rows, raw = len(self._lines), b"".join(self._lines)
        self._lines, self._line_bytes = [], 0
        self._put(FrameKind.EVENTS, rows, columns.compress(raw), len(raw))

    def _write_end(self, totals: Mapping[str, Any]) -> None:
        raw = lines.dump(
            {
                "written": {kind: self._written[kind] for kind in _COUNTED},
                "unwritten": dict(self.unwritten),
                "dropped": {str(kind): n for kind, n in sorted(self._dropped_total.items())},
                "totals": dict(totals),
            }
        )
        self._put(FrameKind.END, 1, columns.compress(raw), len(raw))

    def _put(
        self,
        kind: FrameKind,
        rows: int,
        payload: bytes,
        raw_length: int,
        *,
        ticks: tuple[Tick, ...] = (),
        dropped: Mapping[int, int] = NO_DROPS,
        before: bytes = b"",
    ) -> None:
        """Writes one frame whole or not at all."""
        name = kind.name.lower()
        header = FrameHeader(
            kind=kind,
            sequence=self._sequence,
            now_ns=self._now_ns,
            first_row=self._written[name],
            rows=rows,
            raw_length=raw_length,
            ticks=ticks,
            dropped=dropped,
        )
        self._write(before + pack_frame(header, payload))
        self._sequence += 1
        self._written[name] += rows

    def _write(self, data: bytes) -> None:
        """One write(2) in the ordinary case; what a failed one left is cut off again."""
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except BaseException as error:
            self._failure = str(error) or type(error).__name__
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._offset)
                os.lseek(self._fd, self._offset, os.SEEK_SET)
            if isinstance(error, OSError):
                self._failure = error.strerror or self._failure
                raise RecordingError(f"cannot write {self.path}: {self._failure}") from error
            raise
        self._offset += len(data)


def _create(path: Path, force: bool) -> int:
    """A new file of mode 0600 that nobody else had; RecordingError when it cannot be had."""
    try:
        if force and os.path.lexists(path):
            if not stat.S_ISREG(os.lstat(path).st_mode):
                raise RecordingError(
                    f"{path} is no regular file, it is not replaced", hint="Choose another '-o'."
                )
            path.unlink()
        return os.open(path, _OPEN_FLAGS, 0o600)
    except FileExistsError as error:
        raise RecordingError(
            f"{path} exists", hint="Choose another '-o', or add '--force' to replace it."
        ) from error
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise RecordingError(f"cannot create {path}: {why}", hint="Choose another '-o'.") from error
