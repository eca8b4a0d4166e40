"""A deadlock is said once, and only when nothing moved while it was read twice."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from collector.chains import Blames
from collector.context import (
    Blame,
    Census,
    Frame,
    NameFound,
    NoBlames,
    ParkedAt,
    Party,
    Resource,
    ThreadContext,
)
from collector.deadlocks import DeadlockWatch
from collector.events import Event
from collector.park import Park, Seen
from collector.wait_graph import NATIVE

MS = 1_000_000
PID = 100


class Target(NoBlames):
    """Threads and their waits as a test sets them; also the detector's side of it."""

    def __init__(self, **kinds: str) -> None:
        self.parks: dict[int, Park] = {}
        self.found: dict[int, Blame] = {}
        self.handlers = False
        self.more_threads: dict[int, bool] = {}
        self.reads = 0
        self.name_after = 0

    def find_name(self, _pid: int, _resource: Resource, /) -> NameFound:
        self.name_after -= 1
        return NameFound("app.late" if self.name_after <= 0 else None, self.name_after <= 0)

    def park(self, tid: int, needs: int | None, type_: str = "Lock", **more: Any) -> Park:
        park = Park(PID, tid, more.pop("kind", "lock"), Seen.SCAN, tid * MS, 0x1000 + tid)
        park.park_id = tid
        self.parks[tid] = park
        holder = None if needs is None else Party(needs, f"t{needs}", "with")
        self.found[tid] = Blame(
            Resource(type_, f"app.{type_}{tid}", 0x9000 + tid),
            holder,
            needs=None if needs is None else (needs,),
            timed=more.pop("timed", False),
        )
        return park

    @property
    def open_parks(self) -> list[Park]:
        return list(self.parks.values())

    def park_of(self, pid: int, tid: int) -> Park | None:
        return self.parks.get(tid)

    def is_open(self, park: Park) -> bool:
        return self.parks.get(park.tid) is park

    def describe(
        self, pid: int, tid: int, since_ns: int, parked: ParkedAt | None = None, /
    ) -> ThreadContext:
        frames = (Frame("app", f"f{tid}", "app.py", tid),)
        return ThreadContext(f"t{tid}", True, frames, blame=self.found.get(tid))

    def thread_name(self, pid: int, tid: int, /) -> str | None:
        return f"t{tid}"

    def blames(self, pid: int, waits: Mapping[int, ParkedAt], /) -> dict[int, Blame]:
        self.reads += 1
        return {tid: self.found[tid] for tid in waits if tid in self.found}

    def census(self, pid: int, /) -> Census | None:
        return Census({**dict.fromkeys(self.parks, True), **self.more_threads}, self.handlers)


def watch(target: Target) -> DeadlockWatch:
    watched = DeadlockWatch(target, target, Blames(target, target))
    assert watched.advance(299 * MS) == []
    return watched


def said(watched: DeadlockWatch, *parks: Park) -> list[Event]:
    """What is said of these parks when nothing happens meanwhile."""
    watched.suspect(parks)
    return [*watched.advance(300 * MS), *watched.advance(301 * MS), *watched.advance(302 * MS)]


def two(**more: Any) -> tuple[Target, Park]:
    target = Target()
    target.park(1, 2, **more)
    return target, target.park(2, 1)


def test_a_deadlock_is_said_once_with_both_sides_of_each_edge() -> None:
    target, park = two()
    watched = watch(target)
    (event,) = said(watched, park)
    assert (event.event, event.pid, event.ts_ns) == ("deadlock", PID, 301 * MS)
    assert (event.start_ns, event.data["since_ns"], event.data["knot"]) == (2 * MS, 2 * MS, False)
    first, second = event.data["cycle"]
    assert first == {
        "tid": 2,
        "thread_name": "t2",
        "stack": [{"function": "f2", "file": "app.py", "line": 2, "module": "app"}],
        "waits_on": {"type": "Lock", "name": "app.Lock2", "address": "0x9002"},
        "held_by": 1,
        "how": "with",
        "since_ns": 2 * MS,
        "park_id": 2,
    }
    assert (second["tid"], second["held_by"], second["stack"][0]["line"]) == (1, 2, 1)
    assert not said(watched, park, target.parks[1])
    assert not said(watched, target.park(3, 1)), "a later victim is not another deadlock"


