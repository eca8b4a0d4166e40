"""The map beside a ``dict``: random operations, all views and iterators open at once.

    run_model("c", examples=1000, steps=60)

Heavier runs than the tests' call that.
"""

from __future__ import annotations

import gc
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from concurrent_map import HistoryLostError, StaleIterationError
from contract import IMPLEMENTATIONS, Key

HISTORY = 40
MOST_OPEN = 5


class Box:
    """A value that the garbage collector would empty if it took it for garbage."""

    def __init__(self, content: int) -> None:
        self.content = content

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Box) and other.content == self.content

    def __hash__(self) -> int:
        return hash(self.content)


KEYS = st.one_of(
    st.integers(0, 40),
    st.integers(0, 5).map(lambda n: n << 40),
    st.sampled_from("abcdefgh"),
    st.tuples(st.integers(0, 3), st.booleans()),
    st.integers(0, 9).map(lambda n: Key(str(n), hash_=n % 2)),  # collisions, and foreign code
    st.sampled_from([None, 1.5, b"bytes", True]),
)
VALUES = st.one_of(
    st.integers(0, 5),
    st.sampled_from(["x", None, (), 2.0]),
    st.integers(0, 5).map(Box),
)


class MapMachine(RuleBasedStateMachine):
    """One map of ``package``, and what a ``dict`` says of it."""

    package: Any = None

    @initialize(shards=st.sampled_from([1, 2, 16]))
    def begin(self, shards: int) -> None:
        self.map = self.package.ConcurrentMap(shards=shards, history=HISTORY)
        self.model: dict[Any, Any] = {}
        self.known: set[Any] = set()
        self.version = self.structure = 0
        self.views: list[tuple[Any, dict[Any, Any], int]] = []
        self.pictures: list[tuple[Any, dict[Any, Any]]] = []
        self.stricts: list[tuple[Any, dict[Any, Any], int]] = []
        self.weaks: list[tuple[Any, list[Any]]] = []
        self.cursors: list[tuple[Any, dict[Any, Any]]] = []
        self.replica: dict[Any, Any] = {}
        self.replica_version = 0
        self.told: list[Any] = []
        self.expected: list[Any] = []
        self.map.on_update(lambda *change: self.told.append(change))

    # --- what changes it ----------------------------------------------------------

    def put(self, key: Any, value: Any) -> None:
        self.structure += key not in self.model
        self.model[key] = value
        self.known.add((key, value))
        self.version += 1
        self.expected.append((self.version, "store", key, value))

    def remove(self, key: Any) -> Any:
        self.version += 1
        self.structure += 1
        self.expected.append((self.version, "delete", key, None))
        return self.model.pop(key)

    @rule(key=KEYS, value=VALUES)
    def store(self, key: Any, value: Any) -> None:
        self.map.store(key, value)
        self.put(key, value)

    @rule(key=KEYS, value=VALUES)
    def load_or_store(self, key: Any, value: Any) -> None:
        got = self.map.load_or_store(key, value)
        if key in self.model:
            assert got == (self.model[key], True)
        else:
            assert got == (value, False)
            self.put(key, value)

    @rule(key=KEYS)
    def load_and_delete(self, key: Any) -> None:
        got = self.map.load_and_delete(key, "absent")
        expected = (self.remove(key), True) if key in self.model else ("absent", False)
        assert got == expected

    @rule(key=KEYS, expected=VALUES, value=VALUES)
    def compare_and_swap(self, key: Any, expected: Any, value: Any) -> None:
        done = self.map.compare_and_swap(key, expected, value)
        assert done == (key in self.model and self.model[key] == expected)
        if done:
            self.put(key, value)

    @rule(key=KEYS, expected=VALUES)
    def compare_and_delete(self, key: Any, expected: Any) -> None:
        done = self.map.compare_and_delete(key, expected)
        assert done == (key in self.model and self.model[key] == expected)
        if done:
            self.remove(key)

    @rule(begin=st.integers(100, 400), count=st.integers(20, 150), value=VALUES)
    def store_many(self, begin: int, count: int, value: Any) -> None:
        for key in range(begin, begin + count):
            self.map.store(key, value)
            self.put(key, value)

    @rule(step=st.integers(2, 5))
    def delete_many(self, step: int) -> None:
        for key in list(self.model)[::step]:
            assert self.map.pop(key) == self.remove(key)

    @precondition(lambda self: len(self.model) > 50)
    @rule()
    def clear(self) -> None:
        self.map.clear()
        self.model = {}
        self.version += 1
        self.structure += 1
        self.expected.append((self.version, "clear", None, None))

    # --- what looks at it ---------------------------------------------------------

    @rule(key=KEYS)
    def load(self, key: Any) -> None:
        assert self.map.load(key, "absent") == self.model.get(key, "absent")
        assert (key in self.map) == (key in self.model)
        for view, model, _ in self.views:
            assert view.load(key, "absent") == model.get(key, "absent")

    @precondition(lambda self: len(self.views) < MOST_OPEN)
    @rule(as_view=st.booleans())
    def open_view(self, as_view: bool) -> None:
        view = self.map.read_view() if as_view else self.map.snapshot()
        self.views.append((view, dict(self.model), self.version))

    @precondition(lambda self: self.views)
    @rule(data=st.data())
    def close_view(self, data: Any) -> None:
        view, _, _ = self.views.pop(data.draw(st.integers(0, len(self.views) - 1)))
        view.close()

    @precondition(lambda self: len(self.pictures) < MOST_OPEN)
    @rule(mode=st.sampled_from(["snapshot", "view"]))
    def begin_picture(self, mode: str) -> None:
        self.pictures.append((self.map.iterate(mode), dict(self.model)))

    @precondition(lambda self: self.views and len(self.pictures) < MOST_OPEN)
    @rule()
    def begin_walk_of_a_view(self) -> None:
        view, model, _ = self.views[-1]
        self.pictures.append((view.iterate(), dict(model)))

    @precondition(lambda self: len(self.stricts) < MOST_OPEN)
    @rule()
    def begin_strict(self) -> None:
        self.stricts.append((self.map.iterate("strict"), dict(self.model), self.structure))

    @precondition(lambda self: len(self.weaks) < MOST_OPEN)
    @rule()
    def begin_weak(self) -> None:
        self.weaks.append((self.map.iterate("weak"), []))

    @rule(steps=st.integers(1, 40))
    def step(self, steps: int) -> None:
        for walk, left in self.pictures:
            for _ in range(min(steps, len(left))):
                key, value = next(walk)
                assert left.pop(key) == value
        for walk, seen in self.weaks:
            seen.extend(item for item, _ in zip(walk, range(steps), strict=False))
            assert self.known.issuperset(seen)
        for strict in list(self.stricts):
            self.step_strict(strict, steps)

    def step_strict(self, strict: tuple[Any, dict[Any, Any], int], steps: int) -> None:
        walk, left, structure = strict
        assert walk.valid == (structure == self.structure)
        if structure != self.structure:
            try:
                next(walk)
            except StaleIterationError:
                self.stricts.remove(strict)
                return
            raise AssertionError("a strict walk went on over a changed structure")
        for _ in range(min(steps, len(left))):
            key, value = next(walk)
            del left[key]
            assert (key, value) in self.known

    @rule(data=st.data())
    def collect_garbage(self, data: Any) -> None:
        """Some of what is open becomes a cycle that nobody refers to."""
        cell: list[Any] = []
        everything: list[list[Any]] = [
            self.views,
            self.pictures,
            self.weaks,
            self.stricts,
            self.cursors,
        ]
        for opened in everything:
            if opened and data.draw(st.booleans()):
                cell = [opened.pop()]
                cell.append(cell)
        del cell
        gc.collect()

    @rule()
    def finish(self) -> None:
        for walk, left in self.pictures:
            assert dict(walk) == left
        for walk, seen in self.weaks:
            assert self.known.issuperset([*seen, *walk])
        for walk, left, structure in self.stricts:
            if structure == self.structure:
                assert dict(walk).keys() == left.keys()
        self.pictures, self.weaks, self.stricts = [], [], []

    @precondition(lambda self: len(self.cursors) < MOST_OPEN)
    @rule()
    def open_cursors(self) -> None:
        self.cursors.append((self.map.cursors(2), dict(self.model)))

    @rule(steps=st.integers(1, 10))
    def advance_cursors(self, steps: int) -> None:
        for (first, second), left in self.cursors:
            for _ in range(min(steps, first.steps - first.position)):
                position = first.position
                items = first.try_advance(position)
                assert items is not None
                assert second.try_advance(position) is None
                for key, value in items:
                    assert left.pop(key) == value
            assert (first.position == first.steps) <= (not left)

    @rule()
    def replicate(self) -> None:
        lost = self.version - self.replica_version > HISTORY
        try:
            changes = self.map.changes(self.replica_version)
        except HistoryLostError:
            assert lost
            with self.map.read_view() as view:
                self.replica, self.replica_version = dict(view), view.version
        else:
            assert not lost
            assert changes == self.expected[self.replica_version :]
            for self.replica_version, operation, key, value in changes:
                if operation == "store":
                    self.replica[key] = value
                elif operation == "delete":
                    del self.replica[key]
                else:
                    self.replica.clear()
        assert (self.replica, self.replica_version) == (self.model, self.version)

    # --- what always holds --------------------------------------------------------

    @invariant()
    def equal(self) -> None:
        if not hasattr(self, "map"):
            return
        assert (len(self.map), self.map.version) == (len(self.model), self.version)
        assert self.told == self.expected
        for view, model, version in self.views:
            assert (len(view), view.version) == (len(model), version)

    @invariant()
    def equal_throughout(self) -> None:
        if not hasattr(self, "map") or self.version % 7:
            return  # it takes its time
        assert dict(self.map) == self.model
        for view, model, _ in self.views:
            assert dict(view) == model

    def teardown(self) -> None:
        if not hasattr(self, "map"):
            return
        assert dict(self.map.iterate("strict")) == self.model
        assert all(dict(view) == model for view, model, _ in self.views)
        self.views, self.pictures, self.stricts, self.weaks = [], [], [], []
        self.cursors = []
        gc.collect()
        stats = self.map.stats()
        kept = stats["views_open"], stats["view_bytes"], stats["view_entries"]
        assert kept == (0, 0, 0)
        assert stats["entries"] == len(self.model)
        ended = sum(sum(outcomes.values()) for outcomes in stats["ranges"].values())
        assert self.package is IMPLEMENTATIONS["reference"] or ended == stats["ranges_begun"]


def run_model(implementation: str, *, examples: int, steps: int = 30) -> None:
    """Raises what the first difference raises, after hypothesis has made it small."""
    gc.freeze()  # or each collection looks at all that the test run has in memory
    try:
        _run(implementation, examples, steps)
    finally:
        gc.unfreeze()


def _run(implementation: str, examples: int, steps: int) -> None:
    machine = type("Machine", (MapMachine,), {"package": IMPLEMENTATIONS[implementation]})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        ),
    )
