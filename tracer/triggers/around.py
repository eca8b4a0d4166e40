"""What the engine of triggers knows of the session that it belongs to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from collector.park import Park


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the engine knows of the session.

    ``park_of(pid, tid)``: the park that a thread is in; ``known_ns(park)``: until when it is
    known to have lasted. ``gauges(pid)``: figures of a
    process. ``stem``: what files are called. ``end_error_ns``: how exact a park's end is.
    ``stopping(pid, until_ns)``: a dump stops that process's threads at some moment until then.
    ``note`` tells a person why the end takes a while.
    """

    park_of: Callable[[int, int], Park | None]
    known_ns: Callable[[Park], int]
    gauges: Callable[[int], Mapping[str, int]]
    stem: Callable[[int | None], str]
    long_park_ns: int
    end_error_ns: int = 0
    stopping: Callable[[int, int], None] = lambda _pid, _until_ns: None
    note: Callable[[str], None] = lambda _text: None