@pytest.mark.parametrize("drains", [0, 1])
def test_it_is_not_said_when_a_park_ends_before_it_is_certain(drains: int) -> None:
    target, park = two()
    watched = watch(target)
    watched.suspect([park])
    for _ in range(drains):
        assert not watched.advance(300 * MS)
    del target.parks[1]
    assert not watched.advance(301 * MS)
    assert not watched.advance(302 * MS)
    assert not watched.busy


def test_a_new_park_of_the_same_thread_is_another_one() -> None:
    target, park = two()
    watched = watch(target)
    watched.suspect([park])
    target.park(1, 2)
    assert not watched.advance(300 * MS)
    assert not watched.advance(301 * MS)


def test_it_is_not_said_when_it_reads_differently_the_second_time() -> None:
    target, park = two()
    watched = watch(target)
    watched.suspect([park])
    target.found[1] = Blame(Resource("Lock", None, 0x9001), timed=False)
    assert not watched.advance(300 * MS)
    assert not watched.busy


def test_a_name_that_is_found_in_between_is_no_difference() -> None:
    target, park = two()
    unnamed = Blame(Resource("Lock", None, 0x9001), Party(2, None, "with"), needs=(2,), timed=False)
    named, target.found[1] = target.found[1], unnamed
    watched = watch(target)
    watched.suspect([park])
    target.found[1] = named
    watched.advance(300 * MS)
    assert len(watched.advance(301 * MS)) == 1


def test_a_wait_with_a_limit_is_no_deadlock() -> None:
    target, park = two(timed=True)
    assert not said(watch(target), park)


@pytest.mark.parametrize("found_after", [3, 10_000])
def test_names_are_searched_for_but_not_for_long(found_after: int) -> None:
    target, park = two()
    for tid in (1, 2):
        old = target.found[tid]
        target.found[tid] = replace(old, resource=replace(old.resource, name=None))
    target.name_after = found_after
    watched = watch(target)
    watched.suspect([park])
    events: list[Event] = []
    for drains in range(40):
        events += watched.advance(300 * MS)
        assert watched.busy is not bool(events), drains
    (event,) = events
    names = {one["waits_on"]["name"] for one in event.data["cycle"]}
    assert names == ({"app.late"} if found_after == 3 else {None})


def test_the_other_thread_need_not_be_parked_for_long() -> None:
    target, park = two()
    target.parks[1].park_id = 0
    (event,) = said(watch(target), park)
    assert [one["park_id"] for one in event.data["cycle"]] == [2, None]


def test_a_chain_of_ten_is_read_in_as_many_steps() -> None:
    target = Target()
    for tid in range(10):
        target.park(tid, (tid + 1) % 10)
    (event,) = said(watch(target), target.parks[3])
    assert [one["tid"] for one in event.data["cycle"]] == [3, 4, 5, 6, 7, 8, 9, 0, 1, 2]
    assert target.reads == 11, "one for each link, and one for the second reading"


def knot() -> tuple[Target, Park]:
    target = Target()
    target.park(100, None, "Queue")
    return target, target.park(2, 100)


def test_a_knot_is_said_of_a_whole_process() -> None:
    target, park = knot()
    (event,) = said(watch(target), park)
    assert event.data["knot"] is True
    assert [(one["tid"], one["held_by"]) for one in event.data["cycle"]] == [(2, 100), (100, None)]


def sleeps(target: Target) -> None:
    target.park(3, None, kind="sleep")


def reads(target: Target) -> None:
    target.park(3, None, kind="io")


def runs(target: Target) -> None:
    target.more_threads[3] = True


