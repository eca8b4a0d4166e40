"""What ``parkscope live`` does: a session folded into pictures."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TextIO

from collector.counters import Counters
from collector.sinks.live import LiveSink
from tracer.interrupts import Interrupts
from tracer.live_view import ViewState, plain_picture
from tracer.session import SessionOptions, open_session
from tracer.totals import totals_line
from tracer.watch import Output, metrics, note, own_memory_bytes, say, settle

PLAIN_COLUMNS = 120


def watch_live(options: SessionOptions, output: Output, sort: str) -> int:
    """Show threads until the end, q or Ctrl-C; the exit code."""
    names: list[Callable[[int, int], str | None]] = []

    def name_of(pid: int, tid: int) -> str | None:
        return names[0](pid, tid) if names else None

    state = ViewState(show_idle=output.idle, sort=sort, keys=sys.stdin.isatty())
    on_screen = sys.stdout.isatty()
    sink = LiveSink(name_of) if on_screen else _Tables(name_of, sys.stdout, state)
    output = replace(output, quiet=output.quiet or on_screen)
    with Interrupts() as interrupts, metrics(output) as more:
        pipeline, _ = open_session(
            options, [sink, *more], interrupts.should_stop, lambda text: note(output, text)
        )
        names.append(pipeline.thread_name)
        interrupts.arm()
        settle()
        with _screen(sink, interrupts, state) if on_screen else nullcontext():
            why = pipeline.run()
        say(totals_line(pipeline.counters.to_dict(), why))
        return interrupts.exit_code


def _screen(
    sink: LiveSink, interrupts: Interrupts, state: ViewState
) -> AbstractContextManager[object]:
    from tracer.live_view_screen import LiveScreen

    return LiveScreen(lambda: sink.snapshot, interrupts.stop, state)


class _Tables(LiveSink):
    """Without a terminal: the same picture as plain text, once a second."""

    def __init__(
        self, name_of: Callable[[int, int], str | None], stream: TextIO, state: ViewState
    ) -> None:
        super().__init__(name_of)
        self._stream = stream
        self._view = state

    def on_health(self, counters: Counters, now_ns: int) -> None:
        """Print the picture of now."""
        super().on_health(counters, now_ns)
        self._view = replace(self._view, rss_bytes=own_memory_bytes())
        self._stream.write(plain_picture(self.snapshot, self._view, PLAIN_COLUMNS) + "\n")
        self._stream.flush()
