"""Sleeps, wake-ups and lifecycle of live processes through eBPF, against their own log.

Bounds are wide on purpose: they say that the right thing was measured, not how well.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from probes.wire import Flag, Kind, RunState
from tests.conftest import Start
from tests.integration.kernel.bcc_session import obedient, tell, watching
from tests.processes import read_line, wait_until

pytestmark = pytest.mark.kernel

SLACK_NS = 5_000_000
FUTEX, RECVFROM, CLOCK_NANOSLEEP = 202, 45, 230


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all tests here: compiled once."""
    return tmp_path_factory.mktemp("cache")


def test_a_sleep_from_its_exact_begin_to_its_wake_up(start: Start, cache: Path) -> None:
    target = obedient(start, sys.executable)
    with watching(target, cache=cache) as watch:
        truth = watch.ask(target, "sleep 0.3")
        sleeps = watch.of(Kind.THREAD_STATE, tid=truth["tid"], syscall=CLOCK_NANOSLEEP)
        watch.first(Kind.WAKE, tid=truth["tid"])
    assert len({int(since) for since in sleeps["since_ns"]}) == 1
    told = sleeps[-1]
    assert chr(told["state"]) == "S"
    assert told["flags"] & Flag.WATCHED
    assert not told["flags"] & Flag.BEFORE_ATTACH
    assert abs(int(told["since_ns"]) - truth["start_ns"]) < SLACK_NS
    wakes = watch.of(Kind.WAKE, tid=truth["tid"], since_ns=int(told["since_ns"]))
    (wake,) = wakes
    assert truth["start_ns"] + 295_000_000 <= wake["ts_ns"] <= truth["end_ns"]


def test_a_woken_thread_is_told_to_run_between_its_wake_up_and_its_own_word(
    start: Start, cache: Path
) -> None:
    target = obedient(start, sys.executable)
    os.sched_setaffinity(target.pid, {min(os.sched_getaffinity(0))})
    with watching(target, cache=cache) as watch:
        truth = watch.ask(target, "sleep 0.3")
        wake = watch.first(Kind.WAKE, tid=truth["tid"])
        run = watch.first(Kind.RUN, tid=truth["tid"])
    assert wake["flags"] & Flag.RUN_FOLLOWS
    assert wake["ts_ns"] <= run["ts_ns"] <= truth["end_ns"]
    assert run["cpu"] == wake["slept_cpu"] == min(os.sched_getaffinity(0))


def test_a_watch_that_was_given_up_leaves_sleeps_to_the_scan(start: Start, cache: Path) -> None:
    """A budget that nothing keeps to: after each rest the first switch ends the trial."""
    target = obedient(start, sys.executable)
    with watching(target, cache=cache, budget=1e-9) as watch:

        def decided(action: str) -> list[str]:
            said = [event.data for event in watch.events if event.event == "governor"]
            return [data["probe"] for data in said if data["action"] == action]

        watch.ask(target, "sleep 0.1")
        watch.until(lambda: "wakes" in decided("shed"), "the watch is given up")
        assert decided("shed")[0] == "run_delay", "the watch goes last"
        told = len(watch.of(Kind.WAKE))
        truth = watch.ask(target, "sleep 0.3")
        sleep = watch.of(Kind.THREAD_STATE, tid=truth["tid"], syscall=CLOCK_NANOSLEEP)[-1]
        assert not sleep["flags"] & Flag.WATCHED
        assert len(watch.of(Kind.WAKE)) == told
        watch.until(lambda: "wakes" in decided("trial"), "a trial")
        watch.ask(target, "sleep 0.3")
        watch.until(lambda: len(watch.of(Kind.WAKE)) > told, "wake-ups are told again")


def test_a_lock_wait_names_the_thread_that_released(start: Start, cache: Path) -> None:
    target = obedient(start, sys.executable)
    with watching(target, cache=cache) as watch:
        truth = watch.ask(target, "lock 0.3")
        wake = watch.first(Kind.WAKE, tid=truth["tid"])
        (told,) = watch.of(Kind.THREAD_STATE, tid=truth["tid"], state=RunState.SLEEPING)[:1]
    assert told["syscall"] == FUTEX
    assert told["arg0"] == wake["waker_arg0"], "the same futex"
    assert wake["waker_pid"] == target.pid
    assert wake["waker_tid"] == truth["releaser"]
    assert wake["waker_syscall"] == FUTEX
    assert truth["released_ns"] <= wake["ts_ns"] <= truth["end_ns"]
    assert wake["since_ns"] == told["since_ns"]


