"""Behaviour that changes with the implementation's version: what a weak walk sees of new keys.

The contract of a weak walk leaves open whether keys that are stored meanwhile are given. Each
version does something, always the same, and programs come to rely on it: until the next one.
The package's two implementations stand for two versions here: plain Python gives no new key
and repeats none, C does both. In a snapshot both give the same, and always will.

What each does today is pinned by ``examples/concurrent_map/tests/test_weak_behaviour.py``, so
that a change is a decision.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal

from concurrent_map import ConcurrentMap, reference
from rounds import kept, main, meanwhile

OLD, NEW = 300, 1000


def seen(make: Any, mode: Literal["weak", "snapshot"]) -> dict[str, int]:
    """A program's view of its own walk, in whose middle keys are stored."""
    orders = kept(make(dict.fromkeys(range(OLD), 0), name="orders", shards=1))
    found: Counter[int] = Counter()

    def store() -> None:
        for key in range(OLD, OLD + NEW):
            orders.store(key, 0)

    for at, (key, _value) in enumerate(orders.iterate(mode)):
        if at == OLD // 2:
            meanwhile(store)
        found[key] += 1
    return {
        "given": found.total(),
        "new": sum(1 for key in found if key >= OLD),
        "repeated": sum(1 for times in found.values() if times > 1),
    }


def differ(mode: Literal["weak", "snapshot"]) -> str | None:
    """What the one implementation does and the other does not."""
    here, there = seen(ConcurrentMap, mode), seen(reference.ConcurrentMap, mode)
    return f"C gave {here}, plain Python {there}" if here != there else None


if __name__ == "__main__":
    main(
        "behaviour of a version",
        weak=lambda: differ("weak"),
        mode="snapshot",
        cured=lambda: differ("snapshot"),
    )
