"""The operations on one key, and the mapping around them."""

from __future__ import annotations

import copy
import gc
import pickle
import random
import threading
from collections.abc import Mapping, MutableMapping
from typing import Any

from contract import Contract, Key, both, meanwhile


class Operations(Contract):
    def test_load_and_store(self) -> None:
        m = self.new()
        assert m.load("a") is None
        assert m.load("a", 5) == 5
        assert m.store("a", 1) is None
        m["b"] = 2
        assert (m.load("a"), m["b"], m.load("b", 7)) == (1, 2, 2)
        m.store("a", None)
        assert m.load("a", 5) is None
        assert ("a" in m, "c" in m, len(m)) == (True, False, 2)

    def test_an_overwritten_key_stays_the_same_object(self) -> None:
        first, second = Key("same"), Key("same")
        m = self.new({first: 1})
        m.store(second, 2)
        assert [(key is first, value) for key, value in m.items()] == [(True, 2)]

    def test_load_or_store(self) -> None:
        m = self.new()
        assert m.load_or_store("a", 1) == (1, False)
        assert m.load_or_store("a", 2) == (1, True)
        assert m.setdefault("a", 3) == 1
        assert m.setdefault("b") is None
        assert "b" in m

    def test_load_and_delete(self) -> None:
        m = self.new({"a": 1})
        assert m.load_and_delete("a") == (1, True)
        assert m.load_and_delete("a") == (None, False)
        assert m.load_and_delete("a", 9) == (9, False)
        assert len(m) == 0

    def test_pop_and_popitem_and_del(self) -> None:
        m = self.new({"a": 1, "b": 2, "c": 3})
        assert m.pop("a") == 1
        assert m.pop("a", 4) == 4
        with self.assertRaises(KeyError) as caught:
            m.pop("a")
        assert caught.exception.args == ("a",)
        del m["b"]
        with self.assertRaises(KeyError) as caught:
            del m["b"]
        assert caught.exception.args == ("b",)
        with self.assertRaises(KeyError) as caught:
            m["b", 1]
        assert caught.exception.args == (("b", 1),)
        assert m.popitem() == ("c", 3)
        with self.assertRaises(KeyError):
            m.popitem()

    def test_compare_and_swap(self) -> None:
        m = self.new({"a": 1})
        assert m.compare_and_swap("a", 1, 2)
        assert not m.compare_and_swap("a", 1, 3)
        assert not m.compare_and_swap("b", None, 3)
        assert m.compare_and_swap("a", 2.0, 4)  # equal is enough
        assert m["a"] == 4
        nan = float("nan")
        m["n"] = nan
        assert m.compare_and_swap("n", nan, 0)  # so is identical
        assert not m.compare_and_swap("n", float("nan"), 1)

    def test_compare_and_delete(self) -> None:
        m = self.new({"a": 1, "l": [1, 2]})
        assert not m.compare_and_delete("a", 2)
        assert not m.compare_and_delete("b", 1)
        assert m.compare_and_delete("a", True)
        assert m.compare_and_delete("l", [1, 2])
        assert dict(m) == {}

    def test_clear(self) -> None:
        m = self.new({n: n for n in range(1000)})
        before = m.version
        m.clear()
        assert (len(m), list(m), m.version) == (0, [], before + 1)
        m.store(1, 2)
        assert dict(m) == {1: 2}

    def test_versions_count_changes_and_nothing_else(self) -> None:
        m = self.new()
        steps = [
            (lambda: m.store("a", 1), 1),
            (lambda: m.store("a", 1), 1),
            (lambda: m.load("a"), 0),
            (lambda: m.load_or_store("a", 2), 0),
            (lambda: m.load_or_store("b", 2), 1),
            (lambda: m.compare_and_swap("a", 5, 2), 0),
            (lambda: m.compare_and_swap("a", 1, 2), 1),
            (lambda: m.compare_and_delete("a", 1), 0),
            (lambda: m.compare_and_delete("a", 2), 1),
            (lambda: m.load_and_delete("a"), 0),
            (lambda: m.load_and_delete("b"), 1),
            (m.clear, 1),
        ]
        for step, more in steps:
            before = m.version
            step()
            assert m.version == before + more


