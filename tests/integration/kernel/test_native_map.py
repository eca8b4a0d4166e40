"""Native maps on live processes, against what the map itself counted and logged."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from collector.events import Event
from probes.wire import NO_BUCKET, Kind, MapCounter, WaitClass
from tests import interpreters
from tests.conftest import Start
from tests.integration.kernel.bcc_session import Watch, watching
from tests.interpreters import Interpreter
from tests.native_maps import PROGRAM, answer, ask, compiled, tell
from tests.observe import Attached, attached
from tests.processes import wait_until
from tracer.backends.bcc.native_counts import MAX_RANGES
from tracer.backends.bcc.native_map import NativeMaps
from tracer.native.profiles import Profile, load_all, parse
from tracer.session import SessionOptions

pytestmark = pytest.mark.kernel

MS = 1_000_000


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def started(
    start: Start, interpreter: Interpreter, library: Path, *more: str
) -> subprocess.Popen[bytes]:
    return start(interpreter, PROGRAM, [library, *more], ready=True, stdin=subprocess.PIPE)


def said(session: Attached, name: str, **data: Any) -> list[Event]:
    return [
        event
        for event in list(session.sink.events)
        if event.event == name and all(event.data.get(key) == data[key] for key in data)
    ]


def agrees(data: Any, truth: dict[str, int]) -> None:
    """An event's figures are the map's own, exactly."""
    by_outcome = {
        outcome: sum(one["count"] for one in data["ranges"] if one["outcome"] == outcome)
        for outcome in ("complete", "stopped", "stale", "error")
    }
    assert data["partial"] == []
    assert by_outcome == {
        "complete": truth["complete"], "stopped": truth["stopped"], "stale": truth["stale"],
        "error": truth["errors"],
    }  # fmt: skip
    assert data["ranges_begun"] == truth["ranges"]
    assert sum(sum(one["buckets"].values()) for one in data["ranges"]) == truth["ranges"]
    assert sum(one["items"] for one in data["ranges"]) == truth["items"]
    assert data["success_rate"] == (truth["complete"] + truth["stopped"]) / truth["ranges"]
    assert data["stale_ratio"] == truth["stale_buckets"] / truth["ranges"]
    assert data["stale"] == truth["stale_buckets"]
    assert (data["splits"], data["splits_done"]) == (truth["splits"], truth["splits"])
    assert (data["moved"], data["retired"]) == (truth["moved"], truth["retired"])
    assert data["retries"] == truth["retries"]
    assert (data["views_opened"], data["views_closed"]) == (truth["opened"], truth["closed"])
    assert data["waits"]["count"] == truth["waits"]
    assert sum(data["waits"]["buckets"].values()) == truth["waits"]
    assert data["released"] == truth["released"]


@interpreters.matrix()
def test_a_convoy_and_exact_counts(interpreter: Interpreter, start: Start, scratch: Path) -> None:
    """Map, shard, holder and lines while it lasts; then figures equal to the map's own."""
    process = started(start, interpreter, compiled(scratch))
    with attached(SessionOptions((process.pid,), "bcc", budget=1.0, alloc=False)) as session:
        tell(process, "hold 2 500 2")

        def convoy() -> list[Event]:
            found = said(session, "park_long", shard=2)
            return found if len(found) == 2 else []

        longs = wait_until(convoy, "two parks on shard 2")
        truth = answer(process)
        assert {event.tid for event in longs} == set(truth["waiters"])
        for event in longs:
            assert (event.kind, event.data["map"]) == ("map", "sessions")
            resource = event.data["resource"]
            assert (resource["type"], resource["name"]) == ("ConcurrentMap", "sessions")
            assert int(resource["address"], 16) == truth["map"]
            assert truth["lock"] <= int(event.data["lock"], 16) < truth["lock"] + 4 * 20
            holder = event.data["holder"]
            assert [holder["tid"]] == truth["holder"]
            assert holder["thread_name"] == "holder"
            assert holder["stack"][0]["function"].endswith("holder")
            assert event.data["stack"][0]["function"].endswith("waiter")
        ends = wait_until(
            lambda: found if len(found := said(session, "park_end", shard=2)) == 2 else [],
            "both ends",
        )
        for event in ends:
            lower = [(a, b) for a, b in truth["waits"] if a <= event.start_ns <= b]
            assert lower
            assert event.start_ns + event.duration_ns <= max(b for _, b in lower)
        ask(process, "more")
        truth = ask(process, "mix 3 4000")["truth"]
    (last,) = [said(session, "native_map", map="sessions")[-1]]
    agrees(last.data, truth)
    assert not said(session, "probe_failed")
    assert len(said(session, "native_library")) == 1