def test_a_wait_for_data_is_a_system_call_on_its_fd(start: Start, cache: Path) -> None:
    target = obedient(start, sys.executable)
    with watching(target, cache=cache) as watch:
        truth = watch.ask(target, "socket 0.3")
        told = watch.first(Kind.THREAD_STATE, tid=truth["tid"], state=RunState.SLEEPING)
        wake = watch.first(Kind.WAKE, tid=truth["tid"])
    assert told["syscall"] == RECVFROM
    assert wake["waker_tid"] == truth["releaser"]


def test_sleeps_that_had_begun_before_are_marked_and_exact(start: Start, cache: Path) -> None:
    target = obedient(start, sys.executable)
    tell(target, "lock 1.5")
    tasks = Path(f"/proc/{target.pid}/task")
    wait_until(lambda: len(list(tasks.iterdir())) == 2, "the waiting thread")
    with watching(target, cache=cache) as watch:
        old = watch.first(Kind.THREAD_STATE, syscall=FUTEX, state=RunState.SLEEPING)
        truth = watch.answer(target)
    assert old["flags"] & Flag.BEFORE_ATTACH
    assert old["tid"] == truth["tid"]
    assert abs(int(old["since_ns"]) - truth["start_ns"]) < SLACK_NS


def test_threads_that_come_and_go(start: Start, cache: Path) -> None:
    target = obedient(start, sys.executable)
    with watching(target, cache=cache) as watch:
        truth = watch.ask(target, "thread")
        begun = watch.first(Kind.THREAD_START, tid=truth["tid"])
        ended = watch.first(Kind.THREAD_EXIT, tid=truth["tid"])
    assert begun["pid"] == ended["pid"] == target.pid
    assert begun["ts_ns"] <= truth["start_ns"]
    assert truth["end_ns"] <= ended["ts_ns"]
    assert begun["parent_tid"] == target.pid
    assert not ended["flags"] & Flag.INFERRED


def test_an_exit_ends_the_stream_with_its_status(start: Start, cache: Path) -> None:
    target = obedient(start, sys.executable)
    with watching(target, cache=cache) as watch:
        tell(target, "exit 7")
        watch.until_done()
        ended = watch.first(Kind.PROC_EXIT)
    assert os.waitstatus_to_exitcode(int(ended["exit_code"])) == 7
    assert target.wait() == 7


def test_a_killed_target_ends_the_stream_too(start: Start, cache: Path) -> None:
    target = obedient(start, sys.executable)
    with watching(target, cache=cache) as watch:
        watch.ask(target, "threads 5")
        target.kill()
        watch.until_done()
        (ended,) = watch.of(Kind.PROC_EXIT)
    assert os.waitstatus_to_exitcode(int(ended["exit_code"])) == -signal.SIGKILL
    assert len(watch.of(Kind.THREAD_EXIT)) == 6


def test_a_child_is_told_of_but_not_traced(start: Start, cache: Path) -> None:
    target = obedient(start, sys.executable)
    with watching(target, cache=cache) as watch:
        truth = watch.ask(target, "fork 0.3")
        forked = watch.first(Kind.PROC_FORK)
    assert forked["pid"] == target.pid
    assert forked["child_pid"] == truth["child"]
    assert truth["start_ns"] <= forked["ts_ns"] <= truth["end_ns"]
    assert not len(watch.records()[watch.records()["pid"] == truth["child"]])


def test_a_followed_child_is_traced_from_its_fork_to_its_exit(start: Start, cache: Path) -> None:
    target = obedient(start, sys.executable)
    with watching(target, cache=cache, follow=True) as watch:
        truth = watch.ask(target, "fork 0.4")
        child = truth["child"]
        slept = watch.first(Kind.THREAD_STATE, pid=child, syscall=CLOCK_NANOSLEEP)
        ended = watch.first(Kind.PROC_EXIT, pid=child)
        assert watch.last is not None
        assert not watch.last.done, "the parent goes on"
        tell(target, "exit 0")
        watch.until_done()
    assert truth["start_ns"] <= slept["since_ns"] <= truth["end_ns"]
    assert os.waitstatus_to_exitcode(int(ended["exit_code"])) == 3


