"""Events as lines that a person reads: one per event, in words, on one screen line.

``line`` is pure; ``HumanLines`` is the sink that writes such lines to a stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Any, TextIO

import numpy.typing as npt

from collector.counters import Counters
from collector.events import Event
from tracer import units
from tracer.diagnosis import because, deadlock, in_map, own_frame, plain, thing, where
from tracer.escape import terminal
from tracer.native_text import native_library, native_map
from tracer.said_actions import action, breaker, trigger
from tracer.totals import totals_line

_DIM, _BOLD, _RED, _YELLOW, _GREEN, _END = (
    f"\x1b[{code}m" for code in ("2", "1", "31", "33", "32", "0")
)
_MAX_NAMED = 1024
_COLOUR_OF: Mapping[str, str] = {
    "park_long": _BOLD + _RED,
    "park_end": _GREEN,
    "deadlock": _BOLD + _RED,
    "data_loss": _YELLOW,
    "governor": _YELLOW,
    "breaker": _YELLOW,
    "probe_failed": _YELLOW,
}


@dataclass(frozen=True, slots=True)
class Style:
    """How lines look.

    ``wall_offset_ns`` is added to an event's CLOCK_MONOTONIC for the time of day
    in zone ``zone`` (None: the local one); with an offset of None, times are
    seconds since the first event. ``idle`` shows idle parks too. ``source`` finds the
    text of a line of the target's (pid, file, line number), where it may be shown.
    """

    wall_offset_ns: int | None = None
    zone: tzinfo | None = None
    idle: bool = False
    colour: bool = False
    source: Callable[[int, str, int], str | None] | None = None


class HumanLines:
    """A sink: writes what ``line`` says of each event, flushed per batch."""

    def __init__(self, stream: TextIO, style: Style) -> None:
        self._stream = stream
        self._style = style
        self._first_ns: int | None = None
        self._named: set[tuple[int | None, str]] = set()
        self._maps: dict[tuple[int | None, str], Event] = {}

    def on_records(self, records: npt.NDArray[Any], dropped: dict[int, int], now_ns: int) -> None:
        """Nothing: records are not for reading."""

    def on_parks(self, parks: npt.NDArray[Any]) -> None:
        """Nothing: short parks are counted, not shown."""

    def on_events(self, events: Sequence[Event]) -> None:
        """Write the lines of one batch."""
        if self._first_ns is None and events:
            self._first_ns = events[0].ts_ns
        lines = [
            f"{stamp(event.ts_ns, self._style, self._first_ns or 0)}  {text}\n"
            for event in self._in_their_time(events)
            if self._is_news(event) and (text := line(event, self._style)) is not None
        ]
        if lines:
            self._stream.write("".join(lines))
            self._stream.flush()

    def _in_their_time(self, events: Sequence[Event]) -> Iterator[Event]:
        """What maps have done is said once, at the end: it is news every second."""
        for event in events:
            if event.event == "native_map":
                self._maps[event.pid, str(event.data.get("address"))] = event
                continue
            if event.event == "detached":
                yield from self._maps.values()
            yield event

    def _is_news(self, event: Event) -> bool:
        """What is said once: a name, of the first who waits for the thing; why nothing is done."""
        if event.event == "resource_named":
            thing_of = event.pid, str(event.data.get("resource"))
        elif event.event == "action" and event.data.get("status") == "skipped":
            told = (str(event.data.get(key)) for key in ("trigger", "action", "why"))
            thing_of = None, " ".join(told)
        else:
            return True
        if thing_of in self._named:
            return False
        if len(self._named) >= _MAX_NAMED:
            self._named.clear()
        self._named.add(thing_of)
        return True

    def on_health(self, counters: Counters, now_ns: int) -> None:
        """Nothing: the totals come at the end."""

    def close(self) -> None:
        """Nothing is held back."""


def stamp(ts_ns: int, style: Style, first_ns: int) -> str:
    """``12:01:07.412``, or ``+0.412 s`` since ``first_ns`` where the time of day is unknown."""
    if style.wall_offset_ns is None:
        return f"{(ts_ns - first_ns) / 1e9:+9.3f} s"
    seconds, rest = divmod(ts_ns + style.wall_offset_ns, 1_000_000_000)
    moment = datetime.fromtimestamp(seconds, UTC).astimezone(style.zone)
    return f"{moment:%H:%M:%S}.{rest // 1_000_000:03}"


def line(event: Event, style: Style) -> str | None:
    """What to say of an event, None for one that is not for people."""
    say = _SAYINGS.get(event.event)
    if say is None or (event.idle and not style.idle):
        return None
    text = say(event)
    if text is not None and event.event == "park_long" and style.source is not None:
        text += _source_text(event, style.source)
    if text is None or not style.colour:
        return text
    colour = _DIM if event.idle else _COLOUR_OF.get(event.event)
    return f"{colour}{text}{_END}" if colour else text


def _source_text(event: Event, source: Callable[[int, str, int], str | None]) -> str:
    """``  | with self._lock:``: the line that the program's own innermost call is in."""
    frame = own_frame(event.data.get("stack"))
    if frame is None or event.pid is None:
        return ""
    shown = source(event.pid, frame["file"], frame["line"])
    return "" if shown is None else f"  | {terminal(shown, 80)}"


