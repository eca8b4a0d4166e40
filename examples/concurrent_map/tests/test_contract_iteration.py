"""Each way of walking a map, and what it promises while others write."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from concurrent_map import StaleIterationError, ViewClosedError
from contract import MODES, Contract, both, meanwhile


def outcomes(m: Any, mode: str) -> dict[str, int]:
    return {outcome: n for outcome, n in m.stats()["ranges"][mode].items() if n}


class Walks(Contract):
    def test_without_writes_each_mode_gives_each_entry_once(self) -> None:
        for size, mode in itertools.product((0, 1, 8, 9, 500, 5000), MODES):
            model = {n: n * n for n in range(size)}
            m = self.new(model)
            assert sorted(m.iterate(mode)) == sorted(model.items())
            assert sorted(m.iterate(mode, "keys")) == sorted(model)
            assert sorted(m.iterate(mode, "values")) == sorted(model.values())
            walk = m.iterate(mode)
            assert (walk.mode, walk.valid, iter(walk) is walk) == (mode, True, True)

    def test_the_default_is_the_items_of_a_snapshot(self) -> None:
        walk = self.new({1: 2}).iterate()
        assert (walk.mode, list(walk)) == ("snapshot", [(1, 2)])

    def test_modes_and_parts_that_do_not_exist(self) -> None:
        m = self.new()
        for arguments in (("odd",), ("weak", "odd"), (None,), ("cursor",), ("weak", 5)):
            with self.assertRaises(ValueError):
                m.iterate(*arguments)
        with self.assertRaises(ValueError):
            m.range(print, "odd")
        with self.assertRaises(ValueError):
            m.snapshot().iterate("odd")
        assert m.stats()["views_open"] == 0

    def test_pairs_are_the_readers_own(self) -> None:
        m = self.new({n: str(n) for n in range(100)})
        assert len(set(m.items())) == 100
        for pair in m.items():
            assert hash(pair) == hash((pair[0], pair[1]))
        kept = list(m.iterate("weak"))
        assert len({id(pair) for pair in kept}) == 100

    def test_it_is_over_when_it_is_over(self) -> None:
        m = self.new({1: 1})
        walk = m.iterate("weak")
        assert list(walk) == [(1, 1)]
        m.store(2, 2)
        assert list(walk) == []
        walk = m.iterate("strict")
        walk.close()
        walk.close()
        assert list(walk) == []

    def test_outcomes_are_counted_once(self) -> None:
        m = self.new({n: n for n in range(10)})
        list(m.iterate("weak"))
        closed = m.iterate("view")
        next(closed)
        closed.close()
        forgotten = m.iterate("snapshot")
        next(forgotten)
        del forgotten
        strict = m.iterate("strict")
        next(strict)
        m.store("new", 1)
        with self.assertRaises(StaleIterationError):
            next(strict)
        assert next(strict, "over") == "over"
        stats = m.stats()
        assert outcomes(m, "weak") == {"complete": 1}
        assert outcomes(m, "view") == {"stopped": 1}
        assert outcomes(m, "snapshot") == {"stopped": 1}
        assert outcomes(m, "strict") == {"stale": 1}
        assert (stats["ranges_begun"], stats["range_items"]) == (4, 13)
        assert stats["stale_hits"] == 1

    def test_range(self) -> None:
        m = self.new({n: n for n in range(20)})
        for mode in MODES:
            seen: list[Any] = []
            assert m.range(lambda k, v, seen=seen: seen.append((k, v)), mode) == 20
            assert sorted(seen) == [(n, n) for n in range(20)]
            assert m.range(lambda k, v: False, mode) == 1  # noqa: ARG005
            falsies: list[Any] = [None, 0, "", []]
            for falsy in falsies:  # only False ends it
                assert m.range(lambda k, v, falsy=falsy: falsy, mode) == 20  # noqa: ARG005
            with self.assertRaises(ZeroDivisionError):
                m.range(lambda k, v: 1 // 0, mode)  # noqa: ARG005
            assert outcomes(m, mode) == {"complete": 5, "stopped": 1, "error": 1}
        assert m.range(lambda k, v: False) == 1  # noqa: ARG005
        assert outcomes(m, "weak")["stopped"] == 2

    def test_a_callbacks_own_stale_error_is_an_error(self) -> None:
        m = self.new({1: 1})

        def fail(_key: Any, _value: Any) -> None:
            raise StaleIterationError("of another map")

        with self.assertRaises(StaleIterationError):
            m.range(fail)
        assert outcomes(m, "weak") == {"error": 1}


class Strict(Contract):
    def test_it_fails_at_the_next_step_after_any_change_of_structure(self) -> None:
        changes: dict[str, Callable[[Any], object]] = {
            "store": lambda m: m.store("new", 1),
            "delete": lambda m: m.load_and_delete(5),
            "load_or_store": lambda m: m.load_or_store("new", 1),
            "compare_and_delete": lambda m: m.compare_and_delete(5, 5),
            "clear": lambda m: m.clear(),
        }
        for change in changes.values():
            for steps in (0, 1, 50, 99, 100):
                m = self.new({n: n for n in range(100)})
                walk = m.iterate("strict")
                for _ in range(steps):
                    next(walk)
                assert walk.valid
                meanwhile(partial(change, m))
                assert not walk.valid
                with self.assertRaises(StaleIterationError):
                    next(walk)
                assert list(walk) == []

    def test_values_that_are_replaced_do_not_count(self) -> None:
        m = self.new(dict.fromkeys(range(100), 0))
        walk = m.iterate("strict")
        next(walk)
        for n in range(100):
            m.store(n, 1)
            m.compare_and_swap(n, 1, 2)
            m.load_or_store(n, 5)
        assert walk.valid
        assert len(list(walk)) == 99

    def test_range_fails_as_well(self) -> None:
        m = self.new(dict.fromkeys(range(100), 0))
        with self.assertRaises(StaleIterationError):
            m.range(lambda k, _: m.store(("new", k), 0), "strict")
        assert outcomes(m, "strict") == {"stale": 1}

    def test_what_it_completes_is_the_map(self) -> None:
        m = self.new()
        stop = threading.Event()

        def write() -> None:
            for n in itertools.cycle(range(50)):
                if stop.is_set():
                    return
                m.store(n, n)
                m.load_and_delete((n + 25) % 50)

        thread = threading.Thread(target=write)
        thread.start()
        complete = 0
        try:
            for _ in range(2000):
                try:
                    keys = list(m.iterate("strict", "keys"))
                except StaleIterationError:
                    continue
                complete += 1
                assert len(keys) == len(set(keys)) <= 50
                if complete == 20:
                    break
        finally:
            stop.set()
            thread.join()
        stats = outcomes(m, "strict")
        assert stats.get("complete", 0) == complete


class Weak(Contract):
    def test_it_never_fails_and_gives_what_stays(self) -> None:
        m = self.new({n: n for n in range(2000)})
        walk = m.iterate("weak")
        seen = [next(walk)]
        for n in range(2000, 4000):
            m.store(n, n)
        for n in range(1000, 2000):
            m.load_and_delete(n)
        seen += walk
        known = {(n, n) for n in range(4000)}
        assert set(seen) <= known
        m.clear()
        assert list(m.iterate("weak")) == []

    def test_it_survives_that_the_map_is_emptied(self) -> None:
        m = self.new({n: [n] for n in range(3000)})
        walk = m.iterate("weak")
        first = next(walk)
        m.clear()
        rest = list(walk)
        assert all(value == [key] for key, value in [first, *rest])


class Pictures(Contract):
    """Snapshots and views."""

    def test_they_show_their_moment(self) -> None:
        model = {n: n for n in range(1000)}
        m = self.new(model)
        for take in (m.snapshot, m.read_view):
            before = dict(m)
            with take() as view:
                assert view.version == m.version
                for n in range(0, 1000, 2):
                    m.store(n, "later")
                for n in range(0, 1000, 5):
                    m.pop(n, None)
                m.store(("new", take.__name__), 1)
                assert dict(view) == before
                assert len(view) == len(before)
                assert view.load(("new", take.__name__), "absent") == "absent"
                assert all(view.load(key) == value for key, value in before.items())
                assert all(view[key] == value for key, value in before.items())
                assert sorted(map(str, view.keys())) == sorted(map(str, before))
                seen: dict[Any, Any] = {}
                assert view.range(seen.__setitem__) == len(before)
                assert seen == before
                m.clear()
                assert dict(view) == before
            m.update(model)

    def test_many_at_once_each_with_its_own(self) -> None:
        m = self.new()
        kept = []
        for n in range(60):
            m.store(n % 20, n)
            m.store(("other", n), n)
            if n % 3 == 2:
                m.pop(("other", n - 1))
            kept.append((m.snapshot(), dict(m)))
        for view, model in kept[::2]:
            assert dict(view) == model
            view.close()
        for view, model in kept[1::2]:
            assert dict(view) == model
        assert m.stats()["views_open"] == 30

    def test_closed_is_closed(self) -> None:
        m = self.new({1: 1})
        view = m.read_view()
        walk = view.iterate()
        view.close()
        view.close()
        assert view.closed
        for use in (
            lambda: view[1],
            lambda: view.load(1),
            lambda: len(view),
            lambda: 1 in view,
            lambda: list(view),
            lambda: view.range(print),
            view.__enter__,
        ):
            with self.assertRaises(ViewClosedError):
                use()
        assert list(walk) == [(1, 1)]  # it keeps what it needs
        assert view.version == 1

    def test_what_they_keep_is_counted_and_released(self) -> None:
        m = self.new({n: n for n in range(3000)})
        base = m.stats()
        first, second = m.snapshot(), m.read_view()
        for n in range(3000):
            m.store(n, -n)
        stats = m.stats()
        assert stats["views_open"] == 2
        if self.is_c:
            assert stats["view_entries"] == 3000
            assert stats["view_bytes"] >= 3000 * 24
        first.close()
        assert m.stats()["views_open"] == 1
        del second
        after = m.stats()
        assert (after["views_open"], after["view_bytes"], after["view_entries"]) == (0, 0, 0)
        assert after["table_bytes"] == base["table_bytes"]

    def test_a_view_outlives_the_name_of_its_map(self) -> None:
        m = self.new({1: 1})
        view = m.snapshot()
        m.store(1, 2)
        del m
        assert dict(view) == {1: 1}


class Cursors(Contract):
    def test_each_item_once(self) -> None:
        model = {n: n for n in range(5000)}
        m = self.new(model)
        cursors = m.cursors(4)
        shares: list[list[Any]] = [[] for _ in cursors]
        threads = [
            threading.Thread(target=lambda c=c, s=s: s.extend(c))
            for c, s in zip(cursors, shares, strict=True)
        ]
        m.store("later", 1)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(itertools.chain(*shares)) == sorted(model.items())
        assert cursors[0].position == cursors[0].steps
        assert m.stats()["retries"] == cursors[0].conflicts

    def test_a_step_is_taken_once(self) -> None:
        m = self.new({n: n for n in range(500)})
        first, second = m.cursors(2)
        assert (first.position, second.position) == (0, 0)
        taken = first.try_advance(0)
        assert taken is not None
        assert second.try_advance(0) is None
        assert second.try_advance(2) is None  # nobody has taken step 1 yet
        assert (second.position, second.conflicts) == (1, 2)
        for step in (first.steps, -1, 10**30):
            with self.assertRaises(IndexError):
                first.try_advance(step)
        rest = list(second)
        assert sorted(taken + rest) == [(n, n) for n in range(500)]
        assert list(first) == []

    def test_an_empty_map(self) -> None:
        assert [list(cursor) for cursor in self.new().cursors(3)] == [[], [], []]


class SharedBetweenThreads(Contract):
    def test_one_iterator_in_many_threads_gives_each_entry_once(self) -> None:
        for mode in MODES:
            m = self.new({n: n for n in range(3000)}, shards=16)
            walk = m.iterate(mode)
            shares: list[list[Any]] = [[] for _ in range(3)]

            def take(share: list[Any], walk: Any = walk) -> None:
                while True:
                    try:
                        share.append(next(walk))
                    except StopIteration:
                        return

            threads = [threading.Thread(target=take, args=(share,)) for share in shares]
            if self.is_c and mode in {"weak", "strict"}:
                with m.exclusive(0):  # they all come to wait at one shard
                    for thread in threads:
                        thread.start()
                    until_waiting(m, len(threads))
            else:
                for thread in threads:
                    thread.start()
            for thread in threads:
                thread.join()
            assert sorted(itertools.chain(*shares)) == [(n, n) for n in range(3000)]

    def test_an_iterator_may_be_closed_while_a_thread_waits_in_it(self) -> None:
        m = self.new({n: [n] for n in range(3000)}, shards=1)
        walk = m.iterate("weak")
        got: list[Any] = []
        thread = threading.Thread(target=lambda: got.extend(walk))
        if not self.is_c:
            return
        with m.exclusive(0):
            thread.start()
            until_waiting(m, 1)
            walk.close()
        thread.join()
        assert got == []
        m.clear()
        assert m.stats()["view_bytes"] == 0  # and it has left nothing owned


def until_waiting(m: Any, count: int) -> None:
    """Until there were so many waits for the shard that the caller has in hand."""
    pause = threading.Event()
    while m.stats()["waits"] < count:
        pause.wait(0.001)


globals().update(both(__name__, Walks, Strict, Weak, Pictures, Cursors, SharedBetweenThreads))
del Contract, Walks, Strict, Weak, Pictures, Cursors, SharedBetweenThreads
