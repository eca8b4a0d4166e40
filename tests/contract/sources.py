"""The sources that the contract suite runs over: one line in ``SOURCES`` for each."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from collector.source import RecordSource
from tests.conftest import Start
from tests.played import run
from tests.processes import kill
from tests.traces import raw_frames
from tracer import backends
from tracer.backends import mock
from tracer.target import inspect

TARGET = Path(__file__).parents[1] / "targets" / "some_waits.py"


@dataclass(frozen=True)
class Lab:
    """What a source under test may use; ``start`` ends what it started."""

    tmp_path: Path
    start: Start


@dataclass
class Opened:
    """A source, open. ``virtual``: its clock moves only in ``poll``, exactly as told.
    ``whole``: a batch that has begun comes whole, at its own time, as it was recorded.

    ``end`` brings about that it is done. ``emitted`` tells what was made, by kind,
    where somebody other than the source's reader has counted it.
    """

    source: RecordSource
    pids: set[int]
    virtual: bool = False
    whole: bool = False
    end: Callable[[], None] = lambda: None
    emitted: Callable[[], Counter[int]] | None = None


Open = Callable[[Lab], Opened]


def scenario(name: str) -> Open:
    """A mock scenario."""

    def open_it(_lab: Lab) -> Opened:
        source = mock.scenario(name).source
        assert isinstance(source, mock.ScenarioSource)
        pids = {thread.pid for thread in source.scenario.threads.values()}
        return Opened(source, pids, virtual=True, emitted=lambda: source.emitted)

    return open_it


def replay(name: str) -> Open:
    """The replay of a recorded mock scenario; its frames say what was recorded."""

    def open_it(lab: Lab) -> Opened:
        path = lab.tmp_path / f"{name}.trace"
        recorder = run(mock.scenario(name), path)
        recorded = Counter(recorder.records["kind"].tolist())
        for frame in raw_frames(path.read_bytes()):
            recorded.update(dict(frame.drops))
        pids = set(recorder.records["pid"].tolist())
        source = mock.replay(path).source
        return Opened(source, pids, virtual=True, whole=True, emitted=lambda: recorded)

    return open_it


def live(backend: str) -> Open:
    """A backend on a live process."""

    def open_it(lab: Lab) -> Opened:
        obstacle = backends.obstacle_to(backend)
        if obstacle is not None:
            pytest.skip(f"backend {backend}: {obstacle}")
        process: subprocess.Popen[bytes] = lab.start([sys.executable, str(TARGET)], ready=True)
        options = backends.Options(cache_dir=lab.tmp_path / "cache")
        plans = [backends.TargetPlan(inspect(process.pid))]
        source, _ = backends.attach(backend, plans, options)
        return Opened(source, {process.pid}, end=lambda: kill(process))

    return open_it


SOURCES = (
    pytest.param(scenario("lock_convoy"), id="scenario-lock_convoy"),
    pytest.param(scenario("gil_probed"), id="scenario-gil_probed"),
    pytest.param(scenario("flood"), id="scenario-flood"),
    pytest.param(scenario("exit_while_parked"), id="scenario-exit_while_parked"),
    pytest.param(replay("before_attach"), id="replay-before_attach"),
    pytest.param(replay("flood"), id="replay-flood"),
    pytest.param(live("proc"), id="proc", marks=pytest.mark.ptrace),
    pytest.param(live("bcc"), id="bcc", marks=pytest.mark.kernel),
)
