"""Store and load_or_store during a split: a weak walk misses keys and repeats others.

It goes by the numbers of the directory's slots, up to the number that there were when it
came to the shard. New keys split the buckets and double the directory, and the same number
is another place then: keys that were there all the time come twice, or never. A snapshot
walks the table as it was.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from typing import Literal

from concurrent_map import ConcurrentMap
from rounds import main, meanwhile, numbers

OLD, NEW = 1000, 8000
WRITES = itertools.cycle(["store", "load_or_store"])
"""The rounds take turns."""


def walked(mode: Literal["weak", "snapshot"]) -> str | None:
    """A walk in whose middle another thread stores new keys."""
    prices = numbers(OLD, "prices")
    write = writing(prices, next(WRITES))
    splits = prices.stats()["splits"]
    seen: Counter[int] = Counter()
    for at, (key, _value) in enumerate(prices.iterate(mode)):
        if at == OLD // 2:
            meanwhile(write)
        seen[key] += 1
    if prices.stats()["splits"] == splits:
        return None  # then it was no split that spoiled it
    missed = sum(1 for key in range(OLD) if not seen[key])
    repeated = sum(1 for key in range(OLD) if seen[key] > 1)
    new = sum(1 for key in seen if key >= OLD)
    if mode == "weak":
        return f"{missed} of {OLD} missed, {repeated} repeated" if missed and repeated else None
    if missed or repeated or new:
        return f"{missed} missed, {repeated} repeated, {new} of later"
    return None


def writing(prices: ConcurrentMap[int, int], how: str) -> Callable[[], None]:
    """What the other thread does."""

    def write() -> None:
        for key in range(OLD, OLD + NEW):
            if how == "store":
                prices.store(key, 0)
            else:
                prices.load_or_store(key, 0)

    return write


if __name__ == "__main__":
    main(
        "store during split",
        weak=lambda: walked("weak"),
        mode="snapshot",
        cured=lambda: walked("snapshot"),
    )
