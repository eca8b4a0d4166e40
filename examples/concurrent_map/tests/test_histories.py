"""The judge of histories, on histories of which the answer is known."""

from __future__ import annotations

import itertools
import random
from array import array

import pytest

from histories import (
    COMPARE_AND_DELETE,
    COMPLETE,
    LOAD,
    LOAD_AND_DELETE,
    LOAD_OR_STORE,
    SNAPSHOT,
    STALE,
    STORE,
    STRICT,
    SWAP,
    VIEW,
    WEAK,
    Call,
    Timeline,
    Walk,
    effect,
    not_linearizable,
    overlapping,
)

A, B = 11, 22


def call(operation: int, began: int, ended: int, **about: int) -> Call:
    known = {"key": 1, "value": A, "expected": A, "result": 0, **about}
    return Call(operation, began=began, ended=ended, **known)


@pytest.mark.parametrize(
    "history",
    [
        pytest.param([call(LOAD, 0, 1)], id="nothing is there at first"),
        pytest.param(
            [call(STORE, 0, 10), call(LOAD, 2, 3), call(LOAD, 4, 5, result=A)],
            id="a store has its effect at any moment of it",
        ),
        pytest.param(
            [call(STORE, 0, 10), call(STORE, 0, 10, value=B), call(LOAD, 11, 12, result=A)],
            id="two stores at once come in either order",
        ),
        pytest.param(
            [call(STORE, 0, 1), call(SWAP, 2, 9, value=B, result=1), call(LOAD, 3, 4, result=B)],
            id="a swap is seen before it is told",
        ),
        pytest.param(
            [
                call(STORE, 0, 1),
                call(LOAD_AND_DELETE, 2, 9, result=A),
                call(LOAD_AND_DELETE, 2, 9, result=0),
                call(LOAD_OR_STORE, 3, 8, value=B, result=0),
                call(COMPARE_AND_DELETE, 10, 11, expected=A, result=0),
                call(LOAD, 12, 13, result=B),
            ],
            id="one of two takes it",
        ),
        pytest.param(
            [call(STORE, 0, 1), call(LOAD, 2, 3, key=2)], id="keys have nothing to do with another"
        ),
        pytest.param([call(STORE, 0, 1), call(LOAD, 1, 2)], id="at the same time is no order"),
    ],
)
def test_histories_that_have_an_order(history: list[Call]) -> None:
    for order in itertools.permutations(history):
        assert not not_linearizable(order)


@pytest.mark.parametrize(
    "history",
    [
        pytest.param([call(LOAD, 0, 1, result=A)], id="a value from nowhere"),
        pytest.param([call(STORE, 0, 1), call(LOAD, 2, 3)], id="a lost store"),
        pytest.param(
            [call(STORE, 0, 1), call(STORE, 2, 3, value=B), call(LOAD, 4, 5, result=A)],
            id="an old value",
        ),
        pytest.param(
            [
                call(STORE, 0, 1),
                call(SWAP, 2, 9, value=B, result=1),
                call(SWAP, 3, 8, value=B + 1, result=1),
            ],
            id="two swaps of one value",
        ),
        pytest.param(
            [
                call(STORE, 0, 1),
                call(LOAD_AND_DELETE, 2, 9, result=A),
                call(LOAD_AND_DELETE, 3, 8, result=A),
            ],
            id="one value taken twice",
        ),
        pytest.param(
            [
                call(STORE, 0, 20, value=B),
                call(STORE, 0, 1),
                call(LOAD, 2, 3, result=B),
                call(LOAD, 4, 5, result=A),
            ],
            id="back to what was there before",
        ),
        pytest.param(
            [call(LOAD_OR_STORE, 0, 9), call(LOAD_OR_STORE, 1, 8, value=B)],
            id="two that were the first",
        ),
        pytest.param(
            [call(STORE, 0, 1), call(COMPARE_AND_DELETE, 2, 3)], id="a comparison that is wrong"
        ),
    ],
)
def test_histories_that_have_none(history: list[Call]) -> None:
    for order in itertools.permutations(history):
        assert len(not_linearizable(order)) == 1


def _sequential(dice: random.Random, count: int) -> list[Call]:
    """Calls one after the other, as a map would answer them, their times drawn apart."""
    state: dict[int, int] = {}
    history = []
    for at in range(count):
        operation, key = dice.randrange(COMPARE_AND_DELETE + 1), dice.randrange(3)
        there, expected = state.get(key, 0), dice.choice([state.get(key, 0), 5])
        result = there
        if operation == STORE:
            result = 0
        if operation >= SWAP:
            result = int(there != 0 and there == expected)
        began, ended = 10 * at - dice.randrange(30), 10 * at + dice.randrange(30)
        one = Call(operation, key, at + 100, expected, result, began, ended)
        after = effect(one, there)
        assert after is not None
        state[key] = after
        history.append(one)
    return history


