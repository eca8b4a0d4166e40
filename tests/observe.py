"""Run a program under an interpreter with Parkscope attached, keep all that it says."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from subprocess import PIPE
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from collector.counters import Counters
from collector.events import Event
from collector.park import PARK
from collector.sinks import Sink
from collector.source import SourceInfo
from examples.scenarios import TRUTH_LOG, scenarios
from probes.wire import PAYLOAD, Kind
from tests import interpreters, processes
from tests.interpreters import Interpreter
from tracer.session import SessionOptions, run_session
from tracer.watch import settle

ATTACH_SECONDS = 30.0
END_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class TrueWait:
    """One line of a target's own log (``examples/scenarios/truth_log.py`` explains it)."""

    tid: int
    thread: str
    kind: str
    start_ns: int
    end_ns: int | None
    what: str
    idle: bool
    contended: bool
    wake_ns: int | None
    function: str | None = None
    file: str | None = None
    line: int | None = None
    holder: int | None = None
    ready_ns: int = 0


class Collecting:
    """A sink that keeps everything, and when each event reached it (CLOCK_MONOTONIC ns)."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.reached_ns: list[int] = []
        self.counters: Counters | None = None
        self.slowest_scan_ns = 0
        self._rows: list[npt.NDArray[Any]] = []

    def on_records(self, records: npt.NDArray[Any], dropped: dict[int, int], now_ns: int) -> None:
        """Keep the longest period between scans that was ever in force."""
        scans = records[records["kind"] == Kind.SCAN].view(PAYLOAD[Kind.SCAN])
        if len(scans):
            self.slowest_scan_ns = max(self.slowest_scan_ns, int(scans["period_ns"].max()))

    def on_parks(self, parks: npt.NDArray[Any]) -> None:
        """Keep the rows."""
        self._rows.append(parks)

    def on_events(self, events: Sequence[Event]) -> None:
        """Keep the events and the time."""
        now_ns = time.monotonic_ns()
        self.events += events
        self.reached_ns += [now_ns] * len(events)

    def on_health(self, counters: Counters, now_ns: int) -> None:
        """Keep the latest counters."""
        self.counters = counters

    def close(self) -> None:
        """Nothing is open."""

    def rows(self) -> npt.NDArray[Any]:
        """All parks that ended (dtype ``PARK``)."""
        return np.concatenate(self._rows) if self._rows else np.empty(0, PARK)


class Attached:
    """A session that runs in a thread until its targets end or ``stop`` is called."""

    def __init__(self, options: SessionOptions, sinks: Sequence[Sink] = ()) -> None:
        self.sink = Collecting()
        self._sinks = [self.sink, *sinks]
        self.info: SourceInfo | None = None
        self.began_ns = time.monotonic_ns()
        self.armed_ns = 0
        self._options = options
        self._armed = threading.Event()
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="session", daemon=True)

    def start(self) -> Attached:
        """Return once the probes are armed. Raises what the session raised."""
        self._thread.start()
        if not self._armed.wait(ATTACH_SECONDS) and self._error is None:
            raise AssertionError(f"not attached within {ATTACH_SECONDS:g} s")
        self._raise()
        return self

    def finish(self, seconds: float) -> None:
        """Give the session ``seconds`` to end by itself, then stop it."""
        self._thread.join(seconds)
        self.stop()

    def stop(self) -> None:
        """Detach and wait for it. Raises what the session raised."""
        self._stop.set()
        self._thread.join(ATTACH_SECONDS)
        if self._thread.is_alive():
            raise AssertionError("the session does not end")
        self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            run_session(
                self._options,
                self._sinks,
                should_stop=self._stop.is_set,
                on_attached=self._on_attached,
            )
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
            self._error = error
        finally:
            self._armed.set()

    def _on_attached(self, info: SourceInfo) -> None:
        self.info = info
        settle()  # as the commands do
        self.armed_ns = time.monotonic_ns()
        self._armed.set()


@contextmanager
def attached(options: SessionOptions) -> Iterator[Attached]:
    """A session for as long as the block lasts."""
    session = Attached(options).start()
    try:
        yield session
    finally:
        session.stop()


@dataclass(slots=True)
class Observation:
    """One run of one scenario: what it logged and what Parkscope said."""

    scenario: str
    interpreter: str
    backend: str
    long_park_ns: int
    began_ns: int
    armed_ns: int
    info: SourceInfo
    truth: list[TrueWait]
    events: list[Event]
    reached_ns: list[int]
    rows: npt.NDArray[Any]
    counters: Counters | None
    status: int
    slowest_scan_ns: int = 0


def read_truth(file: Path) -> list[TrueWait]:
    """The target's log, by begin."""
    waits = [TrueWait(**orjson.loads(line)) for line in file.read_bytes().splitlines()]
    return sorted(waits, key=lambda wait: wait.start_ns)


def install(directory: Path, program: Path) -> Path:
    """``program`` and the logger that it imports, in a directory that the target reaches."""
    for file in (TRUTH_LOG, program):
        shutil.copy(file, directory)
    return directory / program.name


def observe(
    interpreter: Interpreter,
    scenario: str,
    backend: str,
    seconds: float | None = None,
    options: SessionOptions | None = None,
) -> Observation:
    """Start the scenario, attach, let it begin, wait for its end, detach."""
    options = options or SessionOptions(backend=backend)
    seconds = seconds or scenarios()[scenario].seconds
    with interpreters.scratch(interpreter) as directory:
        program = install(directory, scenarios()[scenario].path)
        log = directory / "truth.jsonl"
        args: list[str | Path] = ["--log", log, "--seconds", str(seconds), "--start-after-stdin"]
        process = _launch_scenario(interpreter, program, args)
        with processes.started(process):
            processes.wait_ready(process)
            session = Attached(_with_pid(options, process.pid, backend)).start()
            try:
                if process.stdin is None:
                    raise ValueError("stdin is no pipe")
                process.stdin.write(b"begin\n")
                process.stdin.flush()
                status = process.wait(seconds + END_SECONDS)
                session.finish(2)
            finally:
                session.stop()
        truth = read_truth(log)
    if session.info is None:
        raise AssertionError("the session never said that it was attached")
    return Observation(
        scenario=scenario,
        interpreter=interpreter.id,
        backend=session.info.backend,
        long_park_ns=options.long_park_ns,
        began_ns=session.began_ns,
        armed_ns=session.armed_ns,
        info=session.info,
        truth=truth,
        events=session.sink.events,
        reached_ns=session.sink.reached_ns,
        rows=session.sink.rows(),
        counters=session.sink.counters,
        status=status,
        slowest_scan_ns=session.sink.slowest_scan_ns,
    )


def _launch_scenario(
    interpreter: Interpreter, program: Path, args: list[str | Path]
) -> subprocess.Popen[bytes]:
    """With a descriptor of /proc: in a chroot nothing is mounted at its place."""
    proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    try:
        args = [*args, "--proc", str(proc)]
        return interpreters.launch(
            interpreter, program, args, stdin=PIPE, stdout=PIPE, pass_fds=(proc,)
        )
    finally:
        os.close(proc)


def _with_pid(options: SessionOptions, pid: int, backend: str) -> SessionOptions:
    return replace(options, pids=(pid,), backend=backend)
