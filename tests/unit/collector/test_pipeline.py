"""The loop with a source made of a list: order, losses, honesty about stacks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from collector.attribution import Attributor, NoContext, NoIdleRules
from collector.context import (
    Blame,
    Frame,
    NameFound,
    NoBlames,
    ParkedAt,
    Resource,
    ThreadContext,
)
from collector.counters import Counters
from collector.events import COMMON, Event
from collector.parks import ParkDetector
from collector.pipeline import Pipeline, RunOptions
from collector.source import Batch, SourceInfo
from probes.errors import RecordingError
from probes.wire import AllocApi, Flag, Kind, RunState, make

MS = 1_000_000
PID, TID = 7, 8
FRAMES = (Frame("app", "get", "app.py", 3),)


class ListSource:
    """Plays batches; the last one is done."""

    info = SourceInfo("list")

    def __init__(self, batches: Sequence[Batch]) -> None:
        self.batches = list(batches)
        self.closed = 0

    def poll(self, timeout_ns: int) -> Batch:
        assert timeout_ns >= 0
        return self.batches.pop(0)

    def close(self) -> None:
        self.closed += 1


class Recorder:
    """A sink that keeps everything."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.records: list[npt.NDArray[Any]] = []
        self.parks: list[npt.NDArray[Any]] = []
        self.dropped: list[dict[int, int]] = []
        self.closed = 0

    def on_records(self, records: Any, dropped: dict[int, int], now_ns: int) -> None:
        self.records.append(records)
        self.dropped.append(dropped)

    def on_parks(self, parks: npt.NDArray[Any]) -> None:
        self.parks.append(parks)

    def on_events(self, events: Sequence[Event]) -> None:
        self.events += events

    def on_health(self, counters: Counters, now_ns: int) -> None:
        assert counters.elapsed_ns >= 0

    def close(self) -> None:
        self.closed += 1

    def named(self, name: str) -> list[Event]:
        return [event for event in self.events if event.event == name]


class Names(NoBlames):
    """A context provider that knows one thread."""

    def describe(
        self, pid: int, tid: int, since_ns: int, parked: ParkedAt | None = None, /
    ) -> ThreadContext:
        return ThreadContext("worker-1", True, FRAMES)

    def thread_name(self, pid: int, tid: int, /) -> str | None:
        return "worker-1"


class WorkerIsIdle:
    def match(self, kind: str, context: ThreadContext, /) -> str | None:
        return "a known worker" if context.thread_name == "worker-1" else None


def blocked(ts: int, since: int) -> bytes:
    return make(
        Kind.THREAD_STATE, ts_ns=ts * MS, pid=PID, tid=TID, since_ns=since * MS, syscall=45,
        state=RunState.SLEEPING, arg0=5, flags=Flag.WATCHED | Flag.BEFORE_ATTACH,
    ).tobytes()  # fmt: skip


def wake(ts: int) -> bytes:
    return make(
        Kind.WAKE, ts_ns=ts * MS, pid=PID, tid=TID, waker_pid=99, waker_tid=99, waker_syscall=44
    ).tobytes()


def run(
    batches: Sequence[Batch], context: Any = None, rules: Any = None, **options: Any
) -> tuple[Recorder, Pipeline, str]:
    sink = Recorder()
    source = ListSource(batches)
    pipeline = Pipeline(
        source,
        ParkDetector(200 * MS, MS),
        Attributor(context or NoContext(), rules or NoIdleRules()),
        [sink],
        RunOptions(**options),
    )
    why = pipeline.run()
    assert (source.closed, sink.closed) == (1, 1)
    return sink, pipeline, why


def test_a_long_park_is_said_with_its_stack_and_later_its_end() -> None:
    sink, pipeline, why = run(
        [
            Batch(90 * MS, blocked(90, 10)),
            Batch(210 * MS),
            Batch(211 * MS),
            Batch(700 * MS, wake(600)),
            Batch(701 * MS, done=True),
        ],
        Names(),
    )
    assert why == "source ended"
    (long,) = sink.named("park_long")
    (end,) = sink.named("park_end")
    assert (long.kind, long.thread_name, long.before_attach, long.idle) == (
        "io", "worker-1", True, False,
    )  # fmt: skip
    assert (long.start_ns, long.duration_ns) == (10 * MS, 201 * MS)
    assert long.data["fd"] == 5
    assert long.data["syscall"] == "recvfrom"
    assert long.data["stack"] == [{"function": "get", "file": "app.py", "line": 3, "module": "app"}]
    assert (end.duration_ns, end.data["end"]) == (590 * MS, "woken")
    assert end.data["waker"] == {
        "pid": 99, "tid": 99, "same_process": False, "why": "process", "thread_name": "worker-1",
        "stack": None, "stack_truncated": None,
    }  # fmt: skip
    assert end.data["park_id"] == long.data["park_id"]
    assert sink.events.index(long) < sink.events.index(end)
    assert pipeline.counters.long_parks == {"io": 1}
    assert sink.events[-1].event == "detached"