def test_a_new_program_in_the_same_process(start: Start, cache: Path) -> None:
    target = obedient(start, sys.executable)
    with watching(target, cache=cache) as watch:
        watch.ask(target, "threads 3")
        tell(target, "exec")
        executed = watch.first(Kind.PROC_EXEC)
        assert read_line(target) == "ready"
        truth = watch.ask(target, "sleep 0.3")
        slept = watch.first(Kind.THREAD_STATE, tid=truth["tid"], syscall=CLOCK_NANOSLEEP)
    assert executed["pid"] == target.pid
    assert abs(int(slept["since_ns"]) - truth["start_ns"]) < SLACK_NS


def test_two_targets_and_the_end_of_one(start: Start, cache: Path) -> None:
    one, two = obedient(start, sys.executable), obedient(start, sys.executable)
    with watching(one, two, cache=cache) as watch:
        for target in (one, two):
            truth = watch.ask(target, "sleep 0.25")
            watch.first(Kind.THREAD_STATE, pid=target.pid, tid=truth["tid"])
        tell(one, "exit 0")
        watch.first(Kind.PROC_EXIT, pid=one.pid)
        assert watch.last is not None
        assert not watch.last.done
        truth = watch.ask(two, "sleep 0.25")
        watch.first(Kind.WAKE, tid=truth["tid"])
        tell(two, "exit 0")
        watch.until_done()


def test_more_targets_than_links_are_scanned_by_one_iterator_over_all(
    start: Start, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracer.backends.bcc.scanner._MANY_LINKS", 1)
    one, two = obedient(start, sys.executable), obedient(start, sys.executable)
    with watching(one, two, cache=cache) as watch:
        for target in (one, two):
            truth = watch.ask(target, "sleep 0.25")
            watch.first(Kind.WAKE, tid=truth["tid"])
        pids = set(watch.of(Kind.THREAD_STATE)["pid"].tolist())
        tell(one, "exit 0")
        tell(two, "exit 0")
        watch.until_done()
    assert pids == {one.pid, two.pid}, "and not the tracer's own threads"


def test_two_thousand_sleeps_are_each_told_once(start: Start, cache: Path) -> None:
    target = obedient(start, sys.executable)
    with watching(target, cache=cache) as watch:
        tids = set(watch.ask(target, "threads 2000")["tids"])

        def asleep() -> bool:
            told = watch.of(Kind.THREAD_STATE, state=RunState.SLEEPING, syscall=FUTEX)
            return tids <= set(told["tid"].tolist())

        watch.until(asleep, "2,000 sleeping threads")
        scans = len(watch.of(Kind.SCAN))
        watch.until(lambda: len(watch.of(Kind.SCAN)) >= scans + 2, "two more scans")
        told = watch.of(Kind.THREAD_STATE)
        told = told[np.isin(told["tid"], list(tids)) & (told["flags"] & Flag.WATCHED != 0)]
        (last,) = watch.of(Kind.SCAN)[-1:]
    # On a busy machine a thread may have slept before: on its way, for its turn.
    sleeps = list(zip(told["tid"].tolist(), told["since_ns"].tolist(), strict=True))
    assert set(told["tid"].tolist()) == tids
    assert len(sleeps) == len(set(sleeps)), "no sleep is told twice"
    assert last["threads"] == 2001
    assert last["blocked"] >= 2000
    assert not watch.dropped


def test_idle_threads_are_not_told_again(start: Start, cache: Path) -> None:
    target = obedient(start, sys.executable)
    with watching(target, cache=cache) as watch:
        watch.ask(target, "threads 20")
        scans = len(watch.of(Kind.SCAN))
        watch.until(lambda: len(watch.of(Kind.SCAN)) >= scans + 3, "quiet seconds")
        told = len(watch.of(Kind.THREAD_STATE))
        watch.until(lambda: len(watch.of(Kind.SCAN)) >= scans + 4, "one more")
        assert len(watch.of(Kind.THREAD_STATE)) == told


def test_a_spinning_thread_is_never_told_blocked(start: Start, cache: Path) -> None:
    target = obedient(start, sys.executable)
    with watching(target, cache=cache) as watch:
        truth = watch.ask(target, "spin 0.5")
        told = watch.of(Kind.THREAD_STATE, tid=truth["tid"], state=RunState.SLEEPING)
    inside = (told["since_ns"] > truth["start_ns"]) & (told["since_ns"] < truth["end_ns"])
    assert not inside.any()
