"""What several objects are called together, and where threads stand."""

from __future__ import annotations

from typing import Any

import pytest

from tracer.heap.graph import FRAME, Root
from tracer.heap.model import Closure, Heap
from tracer.heap.names import Way
from tracer.heap.sites import common_name
from tracer.heap.threads import Standing, standing

LIBRARY = "/usr/lib/python3.11/threading.py"


def local(thread: str, rest: str = "") -> Way:
    text = f"(thread {thread}) handle:38 connection"
    return Way(text + rest, Root(FRAME, "connection", 0, "local"), text, (), 0)


def named(name: str) -> Way:
    return Way(name, Root("interpreter", "modules", -1, ""), "sys.modules", (), 0)


@pytest.mark.parametrize(
    ("ways", "together"),
    [
        ([named("app.CACHE")] * 2, "app.CACHE"),
        ([named("app.CACHE['a']"), named("app.CACHE[<str 3>]")], "app.CACHE[…]"),
        ([named("app.CACHE['a']"), named("app.QUEUE[0]")], "app.CACHE[…] and others"),
        ([local("one"), local("one")], "(thread one) handle:38 connection"),
        ([local("T (handle)"), local("a) b (c")], "(each thread) handle:38 connection"),
        ([local("one", ".rows[0]"), local("one", ".rows[1]")],
         "(thread one) handle:38 connection.rows[…]"),
        ([local("one", ".rows[0]"), local("two", ".rows[1]")],
         "(each thread) handle:38 connection.rows[…]"),
    ],
)  # fmt: skip
def test_what_differs_is_left_open(ways: list[Way], together: str) -> None:
    assert common_name(ways) == together


def heap(threads: int, frames: list[dict[str, Any]]) -> Heap:
    return Heap({}, [], [], {}, Closure(0, 0, 0, 0, 0, 0), [{} for _ in range(threads)], frames)


def frame(thread: object, function: str, file: str, owner: str = "thread") -> dict[str, Any]:
    return {"thread": thread, "function": function, "file": file, "line": 7, "owner": owner}


def test_threads_stand_in_a_library_and_in_the_program() -> None:
    found = standing(
        heap(
            5,
            [
                frame(0, "wait", LIBRARY),
                frame(0, "serve", "/srv/app.py"),
                frame(0, "main", "/srv/app.py"),
                frame(1, "wait", LIBRARY),
                frame(1, "serve", "/srv/app.py"),
                frame(2, "get", "/usr/lib/python3/dist-packages/pool.py"),
                frame(3, "coroutine", "/srv/app.py", owner="generator"),
                frame([], "nonsense", "/srv/app.py"),
                frame(17, "nonsense", "/srv/app.py"),
            ],
        )
    )
    in_pool = ("get", "/usr/lib/python3/dist-packages/pool.py", 7)
    assert found == {
        Standing(("wait", LIBRARY, 7), ("serve", "/srv/app.py", 7)): 2,
        Standing(in_pool, in_pool): 1,
        Standing(("coroutine", "/srv/app.py", 7), ("coroutine", "/srv/app.py", 7)): 1,
        Standing(None, None): 1,
    }