class Mappings(Contract):
    def test_it_is_a_mutable_mapping(self) -> None:
        m = self.new({"a": 1}, name="n")
        assert isinstance(m.snapshot(), Mapping)
        assert issubclass(type(m), MutableMapping)
        m.update({"b": 2}, c=3)
        assert m == {"a": 1, "b": 2, "c": 3}
        assert sorted(m) == ["a", "b", "c"]
        assert sorted(m.values()) == [1, 2, 3]
        assert m.items() & {("a", 1)} == {("a", 1)}
        assert m.keys() - {"a"} == {"b", "c"}
        assert m.get("a") == 1
        assert m.get("z", 5) == 5
        assert repr(m) == "<ConcurrentMap 'n': 3 entries>"
        match m:
            case {"a": one}:
                assert one == 1
            case _:
                raise AssertionError("no mapping for match")
        with self.assertRaises(TypeError):
            hash(m)

    def test_how_it_can_be_made(self) -> None:
        class Plain:
            def keys(self) -> list[int]:
                return [1, 2]

            def __getitem__(self, key: int) -> int:
                return key * key

        assert self.new() == {}
        assert self.new([(1, 2), [3, 4]]) == {1: 2, 3: 4}
        assert self.new(self.new({1: 2})) == {1: 2}
        assert self.new(Plain()) == {1: 1, 2: 4}
        assert self.new(iter([("a", 1)]), name="x", shards=3, history=4).shards == 4
        assert (self.new(name="x").name, self.new().name) == ("x", None)

        class Text(str):
            __slots__ = ()

        assert self.new(name=Text("y")).name == "y"

    def test_what_it_refuses(self) -> None:
        for items in (5, [5], [(1, 2, 3)], [(1,)]):
            with self.assertRaises((TypeError, ValueError)):
                self.new(items)
        for options in ({"shards": 0}, {"shards": 1025}, {"history": -1}, {"history": 1 << 29}):
            with self.assertRaises(ValueError):
                self.new(**options)
        with self.assertRaises(TypeError):
            self.new(name=5)
        m = self.new()
        for call in (
            m.load,
            lambda: m.load(1, 2, 3),
            lambda: m.store(1),
            lambda: m.load_or_store(1),
            m.load_and_delete,
            lambda: m.compare_and_swap(1, 2),
            lambda: m.compare_and_delete(1),
            m.range,
            lambda: m.clear(1),
            lambda: m.on_update(5),
        ):
            with self.assertRaises(TypeError):
                call()

    def test_it_is_neither_copied_nor_pickled_by_accident(self) -> None:
        m = self.new({"a": 1})
        for thing in (m, m.snapshot()):
            for act in (copy.copy, copy.deepcopy, pickle.dumps):
                with self.assertRaises(TypeError):
                    act(thing)
        assert pickle.loads(pickle.dumps(dict(m))) == {"a": 1}

    def test_many_entries(self) -> None:
        for shards in (1, 16):
            m = self.new(shards=shards)
            for n in range(20_000):
                m.store(n, -n)
            for n in range(0, 20_000, 3):
                assert m.load_and_delete(n) == (-n, True)
            left = {n: -n for n in range(20_000) if n % 3}
            assert len(m) == len(left)
            assert dict(m.iterate("strict")) == left
            assert all(m.load(n, 1) == left.get(n, 1) for n in range(20_000))

    def test_random_operations_are_those_of_a_dict(self) -> None:
        for seed in range(3):
            dice = random.Random(seed)
            m, model = self.new(shards=dice.choice([1, 4])), {}
            keys = [*range(300), *map(str, range(300)), *((n, "x") for n in range(300)), None, 1.5]
            for _ in range(5000):
                key, value = dice.choice(keys), dice.random()
                if dice.random() < 0.6:
                    m[key] = model[key] = value
                else:
                    assert m.pop(key, None) == model.pop(key, None)
            assert m == model