def waits_timed(target: Target) -> None:
    target.park(3, None, "Queue", timed=True)


def waits_for_something_unknown(target: Target) -> None:
    target.park(3, None, "lock")


def cannot_be_read(target: Target) -> None:
    target.park(3, None)
    del target.found[3]


def native_and_runs(target: Target) -> None:
    target.more_threads[3] = False


def handles_signals(target: Target) -> None:
    target.handlers = True


@pytest.mark.parametrize(
    "disturb",
    [sleeps, reads, runs, waits_timed, waits_for_something_unknown, cannot_be_read,
     native_and_runs, handles_signals],
)  # fmt: skip
def test_whoever_could_act_makes_it_no_knot(disturb: Any) -> None:
    target, park = knot()
    disturb(target)
    assert not said(watch(target), park)


def test_a_native_thread_that_waits_is_no_hope() -> None:
    target, park = knot()
    target.park(3, None, NATIVE)
    target.parks[3].idle = True
    (event,) = said(watch(target), park)
    assert [one["tid"] for one in event.data["cycle"]] == [2, 100]


def test_a_thread_that_starts_meanwhile_is_hope() -> None:
    target, park = knot()
    watched = watch(target)
    watched.suspect([park])
    target.more_threads[3] = True
    assert not watched.advance(300 * MS)
    assert not watched.busy


def test_a_knot_that_is_tied_later_is_found_when_one_looks_again() -> None:
    target, park = knot()
    runs(target)
    watched = watch(target)
    assert not said(watched, park)
    target.more_threads.clear()
    watched.look_again()
    assert not watched.advance(400 * MS)
    assert len(watched.advance(401 * MS)) == 1


def test_parks_that_are_over_are_not_kept_while_it_rests() -> None:
    """A process of many threads is looked at every few minutes: its parks come and go meanwhile."""
    target, park = knot()
    for tid in range(1_000, 1_400):
        target.park(tid, None, "Queue")
    blames = Blames(target, target)
    watched = DeadlockWatch(target, target, blames)
    watched.suspect([park])
    watched.advance(300 * MS)
    watched.look_again()  # the whole process was read: now it rests
    before = parks_alive()
    for tid in range(2_000, 2_100):
        watched.suspect([target.park(tid, None, "Queue")])
        del target.parks[tid], target.found[tid]
        blames.forget()  # as the loop does
        watched.look_again()
    assert parks_alive() - before < 10


def parks_alive() -> int:
    gc.collect()
    return sum(type(one) is Park for one in gc.get_objects())


def test_those_who_wait_by_design_are_not_named() -> None:
    target, park = knot()
    target.park(3, None, "Queue").idle = True
    (event,) = said(watch(target), park)
    assert [one["tid"] for one in event.data["cycle"]] == [2, 100]


def test_a_wait_that_could_not_be_read_at_its_crossing_is_read_again_soon() -> None:
    target, park = two()
    missing = target.found.pop(1)
    watched = watch(target)
    assert said(watched, park) == []
    target.found[1] = missing  # it was only changing too fast
    assert watched.due_ns is not None
    again_ns = watched.due_ns
    assert 302 * MS < again_ns < 400 * MS
    assert watched.advance(again_ns - 1) == []
    events = [e for n in range(3) for e in watched.advance(again_ns + n * MS)]
    assert [event.event for event in events] == ["deadlock"]
    assert watched.due_ns is None, "once is enough: the health check is for the rest"


def test_no_time_is_left_for_names_where_the_reading_took_long() -> None:
    target, park = two()
    target.found = {
        tid: replace(one, resource=replace(one.resource, name=None))
        for tid, one in target.found.items()
    }
    target.name_after = 1_000
    watched = watch(target)
    watched.advance(300 * MS)
    watched.suspect([park])
    assert watched.advance(380 * MS) == [], "the second reading"
    (event,) = watched.advance(381 * MS)
    assert [one["waits_on"]["name"] for one in event.data["cycle"]] == [None, None]
