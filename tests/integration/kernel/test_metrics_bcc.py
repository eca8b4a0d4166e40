"""Metrics by eBPF on live processes: true to the target's own log, and never in the loop's way."""

from __future__ import annotations

import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from collector.attribution import Attributor, NoContext, NoIdleRules
from collector.metrics import catalogue as m
from collector.parks import ParkDetector
from collector.pipeline import Pipeline
from collector.sinks.metrics import MetricsSink
from probes.wire import Kind
from tests import interpreters
from tests.conftest import Start
from tests.integration.kernel.bcc_session import obedient, tell
from tests.integration.kernel.flood import PER_CALL, factory
from tests.interpreters import Interpreter
from tests.metrics_events import value
from tests.native_maps import PROGRAM, ask, compiled
from tests.processes import read_line, wait_until
from tests.scraping import PARKSCOPE, ROOT, Counted, agree, scrape, url_of
from tracer.backends import Options, TargetPlan
from tracer.backends.bcc.source import BccSource
from tracer.metrics import exported
from tracer.metrics_address import Exports, resolved
from tracer.target import inspect

pytestmark = pytest.mark.kernel

SCRAPER = ROOT / "tests" / "targets" / "scraper.py"
CHUNKS, CALLS = 8, 100
MS = 1_000_000


@pytest.mark.slow
@interpreters.matrix()
def test_what_is_scraped_is_what_the_target_logged(
    start: Start, interpreter: Interpreter, scratch: Path
) -> None:
    target = Counted(start, interpreter, scratch)
    pid = target.process.pid
    command = [*PARKSCOPE, "serve", str(pid), "--backend", "bcc", "--listen", "127.0.0.1:0"]
    url = url_of(start(command, stderr=subprocess.PIPE, cwd=ROOT))
    wait_until(lambda: value(scrape(url), "parkscope_target_up", pid=str(pid)), "attached", 40)
    before = scrape(url)
    families = agree(url, target.run(), pid, slack_s=0.005)
    minor = ".".join(map(str, interpreter.version[:2]))
    assert value(families, "parkscope_target_info", pid=str(pid)) == 1
    (info,) = families["parkscope_target_info"].samples
    assert info.labels["python"].startswith(minor)
    waited_s = value(families, "parkscope_thread_long_park_seconds_total", thread="waiter-N")
    lock_s = value(families, "parkscope_park_duration_seconds_sum", kind="lock", idle="false")
    assert waited_s == pytest.approx(lock_s), "nobody else waits for a lock"
    # MainThread stands in ``with lock`` all the time.
    blamed_s = value(families, "parkscope_holder_blamed_seconds_total", thread="MainThread")
    assert 0 < blamed_s <= waited_s * 1.000001
    assert value(families, "parkscope_records_dropped_total") == 0
    assert value(families, "parkscope_run_delay_seconds_count") > 0
    assert value(families, "parkscope_own_cpu_seconds_total") > 0
    for probe in ("wakes", "run_delay"):
        assert value(families, "parkscope_probe_state", probe=probe, state="closed") == 1
        hits = value(families, "parkscope_probe_hits_total", probe=probe)
        assert hits >= value(before, "parkscope_probe_hits_total", probe=probe)
    for name, family in before.items():
        if family.type == "counter":
            for sample in family.samples:
                now = value(families, sample.name, **sample.labels)
                assert now >= sample.value, (name, sample.labels)


