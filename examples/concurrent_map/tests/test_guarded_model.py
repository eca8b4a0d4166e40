"""GuardedMap against a model: any order of iterations, writes, time and forgotten iterators."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from concurrent_map import (
    ConcurrentMap,
    GuardedMap,
    MapUnavailableError,
    StaleIterationError,
    Transition,
    reference,
)
from concurrent_map.guarded import GuardedIterator

WINDOW, PERCENT, REST_S = 4, 50, 10
KEYS = st.integers(0, 5)


@dataclass
class Run:
    """One iteration: the real one, and what the model knows of it."""

    walk: Any
    kind: str
    """"guarded", "probe" or "snapshot"."""
    epoch: int
    structure: int
    content: dict[int, int]
    seen: int = 0
    over: bool = False


class Model:
    """The rules in the order in which the README tells them."""

    def __init__(self) -> None:
        self.live: dict[int, int] = {}
        self.good: dict[int, int] = {}
        self.structure = self.now = self.opened = self.asked = self.epoch = 0
        self.state = "closed"
        self.last: list[bool] = []
        self.forgotten: list[Run] = []
        self.moves: list[tuple[str, str]] = []

    def move(self, state: str) -> None:
        self.moves.append((self.state, state))
        self.state = state

    def open(self) -> None:
        self.epoch += 1
        self.move("open")

    def begin(self) -> str:
        self.settle_forgotten()
        if self.state == "closed":
            return "guarded"
        since = self.opened if self.state == "open" else self.asked
        if self.now - since < REST_S:
            return "snapshot"
        self.asked = self.now
        self.epoch += 1
        if self.state == "open":
            self.move("half_open")
        return "probe"

    def end(self, run: Run, outcome: str) -> None:
        self.settle_forgotten()
        if run.kind == "snapshot" or run.epoch != self.epoch or run.over:
            return
        if outcome == "complete":
            self.good = dict(self.live)
        if run.kind == "guarded":
            self.last = [*self.last, outcome == "failed"][-WINDOW:]
            if sum(self.last) * 100 > PERCENT * WINDOW:
                self.opened = self.now
                self.open()
        elif outcome == "complete":
            self.last = []
            self.move("closed")
        else:
            self.opened = self.now if outcome == "failed" else self.opened
            self.open()

    def settle_forgotten(self) -> None:
        runs, self.forgotten = self.forgotten, []
        for run in runs:
            self.end(run, "stopped")

    def served(self) -> dict[int, int]:
        return self.live if self.state == "closed" else self.good


class Machine(RuleBasedStateMachine):
    """Every step is done to both."""

    runs = Bundle("runs")
    make: Callable[..., Any] = reference.ConcurrentMap

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.inner = type(self).make(shards=1)
        self.told: list[Transition] = []
        self.guarded: GuardedMap[int, int] = GuardedMap(
            self.inner,
            percent=PERCENT,
            window=WINDOW,
            rest_s=REST_S,
            snapshot_every_s=0,
            clock=lambda: self.model.now,
            on_change=self.told.append,
        )

    def _put(self, key: int, value: int) -> None:
        self.model.structure += key not in self.model.live
        self.model.live[key] = value

    @rule(key=KEYS, value=KEYS)
    def store(self, key: int, value: int) -> None:
        if self.model.state == "closed":
            self.guarded.store(key, value)
            self._put(key, value)
            return
        with pytest.raises(MapUnavailableError) as refused:
            self.guarded.store(key, value)
        assert refused.value.state == self.model.state
        self.model.settle_forgotten()

    @rule(key=KEYS, value=KEYS)
    def others_store(self, key: int, value: int) -> None:
        self.inner.store(key, value)
        self._put(key, value)

    @rule(key=KEYS)
    def others_delete(self, key: int) -> None:
        assert self.inner.load_and_delete(key, -1)[0] == self.model.live.get(key, -1)
        self.model.structure += self.model.live.pop(key, None) is not None

    @rule(key=KEYS)
    def load(self, key: int) -> None:
        assert self.guarded.load(key, -1) == self.model.served().get(key, -1)
        assert len(self.guarded) == len(self.model.served())

    @rule(target=runs)
    def begin(self) -> Run:
        kind = self.model.begin()
        walk = self.guarded.iterate()
        found = "snapshot"
        if isinstance(walk, GuardedIterator):
            found = "probe" if walk.is_probe else "guarded"
        assert found == kind
        content = dict(self.model.good if kind == "snapshot" else self.model.live)
        return Run(walk, kind, self.model.epoch, self.model.structure, content)

    @rule(run=runs)
    def step(self, run: Run) -> None:
        if run.over:
            return
        stale = run.kind != "snapshot" and run.structure != self.model.structure
        if stale:
            with pytest.raises(StaleIterationError):
                next(run.walk)
            self._end(run, "failed")
        elif run.seen == len(run.content):
            with pytest.raises(StopIteration):
                next(run.walk)
            self._end(run, "complete")
        else:
            assert next(run.walk)[0] in run.content
            run.seen += 1

    @rule(times=st.integers(1, WINDOW))
    def spoil(self, times: int) -> None:
        """Iterations under which a key comes or goes: else few examples get to open it."""
        for _ in range(times):
            run: Any = self.begin()
            if 9 in self.model.live:
                self.others_delete(9)
            else:
                self.others_store(9, 9)
            self.step(run)

    @rule()
    def finish(self) -> None:
        """A whole iteration at once."""
        run: Any = self.begin()
        while not run.over:
            self.step(run)

    @rule(run=runs)
    def close(self, run: Run) -> None:
        run.walk.close()
        self._end(run, "stopped")

    def _end(self, run: Run, outcome: str) -> None:
        self.model.end(run, outcome)
        run.over = True

    @rule(run=consumes(runs))
    def forget(self, run: Run) -> None:
        run.walk = None
        self.model.forgotten.append(run)

    @rule(seconds=st.sampled_from([1, REST_S - 1, REST_S]))
    def wait(self, seconds: int) -> None:
        self.model.now += seconds

    @invariant()
    def agrees(self) -> None:
        assert self.guarded.state == self.model.state
        assert self.guarded.failures == sum(self.model.last)
        assert self.guarded.samples == len(self.model.last)
        assert [(one.old, one.new) for one in self.told] == self.model.moves
        assert [one.number for one in self.told] == list(range(1, len(self.told) + 1))


class OverC(Machine):
    make = ConcurrentMap


class OverReference(Machine):
    make = reference.ConcurrentMap


TestOverC = OverC.TestCase
TestOverReference = OverReference.TestCase
TestOverC.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestOverReference.settings = TestOverC.settings
