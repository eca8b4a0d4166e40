"""Views: against the truth of scenarios, on damaged traces, and locked in."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.events import Event
from collector.park import PARK
from collector.trace.format import TraceState
from collector.trace.writer import TraceWriter
from probes.errors import NotATrace, RecordingError, UsageError
from probes.wire import RECORD
from tests.played import run
from tests.traces import raw_frames, read, small_trace
from tracer.analysis import ViewResult, list_views, query, recover, run_view
from tracer.backends import mock
from tracer.backends.mock_scenario import SCENARIO_DIR, names

VIEWS = tuple(list_views())


def table(trace: Path, view: str) -> list[dict[str, Any]]:
    result = run_view(trace, view)
    return [dict(zip(result.columns, row, strict=True)) for row in result.rows]


def facts(trace: Path) -> dict[str, str]:
    return {row["name"]: row["value"] for row in table(trace, "summary")}


@pytest.fixture
def recorded(tmp_path: Path) -> Any:
    def record(name: str) -> Path:
        run(mock.scenario(name), tmp_path / name)
        return tmp_path / name

    return record


def test_the_views_of_the_issue_are_there_and_described() -> None:
    assert VIEWS[0] == "summary"
    assert {"summary", "parks", "threads", "kinds", "histogram", "loss"} <= set(VIEWS)
    assert {"locks", "holders", "wakers", "deadlocks", "chains"} <= set(VIEWS)
    assert {"triggers", "dumps", "breakers"} <= set(VIEWS)
    for name, description in list_views().items():
        source = (query.VIEW_DIR / f"{name}.sql").read_text()
        assert source.splitlines()[0] == f"-- {description}"
        assert 20 < len(description) < 100


@pytest.mark.parametrize("name", names())
def test_parks_are_those_of_the_scenario(name: str, recorded: Any) -> None:
    truth = tomllib.loads((SCENARIO_DIR / f"{name}.toml").read_text())
    rows = table(recorded(name), "parks")
    assert len(rows) == len(truth["expect"])
    for want in truth["expect"]:
        slack = want.get("start_slack_ms", 0) + 1e-6
        near = [
            row for row in rows
            if abs(row["start_ms"] - want["start_ms"]) <= slack and row["kind"] == want["kind"]
            and row["end"] == want.get("end", "woken")
        ]  # fmt: skip
        assert near, want
        lasted = want.get("duration_ms", truth["duration_ms"] - want["start_ms"])
        slack = want.get("duration_slack_ms", 0) + 1e-6
        assert any(abs(row["duration_ms"] - lasted) <= slack for row in near)
    assert rows == sorted(rows, key=lambda row: -row["duration_ms"])


def test_a_row_says_who_waits_where_and_for_what(recorded: Any) -> None:
    row = table(recorded("slow_peer"), "parks")[0]
    assert row["thread_name"] == "poller"
    assert row["waits_for"] == "fd 9"
    assert row["place"] == "select (/usr/lib/python3.12/selectors.py:468)"
    assert row["end"] == "open"
    row = table(recorded("starved_consumer"), "parks")[0]
    assert row["waits_for"] == "0x7f6000001100"
    assert row["waker"] == "producer"


def test_triggers_and_dumps_are_linked_with_their_parks(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    park = {"park_id": 7, "stack": [{"function": "get", "file": "app.py", "line": 3}]}
    result = {"engine": "clone", "freeze_after_crossing_ns": 15_000_000, "park_still_on": True,
              "pause_ns": 500_000, "objects": 12, "bytes": 34}  # fmt: skip
    acted = {"trigger": "stuck", "firing": 1, "on": "park_long", "park_id": 7, "count": 1}
    dumped = {**acted, "action": "heap-dump", "status": "done", "path": "a-1.heap",
              "took_ns": 10**9, "result": result}  # fmt: skip
    skipped = {**acted, "action": "exec", "status": "skipped", "why": "cooldown", "count": 999}
    changed = {"name": "action:stuck/exec", "from": "closed", "to": "open", "why": "it failed"}
    writer = TraceWriter(path, {})
    writer.add_events(
        [
            Event(
                "park_long", 10, pid=1, tid=2, thread_name="w", kind="lock", start_ns=5, data=park
            ),
            Event("action", 20, pid=1, data=dumped),
            Event("action", 30, pid=1, data=skipped),
            Event("breaker", 40, data=changed),
        ]
    )
    writer.close({})
    (dump,) = table(path, "dumps")
    assert (dump["path"], dump["park_id"], dump["thread_name"]) == ("a-1.heap", 7, "w")
    assert (dump["freeze_after_crossing_ms"], dump["park_still_on"]) == (15.0, True)
    assert [(row["action"], row["status"], row["count"], row["place"], row["fired_by"])
            for row in table(path, "triggers")] == [
        ("heap-dump", "done", 1, "get (app.py:3)", "park_long"),
        ("exec", "skipped", 999, "get (app.py:3)", "park_long"),
    ]  # fmt: skip
    (change,) = table(path, "breakers")
    assert (change["name"], change["from"], change["to"]) == ("action:stuck/exec", "closed", "open")


def test_locks_and_their_holders(recorded: Any) -> None:
    trace = recorded("lock_convoy")
    (lock,) = [row for row in table(trace, "locks") if row["type"] == "Lock"]
    assert (lock["type"], lock["name"], lock["address"]) == (
        "Lock", "app.cache._lock", "0x7f2000009000",
    )  # fmt: skip
    # One name came later, one holder was only a likely one: that park names nobody.
    assert (lock["parks"], lock["threads"], lock["holders"]) == (3, 3, "keeper")
    assert lock["longest_ms"] == pytest.approx(599.96)
    (holder,) = table(trace, "holders")
    assert (holder["thread_name"], holder["tid"], holder["name"]) == (
        "keeper", 4001, "app.cache._lock",
    )  # fmt: skip
    assert (holder["parks"], holder["waiters"], holder["does"]) == (2, 2, "runs")
    assert holder["place"] == "refresh (/srv/app/cache.py:88)"
    wakers = {(row["why"], row["waker"]): row["parks"] for row in table(trace, "wakers")}
    assert wakers == {("thread", f"{name}"): 1 for name in ("keeper", "worker-0", "worker-1")}


def test_chains_from_the_parked_thread_to_the_last(recorded: Any) -> None:
    rows = table(recorded("held_chain"), "chains")
    first = [row for row in rows if row["park_id"] == rows[0]["park_id"]]
    assert [(row["link"], row["thread_name"], row["waits_for"], row["does"]) for row in first] == [
        (0, "worker-3", "app.cache._lock", "waits"),
        (1, "refresher", "app.db.pool_lock", "waits"),
        (2, "loader", None, "recvfrom on fd 5"),
    ]


def test_the_summary_names_deadlocks_and_who_held_up_the_longest(recorded: Any) -> None:
    assert facts(recorded("deadlock_ring"))["deadlocks"] == "1"
    got = facts(recorded("held_chain"))
    assert got["deadlocks"] == "0"
    assert "longest park: held by" not in got, "the longest one is a recv"
    assert facts(recorded("deadlock"))["longest park: held by"].startswith("transfer-right, ")


def test_deadlocks_member_by_member(recorded: Any) -> None:
    ring = table(recorded("deadlock_ring"), "deadlocks")
    assert [row["member"] for row in ring] == list(range(1, 11))
    holders = {row["tid"]: row["held_by"] for row in ring}
    assert all(holders[tid] == 4010 + (tid - 4009) % 10 for tid in holders)
    knot = table(recorded("deadlock_queue"), "deadlocks")
    assert {row["knot"] for row in knot} == {True}
    assert {row["thread_name"]: row["held_by"] for row in knot} == {
        "helper": None, "MainThread": None, "producer": 4000,
    }  # fmt: skip
    assert {row["since_ms"] for row in knot} == {601}


def test_the_summary_counts(recorded: Any) -> None:
    got = facts(recorded("flood"))
    assert got["trace"] == "clean"
    assert got["backend"] == "mock"
    assert got["targets"] == "4000"
    assert got["duration"] == "1.500"
    assert got["records dropped"] == str(50_100 - int(got["allocations over 4 KiB"]) + 3)
    assert got["long parks"] == "1"
    assert got["longest park"] == "1000.000"
    assert got["longest park: thread"].startswith("waiter, lock")
    assert got["pool refills"] == "362"
    assert got["records malformed"] == "0"
    deadlock = facts(recorded("deadlock"))
    assert deadlock["long parks, still open"] == "2"
    assert deadlock["longest park"] == "2950.000"


def test_the_summary_of_an_empty_trace(tmp_path: Path) -> None:
    TraceWriter(tmp_path / "t", {}).close()
    got = facts(tmp_path / "t")
    assert (got["trace"], got["records"], got["long parks"]) == ("clean", "0", "0")
    for view in VIEWS:
        run_view(tmp_path / "t", view)


def test_threads_kinds_and_histogram_agree_with_the_scenario(recorded: Any) -> None:
    flood, starved = recorded("flood"), recorded("starved_consumer")
    threads = {row["tid"]: row for row in table(flood, "threads")}
    large = int(facts(flood)["allocations over 4 KiB"])
    assert threads[4000]["large_allocs"] == large
    assert threads[4000]["large_alloc_bytes"] == (large - 100) * 8192 + 100 * 1048576
    assert threads[4000]["pool_refills"] == 362
    assert threads[4001]["thread_name"] == "waiter"
    assert threads[4001]["longest_ms"] == 1000

    (kind,) = table(starved, "kinds")
    assert (kind["kind"], kind["parks"], kind["long_parks"]) == ("lock", 3, 3)
    assert kind["parked_ms"] == pytest.approx(350 + 700 + 500)
    assert (kind["median_ms"], kind["longest_ms"]) == (500, 700)
    assert kind["short_waits"] == 1200
    buckets = {(row["from_ms"], row["waits"]) for row in table(starved, "histogram")}
    assert buckets == {(2**15 / 1e6, 1200), (2**28 / 1e6, 2), (2**29 / 1e6, 1)}


def test_loss_shows_every_stage_and_balances(recorded: Any) -> None:
    trace = recorded("flood")
    rows = {(row["where"], row["what"]): row for row in table(trace, "loss")}
    large = rows["kernel", "large_alloc"]
    assert large["lost"] + large["kept"] == 50_100
    assert rows["kernel", "wake"]["lost"] == 3
    assert rows["decode", "malformed records"]["lost"] == 0
    assert rows["trace", "damaged frames"]["lost"] == 0


def test_loss_shows_damage_to_the_file(tmp_path: Path) -> None:
    trace = tmp_path / "t"
    small_trace(trace)
    data = bytearray(trace.read_bytes())
    records, parks = (next(f for f in raw_frames(bytes(data)) if f.kind == k) for k in (2, 3))
    data[records.payload_offset + 1] ^= 1
    data[parks.offset + 20] ^= 1
    trace.write_bytes(data)
    rows = {row["what"]: row["lost"] for row in table(trace, "loss")}
    assert rows["damaged frames"] == 1
    assert rows["missing frames"] == 1
    assert rows["skipped bytes"] == parks.end - parks.offset
    assert rows["records in them"] == records.rows
    assert rows["parks in them"] == parks.rows
    assert facts(trace)["trace"] == "corrupt"


def test_a_cut_trace_is_still_answered(recorded: Any) -> None:
    trace = recorded("lock_convoy")
    data = trace.read_bytes()
    trace.write_bytes(data[: len(data) * 2 // 3])
    assert facts(trace)["trace"] == "truncated"
    for view in VIEWS:
        run_view(trace, view)


def test_errors_name_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as raised:
        run_view(tmp_path / "t", "no such view; DROP TABLE records")
    assert "histogram" in raised.value.hint
    (tmp_path / "t").write_bytes(b"x" * 100)
    with pytest.raises(NotATrace):
        run_view(tmp_path / "t", "summary")


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_text('/etc/hostname')",
        "COPY (SELECT 1) TO '/tmp/parkscope-escaped'",
        "ATTACH '/tmp/parkscope-escaped.db'",
        "INSTALL httpfs",
        "SET enable_external_access = true",
        "SELECT * FROM secret",
    ],
)
def test_the_database_reaches_nothing_outside(sql: str) -> None:
    secret = np.arange(3)
    assert len(secret) == 3
    with (
        duckdb.connect(":memory:", config=query.SETTINGS) as connection,
        pytest.raises(duckdb.Error),
    ):
        connection.execute(sql).fetchall()


def test_names_are_data_not_sql(tmp_path: Path) -> None:
    name = "x'); DROP TABLE events; --"
    writer = TraceWriter(tmp_path / "t", {})
    writer.add_events([Event("park_long", 5, pid=1, tid=2, thread_name=name, kind=name,
                             start_ns=1, duration_ns=1, data={"park_id": 1})])  # fmt: skip
    writer.close()
    (row,) = table(tmp_path / "t", "parks")
    assert (row["thread_name"], row["kind"]) == (name, name)


odd = st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.text() | st.lists(
    st.dictionaries(st.sampled_from(["function", "file", "line"]), st.none() | st.integers(
        -(1 << 63), (1 << 64) - 1) | st.text()), max_size=2)  # fmt: skip
inner = st.dictionaries(st.sampled_from(
    ["pid", "tid", "name", "records_malformed", "waits_on", "stack", "held_by", "type", "why",
     "thread_name", "does"]), odd)  # fmt: skip
u32, u64 = st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 64) - 1)
events = st.builds(
    Event,
    event=st.sampled_from(
        ["park_long", "park_end", "attached", "detached", "totals", "deadlock", "other"]
    ),
    ts_ns=u64,
    pid=st.none() | u32,
    tid=st.none() | u32,
    thread_name=st.none() | st.text(),
    kind=st.none() | st.text(),
    idle=st.none() | st.booleans(),
    start_ns=st.none() | u64,
    duration_ns=st.none() | u64,
    before_attach=st.none() | st.booleans(),
    data=st.dictionaries(
        st.sampled_from(["park_id", "end", "waker", "resource", "fd", "syscall", "stack", "totals",
                         "idle_reason", "backend", "why", "version", "holder", "chain", "cycle",
                         "since_ns"]),
        odd | inner | st.lists(inner, max_size=2),
    ),
)  # fmt: skip


@given(
    rows=st.integers(0, 6).flatmap(lambda n: st.binary(min_size=64 * n, max_size=64 * n)),
    kinds=st.lists(st.sampled_from([4, 10, 11, 12, 13, 99]), min_size=6, max_size=6),
    parks=st.integers(0, 4).flatmap(
        lambda n: st.binary(min_size=PARK.itemsize * n, max_size=PARK.itemsize * n)
    ),
    said=st.lists(events, max_size=5),
    dropped=st.dictionaries(st.integers(0, (1 << 32) - 1), u64, max_size=3),
    now_ns=u64,
    meta=st.dictionaries(st.sampled_from(["clock", "targets"]), odd | st.dictionaries(
        st.sampled_from(["monotonic_ns", "realtime_ns"]), odd)),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_no_content_of_a_trace_breaks_a_view(
    tmp_path_factory: pytest.TempPathFactory,
    rows: bytes,
    kinds: list[int],
    parks: bytes,
    said: list[Event],
    dropped: dict[int, int],
    now_ns: int,
    meta: dict[str, Any],
) -> None:
    path = tmp_path_factory.mktemp("odd") / "t"
    records = np.frombuffer(rows, RECORD).copy()
    records["kind"] = kinds[: len(records)]
    writer = TraceWriter(path, meta)
    writer.add_records(records, dropped, now_ns)
    writer.add_parks(np.frombuffer(parks, PARK))
    writer.add_events(said)
    writer.close({"own_cpu_ns": now_ns})
    with query.connect(path) as connection:
        for view in VIEWS:
            assert isinstance(query.view_of(connection, view), ViewResult)


def test_recover_makes_a_clean_trace_of_what_is_left(tmp_path: Path, recorded: Any) -> None:
    trace = recorded("lock_convoy")
    data = bytearray(trace.read_bytes())
    victim = [f for f in raw_frames(bytes(data)) if f.kind == 2][1]
    data[victim.payload_offset + 4] ^= 0xFF
    trace.write_bytes(data)
    damaged = read(trace)
    found = recover(trace, tmp_path / "clean")
    assert found.state is TraceState.CORRUPT
    clean = read(tmp_path / "clean")
    assert clean.reader.integrity.state is TraceState.CLEAN
    assert clean.records.tobytes() == damaged.records.tobytes()
    assert clean.parks.tobytes() == damaged.parks.tobytes()
    assert clean.events == damaged.events
    assert clean.reader.meta["recovered"]["state"] == "corrupt"
    assert run(mock.replay(tmp_path / "clean")).batches == run(mock.replay(trace)).batches
    with pytest.raises(RecordingError):
        recover(trace, trace)