def test_what_a_map_did_is_counted_once_though_its_process_ends(
    start: Start, tmp_path: Path
) -> None:
    """The kernel's last counts come after the end; another process is still watched."""
    library = compiled(tmp_path)
    target = start([sys.executable, PROGRAM, library], ready=True, stdin=subprocess.PIPE)
    other = start([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    pids = str(target.pid), str(other.pid)
    command = [*PARKSCOPE, "serve", *pids, "--listen", "127.0.0.1:0", "--budget", "100%"]
    url = url_of(start(command, stderr=subprocess.PIPE, cwd=ROOT))
    wait_until(lambda: value(scrape(url), "parkscope_target_up", pid=pids[0]), "attached", 40)

    def ranges() -> float:
        return value(scrape(url), "parkscope_range_queries_total", pid=pids[0])

    wait_until(lambda: ask(target, "range 3 1 5") and ranges(), "the library is probed", 20)
    truth = ask(target, "mix 2 2000")["truth"]
    assert target.stdin is not None
    target.stdin.close()
    target.wait(20)
    watched_s = value(scrape(url), "parkscope_watched_seconds_total")
    wait_until(
        lambda: value(scrape(url), "parkscope_watched_seconds_total") > watched_s + 4, "4 s", 20
    )
    missed = truth["ranges"] - ranges()
    assert 0 <= missed < 20, "those before the library was probed"
    assert value(scrape(url), "parkscope_map_events_total", what="splits") == truth["splits"]


def test_probes_that_are_given_up_are_shown_as_open(start: Start) -> None:
    program = ROOT / "tests" / "targets" / "workload.py"
    target = start(
        [sys.executable, str(program), "lockstep_queue"], stdin=subprocess.PIPE, ready=True
    )
    command = [*PARKSCOPE, "serve", str(target.pid), "--listen", "127.0.0.1:0"]
    url = url_of(start([*command, "--budget", "0.1%"], stderr=subprocess.PIPE, cwd=ROOT))
    wait_until(lambda: value(scrape(url), "parkscope_target_up"), "attached", 40)
    tell(target, "4")

    def given_up() -> dict[str, Any] | None:
        found = scrape(url)
        states = [
            value(found, "parkscope_probe_state", probe=probe, state="open")
            for probe in ("slow_path", "wakes", "run_delay")
        ]
        return found if any(states) else None

    found: dict[str, Any] = wait_until(given_up, "something given up", 20)
    given_up_by = [value(found, "parkscope_governor_actions_total", action=action)
                   for action in ("shed", "not_armed")]  # fmt: skip
    assert sum(given_up_by) > 0
    one_state = found["parkscope_probe_state"].samples
    probes = {sample.labels["probe"] for sample in one_state}
    assert sum(sample.value for sample in one_state) == len(probes), "one state each"


def test_a_crowd_of_scrapers_loses_no_record(start: Start, tmp_path: Path) -> None:
    target = obedient(start, sys.executable)
    plans = [TargetPlan(inspect(target.pid))]
    said: list[str] = []
    with exported(Exports(resolved("127.0.0.1:0")), lambda: 0, said.append) as sinks:
        url = said[0].rpartition(" ")[2]
        (sink,) = sinks
        assert isinstance(sink, MetricsSink)
        crowd = start([sys.executable, str(SCRAPER), url, "4"], stdin=subprocess.PIPE, ready=True)
        source = BccSource(plans, Options(cache_dir=tmp_path), addons=[factory])
        detector = ParkDetector(200 * MS, MS)
        attributor = Attributor(NoContext(), NoIdleRules())
        pipeline = Pipeline(source, detector, attributor, [sink])
        steps = pipeline.steps()
        for _ in range(CHUNKS):
            tell(target, f"syscalls {CALLS}")
            _step_until_answered(steps, target)
        tell(crowd, "")
        scrapes = int(_step_until_answered(steps, crowd))
        source.detach()
        for _ in range(20):
            next(steps)
        emitted, counters = source.emitted(), pipeline.counters
        steps.close()
    assert scrapes > 10
    assert not +counters.dropped
    assert counters.received[Kind.WAIT] == emitted[Kind.WAIT] >= CHUNKS * CALLS * PER_CALL
    counted = sum(sum(one.counts) for one in sink.snapshot.spreads[m.PARKS].values())
    assert counted == sum(counters.parks.values())


def _step_until_answered(steps: Any, process: subprocess.Popen[bytes]) -> str:
    if process.stdout is None:
        raise ValueError("started without stdout=PIPE")
    for _ in range(100_000):
        next(steps)
        if select.select([process.stdout], [], [], 0)[0]:
            return read_line(process)
    raise AssertionError("no answer")