def test_changes_of_a_breaker_are_told_one_by_one(start: Start, tmp_path: Path) -> None:
    process = started(start, interpreters.get("system-3.11"), compiled(tmp_path))
    changes = [(0, 1, 61, 100), (1, 2, 61, 100), (2, 1, 61, 100), (1, 2, 61, 100), (2, 0, 0, 0)]
    with attached(SessionOptions((process.pid,), "bcc", alloc=False)) as session:
        for change in [*changes, (0, 7, 1, 2)]:
            ask(process, f"breaker {' '.join(map(str, change))}")
        found = wait_until(
            lambda: told if len(told := said(session, "breaker", map="sessions")) == 6 else [],
            "all",
        )
    names = ("closed", "open", "half-open")
    *known, strange = [event.data for event in found]
    assert [(one["from"], one["to"], one["failures"], one["samples"]) for one in known] == [
        (names[old], names[new], *rest) for old, new, *rest in changes
    ]
    assert {one["name"] for one in known} == {"map:sessions"}
    assert {event.pid for event in found} == {process.pid}
    assert known[0]["why"] == "61 of the last 100 iterations failed"
    assert strange["to"] == "unknown"


def test_a_map_without_a_name_is_called_by_where_it_lives(start: Start, tmp_path: Path) -> None:
    process = started(start, interpreters.get("system-3.11"), compiled(tmp_path))
    with attached(SessionOptions((process.pid,), "bcc", alloc=False)) as session:
        ask(process, "hold-unnamed 1 400 1")
        (event,) = wait_until(lambda: said(session, "park_end", shard=1), "the end")
    assert event.data["map"] == "__main__.unnamed"


@contextmanager
def probing(
    process: subprocess.Popen[bytes],
    cache: Path,
    *,
    profiles: tuple[Profile, ...] | None = None,
    multi: bool | None = None,
    budget: float = 1.0,
) -> Iterator[Watch]:
    """A bare source with native map probes only."""
    known = load_all() if profiles is None else profiles
    with watching(
        process,
        cache=cache,
        addons=[lambda options: NativeMaps(options, known, multi=multi)],
        budget=budget,
    ) as watch:
        yield watch


def counted(watch: Watch) -> dict[MapCounter, int]:
    found = watch.of(Kind.MAP_COUNT)
    return {
        counter: int(found["count"][found["counter"] == counter].sum()) for counter in MapCounter
    }


def found(watch: Watch) -> bool:
    return any(event.event == "native_library" for event in watch.events)


def until_counted(watch: Watch, truth: dict[str, int]) -> None:
    """Until everything that the map counted has been handed over, to the last hit."""
    watch.until(lambda: counted(watch)[MapCounter.VIEW_CLOSED] >= truth["closed"], "the counts")
    sums = counted(watch)
    assert sums[MapCounter.RANGE] == sums[MapCounter.RANGE_BEGUN] == truth["ranges"]
    assert sums[MapCounter.SPLIT] == truth["splits"]
    assert sums[MapCounter.RETRY] == truth["retries"]
    assert sums[MapCounter.WAIT] + sums[MapCounter.PARK] == truth["waits"]


