"""The change stream: callbacks at once, ``changes()`` later, a replica that is kept equal."""

from __future__ import annotations

import random
import sys
import threading
from typing import Any

from concurrent_map import HistoryLostError
from contract import Contract, both, meanwhile


def replay(replica: dict[Any, Any], changes: list[Any], version: int) -> int:
    """Do to ``replica`` what was done to the map; the version that it has then."""
    for number, operation, key, value in changes:
        assert number == version + 1
        version = number
        if operation == "store":
            replica[key] = value
        elif operation == "delete":
            del replica[key]
        else:
            assert (operation, key, value) == ("clear", None, None)
            replica.clear()
    return version


class Callbacks(Contract):
    def test_each_change_is_told_once(self) -> None:
        m = self.new({"a": 1})
        told: list[Any] = []
        listen = told.append
        m.on_update(lambda *change: listen(change))
        m.store("a", 2)
        m.load("a")
        m.load_or_store("a", 3)
        m.load_or_store("b", 3)
        m.compare_and_swap("a", 9, 3)
        m.compare_and_swap("a", 2, 3)
        m.compare_and_delete("a", 9)
        m.compare_and_delete("a", 3)
        m.load_and_delete("nothing")
        m.load_and_delete("b")
        m.clear()
        assert told == [
            (2, "store", "a", 2),
            (3, "store", "b", 3),
            (4, "store", "a", 3),
            (5, "delete", "a", None),
            (6, "delete", "b", None),
            (7, "clear", None, None),
        ]

    def test_callbacks_come_and_go(self) -> None:
        m = self.new()
        told: list[str] = []

        def first(*_change: Any) -> None:
            told.append("first")

        def second(*_change: Any) -> None:
            told.append("second")

        with self.assertRaises(ValueError):
            m.remove_on_update(first)
        for callback in (first, second, first):
            m.on_update(callback)
        m.store(1, 1)
        assert told == ["first", "second", "first"]
        m.remove_on_update(first)
        m.remove_on_update(first)
        m.store(1, 1)
        assert told[3:] == ["second"]
        m.remove_on_update(second)
        m.store(1, 1)
        assert len(told) == 4
        with self.assertRaises(ValueError):
            m.remove_on_update(second)

    def test_what_one_raises_is_nobodys_but_the_hooks(self) -> None:
        m = self.new({"a": 1})
        after: list[Any] = []
        hooked: list[Any] = []

        def fail(*change: Any) -> None:
            raise (KeyboardInterrupt if change[0] == 3 else LookupError)(change[0])

        m.on_update(fail)
        m.on_update(lambda *change: after.append(change[0]))
        before, sys.unraisablehook = sys.unraisablehook, lambda args: hooked.append(
            (args.exc_type, str(args.exc_value), args.object is fail, args.exc_traceback is None)
        )  # fmt: skip
        try:
            m.store("a", 2)
            m.load_and_delete("a")
            m.clear()
        finally:
            sys.unraisablehook = before
        assert after == [2, 3, 4]
        assert hooked == [
            (LookupError, "2", True, False),
            (KeyboardInterrupt, "3", True, False),
            (LookupError, "4", True, False),
        ]

    def test_one_may_use_the_map_and_the_callbacks(self) -> None:
        m = self.new()
        told: list[int] = []

        def listen(version: int, operation: str, key: Any, _value: Any) -> None:
            told.append(version)
            if key == "a":
                m.store("b", operation)
                meanwhile(lambda: m.load("a"))
                m.remove_on_update(listen)

        m.on_update(listen)
        m.store("a", 1)
        m.store("a", 2)
        assert dict(m) == {"a": 2, "b": "store"}
        assert sorted(told) == [1, 2]


class Changes(Contract):
    def test_the_history_is_bounded(self) -> None:
        m = self.new(history=3)
        assert m.changes(0) == []
        for n in range(5):
            m.store("k", n)
        assert m.changes(5) == []
        assert m.changes(2) == [(n + 1, "store", "k", n) for n in (2, 3, 4)]
        with self.assertRaises(HistoryLostError):
            m.changes(1)
        for wrong in (6, -1, 10**30, -(10**30)):
            with self.assertRaises(ValueError):
                m.changes(wrong)
        for other in ("1", 1.0, None):
            with self.assertRaises(TypeError):
                m.changes(other)
        assert m.stats()["history"] == 3

    def test_without_a_history(self) -> None:
        m = self.new()
        m.store(1, 1)
        assert m.changes(1) == []
        with self.assertRaises(HistoryLostError):
            m.changes(0)

    def test_the_history_keeps_its_objects_and_lets_them_go(self) -> None:
        m = self.new(history=2)
        thing = ["value"]
        base = sys.getrefcount(thing)
        m.store(1, thing)
        m.store(1, None)
        assert sys.getrefcount(thing) == base + 1
        assert m.changes(0) == [(1, "store", 1, thing), (2, "store", 1, None)]
        m.store(1, None)
        assert sys.getrefcount(thing) == base

    def test_a_replica_is_kept_equal_while_threads_write(self) -> None:
        m = self.new({n: n for n in range(50)}, history=100_000)
        with m.read_view() as view:
            replica, version = dict(view), view.version
        stop = threading.Event()

        def write(seed: int) -> None:
            dice = random.Random(seed)
            for _ in range(3000):
                key = dice.randrange(100)
                if dice.random() < 0.6:
                    m.store(key, dice.random())
                elif dice.random() < 0.98:
                    m.load_and_delete(key)
                else:
                    m.clear()

        threads = [threading.Thread(target=write, args=(n,)) for n in range(3)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            version = replay(replica, m.changes(version), version)
            stop.wait(0.001)
        version = replay(replica, m.changes(version), version)
        assert version == m.version
        assert replica == dict(m)

    def test_a_replica_that_was_too_slow_begins_again_at_a_view(self) -> None:
        m = self.new(history=4)
        replica: dict[Any, Any] = {}
        for n in range(10):
            m.store(n, n)
        with self.assertRaises(HistoryLostError):
            m.changes(0)
        with m.read_view() as view:
            replica, version = dict(view), view.version
        m.store(3, "new")
        assert replay(replica, m.changes(version), version) == m.version
        assert replica == dict(m)


globals().update(both(__name__, Callbacks, Changes))
del Contract, Callbacks, Changes