def who(event: Event) -> str:
    """``worker-3 (4711/4718)``: the thread's name, process and thread ID."""
    if event.thread_name:
        return f"{terminal(event.thread_name, 40)} ({event.pid}/{event.tid})"
    return f"thread {event.pid}/{event.tid}"


def reason(data: Mapping[str, Any]) -> str:
    """Why this backend, from an ``attached`` event; without the backend's name again."""
    why, backend = str(data.get("why") or ""), str(data.get("backend"))
    return terminal(why.removeprefix(backend).lstrip(",; "))


def waits_on(kind: str | None, data: Mapping[str, Any]) -> str:
    """``Lock app.cache._lock``, ``io recvfrom fd 7``, ``the GIL``: what a park is on."""
    if kind == "gil":
        return "the GIL"
    resource = data.get("resource")
    if (known := in_map(data)) is not None:
        return known
    if kind in ("lock", "map"):
        address = resource.get("address") if isinstance(resource, Mapping) else None
        return f"{kind} {plain(address)}" if address else f"{kind}"
    words = [plain(kind)]
    if data.get("syscall") is not None:
        words.append(plain(data["syscall"]))
    if data.get("fd") is not None:
        words.append(f"fd {plain(data['fd'])}")
    return " ".join(words)


def _park_long(event: Event) -> str:
    lasted = units.duration(event.duration_ns or 0)
    if (known := _thing(event)) is not None:
        since = " (since before the attach)" if event.before_attach else ""
        return f"{who(event)} waits {lasted}{since} for {known}{because(event.data)}" + _at(event)
    text = f"{who(event)} parked {lasted} and counting in {waits_on(event.kind, event.data)}"
    return text + _since(event) + _at(event)


def _park_end(event: Event) -> str:
    lasted = units.duration(event.duration_ns or 0)
    if event.data.get("end") == "lost":
        lasted = f"at least {lasted}"
    if (known := _thing(event)) is not None:
        text = f"{who(event)} waited {lasted} for {known}"
    else:
        text = f"{who(event)} was parked {lasted} in {waits_on(event.kind, event.data)}"
    return text + _ended(event) + _since(event) + _at(event)


def _thing(event: Event) -> str | None:
    """What a park is for, where more than a kind and an address is known of it."""
    return "the GIL" if event.kind == "gil" else in_map(event.data)


def _since(event: Event) -> str:
    return ", since before the attach" if event.before_attach else ""


def _at(event: Event) -> str:
    """What else is known of a park, and where in the program it is."""
    text = ""
    if event.idle:
        text = f"  [idle: {plain(event.data.get('idle_reason'))}]"
    if event.data.get("python") is False:
        text += "  [native thread]"
    place = where(event.data.get("stack"))
    return f"{text}  {place}" if place else text


