"""The engine of triggers with a runner that does as a test says; times in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import pytest

from collector.counters import Counters
from collector.events import Event
from collector.park import Park, Seen
from probes.wire import Flag
from tracer.triggers.around import Surroundings
from tracer.triggers.config import Rule, command_line_rules
from tracer.triggers.engine import MAX_PENDING, Triggers
from tracer.triggers.job import Job
from tracer.triggers.runner import Runner

S, MS = 1_000_000_000, 1_000_000
PID, TID = 4711, 4712


class FakeRunner:
    """Keeps what it is told; says what a test lets it."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.answers: list[bool | None] = []
        self.says: list[dict[str, Any]] = []
        self.lost = False
        self.takes = True
        self.restarts = 0

    def submit(self, job: Job) -> bool:
        self.jobs.append(job)
        return self.takes

    def take(self) -> list[dict[str, Any]]:
        said, self.says = self.says, []
        return said

    def answer(self, still_on: bool | None) -> None:
        self.answers.append(still_on)

    def restart(self) -> None:
        self.restarts += 1
        self.lost = False

    def forget(self, pid: int) -> None:
        pass

    def look_at(self, pid: int) -> None:
        pass

    def close(self) -> None:
        pass


class Bench:
    """An engine, its runner, and parks that are open."""

    def __init__(self, *pairs: tuple[str, str], **changes: Any) -> None:
        self.runner = FakeRunner()
        self.parks: dict[int, Park] = {}
        self.gauges: Mapping[str, int] = {}
        self.said: list[Event] = []
        self.now_ns = 0
        self.stops: list[tuple[int, int]] = []
        self.notes: list[str] = []
        rules = [_changed(rule, changes) for rule in command_line_rules(pairs)]
        around = Surroundings(
            park_of=lambda _pid, tid: self.parks.get(tid),
            known_ns=lambda park: max(park.last_seen_ns, park.between_ns),
            gauges=lambda _pid: self.gauges,
            stem=lambda pid: f"/tmp/{pid}",
            long_park_ns=200 * MS,
            end_error_ns=MS,
            stopping=lambda pid, until_ns: self.stops.append((pid, until_ns)),
            note=self.notes.append,
        )
        self.engine = Triggers(rules, cast("Runner", self.runner), around)
        self.hear(Event("attached", 0, pid=PID))

    def hear(self, *events: Event) -> None:
        self.now_ns = max(self.now_ns, *(event.ts_ns for event in events))
        self.said += self.engine.on_events(events)

    def tend(self, at_s: float) -> None:
        self.now_ns = int(at_s * S)
        self.said += self.engine.tend(self.now_ns)

    def cross(self, park_id: int, at_s: float, **changes: Any) -> Event:
        """A lock park that crosses at that time."""
        start_ns = int(at_s * S) - 200 * MS
        park = Park(
            pid=PID, tid=TID + park_id, kind="lock", source=Seen.SCAN, start_ns=start_ns,
            address=16, flags=int(Flag.WATCHED), park_id=park_id,
        )  # fmt: skip
        self.parks[park.tid] = park
        event = Event(
            "park_long", int(at_s * S), pid=PID, tid=park.tid, kind="lock", start_ns=start_ns,
            duration_ns=200 * MS, data={"park_id": park_id, "stack": None},
            **{"idle": False, **changes},
        )  # fmt: skip
        self.hear(event)
        return event

    def end(self, park_id: int, at_s: float, how: str = "woken") -> None:
        park = self.parks.pop(TID + park_id)
        end_ns = int(at_s * S)
        self.hear(
            Event(
                "park_end", end_ns, pid=PID, tid=park.tid, start_ns=park.start_ns,
                duration_ns=end_ns - park.start_ns, data={"park_id": park_id, "end": how},
            )
        )  # fmt: skip

    def done(self, at_s: float, **message: Any) -> None:
        """What runs has been carried out."""
        number = self.runner.jobs[-1].number
        self.runner.says.append({"say": "done", "number": number, "result": {}, **message})
        self.tend(at_s)

    def actions(self) -> list[tuple[Any, Any, Any]]:
        return [
            (event.data["status"], event.data["why"], event.data["count"])
            for event in self.said
            if event.event == "action"
        ]

    def breakers(self) -> list[tuple[Any, Any]]:
        return [(e.data["from"], e.data["to"]) for e in self.said if e.event == "breaker"]


def _changed(rule: Rule, changes: Mapping[str, Any]) -> Rule:
    return replace(rule, **changes)


def test_a_burst_of_parks_costs_one_action_and_the_rest_is_counted() -> None:
    bench = Bench(("park", "heap-dump"))
    for park_id in range(1, 1001):
        bench.cross(park_id, 1)
    assert [job.park and job.park["park_id"] for job in bench.runner.jobs] == [1]
    bench.done(1.5)
    bench.tend(3)
    assert bench.actions() == [("done", None, 1), ("skipped", "cooldown of 5 min 00 s", 999)]
    (fired,) = [event for event in bench.said if event.event == "trigger"]
    assert (fired.data["park_id"], fired.data["actions"]) == (1, ["heap-dump"])
    assert fired.data["facts"]["kind"] == "lock"


