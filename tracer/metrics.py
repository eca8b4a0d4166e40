"""Metrics of a session, for as long as it lasts: the sink, the endpoint, the file."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from collector.metrics.catalogue import WATCHING
from collector.metrics.exposition import Renderer
from collector.metrics.labels import MAX_PIDS
from collector.metrics.readings import Snapshot
from collector.sinks import Sink
from collector.sinks.metrics import MetricsSink, Usage
from probes.errors import ParkscopeError
from tracer import procfs
from tracer.metrics_address import Exports
from tracer.metrics_file import MetricsFile
from tracer.metrics_server import MetricsServer

SWITCH_INTERVAL_S = 0.0005
"""The loop waits no longer than this for the interpreter while a scrape is rendered."""
SILENT_NS = 30_000_000_000
_REMEMBERED = 2 * MAX_PIDS
_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class TargetUsage:
    """What targets use, never what another process does that was given the same PID later."""

    def __init__(self) -> None:
        self._started: dict[int, int] = {}

    def __call__(self, pid: int) -> Usage | None:
        """From /proc; None when it is gone or may not be read."""
        try:
            usage = procfs.process_usage(pid)
        except (ParkscopeError, ValueError, IndexError):
            return None
        if self._started.setdefault(pid, usage.start_ticks) != usage.start_ticks:
            return None
        if len(self._started) > _REMEMBERED:
            del self._started[next(iter(self._started))]
        return Usage(usage.rss_pages * _PAGE_BYTES, usage.threads, usage.cpu_ticks * _TICK_NS)


@contextmanager
def exported(
    exports: Exports | None, own_memory: Callable[[], int], note: Callable[[str], None]
) -> Iterator[list[Sink]]:
    """The sinks that a session needs for it (none for no exports), while the block lasts.

    ``note`` tells the person where the metrics are. Raises EndpointError,
    PermissionDenied, RecordingError before the block when they cannot go there.
    """
    if exports is None:
        yield []
        return
    sink = MetricsSink(TargetUsage(), own_memory)
    renderer = Renderer(lambda: sink.snapshot)
    with ExitStack() as stack:
        if exports.address is not None:
            server = MetricsServer(
                exports.address, renderer, Heartbeat(lambda: sink.snapshot).unwell
            )
            stack.callback(server.close)
            server.start()
            note(f"metrics at {server.url}")
        if exports.file is not None:
            file = MetricsFile(exports.file, renderer)
            stack.callback(lambda: _closed(file, note))
            file.start()
        stack.callback(sys.setswitchinterval, sys.getswitchinterval())
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        yield [sink]


def _closed(file: MetricsFile, note: Callable[[str], None]) -> None:
    if why := file.close():
        note(why)


class Heartbeat:
    """Whether the loop still comes round, by when its readings were last seen to change."""

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot
        self._seen = snapshot()
        self._since_ns = time.monotonic_ns()

    def unwell(self) -> str | None:
        """What is wrong; None before a session and after it, when nothing has to happen."""
        now_ns, snapshot = time.monotonic_ns(), self._snapshot()
        if snapshot is not self._seen or not snapshot.get(WATCHING):
            self._seen, self._since_ns = snapshot, now_ns
        silent_ns = now_ns - self._since_ns
        return f"no news for {silent_ns // 1_000_000_000} s" if silent_ns > SILENT_NS else None