def test_a_stack_read_too_late_is_not_said() -> None:
    sink, _, _ = run(
        [
            Batch(90 * MS, blocked(90, 10)),
            Batch(210 * MS),
            Batch(212 * MS, wake(211)),  # it ended while its stack was being read
            Batch(213 * MS, done=True),
        ],
        Names(),
    )
    (long,) = sink.named("park_long")
    assert long.data["stack"] is None
    assert long.idle is None, "who knows where it waited"
    assert long.thread_name == "worker-1"
    assert [e.duration_ns for e in sink.named("park_end")] == [201 * MS]


def test_a_thread_that_was_looked_at_as_it_ended_is_no_native_one() -> None:
    """Python has forgotten a thread a moment before the kernel has."""

    class Ending(Names):
        def describe(
            self, pid: int, tid: int, since_ns: int, parked: ParkedAt | None = None, /
        ) -> ThreadContext:
            return ThreadContext(python=False, frames=())

    class NativeIsIdle:
        def match(self, kind: str, context: ThreadContext, /) -> str | None:
            return "native" if context.python is False else None

    sink, _, _ = run(
        [
            Batch(90 * MS, blocked(90, 10)),
            Batch(216 * MS, wake(215)),
            Batch(217 * MS, done=True),
        ],
        Ending(),
        NativeIsIdle(),
    )
    (long,) = sink.named("park_long")
    assert (long.idle, long.data["python"]) == (None, None)


@pytest.mark.parametrize(("read_ms", "known"), [(320, True), (340, False)])
def test_a_stack_read_before_the_end_is_said_though_the_park_is_over(
    read_ms: int, known: bool
) -> None:
    class Stamped(Names):
        def describe(
            self, pid: int, tid: int, since_ns: int, parked: ParkedAt | None = None, /
        ) -> ThreadContext:
            return ThreadContext("worker-1", True, FRAMES, read_ns=read_ms * MS)

    sink, _, _ = run(
        [
            Batch(now_ns=150 * MS, raw=blocked(150, 100)),
            Batch(now_ns=310 * MS),
            Batch(now_ns=345 * MS, raw=wake(330)),
            Batch(now_ns=400 * MS, done=True),
        ],
        context=Stamped(),
    )
    (long,) = sink.named("park_long")
    assert (long.data["stack"] is not None) is known


def test_an_idle_park_carries_the_flag_and_the_reason() -> None:
    sink, pipeline, _ = run(
        [Batch(90 * MS, blocked(90, 10)), Batch(250 * MS), Batch(251 * MS, done=True)],
        Names(),
        WorkerIsIdle(),
    )
    (long,) = sink.named("park_long")
    assert (long.idle, long.data["idle_reason"]) == (True, "a known worker")
    assert pipeline.counters.idle_parks == 1
    (rows,) = sink.parks
    assert rows["idle"].tolist() == [1]


def test_losses_are_counted_by_kind_and_said() -> None:
    sink, pipeline, _ = run(
        [
            Batch(0, dropped={int(Kind.WAIT): 3}),
            Batch(MS, b"\xff" * 64, dropped={int(Kind.WAIT): 4, int(Kind.WAKE): 1}),
            Batch(2 * MS, done=True),
        ]
    )
    said = {(e.data["where"], e.data["record_kind"]): 0 for e in sink.named("data_loss")}
    for event in sink.named("data_loss"):
        said[event.data["where"], event.data["record_kind"]] += event.data["count"]
    assert said == {("kernel", "wait"): 7, ("kernel", "wake"): 1, ("decode", None): 1}
    assert pipeline.counters.dropped == {Kind.WAIT: 7, Kind.WAKE: 1}
    assert pipeline.counters.malformed == 1
    assert sum(sum(d.values()) for d in sink.dropped) == 8


@pytest.mark.parametrize("wanted", [True, False])
def test_allocations_are_totals_and_events_on_request(wanted: bool) -> None:
    large = [
        make(Kind.LARGE_ALLOC, ts_ns=1, pid=PID, tid=TID, size_bytes=n, api=AllocApi.REALLOC)
        for n in (5000, 2**33)
    ]
    refill = make(Kind.POOL_REFILL, ts_ns=2, pid=PID, tid=TID, size_bytes=48, count=9)
    sink, pipeline, _ = run(
        [Batch(MS, np.concatenate([*large, refill]), done=True)], Names(), alloc_events=wanted
    )
    assert pipeline.counters.large_alloc_bytes == 5000 + 2**33
    assert pipeline.counters.refills == {48: 9}
    said = sink.named("large_alloc")
    assert [e.data["size_bytes"] for e in said] == ([5000, 2**33] if wanted else [])
    assert all((e.data["api"], e.thread_name) == ("realloc", "worker-1") for e in said)