class ForeignCode(Contract):
    """Keys and values whose methods raise, take the map in hand, or let others do so."""

    def test_unhashable_keys(self) -> None:
        m = self.new({"a": 1})
        for call in (
            lambda: m.load([]),
            lambda: m.store([], 1),
            lambda: m.load_or_store([], 1),
            lambda: m.load_and_delete([]),
            lambda: m.compare_and_swap([], 1, 2),
            lambda: m.compare_and_delete([], 1),
            lambda: [] in m,
            lambda: m[[]],
            lambda: m.shard_of([]),
            lambda: m.exclusive([]),
            lambda: m.snapshot().load([]),
        ):
            with self.assertRaises(TypeError):
                call()
        assert (dict(m), m.version) == ({"a": 1}, 1)

    def test_a_hash_that_raises(self) -> None:
        class Bad:
            def __hash__(self) -> int:
                raise LookupError("hash")

        m = self.new()
        with self.assertRaises(LookupError):
            m.store(Bad(), 1)
        with self.assertRaises(LookupError):
            m.load(Bad())
        assert m == {}

    def test_an_eq_that_raises_leaves_the_map_as_it_was(self) -> None:
        def fail(_key: Key) -> None:
            raise ArithmeticError("eq")

        m = self.new({Key("there"): 1})
        bad = Key("asked", on_eq=fail)
        view = m.snapshot()
        for call in (
            lambda: m.load(bad),
            lambda: m.store(bad, 1),
            lambda: m.load_or_store(bad, 1),
            lambda: m.load_and_delete(bad),
            lambda: m.compare_and_swap(bad, 1, 2),
            lambda: m.compare_and_delete(bad, 1),
            lambda: bad in m,
            lambda: m[bad],
            lambda: view.load(bad),
        ):
            with self.assertRaises(ArithmeticError):
                call()
        assert (len(m), m.version, [key.name for key in m]) == (1, 1, ["there"])

    def test_an_eq_of_values_that_raises(self) -> None:
        class Value:
            def __eq__(self, other: object) -> bool:
                raise ArithmeticError("eq")

            __hash__ = None  # type: ignore[assignment]

        m = self.new({"a": Value()})
        with self.assertRaises(ArithmeticError):
            m.compare_and_swap("a", 1, 2)
        with self.assertRaises(ArithmeticError):
            m.compare_and_delete("a", 1)
        assert (len(m), m.version) == (1, 1)

    def test_keys_of_one_hash(self) -> None:
        keys = [Key(str(n)) for n in range(200)]
        m = self.new({key: n for n, key in enumerate(keys)})
        assert len(m) == 200
        assert all(m.load(Key(str(n))) == n for n in range(200))
        for n in range(0, 200, 2):
            m.pop(Key(str(n)))
        assert sorted(m.values()) == list(range(1, 200, 2))
        assert m.load(Key("4"), "gone") == "gone"

    def test_an_eq_may_use_the_map(self) -> None:
        m = self.new()

        def meddle(_key: Key) -> None:
            if self.is_c:  # the reference has one lock, which its thread may enter again
                meanwhile(lambda: m.store("other", len(m)))
            m.store("third", len(m))

        m.store(Key("a"), 1)
        asking = Key("b", on_eq=meddle)
        m.store(asking, 2)
        asking.on_eq = None
        assert (m[Key("a")], m[Key("b")]) == (1, 2)
        assert "third" in m

    def test_an_eq_may_delete_what_is_compared(self) -> None:
        for operation in ("load", "store", "load_or_store", "load_and_delete"):
            there = Key("a")
            m = self.new({there: "value"})
            del there

            def away(key: Key, m: Any = m) -> None:
                key.on_eq = None
                m.clear()
                gc.collect()

            key = Key("a", on_eq=away)
            arguments = [key, "new"][: 1 if operation in {"load", "load_and_delete"} else 2]
            # The reference's dict is in the middle of it and may say so.
            try:
                getattr(m, operation)(*arguments)
            except RuntimeError:
                assert not self.is_c
            expected = {key: "new"} if "store" in operation else {}
            if self.is_c:
                assert dict(m) == expected

    def test_a_finalizer_may_use_the_map(self) -> None:
        m = self.new()

        class Last:
            def __del__(self) -> None:
                m.store("finalized", m.load("finalized", 0) + 1)

        m.store("a", Last())
        m.store("a", 1)
        m.store("a", Last())
        m.load_and_delete("a")
        m.store("a", Last())
        m.compare_and_delete("a", m.load("a"))
        assert m["finalized"] == 3
        m.store("b", Last())
        m.clear()
        assert dict(m) == {"finalized": 1}

    def test_swaps_between_threads_lose_nothing(self) -> None:
        m = self.new({"n": 0})

        def work() -> None:
            for _ in range(300):
                while not m.compare_and_swap("n", value := m["n"], value + 1):
                    pass

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert m["n"] == 1200

    def test_exclusive(self) -> None:
        m = self.new({"k": 0})
        with m.exclusive("k"), m.exclusive("k"):
            m.store("k", 1)
        entered, done = threading.Event(), threading.Event()

        def other() -> None:
            entered.set()
            m.store("k", 2)
            done.set()

        with m.exclusive("k"):
            thread = threading.Thread(target=other)
            thread.start()
            entered.wait()
            assert not done.wait(0.05)
            assert m.load("k") == 1
        thread.join()
        assert m.load("k") == 2
        assert 0 <= m.shard_of("k") < m.shards


globals().update(both(__name__, Operations, Mappings, ForeignCode))
del Contract, Operations, Mappings, ForeignCode