def _resource_named(event: Event) -> str | None:
    known = thing(event.data.get("resource"))
    return None if known is None else f"{who(event)} still waits, for {known}"


def _ended(event: Event) -> str:
    end, waker = event.data.get("end"), event.data.get("waker")
    if isinstance(waker, Mapping) and waker.get("why") != "timer":
        return _woken_by(waker)
    return {"timed_out": ", timed out", "exited": ", until the thread ended"}.get(str(end), "")


def _woken_by(waker: Mapping[str, Any]) -> str:
    """``, woken by keeper at cache.py:90 release``."""
    name, place = waker.get("thread_name"), where(waker.get("stack"), 2)
    if waker.get("same_process"):
        text = terminal(name, 40) if isinstance(name, str) else plain(waker.get("tid"))
    else:
        text = f"process {plain(waker.get('pid'))}"
    text = f"a signal of {text}" if waker.get("why") == "signal" else text
    return f", woken by {text}" + (f" at {place}" if place else "")


def _attached(event: Event) -> str:
    data = event.data
    target = f"to {event.pid} " if event.pid is not None else ""
    text = f"attached {target}by {plain(data.get('backend'))}"
    if data.get("python"):
        text += f", CPython {plain(data['python'])}"
    if because := reason(data):
        text += f" ({because})"
    if data.get("refusal"):
        text += f"; no Python names: {terminal(str(data['refusal']))}"
    return text


def _data_loss(event: Event) -> str:
    count = event.data.get("count")
    kind = event.data.get("record_kind") or "unreadable"
    return (
        f"lost {plain(count)} {plain(kind)} records ({plain(event.data.get('where'))}): "
        "parks may be missing"
    )


def _governor(event: Event) -> str:
    data = event.data
    return (
        f"governor: {plain(data.get('probe'))} {plain(data.get('action'))}: "
        f"{terminal(str(data.get('why')))}"
    )


def _probe_failed(event: Event) -> str:
    why = terminal(str(event.data.get("why")))
    return f"probe {plain(event.data.get('probe'))} could not be attached: {why}"


def _large_alloc(event: Event) -> str:
    size_bytes = event.data.get("size_bytes")
    amount = units.size(size_bytes) if isinstance(size_bytes, int) else "?"
    return f"{who(event)} allocated {amount} ({plain(event.data.get('api'))})"


def _fork(event: Event) -> str | None:
    """A child that nobody follows is of no interest; a shell makes many."""
    if not event.data.get("followed"):
        return None
    return f"{event.pid} forked {plain(event.data.get('child_pid'))}, which is followed"


def _exec(event: Event) -> str:
    return f"{event.pid} replaced its program"


def _exit(event: Event) -> str:
    status = event.data.get("exit_code")
    if not isinstance(status, int):
        return f"{event.pid} ended"
    if status & 0x7F:
        return f"{event.pid} was killed by signal {status & 0x7F}"
    return f"{event.pid} exited with {status >> 8 & 0xFF}"


def _detached(event: Event) -> str:
    totals = event.data.get("totals")
    why = plain(event.data.get("why"))
    return totals_line(totals if isinstance(totals, Mapping) else {}, why)


_SAYINGS: Mapping[str, Callable[[Event], str | None]] = {
    "attached": _attached,
    "park_long": _park_long,
    "park_end": _park_end,
    "resource_named": _resource_named,
    "native_library": native_library,
    "native_map": native_map,
    "deadlock": deadlock,
    "large_alloc": _large_alloc,
    "data_loss": _data_loss,
    "governor": _governor,
    "trigger": trigger,
    "action": action,
    "breaker": breaker,
    "probe_failed": _probe_failed,
    "process_fork": _fork,
    "process_exec": _exec,
    "process_exit": _exit,
    "detached": _detached,
}
