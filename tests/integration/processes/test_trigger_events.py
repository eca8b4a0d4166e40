"""What triggers notice in live processes, and of which process they say it. No eBPF needed."""

from __future__ import annotations

import json
import os
import signal
from contextlib import ExitStack, suppress
from pathlib import Path
from subprocess import PIPE

import psutil
import pytest

from collector.events import Event
from tests import interpreters, processes
from tests.interpreters import get
from tests.observe import attached
from tests.processes import wait_until
from tests.triggering import (
    ORDERS,
    SORTS,
    Watched,
    of_all_sorts,
    provoke,
    rules,
    watched,
)
from tracer.session import SessionOptions
from tracer.triggers.setup import TriggerOptions

pytestmark = pytest.mark.ptrace
HERE = get("system-3.11")
PARK = 'park > 200ms and kind == "lock"'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    return tmp_path


def of(events: list[Event], trigger: str) -> list[Event]:
    return [event for event in events if event.data["trigger"] == trigger]


def test_a_stalled_loop_a_deadlock_memory_and_threads_are_noticed(folder: Path) -> None:
    with watched(HERE, of_all_sorts(folder), "proc", ORDERS) as watch:
        watch.tell("await 0.7")
        watch.tell("grow 40")
        assert watch.events("trigger") == [], "the loop waits by design, and there is room"
        members = provoke(watch)
        done = watch.wait_for("action", len(SORTS), status="done")
    fired = watch.events("trigger")
    assert sorted(event.data["trigger"] for event in fired) == sorted(SORTS)
    (stall,) = of(fired, "stall")
    assert stall.data["facts"]["loop_stall"] >= 300_000_000
    assert stall.data["facts"]["function"] == "stall"
    (large,) = of(fired, "large")
    assert large.data["facts"]["rss"] > 150_000_000
    assert (large.pid, large.data["on"], large.data["park_id"]) == (
        watch.process.pid,
        "process",
        None,
    )
    stacks = json.loads(Path(of(done, "knot")[0].data["path"]).read_text())
    waits = {t["tid"]: t["holder"] and t["holder"]["tid"] for t in stacks["threads"]}
    first, second = members
    assert (waits[first], waits[second]) == (second, first)


def wait_for_ends(watch: Watched, count: int) -> None:
    wait_until(
        lambda: sum(event.kind == "lock" for event in watch.events("park_end")) >= count, "ends"
    )


def test_each_process_has_its_own_cooldown_and_its_own_files(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    triggers = TriggerOptions(on=((PARK, "stack-dump"),))
    with ExitStack() as stack:
        targets = [
            stack.enter_context(
                processes.started(interpreters.launch(HERE, ORDERS, stdin=PIPE, stdout=PIPE))
            )
            for _ in range(2)
        ]
        for target in targets:
            processes.wait_ready(target)
        pids = tuple(target.pid for target in targets)
        options = SessionOptions(pids=pids, backend="proc", triggers=triggers)
        session = stack.enter_context(attached(options))
        watches = [Watched(target, session) for target in targets]
        for count in (1, 2):
            for watch in watches:
                watch.tell("park 0.6")
            wait_for_ends(watches[0], 2 * count)
        watches[0].wait_for("action", 2, status="done")
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        f"parkscope-{pid}-1.stacks.json" for pid in pids
    )
    fired = watches[0].events("trigger")
    assert {event.pid for event in fired} == set(pids)
    assert len(fired) == 2
    skipped = watches[0].events("action", status="skipped")
    assert sum(event.data["count"] for event in skipped) == 2
    assert all("cooldown" in event.data["why"] for event in skipped)


def test_a_forked_child_and_a_program_begun_anew_are_dumped_as_well(folder: Path) -> None:
    text = f"[[trigger]]\non='{PARK}'\ncooldown='1ms'\ndo={{heap-dump=true, min_free=0}}\n"
    with watched(HERE, rules(folder, text), "proc", ORDERS, follow=True) as watch:
        watch.tell("fork 3")
        child = watch.answer()["child"]
        wait_until(lambda: of_pid(watch.events("action", status="done"), child), "its dump", 20)
        watch.process.stdin.write(b"exec\n")  # type: ignore[union-attr]
        watch.process.stdin.flush()  # type: ignore[union-attr]
        processes.wait_ready(watch.process)
        watch.wait_for("process_exec")
        wait_until(
            lambda: (
                watch.tell("park 0.7")
                and of_pid(watch.events("action", status="done"), watch.process.pid)
            ),
            "a dump of the new program",
            20,
        )
    assert watch.events("action", status="failed") == []


def of_pid(events: list[Event], pid: int) -> list[Event]:
    return [event for event in events if event.pid == pid]


def test_a_target_that_ends_while_it_is_dumped_leaves_a_whole_dump_or_none(folder: Path) -> None:
    text = f"[[trigger]]\non='{PARK}'\ndo=[{{heap-dump=true, min_free=0}}, 'exec /bin/true']\n"
    with watched(HERE, rules(folder, text), "proc", ORDERS) as watch:
        watch.tell("fill 300000")
        watch.tell("park 5")
        watch.wait_for("trigger")
        os.kill(watch.process.pid, signal.SIGKILL)
        watch.session.finish(30)
        told = {event.data["action"]: event for event in watch.events("action")}
    assert told["exec"].data["status"] == "done", "what waits is done, too"
    whole = told["heap-dump"].data["status"] == "done"
    assert len(list(folder.glob("*.heap"))) == int(whole)
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


def test_a_worker_that_was_killed_while_idle_is_replaced_before_it_is_needed(folder: Path) -> None:
    text = f"[[trigger]]\non='{PARK}'\ndo='exec /bin/true'\n"
    with watched(HERE, rules(folder, text), "proc", ORDERS) as watch:
        (worker,) = workers()
        worker.kill()
        wait_until(lambda: workers() not in ([], [worker]), "another worker")
        watch.tell("park 0.5")
        watch.wait_for("action", status="done")
    assert workers() == []


def workers() -> list[psutil.Process]:
    found = []
    for one in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):  # also a zombie that nobody has waited for yet
            if "tracer.triggers.worker" in one.cmdline():
                found.append(one)
    return found
