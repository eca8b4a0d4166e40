"""Who can still be woken: the graph against a plain simulation of who could wake whom."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.context import Blame, Party, Resource
from collector.wait_graph import NATIVE, Node, ends_with_anyone, find, stuck

TIDS = range(1, 7)
TYPES = ("Lock", "RLock", "Queue", "Event", "Future", "GIL", "lock", NATIVE)


def node(
    tid: int,
    needs: tuple[int, ...] | None = None,
    type_: str = "Lock",
    timed: bool | None = False,
    idle: bool = False,
) -> Node:
    holder = Party(needs[0], None, "with") if needs else None
    return Node(tid, Blame(Resource(type_), holder, needs=needs, timed=timed), idle)


def graph(*nodes: Node) -> dict[int, Node]:
    return {one.tid: one for one in nodes}


def members(
    start: int, nodes: dict[int, Node], everyone: frozenset[int] | None = None
) -> tuple[tuple[int, ...], bool] | None:
    found = find(start, nodes, everyone)
    return None if found is None else (found.members, found.knot)


@pytest.mark.parametrize("length", [1, 2, 3, 10])
def test_a_ring_is_found_from_each_of_its_threads(length: int) -> None:
    ring = graph(*(node(n, ((n + 1) % length,)) for n in range(length)))
    for start in ring:
        found = members(start, ring)
        assert found is not None
        assert sorted(found[0]) == sorted(ring)
        assert found[0][0] == start
        assert not found[1]


def test_a_ring_is_found_from_outside_and_the_outsider_is_no_member() -> None:
    ring = graph(node(1, (2,)), node(2, (1,)), node(3, (1,)), node(4, (3,)))
    assert members(4, ring) == ((1, 2), False)


@pytest.mark.parametrize(
    "second",
    [
        node(2, (1,), timed=True),  # gives up one day
        node(2, (1,), timed=None),  # may give up
        node(2, None),  # whoever lets go of it
        node(2, ()),
        node(2, (1, 9)),  # 9 could help
    ],
)
def test_one_thread_that_may_go_on_is_enough(second: Node) -> None:
    assert find(1, graph(node(1, (2,)), second), None) is None


def test_a_thread_that_runs_is_no_node() -> None:
    assert find(1, graph(node(1, (2,))), None) is None


def test_several_who_could_help_are_all_members() -> None:
    nodes = graph(node(1, (2, 3)), node(2, (1,)), node(3, (2,)))
    found = members(1, nodes)
    assert found is not None
    assert sorted(found[0]) == [1, 2, 3]


def test_a_knot_needs_every_thread_of_the_process() -> None:
    nodes = graph(node(1, None, "Queue"), node(2, (1,), "Lock"))
    assert members(2, nodes) is None
    assert members(2, nodes, frozenset({1, 2, 3})) is None
    assert members(2, nodes, frozenset({1, 2})) == ((2, 1), True)
    assert members(1, nodes, frozenset({1, 2})) == ((1, 2), True)


def test_threads_that_all_wait_for_work_are_quiet_not_stuck() -> None:
    nodes = graph(node(1, None, "Event"), node(2, None, "Queue"), node(3, None, "Condition"))
    assert stuck(nodes, frozenset(nodes)) == {1, 2, 3}
    assert find(1, nodes, frozenset(nodes)) is None


def test_a_pool_whose_tasks_wait_for_one_another() -> None:
    nodes = graph(*(node(n, None, "Future") for n in (1, 2, 3)))
    assert members(1, nodes, frozenset(nodes)) == ((1, 2, 3), True)
    with_spare = nodes | graph(node(4, None, "Queue", idle=True))
    assert members(1, with_spare, frozenset(with_spare)) == ((1, 2, 3), True)


def test_a_native_thread_is_no_member_but_has_to_wait_too() -> None:
    nodes = graph(node(1, None, "Queue"), node(2, (1,)), node(3, None, NATIVE))
    assert members(2, nodes, frozenset({1, 2, 3})) == ((2, 1), True)
    timed = nodes | graph(node(3, None, NATIVE, timed=None))
    assert members(2, timed, frozenset({1, 2, 3})) is None


def test_a_wait_that_is_not_understood_may_be_ended_by_anybody_anywhere() -> None:
    nodes = graph(node(1, None, "lock"), node(2, (1,)))
    assert members(2, nodes, frozenset({1, 2})) is None


def test_where_a_chain_ends() -> None:
    nodes = graph(node(1, (2,)), node(2, None, "Queue"), node(3, (4,)), node(5, (5,)))
    assert ends_with_anyone(1, nodes)
    assert ends_with_anyone(2, nodes)
    assert not ends_with_anyone(3, nodes)  # 4 runs
    assert not ends_with_anyone(5, nodes)


@st.composite
def graphs(draw: st.DrawFn) -> dict[int, Node]:
    some = st.none() | st.lists(st.sampled_from([*TIDS, 9]), max_size=3).map(tuple)
    return {
        tid: node(
            tid,
            draw(some),
            draw(st.sampled_from(TYPES)),
            draw(st.sampled_from([False, False, False, True, None])),
            draw(st.booleans()),
        )
        for tid in draw(st.sets(st.sampled_from(TIDS)))
    }


def could_go_on(nodes: dict[int, Node], everyone: frozenset[int] | None) -> set[int]:
    """From the other end: who runs, who gives up, and whoever those could wake."""
    anyone = {"Lock", "RLock", "Queue", "Event", "Future", NATIVE}
    awake = (set(TIDS) | {9} | (everyone or set())) - nodes.keys()
    while True:
        more = set()
        for tid in nodes.keys() - awake:
            blame = nodes[tid].blame
            helpers = blame.needs
            if helpers is None and blame.resource.type in anyone and everyone is not None:
                helpers = tuple(everyone)
            if blame.timed is not False or not helpers or awake & set(helpers):
                more.add(tid)
        if not more:
            return awake
        awake |= more


@given(graphs(), st.none() | st.frozensets(st.sampled_from(TIDS), min_size=1))
def test_stuck_is_whoever_nobody_could_wake(
    nodes: dict[int, Node], everyone: frozenset[int] | None
) -> None:
    left = stuck(nodes, everyone)
    assert left == nodes.keys() - could_go_on(nodes, everyone)
    for tid in nodes:
        found = find(tid, nodes, everyone)
        if found is not None:
            assert set(found.members) <= found.on <= left
            assert len(found.members) == len(set(found.members)) > 0