@pytest.mark.parametrize("flags", [("-DLONG_NOPS",), ("-DLONG_NOPS", "-DSEMAPHORE")])
def test_long_nops_and_semaphores(
    flags: tuple[str, ...], start: Start, tmp_path: Path, cache: Path
) -> None:
    """Where prices are not known yet, long nops are probed as soon as they are."""
    library = compiled(tmp_path, *flags)
    process = started(start, interpreters.get("system-3.11"), library)
    addon = []

    def with_prices(options: Any) -> NativeMaps:
        addon.append(NativeMaps(options, load_all()))
        return addon[0]

    from tracer.backends.bcc.uprobes import Uprobes  # it measures the prices

    with watching(process, cache=cache, addons=[Uprobes, with_prices], budget=1.0) as watch:
        watch.until(lambda: found(watch), "the library")
        failed = [event for event in watch.events if event.event == "probe_failed"]
        if failed and all("single-step" in str(event.data["why"]) for event in failed):
            pytest.skip("this kernel single-steps long nops")
        assert not failed
        ask(process, "more")
        until_counted(watch, ask(process, "mix 2 3000")["truth"])


def test_a_library_that_is_loaded_later(start: Start, tmp_path: Path, cache: Path) -> None:
    process = started(start, interpreters.get("system-3.11"), compiled(tmp_path), "--late")
    with probing(process, cache) as watch:
        for _ in range(5):
            watch.poll()
        assert not found(watch)
        ask(process, "load")
        watch.until(lambda: found(watch), "the library")
        ask(process, "more")
        until_counted(watch, ask(process, "range 3 1 5")["truth"])


def test_perf_uprobes(start: Start, tmp_path: Path, cache: Path) -> None:
    """As on kernels before 6.6; the semaphores are raised that way, too."""
    process = started(start, interpreters.get("system-3.11"), compiled(tmp_path, "-DSEMAPHORE"))
    with probing(process, cache, multi=False) as watch:
        watch.until(lambda: found(watch), "the library")
        ask(process, "more")
        until_counted(watch, ask(process, "range 3 1 5")["truth"])


BY_SYMBOL = """
name = "plain"
summary = "functions, no USDT"
[library]
module = ["libtoy*.so"]
symbols = ["plain_range"]
[map]
type = "Toy"
[[probe]]
role = "wait"
symbol = "plain_wait"
map = 1
lock = 2
[[probe]]
role = "range"
symbol = ["plain_range"]
map = 1
mode = "weak"
returns = "object"
"""


def test_functions_by_symbol(start: Start, tmp_path: Path, cache: Path) -> None:
    process = started(
        start, interpreters.get("system-3.11"), compiled(tmp_path, "-fcf-protection=none")
    )
    profile = parse(BY_SYMBOL, Path("plain.toml"))
    with probing(process, cache, profiles=(profile,)) as watch:
        watch.until(lambda: found(watch), "the library")
        failed = [event.data["why"] for event in watch.events if event.event == "probe_failed"]
        truth = ask(process, "plain 300 40")
        if not any("plain_wait" in why for why in failed):
            wait = watch.first(Kind.WAIT, wait_class=WaitClass.MAP)
            assert wait["site"] == truth["map"]
            assert wait["address"] == truth["lock"] + 20
            assert 290 * MS < wait["duration_ns"] < 5_000 * MS
        if not any("plain_range" in why for why in failed):
            watch.until(lambda: len(watch.of(Kind.MAP_COUNT, counter=MapCounter.RANGE)) >= 2, "two")
            outcomes = watch.of(Kind.MAP_COUNT, counter=MapCounter.RANGE)["outcome"].tolist()
            assert sorted(outcomes) == [0, 3]  # one complete, one an error
        assert len(failed) < 2


def test_ranges_that_are_left_half_way_take_no_room_for_ever(
    start: Start, tmp_path: Path, cache: Path
) -> None:
    process = started(start, interpreters.get("system-3.11"), compiled(tmp_path))
    with probing(process, cache) as watch:
        watch.until(lambda: found(watch), "the library")
        ask(process, f"leave {MAX_RANGES + 1000}")
        ask(process, "range 3 1 5")
        watch.until(lambda: counted(watch)[MapCounter.RANGE] == 1, "the end of one")
        (ended,) = watch.of(Kind.MAP_COUNT, counter=MapCounter.RANGE)
        assert ended["bucket"] != NO_BUCKET
        assert counted(watch)[MapCounter.RANGE_BEGUN] == MAX_RANGES + 1001


