"""Parks that are read shortly before they cross: what is said of those that end just then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from collector.ahead import LEAD_NS, MANY
from collector.attribution import Attributor, NoIdleRules
from collector.context import Blame, Frame, NoBlames, ParkedAt, Party, Resource, ThreadContext
from collector.decode import decode
from collector.events import Event
from collector.parks import ParkDetector
from collector.pipeline import Pipeline
from collector.source import Batch
from probes.wire import Flag, Kind, RunState, WaitClass, make
from tests.unit.collector.test_pipeline import ListSource, Recorder

MS = 1_000_000
PID, TID = 7, 8
FIRST, SECOND = 1001, 1002


class Clocked(ListSource):
    """Plays batches and tells the time of the last one."""

    now_ns = 0

    def poll(self, timeout_ns: int) -> Batch:
        batch = super().poll(timeout_ns)
        self.now_ns = batch.now_ns
        return batch


class Held(NoBlames):
    """Each reading takes 0.1 ms; the lock changes hands at ``change_ns``, ``turns`` times."""

    def __init__(self, source: Clocked, change_ns: int = 1 << 60, turns: int = 0) -> None:
        self.described: list[tuple[int, int]] = []
        self._source = source
        self._change_ns = change_ns
        self._turns = turns

    def describe(
        self, pid: int, tid: int, since_ns: int, parked: ParkedAt | None = None, /
    ) -> ThreadContext:
        self.described.append((self._source.now_ns, tid))
        frames = (Frame("app", "get", "app.py", 3),)
        return ThreadContext("worker", True, frames, read_ns=self._source.now_ns + 100_000)

    def blames(self, pid: int, waits: Mapping[int, ParkedAt], /) -> dict[int, Blame]:
        changed = self._source.now_ns >= self._change_ns
        holder = SECOND if changed else FIRST
        turn = self._turns and 7 + self._turns * changed
        party = Party(holder, "holder", "stands in the with body")
        read_ns = self._source.now_ns + 200_000
        blame = Blame(Resource("Lock", "app.lock", 9), party, read_ns=read_ns, turn=turn)
        return dict.fromkeys(waits, blame)

    def thread_name(self, pid: int, tid: int, /) -> str | None:
        return None


def blocked(at_ms: float, since_ms: float, tid: int = TID, flags: int = Flag.WATCHED) -> bytes:
    return make(
        Kind.THREAD_STATE, ts_ns=int(at_ms * MS), pid=PID, tid=tid, since_ns=int(since_ms * MS),
        syscall=202, state=RunState.SLEEPING, arg0=0x5000, flags=flags,
    ).tobytes()  # fmt: skip


def wake(at_ms: float, waker: int = FIRST) -> bytes:
    return make(
        Kind.WAKE, ts_ns=int(at_ms * MS), pid=PID, tid=TID, waker_pid=PID, waker_tid=waker,
        waker_syscall=202,
    ).tobytes()  # fmt: skip


def play(
    *batches: tuple[float, bytes], change_ms: float = 1e9, turns: int = 0
) -> tuple[Recorder, Held]:
    source = Clocked([Batch(int(ms * MS), raw, done=ms == batches[-1][0]) for ms, raw in batches])
    context, sink = Held(source, int(change_ms * MS), turns), Recorder()
    Pipeline(source, ParkDetector(200 * MS, MS), Attributor(context, NoIdleRules()), [sink]).run()
    return sink, context


def only(sink: Recorder) -> Event:
    (event,) = sink.named("park_long")
    return event


def holder(event: Event) -> Any:
    return event.data["holder"] and event.data["holder"]["tid"]


BEGUN = (90.0, blocked(90, 10))


@pytest.mark.parametrize("said_at", [210.35, 211.0])
def test_a_park_that_ends_at_the_threshold_has_its_place_and_holder(said_at: float) -> None:
    sink, _ = play(BEGUN, (207, b""), (said_at, wake(210.3)), (300, b""))
    event = only(sink)
    assert event.data["stack"] is not None
    assert holder(event) == FIRST


def test_a_park_that_ends_while_it_is_read_again_has_the_holder_of_before() -> None:
    sink, _ = play(BEGUN, (207, b""), (210.2, b""), (211, wake(210.3)), (300, b""), change_ms=209)
    assert (only(sink).data["stack"] is not None, holder(only(sink))) == (True, FIRST)


@pytest.mark.parametrize("waker", [SECOND, 0])
def test_a_holder_that_did_not_end_the_park_may_have_let_go_before(waker: int) -> None:
    sink, _ = play(BEGUN, (207, b""), (210.35, wake(210.3, waker)), (300, b""))
    event = only(sink)
    assert event.data["stack"] is not None
    assert (event.data["resource"]["name"], holder(event)) == ("app.lock", None)


def test_a_park_that_lasts_has_the_holder_of_the_crossing() -> None:
    sink, context = play(BEGUN, (207, b""), (210.2, b""), (211, b""), (300, b""), change_ms=209)
    assert holder(only(sink)) == SECOND
    assert context.described == [(207 * MS, TID)], "its stack is the same all the time"


def test_a_reading_ahead_that_the_park_did_not_outlast_is_not_said() -> None:
    """Its end was told late: the thread had gone on when it was read."""
    sink, _ = play(BEGUN, (207, b""), (212, blocked(212, 207.05)), (500, b""), (501, b""))
    assert only(sink).start_ns == int(207.05 * MS), "the sleep that was read is over"


def test_a_wait_for_the_gil_is_read_again_where_it_stands_at_the_crossing() -> None:
    gil = Flag.WATCHED | Flag.GIL
    slices = [(ms, blocked(ms, ms - 4, flags=gil)) for ms in (14, *range(20, 205, 20), 207, 215)]
    sink, context = play(*slices, (216, b""), (300, b""))
    assert only(sink).kind == "gil"
    assert len(context.described) == 2


@pytest.mark.parametrize(("turns", "said"), [(1, FIRST), (2, None)])
def test_a_gil_that_nobody_else_has_had_was_held_to_the_end(turns: int, said: int | None) -> None:
    """No wake-up tells the end of a wait for the GIL, but the GIL counts its turns."""
    wait = {"pid": PID, "tid": TID, "start_ns": 10 * MS, "address": 9, "slices": 40}
    gil = WaitClass.GIL
    opened = make(Kind.WAIT_OPEN, ts_ns=20 * MS, wait_class=gil, **wait).tobytes()
    done = make(
        Kind.WAIT, ts_ns=int(210.3 * MS), wait_class=gil, duration_ns=int(200.3 * MS), **wait
    ).tobytes()
    sink, _ = play(
        (20, opened), (207, b""), (210.35, done), (300, b""), change_ms=210.3, turns=turns
    )
    event = only(sink)
    assert (event.kind, event.data["stack"] is not None) == ("gil", True)
    assert holder(event) == said


def test_a_crowd_is_read_once_at_the_crossing() -> None:
    crowd = range(100, 100 + MANY + 1)
    begun = b"".join(blocked(90, 10, tid) for tid in crowd)
    sink, context = play((90, begun), (207, b""), (211, b""), (212, b""), (300, b""))
    assert len(sink.named("park_long")) == len(crowd)
    assert sorted(tid for _, tid in context.described) == list(crowd)
    assert {ns for ns, _ in context.described} == {211 * MS, 212 * MS}


def test_a_few_of_a_crowd_are_said_before_the_others_are_looked_at() -> None:
    """Who takes a heap dump of the moment does not wait for a thousand stacks."""
    looked_at: list[int] = []

    class Hasty(Recorder):
        def on_events(self, events: Sequence[Event]) -> None:
            super().on_events(events)
            looked_at.extend(len(context.described) for e in events if e.event == "park_long")

    crowd = range(100, 1100)
    begun = b"".join(blocked(90, 10, tid) for tid in crowd)
    times = [(90, begun), (207, b""), (211, b""), (212, b""), (213, b""), (300, b"")]
    source = Clocked([Batch(int(ms * MS), raw, done=ms == 300) for ms, raw in times])
    context = Held(source)
    attributor = Attributor(context, NoIdleRules())
    Pipeline(source, ParkDetector(200 * MS, MS), attributor, [Hasty()]).run()
    assert len(looked_at) == len(crowd)
    assert looked_at[0] <= MANY


def test_the_loop_comes_round_in_time_to_read_ahead() -> None:
    timeouts = []

    class Timed(Clocked):
        def poll(self, timeout_ns: int) -> Batch:
            timeouts.append(self.now_ns + timeout_ns)
            return super().poll(timeout_ns)

    source = Timed(
        [
            Batch(int(90 * MS), blocked(90, 10)),
            Batch(206 * MS),
            Batch(210 * MS),
            Batch(211 * MS, done=True),
        ]
    )
    Pipeline(source, ParkDetector(200 * MS, MS), Attributor(Held(source), NoIdleRules()), []).run()
    assert timeouts[1:3] == [210 * MS - LEAD_NS, 210 * MS]


def test_parks_that_will_cross_are_found_in_a_crowd() -> None:
    detector = ParkDetector(200 * MS, MS)
    begins = [10 + tid * 7 % 83 for tid in range(1, 200)]
    records = [blocked(95, begin, tid) for tid, begin in enumerate(begins, 1)]
    detector.feed(decode(b"".join(records)).records)
    detector.advance(95 * MS)
    for until in range(200, 300, 7):
        found = {park.tid for park in detector.crossing_by(until * MS)}
        assert found == {t for t, begin in enumerate(begins, 1) if begin + 200 <= until}


@pytest.mark.parametrize(("waker", "name"), [(FIRST, "holder"), (SECOND, None)])
def test_a_holder_that_ended_the_park_and_itself_keeps_its_name(
    waker: int, name: str | None
) -> None:
    """It has no name any more when it is asked for; another thread's is not taken for it."""
    sink, _ = play(BEGUN, (300, b""), (400, wake(399, waker)), (500, b""))
    (end,) = sink.named("park_end")
    assert (end.data["waker"]["tid"], end.data["waker"]["thread_name"]) == (waker, name)
