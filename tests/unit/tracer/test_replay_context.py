"""What a trace says of threads comes back as it was said; what nobody could have said does not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from collector.attribution import Attributor, NoIdleRules, Sight
from collector.context import Blame, Frame, Link, Party, Resource, WakerStack, Waking
from collector.events import Event
from collector.park import Park, Seen
from collector.said import stack_list
from tracer.backends.replay_context import ReplayContext

MS = 1_000_000
FRAMES = (Frame("app", "work", "app.py", 3), Frame(None, "main", "app.py", None))


@dataclass
class Recorded:
    """As much of a ReplaySource as a context needs."""

    events: list[Event]
    now_ns: int = 1_000 * MS


def context(*events: Event) -> ReplayContext:
    return ReplayContext(Recorded(list(events)))  # type: ignore[arg-type]


def said(blame: Blame, chain: tuple[Link, ...]) -> Event:
    park = Park(7, 8, "lock", Seen.SCAN, 5 * MS, 0x90)
    park.park_id = 1
    other = context(Event("park_long", 6 * MS, 7, 8, "worker"))
    sight = Sight(park, other.describe(7, 8, 0), blame)
    return Attributor(other, NoIdleRules()).long_event(sight, 210 * MS, True, chain)


def test_blame_and_chain_come_back_as_they_were_said() -> None:
    first, last = Party(9, "left", "inside `with`", FRAMES), Party(10, None, "owns it", None)
    lock, other = Resource("Lock", "app.lock", 0x90), Resource("RLock", None, 0x91)
    blame = Blame(lock, first, (Party(11, "x", "last seen to take it"),))
    chain = (Link(first, "waits", other), Link(last, "recvfrom on fd 5"))
    found = context(said(blame, chain)).describe(7, 8, 5 * MS)
    assert found.blame is not None
    assert (found.blame.resource, found.blame.holder) == (lock, first)
    assert found.blame.candidates == blame.candidates
    assert found.blame.needs is None, "deadlocks are facts of the recording"
    assert found.chain == chain
    alone = context(said(blame, chain[:1])).describe(7, 8, 5 * MS)
    assert alone.chain == chain[:1]


def test_no_more_than_an_address_is_no_blame() -> None:
    park = Event(
        "park_long", 1, 7, 8, kind="lock", start_ns=5 * MS,
        data={"resource": {"type": "lock", "name": None, "address": "0x90"}},
    )  # fmt: skip
    assert context(park).describe(7, 8, 5 * MS).blame is None


def test_a_wakers_stack_comes_back() -> None:
    waker = {"pid": 7, "tid": 99, "stack": stack_list(FRAMES), "stack_truncated": True}
    end = Event("park_end", 900 * MS, 7, 8, start_ns=5 * MS, data={"waker": waker})
    recorded = context(end)
    found = WakerStack(FRAMES, truncated=True)
    assert recorded.waker_stack(7, 8, 5 * MS, Waking(7, 99, 3)) == found
    assert recorded.waker_stack(7, 8, 5 * MS, Waking(7, 98, 3)) is None, "another one"
    assert recorded.waker_stack(7, 8, 50 * MS, Waking(7, 99, 3)) is None, "another park"


def test_a_waker_is_known_by_name() -> None:
    waker = {"pid": 7, "tid": 99, "thread_name": "keeper"}
    recorded = context(Event("park_end", 5 * MS, 7, 8, "x", data={"waker": waker}))
    assert recorded.thread_name(7, 99) == "keeper"


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.just("0x7f"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["tid", "thread_name", "how", "stack", "does", "waits_on", "type", "name",
                 "address", "function", "file", "line", "pid"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)  # fmt: skip
KEYS = ("resource", "holder", "candidates", "chain", "stack", "waker", "python", "stack_torn")


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["park_long", "park_end", "resource_named"]),
            st.dictionaries(st.sampled_from(KEYS), json),
        ),
        max_size=4,
    )
)
def test_no_trace_can_make_it_fail(events: list[tuple[str, dict[str, Any]]]) -> None:
    recorded = context(
        *(Event(name, 5, 7, 8, "x", "lock", start_ns=5 * MS, data=data) for name, data in events)
    )
    found = recorded.describe(7, 8, 5 * MS)
    recorded.thread_name(7, 8)
    resource = Resource("Lock") if found.blame is None else found.blame.resource
    recorded.find_name(7, resource)
    park = Park(7, 8, "lock", Seen.SCAN, 5 * MS, 0x90)
    sight = Sight(park, found, found.blame)
    Attributor(recorded, NoIdleRules()).long_event(sight, 9 * MS, True, ())