def test_after_the_cooldown_it_acts_again_but_not_too_often_in_an_hour() -> None:
    bench = Bench(("park", "stack-dump"), cooldown_ns=60 * S, per_hour=2)
    for number, at_s in enumerate((10, 30, 80, 200, 3700), start=1):
        bench.cross(number, at_s)
        if len(bench.runner.jobs) and bench.engine.due_ns() is not None:
            bench.done(at_s + 1)
    assert len(bench.runner.jobs) == 3
    bench.tend(4000)
    reasons = [why for status, why, _ in bench.actions() if status == "skipped"]
    assert reasons == ["cooldown of 1 min 00 s", "2 within an hour"]


def test_a_longer_park_is_looked_at_again_when_it_is_that_long() -> None:
    bench = Bench(("park > 1s", "heap-dump"))
    bench.cross(1, 10)
    bench.cross(2, 10)
    assert bench.runner.jobs == []
    assert bench.engine.due_ns() == int(9.8 * S) + S
    bench.end(1, 10.5)
    bench.tend(10.79)
    assert bench.runner.jobs == []
    bench.tend(10.801)
    (job,) = bench.runner.jobs
    assert job.park == {
        "park_id": 2, "tid": TID + 2, "thread_name": None, "crossing_ns": int(9.8 * S) + S,
    }  # fmt: skip


def test_a_wait_for_the_gil_is_not_called_longer_than_it_was_seen() -> None:
    bench = Bench(("park > 1s", "heap-dump"))
    bench.cross(1, 10)
    bench.parks[TID + 1].kind = "gil"
    bench.tend(10.9)
    assert bench.runner.jobs == []
    bench.parks[TID + 1].last_seen_ns = int(10.91 * S)
    bench.tend(10.93)
    assert len(bench.runner.jobs) == 1


def test_idle_parks_set_nothing_off() -> None:
    bench = Bench(("park", "heap-dump"))
    bench.cross(1, 1, idle=True)
    assert bench.runner.jobs == []


def test_failures_open_the_breaker_and_its_probe_closes_it() -> None:
    bench = Bench(("park", "exec /bin/false"), cooldown_ns=0, per_hour=1000)
    for number in range(1, 4):
        bench.cross(number, number)
        bench.done(number + 0.1, say="failed", why="it failed")
    assert bench.breakers() == [("closed", "open")]
    bench.cross(4, 5)
    assert len(bench.runner.jobs) == 3
    bench.cross(5, 3.1 + 301)
    bench.cross(6, 3.1 + 301.01)
    assert len(bench.runner.jobs) == 4, "one probe"
    bench.done(310)
    assert bench.breakers() == [("closed", "open"), ("open", "half-open"), ("half-open", "closed")]
    bench.cross(7, 320)
    assert len(bench.runner.jobs) == 5
    bench.tend(400)
    skipped = {why for status, why, _ in bench.actions() if status == "skipped"}
    assert skipped == {"the breaker is open", "the breaker waits for its probe"}


def test_what_goes_over_its_budget_counts_as_a_failure_though_it_is_done() -> None:
    bench = Bench(("park", "heap-dump"), cooldown_ns=0, per_hour=1000)
    for number in range(1, 4):
        bench.cross(number, number)
        bench.done(number + 0.1, result={"over_budget": "it stood still for 1 s"})
    assert bench.actions() == [("done", "it stood still for 1 s", 1)] * 3
    assert bench.breakers() == [("closed", "open")]


def test_one_at_a_time_and_no_more_than_the_queue_holds() -> None:
    bench = Bench(("park", "stack-dump"), cooldown_ns=0, per_hour=1000)
    for number in range(1, MAX_PENDING + 5):
        bench.cross(number, 1)
    assert len(bench.runner.jobs) == 1
    for _ in range(MAX_PENDING):
        bench.done(2)
    assert len(bench.runner.jobs) == 1 + MAX_PENDING
    bench.done(9)
    assert ("skipped", "the queue is full", 3) in bench.actions()


def test_what_takes_too_long_or_loses_its_worker_has_failed_and_the_next_begins() -> None:
    bench = Bench(("park", "signal USR1"), cooldown_ns=0, per_hour=1000)
    bench.cross(1, 1)
    bench.cross(2, 1)
    bench.tend(10)
    assert bench.runner.restarts == 0
    bench.tend(11.5)
    assert (bench.runner.restarts, len(bench.runner.jobs)) == (1, 2)
    bench.runner.lost = True
    bench.tend(12)
    whys = [why for _, why, _ in bench.actions()]
    assert whys == ["it took too long", "the worker ended without a word"]


