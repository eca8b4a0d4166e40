"""A long park's heap dump is of its moment; and what does not work is left alone for a while."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.interpreters import Interpreter, get, matrix
from tests.processes import wait_until
from tests.triggering import WAITER, rules, watched, wrong_in
from tracer.actions import heap_dump

pytestmark = [pytest.mark.kernel, pytest.mark.ptrace]
MS = 1_000_000
AGAIN = 'cooldown = "1ms"\nper_hour = 1000\nbreaker_rest = "300ms"\n'


@matrix()
def test_the_dump_shows_the_parked_thread_the_lock_and_its_holder(
    interpreter: Interpreter, tmp_path: Path
) -> None:
    tmp_path.chmod(0o700)
    text = f"[[trigger]]\non='{WAITER}'\ndo=[{{heap-dump=true, engine='clone', min_free=0}}]\n"
    with watched(interpreter, rules(tmp_path, text)) as watch:
        facts = watch.tell("park 1")
        (action,) = watch.wait_for("action", action="heap-dump", status="done")
        (park,) = watch.events("park_long", park_id=action.data["park_id"])
        result = action.data["result"]
        assert wrong_in(Path(result["path"]), facts, park) == []
        assert 0 < result["freeze_after_crossing_ns"] < 1000 * MS, "how soon is measured elsewhere"
        assert result["park_still_on"] is True
        watch.answer()
        (end,) = watch.wait_for("park_end", park_id=action.data["park_id"])
    assert end.data["end"] == "woken"
    assert abs((end.duration_ns or 0) - 1000 * MS) < 100 * MS, "the freeze ended no park"
    slept = watch.events("park_end", end="lost")
    assert slept == []


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[Path]:
    """A file system of that size."""
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "none", str(place)], check=False
    )
    if done.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_opens_the_breaker_and_room_closes_it(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with small_disk(tmp_path / "small", "2m") as disk:
        ballast = disk / "ballast"
        ballast.write_bytes(b"\1" * (2 << 20))
        text = (
            f"[[trigger]]\nname='full'\non='{WAITER}'\n"
            f"do=[{{heap-dump='{disk}', min_free=0}}]\n{AGAIN}"
        )
        with watched(get("system-3.11"), rules(tmp_path, text)) as watch:
            for number in range(1, 4):
                watch.tell("park 0.3")
                watch.wait_for("action", number, status="failed")
                watch.answer()
            (opened,) = watch.wait_for("breaker", name="action:full/heap-dump", to="open")
            assert "No space left" in opened.data["why"]
            assert list(disk.iterdir()) == [ballast], "nothing half written"
            ballast.unlink()
            wait_until(
                lambda: (
                    watch.tell("park 0.3")
                    and watch.answer()
                    and watch.events("breaker", name="action:full/heap-dump", to="closed")
                ),
                "a probe that goes well",
                30,
            )
            states = [
                event.data["to"] for event in watch.events("breaker", name=opened.data["name"])
            ]
            assert states == ["open", "half-open", "closed"]
            assert list(disk.glob("*.heap"))


def test_a_failing_program_opens_the_breaker_and_a_repaired_one_closes_it(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\nexit 3\n")
    program.chmod(0o700)
    text = f"[[trigger]]\nname='run'\non='{WAITER}'\ndo=[{{exec=['{program}']}}]\n{AGAIN}"
    with watched(get("system-3.11"), rules(tmp_path, text)) as watch:
        for number in range(1, 4):
            watch.tell("park 0.3")
            watch.wait_for("action", number, status="failed")
            watch.answer()
        (opened,) = watch.wait_for("breaker", name="action:run/exec", to="open")
        assert "exit code 3" in opened.data["why"]
        os.replace(_good(tmp_path), program)
        wait_until(
            lambda: (
                watch.tell("park 0.3")
                and watch.answer()
                and watch.events("breaker", name="action:run/exec", to="closed")
            ),
            "a probe that goes well",
            30,
        )


def _good(folder: Path) -> Path:
    good = folder / "good"
    good.write_text("#!/bin/sh\ncat >/dev/null\n")
    good.chmod(0o700)
    return good


@pytest.mark.slow
def test_a_burst_of_parks_costs_one_dump_and_no_event(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    text = f"[[trigger]]\non='{WAITER}'\ndo=[{{heap-dump=true, min_free=0}}]\n"
    with watched(get("system-3.11"), rules(tmp_path, text)) as watch:
        facts = watch.tell("burst 300 3")
        watch.wait_for("action", action="heap-dump", status="done")
        watch.answer()
        wait_until(
            lambda: len([e for e in watch.events("park_end") if e.thread_name == "waiter"]) == 300,
            "all ends",
            30,
        )
    long_parks = [e for e in watch.events("park_long") if e.thread_name == "waiter"]
    assert {event.tid for event in long_parks} == set(facts["waiters"])
    assert len(long_parks) == 300
    counters = watch.session.sink.counters
    assert counters is not None
    assert sum(counters.dropped.values()) == 0
    assert watch.events("data_loss") == []
    assert len(list(tmp_path.glob(f"*{heap_dump.SUFFIX}"))) == 1
    skipped = watch.events("action", status="skipped")
    assert sum(event.data["count"] for event in skipped) == 299
