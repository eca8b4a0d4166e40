"""The language of conditions: what holds, and what is refused, with place and reason."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.events import Event
from probes.errors import UsageError
from tracer.triggers.condition import MAX_LENGTH, parse
from tracer.triggers.facts import FACTS, SAMPLE, TOPICS, Moment, Type, blocks_a_loop, facts_of

MS = 1_000_000


def frame(module: str, function: str, line: int = 1) -> dict[str, Any]:
    return {"module": module, "function": function, "file": f"{module}.py", "line": line}


def park(duration_ms: int = 300, idle: bool | None = False, **data: Any) -> Moment:
    known = {
        "park_id": 1,
        "resource": {"type": "Lock", "name": "app.LOCK", "address": "0x10"},
        "holder": {"thread_name": "keeper"},
        "syscall": "futex",
        "stack": [frame("app", "Pool.get", 90)],
    }
    event = Event(
        "park_long", 0, pid=1, tid=2, thread_name="worker-1", kind="lock", idle=idle,
        start_ns=0, duration_ns=duration_ms * MS, before_attach=False, data={**known, **data},
    )  # fmt: skip
    gauges = {"rss": 2_000_000_000, "threads": 12}
    return Moment("park", 1, duration_ms * MS, event, duration_ms * MS, gauges)


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("park", True),
        ("park > 200ms", True),
        ("park > 300ms", False),
        ("park >= 0.3s and park<1m", True),
        ('kind == "lock"', True),
        ("kind != 'lock'", False),
        ('kind in ("io", "lock")', True),
        ('thread_name ~ "worker-*"', True),
        ('thread_name ~ "pool-*" or holder == "keeper"', True),
        ('not (kind == "lock" and line == 90)', False),
        ('park > 1s or kind == "lock" and line == 91', False),
        ('lock == "app.LOCK" and lock_type == "Lock"', True),
        ('function == "Pool.get" and file == "app.py" and module == "app"', True),
        ("park and rss > 1.5GB and threads <= 12", True),
        ("park and rss > 1.9GiB", False),
        ("not not park", True),
        ("before_attach == false", True),
    ],
)
def test_what_holds(text: str, holds: bool) -> None:
    condition = parse(text)
    assert condition.topic == "park"
    assert condition.holds(park()) is holds


def test_idle_parks_meet_only_a_condition_that_says_so() -> None:
    assert not parse("park > 200ms").holds(park(idle=True))
    assert parse("park > 200ms and idle").holds(park(idle=True))
    assert parse("park > 200ms").holds(park(idle=None))
    assert not parse("park and idle == false").holds(park(idle=None))


@pytest.mark.parametrize("text", ['lock == "x"', 'lock != "x"', 'lock ~ "*"', 'lock in ("x")'])
def test_what_is_not_known_compares_as_false(text: str) -> None:
    assert not parse(text).holds(park(resource=None))


@pytest.mark.parametrize(
    ("text", "topic", "lengths"),
    [
        ("deadlock", "deadlock", ()),
        ("deadlock and members > 3 and not knot", "deadlock", ()),
        ("loop_stall > 1s", "loop_stall", (1000 * MS,)),
        ("data_loss > 1000", "data_loss", ()),
        ('governor == "shed" and probe ~ "alloc*"', "governor", ()),
        ("rss > 1GB or threads > 5", SAMPLE, ()),
        ("park > 1s or park > 2s and idle", "park", (1000 * MS, 2000 * MS)),
    ],
)
def test_what_a_condition_is_about(text: str, topic: str, lengths: tuple[int, ...]) -> None:
    condition = parse(text)
    assert (condition.topic, condition.lengths_ns) == (topic, lengths)


@pytest.mark.parametrize(
    ("text", "place", "allowed"),
    [
        ("prk > 1s", "character 1", "park, loop_stall"),
        ("park > 5", "character 8", "a duration such as 200ms"),
        ("rss > 5ms", "character 7", "a size such as 500MB"),
        ("threads > 1.5", "character 11", "a number"),
        ("kind > 'a'", "character 6", "== != ~ in"),
        ("kind == lock", "character 9", "a text in quotes"),
        ("kind", "character 1", "Compare it with"),
        ("park > 1s or deadlock", "character 14", "a trigger for each"),
        ("(park > 1s", "character 11", "For example"),
        ("park > 1s park", "character 11", "For example"),
        ("park > 1s; x", "character 10", "quotes"),
        ("", "character 1", "For example"),
        ("__import__('os')", "character 1", "There are"),
        ("park.real", "character 5", "quotes"),
        ("(" * 50 + "park", "character 21", "simpler"),
        ("park and " * 200, f"character {MAX_LENGTH + 1}", "shorter"),
    ],
)
def test_what_is_refused(text: str, place: str, allowed: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse(text)
    assert place in refused.value.message
    assert allowed in refused.value.hint


@given(st.text(alphabet="parkindotleso()<>=~!,\"' 0123mMGB.", max_size=60))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        condition = parse(text)
    except UsageError:
        return
    assert condition.topic in TOPICS
    condition.holds(park())


def test_a_callback_that_parks_stalls_its_loop_but_the_selector_does_not() -> None:
    run = [frame("asyncio.events", "Handle._run"), frame("asyncio.base_events", "BaseEventLoop")]
    stalled = park(stack=[frame("app", "handler"), *run])
    waits = park(stack=[frame("selectors", "EpollSelector.select"), run[1]])
    assert stalled.event is not None
    assert waits.event is not None
    assert blocks_a_loop(stalled.event)
    assert not blocks_a_loop(waits.event)
    assert not blocks_a_loop(Event("park_long", 0, data={"stack": None}))


def test_every_fact_has_a_value_for_every_moment_that_it_can_be_said_of() -> None:
    empty = Moment("park", None, 0, Event("park_long", 0), 0)
    for fact in FACTS.values():
        assert set(fact.topics) <= set(TOPICS)
        fact.value(empty)
        fact.value(Moment(SAMPLE, None, 0))
    assert facts_of(park())["lock"] == "app.LOCK"
    assert "deadlock" not in facts_of(park())
    assert {fact.type for fact in FACTS.values()} == set(Type)