def test_a_process_fires_when_it_has_become_so() -> None:
    bench = Bench(("rss > 1GB", "stack-dump"), cooldown_ns=0)
    for at_s, rss in enumerate((5, 2_000_000_000, 2_000_000_000, 5, 2_000_000_000), start=1):
        bench.gauges = {"rss": rss}
        bench.said += bench.engine.on_health(Counters(), at_s * S)
        if rss > 5 and at_s in (2, 5):
            bench.done(at_s + 0.5)
    assert [job.facts["rss"] for job in bench.runner.jobs] == [2_000_000_000] * 2
    assert [e.data["on"] for e in bench.said if e.event == "trigger"] == ["process"] * 2


def frozen(bench: Bench, at_s: float) -> None:
    number = bench.runner.jobs[-1].number
    bench.runner.says.append(
        {"say": "frozen", "number": number, "frozen_ns": int(at_s * S), "engine": "clone"}
    )


def test_a_park_was_on_at_the_freeze_only_if_it_was_seen_after_it() -> None:
    bench = Bench(("park", "heap-dump"))
    bench.cross(1, 1)
    assert bench.stops[0][0] == PID
    frozen(bench, 1.02)
    bench.tend(1.03)
    assert bench.runner.answers == [], "silence is no proof"
    bench.parks[TID + 1].last_seen_ns = int(1.04 * S)
    bench.tend(1.05)
    assert bench.runner.answers == [True]


def test_an_end_tells_too_unless_it_is_not_exact() -> None:
    for ended_s, how, answer in (
        (1.05, "woken", True), (1.01, "woken", False), (1.0201, "woken", None),
        (1.05, "lost", None),
    ):  # fmt: skip
        for early in (True, False):
            bench = Bench(("park", "heap-dump"))
            bench.cross(1, 1)
            if early:
                bench.end(1, ended_s, how)
            frozen(bench, 1.02)
            bench.tend(1.06)
            if not early:
                bench.end(1, ended_s, how)
                bench.tend(1.07)
            assert bench.runner.answers == [answer], (ended_s, how, early)


def test_the_end_of_a_session_says_what_is_left_undone() -> None:
    bench = Bench(("park", "stack-dump"), cooldown_ns=0)
    bench.cross(1, 1)
    bench.cross(2, 1)
    bench.runner.lost = True
    bench.said += bench.engine.finish(2 * S, patient=False)
    assert bench.actions() == [
        ("failed", "the session ended before it was done", 1), ("skipped", "the session ended", 1),
    ]  # fmt: skip


def test_a_session_that_ends_by_itself_has_the_rest_done_too() -> None:
    bench = Bench(("park", "stack-dump"), cooldown_ns=0)
    bench.cross(1, 1)
    bench.cross(2, 1)

    def take() -> list[dict[str, Any]]:
        return [{"say": "done", "number": bench.runner.jobs[-1].number, "result": {}}]

    bench.runner.take = take  # type: ignore[method-assign]
    bench.said += bench.engine.finish(2 * S, patient=True)
    assert bench.actions() == [("done", None, 1)] * 2


def test_whoever_waits_at_the_end_is_told_for_what(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tracer.triggers.engine._UNSAID_S", 0.0)
    monkeypatch.setattr("tracer.triggers.engine.FINISH_S", 0.1)
    bench = Bench(("park", "stack-dump"))
    bench.cross(1, 1)
    bench.engine.finish(2 * S, patient=False)
    assert bench.notes == ["stack-dump of on-1 is not done yet: 0 s at most, or Ctrl-C"]


def test_a_worker_that_ends_while_nothing_is_done_is_replaced() -> None:
    bench = Bench(("park", "stack-dump"))
    for at_s in (10, 11, 16):  # not more often than every five seconds
        bench.runner.lost = True
        bench.tend(at_s)
    assert bench.runner.restarts == 2
    bench.cross(1, 20)
    bench.done(20)
    assert bench.actions() == [("done", None, 1)]


def test_who_gets_the_number_of_a_process_that_has_ended_begins_anew() -> None:
    bench = Bench(("park", "stack-dump"), ("rss > 1GB", "stack-dump"))
    bench.gauges = {"rss": 2 * 10**9}
    bench.cross(1, 1)
    bench.done(1)
    bench.said += bench.engine.on_health(Counters(), 2 * S)
    bench.done(2)
    bench.hear(Event("process_exit", 3 * S, pid=PID), Event("attached", 4 * S, pid=PID))
    bench.said += bench.engine.on_health(Counters(), 5 * S)
    bench.done(5)
    bench.cross(2, 6)
    bench.done(6)
    assert bench.actions() == [("done", None, 1)] * 4


def test_a_worker_that_takes_nothing_fails_what_it_should_do() -> None:
    bench = Bench(("park", "stack-dump"))
    bench.runner.takes = False
    bench.cross(1, 1)
    assert bench.actions() == [("failed", "the worker takes nothing", 1)]