@pytest.mark.parametrize("seed", range(20))
def test_what_a_map_did_in_an_order_has_one_and_a_forged_answer_has_none(seed: int) -> None:
    dice = random.Random(seed)
    history = _sequential(dice, 300)
    assert not not_linearizable(history)
    assert overlapping(history)
    loads = [at for at, one in enumerate(history) if one.operation == LOAD]
    forged = dice.choice(loads)
    history[forged] = history[forged]._replace(result=99_999)
    assert len(not_linearizable(history)) == 1


# --- versions, walks ---------------------------------------------------------------------------

CHANGES = [
    call(STORE, 0, 10, version=1),
    call(STORE, 20, 30, key=2, value=B, version=2),
    call(STORE, 40, 50, value=B, version=3),
    call(LOAD_AND_DELETE, 60, 70, key=2, result=B, version=4),
]


def numbers(*pairs: tuple[int, int]) -> bytes:
    return array("Q", [number for pair in pairs for number in pair]).tobytes()


def walk(mode: int, before: int, after: int, *items: tuple[int, int], **about: int) -> Walk:
    known = {"outcome": COMPLETE, "began": 0, "begun": 100, "ended": 100, "version": 0, **about}
    return Walk(mode, before=before, after=after, items=numbers(*items), loads=b"", **known)


def test_a_timeline_knows_each_state() -> None:
    timeline = Timeline(CHANGES)
    assert not timeline.errors
    assert [timeline.at(version) for version in range(5)] == [
        {}, {1: A}, {1: A, 2: B}, {1: B, 2: B}, {1: B},
    ]  # fmt: skip
    cleared = Timeline(CHANGES, [(5, 80, 90)])
    assert not cleared.errors
    assert not cleared.at(5)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        pytest.param(CHANGES[1:], "missing", id="one is missing"),
        pytest.param([*CHANGES, CHANGES[0]], "twice", id="one is there twice"),
        pytest.param(
            [CHANGES[0], CHANGES[1]._replace(began=-9, ended=-5)], "had ended", id="not in time"
        ),
        pytest.param(
            [*CHANGES, call(LOAD_AND_DELETE, 80, 90, result=A, version=5)], "found", id="not so"
        ),
    ],
)
def test_an_order_of_versions_that_cannot_be(changes: list[Call], why: str) -> None:
    assert why in Timeline(changes).errors[0]


@pytest.mark.parametrize(
    "one",
    [
        walk(SNAPSHOT, 0, 4, (1, A), (2, B), version=2),
        walk(VIEW, 0, 4, (1, B), version=4, began=75),
        walk(VIEW, 0, 4, version=0, begun=5),
        walk(STRICT, 2, 3, (1, A), (2, B)),
        walk(STRICT, 2, 3, (1, B), (2, B)),
        walk(STRICT, 0, 4, (1, A), outcome=STALE),
        walk(WEAK, 0, 4, (2, B), (1, A), (1, B)),
        walk(WEAK, 4, 4, (1, B)),
    ],
)
def test_walks_that_keep_their_contract(one: Walk) -> None:
    assert Timeline(CHANGES).wrong(one) is None


@pytest.mark.parametrize(
    ("one", "why"),
    [
        (walk(SNAPSHOT, 0, 4, (1, B), version=2), "not the map"),
        (walk(SNAPSHOT, 0, 4, (1, A), (2, B), (1, A), version=2), "twice"),
        (walk(VIEW, 0, 4, (1, A), version=1, began=35), "leaves out"),
        (walk(VIEW, 0, 4, (1, A), (2, B), version=2, begun=5), "began after"),
        (walk(STRICT, 1, 2, (2, B)), "keys are those of no moment"),
        (walk(STRICT, 2, 3, (1, B), (1, B), (2, B)), "twice"),
        (walk(STRICT, 3, 4, (1, A), (2, B)), "at no time"),
        (walk(STRICT, 4, 4, (1, B), outcome=STALE, began=80), "no key had come"),
        (walk(STRICT, 0, 1, (1, A), (2, B), outcome=STALE), "at no time"),
        (walk(WEAK, 3, 4, (1, A)), "at no time"),
        (walk(WEAK, 0, 4, (3, A)), "at no time"),
    ],
)
def test_walks_that_do_not(one: Walk, why: str) -> None:
    assert why in (Timeline(CHANGES).wrong(one) or "")


def test_loads_from_a_view() -> None:
    timeline = Timeline(CHANGES)
    view = walk(VIEW, 0, 4, (1, A), (2, B), version=2)
    assert timeline.wrong(view._replace(loads=numbers((1, A), (2, B), (3, 0)))) is None
    assert timeline.wrong(view._replace(loads=numbers((1, B)))) is not None
    assert timeline.wrong(view._replace(loads=numbers((2, 0)))) is not None
