"""What the tests of the contracts share: each runs for the C implementation and the reference.

They are unittest's, so that interpreters without pytest run them too:

    PYTHONPATH=…:examples/concurrent_map/tests python -m unittest discover -s … -p 'test_contract_*'
"""

from __future__ import annotations

import gc
import threading
import unittest
from collections.abc import Callable
from typing import Any

import concurrent_map
from concurrent_map import reference

IMPLEMENTATIONS: dict[str, Any] = {"c": concurrent_map, "reference": reference}
MODES = ("weak", "strict", "snapshot", "view")


class Contract(unittest.TestCase):
    """``self.new(…)`` makes a map of the implementation that the test is for."""

    package: Any = concurrent_map
    is_c = True

    @classmethod
    def setUpClass(cls) -> None:
        """The collector need not look at all that a test run has in memory each time."""
        gc.freeze()
        cls.addClassCleanup(gc.unfreeze)

    def new(self, *items: Any, **options: Any) -> Any:
        return self.package.ConcurrentMap(*items, **options)


def both(name: str, *tests: type[Contract]) -> dict[str, Any]:
    """The test classes of a module ``name``, once for each implementation."""
    made: dict[str, Any] = {}
    for suffix, package in IMPLEMENTATIONS.items():
        for test in tests:
            label = f"{test.__name__}_{suffix}"
            body = {"package": package, "is_c": suffix == "c", "__module__": name}
            made[label] = type(label, (test,), body)
    return made


def meanwhile(work: Callable[[], object]) -> None:
    """Let another thread do it, from begin to end. What it raises is raised here."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised below
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


class Key:
    """Hashes as it is told; what equals it is decided by ``name``; ``__eq__`` may do more."""

    def __init__(
        self, name: str, hash_: int = 7, on_eq: Callable[[Key], object] | None = None
    ) -> None:
        self.name, self.hash, self.on_eq = name, hash_, on_eq

    def __hash__(self) -> int:
        return self.hash

    def __eq__(self, other: object) -> bool:
        for one in (self, other):
            if isinstance(one, Key) and one.on_eq is not None:
                one.on_eq(one)
        return isinstance(other, Key) and other.name == self.name

    def __repr__(self) -> str:
        return f"Key({self.name})"
