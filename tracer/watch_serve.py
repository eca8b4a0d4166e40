"""What ``parkscope serve`` does: a session whose only output is metrics."""

from __future__ import annotations

import time
from collections.abc import Sequence

from collector.events import Event
from collector.sinks import SinkBase
from collector.source import SourceInfo
from tracer.interrupts import Interrupts
from tracer.session import SessionOptions, run_session
from tracer.totals import totals_line
from tracer.watch import ActionNotes, Output, metrics, note, say, settle

_NAP_S = 0.1


def serve(options: SessionOptions, output: Output, *, stay: bool) -> int:
    """Serve until all targets have ended, with ``stay`` until a signal; the exit code."""
    with Interrupts() as interrupts, metrics(output) as sinks:

        def on_attached(_info: SourceInfo) -> None:
            interrupts.arm()
            settle()

        result = run_session(
            options,
            [*sinks, _Ends(output, options.pids), ActionNotes(output)],
            should_stop=interrupts.should_stop,
            on_attached=on_attached,
            note=lambda text: note(output, text),
        )
        say(totals_line(result.counters.to_dict(), result.why))
        if stay and result.why == "source ended":
            note(output, "still serving the last readings; Ctrl-C ends it")
            while not interrupts.should_stop():
                time.sleep(_NAP_S)
        return interrupts.exit_code


class _Ends(SinkBase):
    """Says which targets have ended, and of how many others there will still be news."""

    def __init__(self, output: Output, pids: Sequence[int]) -> None:
        self._output = output
        self._watched = set(pids)

    def on_events(self, events: Sequence[Event]) -> None:
        """Hear of forks and exits."""
        for event in events:
            if event.event == "process_fork" and event.data.get("followed"):
                self._watched.add(event.data["child_pid"])
            elif event.event == "process_exit" and event.pid in self._watched:
                self._watched.discard(event.pid)
                left = f"{len(self._watched)} still watched" if self._watched else "that was all"
                note(self._output, f"process {event.pid} has ended; {left}")