def test_the_duration_is_the_sources_time() -> None:
    batches = [Batch(n * 100 * MS) for n in range(50)]
    _, pipeline, why = run(batches, duration_ns=1_000 * MS)
    assert why == "duration over"
    assert pipeline.counters.elapsed_ns == 1_000 * MS


def test_a_failing_sink_ends_the_session_and_everything_is_closed() -> None:
    class Full(Recorder):
        def on_records(self, records: Any, dropped: dict[int, int], now_ns: int) -> None:
            raise RecordingError("disk full")

    source, good, full = ListSource([Batch(0)]), Recorder(), Full()
    pipeline = Pipeline(
        source, ParkDetector(200 * MS, MS), Attributor(NoContext(), NoIdleRules()), [good, full]
    )
    with pytest.raises(RecordingError):
        pipeline.run()
    assert (source.closed, good.closed, full.closed) == (1, 1, 1)


def test_every_event_has_the_common_keys_and_comes_back_from_json() -> None:
    sink, _, _ = run(
        [Batch(90 * MS, blocked(90, 10)), Batch(250 * MS), Batch(251 * MS, done=True)], Names()
    )
    for event in sink.events:
        flat = event.to_dict()
        assert tuple(flat)[: len(COMMON)] == COMMON
        assert Event.from_dict(flat).to_dict() == flat


class Unnamed(Names):
    """One lock for all; its name is found at the third try."""

    def __init__(self) -> None:
        self.tries = 0

    def describe(
        self, pid: int, tid: int, since_ns: int, parked: ParkedAt | None = None, /
    ) -> ThreadContext:
        return ThreadContext("worker-1", True, FRAMES, blame=Blame(Resource("Lock", None, 0x90)))

    def find_name(self, pid: int, resource: Resource, /) -> NameFound:
        self.tries += 1
        return NameFound("app.lock" if self.tries == 3 else None, done=self.tries == 3)


def lock_wait(ts: int, since: int, tid: int) -> bytes:
    return make(
        Kind.THREAD_STATE, ts_ns=ts * MS, pid=PID, tid=tid, since_ns=since * MS, syscall=202,
        state=RunState.SLEEPING, arg0=0x5000, flags=Flag.WATCHED,
    ).tobytes()  # fmt: skip


def test_a_name_that_is_found_is_said_of_all_that_still_wait_for_the_thing() -> None:
    target = Unnamed()
    waits = b"".join(lock_wait(90, 10, tid) for tid in (21, 22, 23))
    over = make(
        Kind.WAKE, ts_ns=330 * MS, pid=PID, tid=23, waker_pid=PID, waker_tid=5, waker_syscall=202
    ).tobytes()
    sink, _, _ = run(
        [
            Batch(90 * MS, waits),
            *(Batch(ms * MS) for ms in (210, 211, 260, 310)),
            Batch(350 * MS, over),
            *(Batch(ms * MS) for ms in (400, 450, 500)),
            Batch(501 * MS, done=True),
        ],
        target,
    )
    named = sink.named("resource_named")
    assert {event.tid for event in named} == {21, 22}, "the third had ended by then"
    assert {event.data["resource"]["name"] for event in named} == {"app.lock"}
    assert target.tries == 3
    (end,) = sink.named("park_end")
    assert end.data["waker"]["why"] == "thread"


@pytest.mark.parametrize(
    ("syscall", "waker", "woken_by", "flags", "why"),
    [
        (202, 5, 202, 0, "thread"),
        (45, 99, 44, 0, "process"),
        (202, 5, 62, 0, "signal"),  # kill
        (202, 0, -1, Flag.TIMED_OUT, "timer"),
        (230, 99, 0, 0, "timer"),  # whoever ran when the clock struck
        (230, 5, 234, 0, "signal"),  # tgkill
        (202, 99, 0, 0, None),  # a bystander
        (202, 0, -1, 0, None),
    ],
)
def test_why_a_park_ended(
    syscall: int, waker: int, woken_by: int, flags: int, why: str | None
) -> None:
    state = make(
        Kind.THREAD_STATE, ts_ns=90 * MS, pid=PID, tid=TID, since_ns=10 * MS, syscall=syscall,
        state=RunState.SLEEPING, arg0=5, flags=Flag.WATCHED,
    ).tobytes()  # fmt: skip
    pid = 99 if waker == 99 else PID
    over = make(
        Kind.WAKE, ts_ns=600 * MS, pid=PID, tid=TID, waker_pid=pid if waker else 0,
        waker_tid=waker, waker_syscall=woken_by, flags=flags,
    ).tobytes()  # fmt: skip
    sink, _, _ = run(
        [Batch(90 * MS, state), Batch(211 * MS), Batch(212 * MS), Batch(700 * MS, over),
         Batch(701 * MS, done=True)],
        Names(),
    )  # fmt: skip
    (end,) = sink.named("park_end")
    found = end.data["waker"]
    assert (found and found["why"]) == why
    if why == "timer":
        assert found["pid"] is found["tid"] is found["thread_name"] is None