def whys(watch: Watch) -> list[str]:
    return [str(event.data["why"]) for event in watch.events if event.event == "probe_failed"]


def test_what_is_only_called_like_the_library_is_said(
    start: Start, tmp_path: Path, cache: Path
) -> None:
    process = started(start, interpreters.get("system-3.11"), compiled(tmp_path))
    other = parse(BY_SYMBOL.replace('["plain_range"]', '["no_such"]', 1), Path("plain.toml"))
    with probing(process, cache, profiles=(other,)) as watch:
        watch.until(lambda: bool(whys(watch)), "a word")
        for _ in range(5):
            watch.poll()
        (why,) = whys(watch)
        assert why.startswith("libtoy_concurrent_map.so is called like the library of profile")
        assert why.endswith("plain, but it has no symbol no_such")


def test_a_library_is_probed_as_a_whole_or_not(
    start: Start, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wait that begins where a probe is, and ends where none is, would never be over."""
    monkeypatch.setattr("tracer.backends.bcc.native_map.MAX_SITES", 3)
    process = started(start, interpreters.get("system-3.11"), compiled(tmp_path))
    with probing(process, cache) as watch:
        watch.until(lambda: bool(whys(watch)), "a word")
        ask(process, "hold 1 100 1")
        assert whys(watch) == ["concurrent_map: 3 places are probed already"]
        assert not len(watch.of(Kind.WAIT)), watch.of(Kind.WAIT)


def test_a_thread_may_end_inside_of_a_function_that_is_probed(
    start: Start, tmp_path: Path, cache: Path
) -> None:
    """It is unwound as it would be unobserved, and its wait is not kept for another thread."""
    library = compiled(tmp_path, "-fcf-protection=none", "-fexceptions", "-pthread")
    process = started(start, interpreters.get("system-3.11"), library)
    text = BY_SYMBOL.replace("plain_wait", "plain_end")
    with probing(process, cache, profiles=(parse(text, Path("plain.toml")),)) as watch:
        watch.until(lambda: found(watch), "the library")
        assert not [event.data for event in watch.events if event.event == "probe_failed"]
        assert ask(process, "end 20")["unwound"] == 20
        truth = ask(process, "plain 1 40")
        watch.until(lambda: counted(watch)[MapCounter.RANGE] == 2, "what came later")
    assert not len(watch.of(Kind.WAIT)), truth


def test_what_costs_too_much_is_given_up_and_said(start: Start, tmp_path: Path) -> None:
    process = started(start, interpreters.get("system-3.11"), compiled(tmp_path))
    options = SessionOptions((process.pid,), "bcc", alloc=False, budget=0.002)
    with attached(options) as session:
        truth = ask(process, "mix 2 5000000")["truth"]
    last = said(session, "native_map", map="sessions")[-1]
    assert last.data["partial"]
    assert sum(one["count"] for one in last.data["ranges"]) < truth["ranges"]
    shed = [event.data["probe"] for event in said(session, "governor", action="shed")]
    assert {group.removeprefix("native_map.") for group in shed} >= set(last.data["partial"])


def test_a_thread_that_leaves_its_wait_by_a_signal_waits_no_longer(
    start: Start, tmp_path: Path, cache: Path
) -> None:
    """No ``shard_acquired`` follows then; the next lock that it waits for is a lock."""
    process = started(start, interpreters.get("system-3.11"), compiled(tmp_path))
    with watching(process, cache=cache, addons=_both(), budget=1.0) as watch:
        watch.until(lambda: found(watch), "the library")
        watch.until(
            lambda: any(event.data.get("action") == "armed" for event in watch.events),
            "the slow path armed",
        )
        truth = watch.ask(process, "abandon 300")
        wait = watch.first(Kind.WAIT, tid=truth["abandoner"], wait_class=WaitClass.LOCK)
        assert wait["duration_ns"] >= 250 * MS


def _both() -> list[Any]:
    from tracer.backends.bcc.uprobes import Uprobes

    return [Uprobes, lambda options: NativeMaps(options, load_all())]
