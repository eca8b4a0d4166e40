"""What a map keeps alive, and that it lets go: references, cycles, memory, threads."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

from contract import MODES, Contract, both

REPETITIONS = int(os.environ.get("CONCURRENT_MAP_REPETITIONS", "30"))


class Thing:
    """Can be referred to weakly, and refers to whatever it is given."""

    def __init__(self, other: object = None) -> None:
        self.other = other


def exercise(new: Callable[..., Any], key: Any, value: Any) -> None:
    """Each method once, on a map with ``key`` and ``value`` among others."""
    m = new({n: n for n in range(100)}, history=5)
    told: list[Any] = []
    m.on_update(lambda *change: told.append(change))
    m.store(key, value)
    m.store(key, value)
    m.load(key)
    m.load_or_store(key, None)
    m.compare_and_swap(key, value, value)
    m.compare_and_swap(key, object(), None)
    walks = [m.iterate(mode, what) for mode in MODES for what in ("items", "keys", "values")]
    for walk in walks:
        next(walk)
    with m.snapshot() as first, m.read_view() as second, m.exclusive(key):
        m.compare_and_delete(key, value)
        m.load_or_store(key, value)
        for view in (first, second):
            assert (view[key], key in view, len(view), len(list(view))) == (value, True, 101, 101)
            view.range(lambda k, v: None)  # noqa: ARG005
        for n in range(400):  # splits
            m.store(n, value)
    for walk in walks[::2]:
        walk.close()
    cursors = m.cursors(2)
    cursors[0].try_advance(0)
    list(cursors[1])
    m.changes(m.version - 5)
    m.load_and_delete(key)
    m.pop(0)
    m.popitem()
    with contextlib.suppress(KeyError):
        m[value, key]
    with contextlib.suppress(TypeError):
        m.store([], key)
    with contextlib.suppress(TypeError):
        m.range(key)
    m.clear()
    m.store(key, value)


class References(Contract):
    def test_every_reference_is_let_go(self) -> None:
        key, value = Thing(), Thing()
        exercise(self.new, key, value)
        gc.collect()
        counts = sys.getrefcount(key), sys.getrefcount(value)
        objects = len(gc.get_objects())
        for _ in range(REPETITIONS):
            exercise(self.new, key, value)
        gc.collect()
        assert (sys.getrefcount(key), sys.getrefcount(value)) == counts
        assert abs(len(gc.get_objects()) - objects) < 10

    def test_copies_of_a_bucket_let_go_in_any_order(self) -> None:
        """Views and walks share what did not change between them, and each may be the last."""
        for order in itertools.permutations(range(5)):
            things = [Thing() for _ in range(24)]
            base = [sys.getrefcount(thing) for thing in things]
            m = self.new({n: things[n] for n in range(12)}, shards=1)
            pictures: list[Any] = []
            for n in range(4):
                pictures.append((m.snapshot(), dict(m)))
                m.store(n, things[12 + n])  # replaced
                m.pop(11 - n)  # another one moves to its place
                if n % 2:
                    m.store(20 + n, things[16 + n])
                m.compare_and_swap(5, things[5], things[5])
            walk = m.iterate("weak")
            next(walk)
            m.store(4, things[20])
            pictures.insert(2, (walk, None))
            for number in order:
                for picture, model in pictures:
                    assert model is None or picture is None or dict(picture) == model
                pictures[number] = None, None
                del picture, model
            walk = None
            assert [key for key in range(12) if key in m] == list(range(8))
            del m, pictures
            assert [sys.getrefcount(thing) for thing in things] == base

    def test_memory_comes_back_to_its_base(self) -> None:
        m = self.new()
        for n in range(2000):
            m.store(n, n)
        m.clear()
        base = m.stats()
        for _ in range(5):
            for n in range(2000):
                m.store(n, n)
            views = [m.snapshot() for _ in range(3)]
            for n in range(2000):
                m.store(n, -n)
            walk = m.iterate("weak")
            next(walk)
            m.clear()
            del views, walk
        stats = m.stats()
        for what in ("table_bytes", "view_bytes", "view_entries", "views_open", "entries"):
            assert stats[what] == base[what]

    def test_the_heap_does_not_grow(self) -> None:
        if not self.is_c:
            return
        program = (
            "import sys, resource\n"
            "from concurrent_map import ConcurrentMap\n"
            "def work():\n"
            "    m = ConcurrentMap({n: n for n in range(20000)}, history=1000)\n"
            "    views = [m.snapshot() for _ in range(3)]\n"
            "    for n in range(0, 40000, 3): m.store(n, -n)\n"
            "    walk = m.iterate('weak'); next(walk); m.clear()\n"
            "for n in range(5): work()\n"
            "base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
            "for n in range(30): work()\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base)\n"
        )
        said = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True, text=True, check=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )  # fmt: skip
        assert int(said.stdout) < 4096  # KiB; one round takes more

    def test_no_thread_is_left(self) -> None:
        before = threads()
        exercise(self.new, Thing(), Thing())
        assert threads() == before


class Cycles(Contract):
    def test_cycles_through_a_map_are_found(self) -> None:
        makers: dict[str, Callable[[Any], object]] = {
            "value": lambda m: m.store("self", m),
            "key": lambda m: m.store(Thing(m), 1),
            "replaced": lambda m: (m.store("self", m), m.store("self", 1)),
            "snapshot": lambda m: m.store("view", m.snapshot()),
            "kept by a view": lambda m: (
                m.store("self", Thing(m)), m.store("view", m.snapshot()), m.store("self", 1)
            ),
            "iterator": lambda m: m.store("walk", m.iterate("weak")),
            "begun iterator": lambda m: begun(m, "weak"),
            "begun picture": lambda m: begun(m, "view"),
            "cursors": lambda m: m.store("cursors", m.cursors(2)),
            "exclusive": lambda m: m.store("section", m.exclusive("k")),
            "callback": lambda m: m.on_update(lambda *_: m),
            "history": lambda m: (m.store("self", m), m.load_and_delete("self")),
        }  # fmt: skip
        for name, make in makers.items():
            m = self.new({n: n for n in range(30)}, history=8)
            m.store("witness", witness := Thing())
            gone = weakref.ref(witness), weakref.ref(m)
            make(m)
            del m, witness
            gc.collect()
            assert [one() for one in gone] == [None, None], name

    def test_what_is_reachable_stays(self) -> None:
        m = self.new({n: Thing() for n in range(50)})
        view = m.snapshot()
        walk = m.iterate("weak")
        next(walk)
        for n in range(50):
            m.store(n, Thing(m))
        outer = [m]
        m.store("outer", outer)
        for _ in range(3):
            gc.collect()
        assert all(type(thing) is Thing for thing in view.values())
        assert len(list(walk)) >= 0
        assert all(thing.other is m for key, thing in m.items() if key != "outer")

    def test_a_walk_that_is_garbage_takes_nothing_along(self) -> None:
        """What the walk and the map share is the map's as long as it is there."""
        for views in (0, 1, 2):
            m = self.new({n: [n] for n in range(40)}, shards=1)
            kept = [m.snapshot() for _ in range(views)]
            for n in range(4):
                cell: list[Any] = [walk := m.iterate("weak"), m.iterate("weak")]
                next(walk)
                if n % 2:
                    next(cell[1])
                cell.append(cell)
                m.store(n, [n])
                if n == views:
                    kept.append(m.snapshot())
                m.pop(30 + n)
                del cell, walk
                gc.collect()
                assert {key: value[:] for key, value in m.items()} == {
                    key: [key] for key in [*range(30), *range(31 + n, 40)]
                }
            for view in kept:
                assert all(value == [key] for key, value in view.items())

    def test_finalizers_in_a_cycle_may_use_what_is_left(self) -> None:
        seen: list[Any] = []

        class Last:
            def __init__(self, m: Any) -> None:
                self.m, self.view, self.section = m, m.snapshot(), m.exclusive("k")

            def __del__(self) -> None:
                self.m.store("last", 1)
                with self.section:
                    seen.append((self.m.load("last"), len(self.m) > 0))

        m = self.new()
        m.store("last", Last(m))
        del m
        gc.collect()
        gc.collect()
        assert seen == [(1, True)]

    def test_maps_in_maps(self) -> None:
        depth = 50_000 if self.is_c else 10_000
        kinds = [self.package.ConcurrentMap]
        if self.is_c:
            kinds.append(self.package._core.Map)
        for kind in kinds:
            m: Any = None
            for _ in range(depth):
                m = kind({0: m}, shards=1)
            del m
            gc.collect()


def begun(m: Any, mode: str) -> None:
    """An iterator inside of the bucket that holds it, which is then replaced."""
    m.store("cell", cell := [])
    walk = m.iterate(mode)
    next(walk)
    cell.append(walk)
    for n in range(30):
        m.store(n, -n)


def threads() -> int:
    """The kernel's count; Python's where there is no /proc."""
    try:
        return len(os.listdir("/proc/self/task"))
    except FileNotFoundError:
        return threading.active_count()


globals().update(both(__name__, References, Cycles))
del Contract, References, Cycles
