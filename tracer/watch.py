"""What the watching commands do, without a command line: attach, record, replay.

Each function takes frozen options and streams, and returns the exit code.
"""

from __future__ import annotations

import atexit
import gc
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from collector.events import Event
from collector.sinks import Sink, SinkBase
from collector.sinks.json_lines import JsonLines, printable
from collector.source import SourceInfo
from collector.trace.facts import clock_pair
from collector.trace.lines import dump
from collector.trace.reader import TraceReader
from tracer import said_actions
from tracer.escape import terminal
from tracer.human import HumanLines, Style
from tracer.interrupts import Interrupts
from tracer.metrics_address import Exports
from tracer.recording import Recording
from tracer.session import SessionOptions, SessionResult, run_session
from tracer.source_line import SourceLines
from tracer.totals import totals_line

_YEAR_2200_NS = 7_258_118_400_000_000_000
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Output:
    """What is shown and kept.

    ``json``: JSON lines instead of human ones. ``idle``: show idle parks too.
    ``quiet``: no notes on stderr. ``trace``: record there, replacing it with ``force``.
    ``exports``: where metrics go.
    """

    json: bool = False
    idle: bool = False
    quiet: bool = False
    trace: Path | None = None
    force: bool = False
    exports: Exports | None = None


def stream_events(
    options: SessionOptions,
    output: Output,
) -> int:
    """Attach (or play) and say every event on stdout, until the end."""
    code, _ = run(options, output, [event_sink(options, output, sys.stdout)])
    return code


def event_sink(options: SessionOptions, output: Output, stream: TextIO) -> Sink:
    """The sink that says events on ``stream``, as JSON or in words."""
    if output.json:
        return JsonLines(stream.buffer)
    live = options.replay is None and options.backend != "mock"
    style = Style(
        wall_offset_ns(options),
        idle=output.idle,
        colour=coloured(stream),
        source=SourceLines().line if live else None,
    )
    return HumanLines(stream, style)


def record(options: SessionOptions, output: Output) -> int:
    """Attach and write a trace; then say on stdout what is in it."""
    code, result = run(options, output, [ActionNotes(output)])
    totals = result.counters.to_dict()
    if output.json:
        said = dump({"trace": str(output.trace), "why": result.why, "totals": totals})
        say(printable(said).decode())
    else:
        say(totals_line(totals, result.why))
        say(f"look at it with: parkscope analyze {terminal(shlex.quote(str(output.trace)))}")
    return code


def run(
    options: SessionOptions,
    output: Output,
    sinks: Sequence[Sink],
    *,
    interrupts: Interrupts | None = None,
    armed: Callable[[SourceInfo], None] = lambda _info: None,
) -> tuple[int, SessionResult]:
    """One session that ends cleanly at Ctrl-C; the exit code and how it went."""
    recording = None
    if output.trace is not None:
        recording = Recording(output.trace, options, force=output.force)
    with interrupts or Interrupts() as stop, metrics(output) as more:

        def on_attached(info: SourceInfo) -> None:
            if recording is not None:
                recording.open(info)
                note(output, f"recording to {recording.path}; Ctrl-C ends it")
            stop.arm()
            armed(info)
            settle()

        result = run_session(
            options,
            [*sinks, *more, *([recording] if recording is not None else [])],
            should_stop=stop.should_stop,
            on_attached=on_attached,
            note=lambda text: note(output, text),
        )
        return stop.exit_code, result


@contextmanager
def metrics(output: Output) -> Iterator[Sequence[Sink]]:
    """The sinks of what is exported while the block lasts, none if nothing is."""
    if output.exports is None:
        yield ()
        return
    from tracer.metrics import exported

    with exported(output.exports, own_memory_bytes, lambda text: note(output, text)) as sinks:
        yield sinks


class ActionNotes(SinkBase):
    """Says on stderr what triggers have done, where no events are said."""

    def __init__(self, output: Output) -> None:
        self._output = output

    def on_events(self, events: Sequence[Event]) -> None:
        """Note actions; those that were skipped for their cooldown are no news."""
        for event in events:
            if event.event == "action" and event.data.get("status") != "skipped":
                note(self._output, said_actions.action(event) or "")


def settle() -> None:
    """Modules and layouts stay for as long as this program runs: collect none of that again.

    A full collection of them takes 20 to 40 ms, in which a park that has just crossed
    would not be looked at. Not for the public API: the process is somebody else's there.
    """
    gc.freeze()
    atexit.register(gc.unfreeze)  # the interpreter takes everything down at its end


def note(output: Output, text: str) -> None:
    """A word on stderr, unless ``--quiet``."""
    if not output.quiet:
        sys.stderr.write(f"parkscope: {terminal(text)}\n")
        sys.stderr.flush()


def say(text: str) -> None:
    """A line on stdout, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def coloured(stream: TextIO) -> bool:
    """Whether to colour: a terminal that can, and nobody asked not to (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def wall_offset_ns(options: SessionOptions) -> int | None:
    """Add this to an event's CLOCK_MONOTONIC for the time of day; None if that is unknown.

    A trace tells its own; a scripted scenario has none. Raises TraceError.
    """
    if options.replay is not None:
        with TraceReader(options.replay) as reader:
            return _recorded_offset_ns(reader.meta)
    if options.backend == "mock":
        return None
    pair = clock_pair()
    return pair["realtime_ns"] - pair["monotonic_ns"]


def own_memory_bytes() -> int:
    """Resident memory of this process (proc(5), statm)."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * _PAGE_BYTES


def _recorded_offset_ns(meta: Mapping[str, Any]) -> int | None:
    """From what a trace says of itself, which may be anything."""
    clock, backend = meta.get("clock"), meta.get("backend")
    if not isinstance(clock, Mapping) or not isinstance(backend, Mapping):
        return None
    wall_ns, monotonic_ns = clock.get("realtime_ns"), clock.get("monotonic_ns")
    if not isinstance(wall_ns, int) or not isinstance(monotonic_ns, int):
        return None
    plausible = 0 <= monotonic_ns <= wall_ns < _YEAR_2200_NS
    return wall_ns - monotonic_ns if plausible and backend.get("backend") != "mock" else None
