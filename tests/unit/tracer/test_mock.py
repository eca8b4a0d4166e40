"""The mock: scenarios tell their own truth, replays give back what was recorded."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from collector.context import UNKNOWN, ThreadContext
from collector.trace.format import TraceState
from collector.trace.writer import TraceWriter
from probes.errors import NotATrace, UsageError
from probes.wire import PAYLOAD, RECORD, Kind, make
from tests.played import Recorder, run
from tests.traces import raw_frames, read
from tracer.backends import mock, mock_replay
from tracer.backends.mock_replay import ReplaySource
from tracer.backends.mock_scenario import Expected, Scenario, load, names
from tracer.session import SessionOptions, run_session

MS = 1_000_000
EVERY = pytest.mark.parametrize("name", names())


def at_ms(ns: int | None) -> float:
    assert ns is not None
    return (ns - mock.ATTACH_NS) / MS


def test_the_promised_scenarios_are_there() -> None:
    assert set(names()) >= {
        "lock_convoy", "deadlock", "gil_hog", "slow_peer", "sleep", "idle_pool",
        "starved_consumer", "flood", "exit_while_parked", "pid_reuse", "before_attach",
    }  # fmt: skip


def found(recorder: Recorder, scenario: Scenario) -> dict[tuple[str, float], Expected]:
    """What the session said, in the words of the scenario: thread name and start."""
    rows = {int(row["park_id"]): row for row in recorder.parks if row["park_id"]}
    parks = {}
    for event in recorder.said("park_long"):
        thread = next(
            key for key, thread in scenario.threads.items()
            if thread.name == event.thread_name and thread.tid == event.tid
        )  # fmt: skip
        row = rows[event.data["park_id"]]
        ends = [e for e in recorder.said("park_end") if e.data["park_id"] == row["park_id"]]
        assert len(ends) <= 1
        start = at_ms(int(row["start_ns"]))
        park = Expected(
            thread=thread,
            kind=event.kind,  # type: ignore[arg-type]
            start_ms=start,
            duration_ms=int(row["duration_ns"]) / MS if ends else None,
            end=ends[0].data["end"] if ends else "open",
            before_attach=bool(event.before_attach),
        )
        assert (thread, start) not in parks, "said twice"
        parks[thread, start] = park
    return parks


@EVERY
def test_every_expected_park_is_found_and_none_invented(name: str) -> None:
    scenario = load(name)
    parks = list(found(run(mock.scenario(name)), scenario).values())
    assert scenario.expect, "a scenario without truth proves nothing"
    for truth in scenario.expect:
        near = [
            park for park in parks
            if park.thread == truth.thread
            and abs(park.start_ms - truth.start_ms) <= truth.start_slack_ms + 1e-6
        ]  # fmt: skip
        assert len(near) == 1, truth
        (park,) = near
        parks.remove(park)
        assert park.kind == truth.kind
        assert park.end == truth.end
        assert park.before_attach == truth.before_attach
        if truth.duration_ms is None:
            assert park.duration_ms is None
        else:
            assert park.duration_ms == pytest.approx(
                truth.duration_ms, abs=truth.duration_slack_ms + 1e-6
            )
    assert not parks


@EVERY
def test_a_long_park_is_said_within_25_ms_of_the_crossing(name: str) -> None:
    said = run(mock.scenario(name)).said("park_long")
    assert said
    for event in said:
        crossing = max((event.start_ns or 0) + 200 * MS, mock.ATTACH_NS)
        assert crossing <= event.ts_ns <= crossing + 25 * MS


@EVERY
def test_the_same_scenario_gives_the_same_bytes(name: str) -> None:
    first, second = run(mock.scenario(name)), run(mock.scenario(name))
    assert first.batches == second.batches
    assert first.dropped == second.dropped
    assert [e.to_dict() for e in first.events] == [e.to_dict() for e in second.events]


@EVERY
def test_emitted_is_received_plus_dropped(name: str) -> None:
    played = mock.scenario(name)
    recorder = run(played)
    assert isinstance(played.source, mock.ScenarioSource)
    received = Counter(recorder.records["kind"].tolist())
    assert played.source.emitted == received + Counter(recorder.dropped)


@EVERY
def test_every_expected_deadlock_is_said_once_and_none_invented(name: str) -> None:
    scenario = load(name)
    tids = {key: thread.tid for key, thread in scenario.threads.items()}
    said = run(mock.scenario(name)).said("deadlock")
    found = []
    for event in said:
        members = event.data["cycle"]
        found.append(([one["tid"] for one in members], event.data["knot"]))
        assert event.ts_ns <= max((event.start_ns or 0) + 200 * MS, mock.ATTACH_NS) + 100 * MS
        holders = {one["tid"]: one["held_by"] for one in members}
        for tid, holder in holders.items():
            assert holder in holders or event.data["knot"], (tid, holder)
    for truth in scenario.deadlock:
        wanted = [tids[key] for key in truth.threads]
        (one,) = [
            event for event in said
            if sorted(each["tid"] for each in event.data["cycle"]) == sorted(wanted)
        ]  # fmt: skip
        assert one.data["knot"] is truth.knot
        assert at_ms(one.data["since_ns"]) == pytest.approx(truth.since_ms, abs=1e-6)
        assert all(each["stack"] and each["waits_on"]["type"] for each in one.data["cycle"])
    assert len(said) == len(scenario.deadlock)


def test_a_chain_is_followed_to_its_end_through_waits_that_are_short_yet() -> None:
    said = {e.thread_name: e.data for e in run(mock.scenario("held_chain")).said("park_long")}
    worker = said["worker-3"]
    assert worker["resource"] == {
        "type": "Lock", "name": "app.cache._lock", "address": "0x7f5000009000",
    }  # fmt: skip
    assert (worker["holder"]["thread_name"], worker["holder"]["how"]) == ("refresher", "with")
    assert worker["holder"]["stack"][0]["line"] == 41
    assert worker["holder"]["does"] == "waits"
    first, last = worker["chain"]
    assert (first["tid"], first["waits_on"]["name"]) == (4004, "app.db.pool_lock")
    assert (last["thread_name"], last["does"], last["waits_on"]) == (
        "loader", "recvfrom on fd 5", None,
    )  # fmt: skip
    starved = said["starved"]
    assert (starved["holder"]["does"], starved["chain"]) == ("runs", None)
    assert said["loader"]["holder"] is None


def test_a_name_that_is_found_later_follows_as_an_event(tmp_path: Path) -> None:
    live = run(mock.scenario("lock_convoy"), tmp_path / "t")
    (named,) = live.said("resource_named")
    longs = {e.data["park_id"]: e for e in live.said("park_long")}
    ends = {e.data["park_id"]: e for e in live.said("park_end")}
    park_id = named.data["park_id"]
    assert longs[park_id].data["resource"]["name"] is None
    assert named.data["resource"]["name"] == "app.cache._lock"
    assert ends[park_id].data["resource"] == named.data["resource"]
    assert 400 <= at_ms(named.ts_ns) <= 450
    (again,) = run(mock.replay(tmp_path / "t")).said("resource_named")
    assert again.data == named.data


def test_a_candidate_is_no_holder() -> None:
    said = {e.thread_name: e.data for e in run(mock.scenario("lock_convoy")).said("park_long")}
    weak = said["worker-2"]
    assert weak["holder"] is None
    (one,) = weak["candidates"]
    assert (one["thread_name"], one["how"]) == ("keeper", "last seen to take it")


def test_a_flood_overflows_the_ring_and_every_lost_record_is_counted() -> None:
    scenario = load("flood")
    recorder = run(mock.scenario("flood"))
    sent = sum(burst.count for burst in scenario.alloc)
    received = int((recorder.records["kind"] == Kind.LARGE_ALLOC).sum())
    assert 0 < received < sent
    assert recorder.dropped == {Kind.LARGE_ALLOC: sent - received, Kind.WAKE: 3}
    room = scenario.ring_bytes // 72
    in_ring = (Kind.LARGE_ALLOC, Kind.WAKE, Kind.WAIT, Kind.THREAD_EXIT)
    for raw, _ in recorder.batches:
        assert np.isin(np.frombuffer(raw, RECORD)["kind"], in_ring).sum() <= room


def test_a_ring_without_room_drops_everything(tmp_path: Path) -> None:
    path = tmp_path / "no_room.toml"
    path.write_text(
        'summary = "x"\nduration_ms = 100\nring_bytes = 71\n[threads.a]\ntid = 1\n'
        '[[alloc]]\nthread = "a"\nat_ms = 5\nsize_bytes = 5000\ncount = 10\n'
    )
    recorder = run(mock.scenario(path))
    assert recorder.dropped == {Kind.LARGE_ALLOC: 10}


def test_gil_waits_come_in_slices_of_5_ms() -> None:
    states = run(mock.scenario("gil_hog")).records
    states = states[states["kind"] == Kind.THREAD_STATE].view(PAYLOAD[Kind.THREAD_STATE])
    waits = states[(states["flags"] & 1 == 1) & (states["tid"] == 4001)]
    assert len(waits) > 20
    assert len(set(waits["since_ns"].tolist())) == len(waits)
    assert (waits["ts_ns"] - waits["since_ns"] <= 5.1 * MS).all()


def test_the_clock_is_virtual_unless_a_show_is_wanted(tmp_path: Path) -> None:
    began = time.monotonic_ns()
    source = mock.scenario("sleep", realtime=True).source
    now_ns = source.poll(0).now_ns
    assert began <= now_ns <= time.monotonic_ns()
    later = source.poll(20 * MS).now_ns
    assert now_ns < later <= time.monotonic_ns()
    source.close()


def test_context_goes_by_the_life_that_a_thread_had() -> None:
    played = mock.scenario("pid_reuse")
    old = played.context.describe(4000, 4000, mock.ATTACH_NS + 100 * MS)
    new = played.context.describe(4000, 4000, mock.ATTACH_NS + 800 * MS)
    assert (old.thread_name, new.thread_name) == ("first life", "second life")
    assert old.frames is not None
    assert old.frames[0].function == "old"
    assert played.context.thread_name(4000, 4000) == "first life"
    assert played.context.describe(4000, 1, 0) == UNKNOWN


def test_a_native_thread_has_no_python_name(tmp_path: Path) -> None:
    path = tmp_path / "native.toml"
    path.write_text('summary = "x"\nduration_ms = 1\n[threads.a]\ntid = 1\npython = false\n')
    played = mock.scenario(path)
    assert played.context.describe(4000, 1, 0) == ThreadContext(python=False)


HEAD = 'summary = "x"\nduration_ms = 1\n'
WAIT = HEAD + '[threads.a]\ntid = 1\n[[wait]]\nthread = "a"\nat_ms = 1\n'


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "summary"),
        ("summary = 3", "summary"),
        ("[[", "scenario"),
        (HEAD + "speed = 9\n[threads]\n", "speed"),
        (HEAD.replace("1", "-1") + "[threads]\n", "duration_ms"),
        (WAIT.replace('thread = "a"', 'thread = "z"'), "'z'"),
        (WAIT + "until_ms = 0\n", "ends before"),
        (WAIT + 'waker = "b"\n', "'b'"),
        (WAIT + 'blame = { type = "Lock", holder = "b" }\n', "'b'"),
        (WAIT + '[[deadlock]]\nthreads = ["c"]\nsince_ms = 1\n', "'c'"),
        (WAIT + '[[loss]]\nkind = "x"\nat_ms = 1\ncount = 1', "'x'"),
    ],
)
def test_a_wrong_scenario_is_told_by_its_key(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "s.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=told):
        mock.scenario(path)


def test_unknown_scenarios_and_traces(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no scenario") as raised:
        mock.scenario("../../etc/passwd")
    assert "lock_convoy" in raised.value.hint
    with pytest.raises(UsageError, match="No such file"):
        mock.scenario(tmp_path / "none.toml")
    (tmp_path / "t").write_text("x")
    with pytest.raises(NotATrace):
        mock.replay(tmp_path / "t")


# -- replay ------------------------------------------------------------------------


@EVERY
def test_a_recording_replays_to_the_same_session(name: str, tmp_path: Path) -> None:
    live = run(mock.scenario(name), tmp_path / "first")
    again = run(mock.replay(tmp_path / "first"), tmp_path / "second")
    assert again.batches == live.batches
    assert again.dropped == live.dropped
    assert again.parks.tobytes() == live.parks.tobytes()
    loud = (
        "park_long", "park_end", "deadlock", "governor", "probe_failed", "process_exit", "detached",
    )  # fmt: skip
    assert [e.to_dict() for e in again.said(*loud)] == [e.to_dict() for e in live.said(*loud)]
    assert sum(e.data["count"] for e in again.said("data_loss")) == sum(live.dropped.values())
    first, second = read(tmp_path / "first"), read(tmp_path / "second")
    assert second.records.tobytes() == first.records.tobytes() == live.records.tobytes()
    assert second.reader.integrity.dropped == first.reader.integrity.dropped == live.dropped
    assert second.reader.end_ns == first.reader.end_ns


def test_a_replay_is_silent_only_while_nothing_had_happened(tmp_path: Path) -> None:
    run(mock.scenario("lock_convoy"), tmp_path / "t")
    source = mock.replay(tmp_path / "t").source
    now_ns = source.poll(0).now_ns
    while not (batch := source.poll(7 * MS)).done:
        assert now_ns <= batch.now_ns
        if not len(batch.raw):
            assert batch.now_ns <= now_ns + 7 * MS
        else:
            assert int(np.frombuffer(batch.raw, RECORD)["ts_ns"].min()) > now_ns
        now_ns = batch.now_ns
    source.close()


def test_a_replay_with_a_higher_threshold_flags_only_what_was_longer(tmp_path: Path) -> None:
    live = run(mock.scenario("lock_convoy"), tmp_path / "t")
    lasted = {e.tid: e.duration_ns or 0 for e in live.said("park_end")}
    for limit_ns in (450 * MS, 520 * MS, 570 * MS, 601 * MS):
        again = Recorder()
        run_session(SessionOptions(replay=tmp_path / "t", long_park_ns=limit_ns), [again])
        flagged = {e.tid for e in again.said("park_long")} & set(lasted)
        assert flagged == {tid for tid, duration_ns in lasted.items() if duration_ns >= limit_ns}


def test_centuries_of_claimed_silence_are_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mock_replay, "_MAX_SILENT_POLLS", 50)
    writer = TraceWriter(tmp_path / "t", {})
    late_ns = (1 << 63) + 5
    for now_ns in (5, late_ns):
        writer.add_records(make(Kind.SCAN, ts_ns=now_ns), {}, now_ns)
    writer.close()
    again = run(mock.replay(tmp_path / "t"))
    assert [now_ns for _, now_ns in again.batches] == [5, late_ns]


def test_a_cut_trace_replays_as_far_as_it_goes(tmp_path: Path) -> None:
    run(mock.scenario("lock_convoy"), tmp_path / "t")
    data = (tmp_path / "t").read_bytes()
    frames = [frame for frame in raw_frames(data) if frame.kind == 2]
    (tmp_path / "t").write_bytes(data[: frames[2].payload_offset + 3])
    played = mock.replay(tmp_path / "t")
    again = run(played)
    kept = sum(frame.rows for frame in frames[:2])
    assert len(again.records) == kept
    (loss,) = again.said("data_loss")
    assert loss.data == {
        "where": "trace",
        "record_kind": None,
        "rows": "records",
        "count": frames[2].rows,
    }
    assert isinstance(played.source, ReplaySource)
    assert played.source.integrity.state is TraceState.TRUNCATED


def test_a_trace_of_nothing_replays(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text('summary = "x"\nduration_ms = 1\n[threads]\n')
    run(mock.scenario(tmp_path / "s.toml"), tmp_path / "t")
    assert run(mock.replay(tmp_path / "t")).said("detached")


def test_a_replay_states_the_recorded_accuracy(tmp_path: Path) -> None:
    run(mock.scenario("sleep"), tmp_path / "t")
    info = mock.replay(tmp_path / "t").source.info
    assert info.backend == "mock"
    assert info.why == "replay of a recording by mock"
