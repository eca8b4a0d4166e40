"""Events as JSON lines (README.md, "JSON"): one object per line, flushed per batch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy.typing as npt

from collector.counters import Counters
from collector.events import Event
from collector.trace.lines import dump

_SUSPECT = re.compile(r"[^\x20-\x7e]")


class JsonLines:
    """A sink on a binary stream, which it flushes but does not close.

    The lines may end up on a terminal, so whatever is not printable is written as
    a JSON escape; the data is the same.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def on_records(self, records: npt.NDArray[Any], dropped: dict[int, int], now_ns: int) -> None:
        """Nothing: a loss comes as a ``data_loss`` event."""

    def on_parks(self, parks: npt.NDArray[Any]) -> None:
        """Nothing: short parks are for traces."""

    def on_events(self, events: Sequence[Event]) -> None:
        """Write one batch and flush it."""
        for event in events:
            self._stream.write(json_line(event))
        self._stream.flush()

    def on_health(self, counters: Counters, now_ns: int) -> None:
        """Write the ``totals`` event, about once a second."""
        self.on_events([Event("totals", now_ns, data={"totals": counters.to_dict()})])

    def close(self) -> None:
        """Nothing is held back."""


def json_line(event: Event) -> bytes:
    """The event as one line of JSON with its line end, safe to print."""
    return printable(dump(event.to_dict())) + b"\n"


def printable(line: bytes) -> bytes:
    r"""JSON with every unprintable character as a ``\u`` escape (RFC 8259, section 7)."""
    if line.isascii() and b"\x7f" not in line:
        return line
    return _SUSPECT.sub(_escaped, line.decode()).encode()


def _escaped(found: re.Match[str]) -> str:
    character = found[0]
    if character.isprintable():
        return character
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))
