"""Delete, then range on a stale bucket: a walk goes on in a bucket that the map no longer has.

The walk stands in a bucket. Another thread deletes its entries and stores so many others that
the bucket is split, which retires it. A weak walk hands out what it copied from there. A strict
one knows (``valid``) and reads nothing of a retired bucket any more.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Literal

from concurrent_map import StaleIterationError
from rounds import main, meanwhile, numbers

OLD, NEW = 64, 2000


def stand_and_go_on(mode: Literal["weak", "strict"]) -> tuple[list[int], int, bool]:
    """(old keys given after all were deleted, stale buckets met, whether it was still valid)."""
    routes = numbers(OLD, "routes")
    walk = routes.iterate(mode, "keys")
    next(walk)

    def replace() -> None:
        retired = routes.stats()["retired"]
        for key in range(OLD):
            routes.load_and_delete(key)
        for key in range(OLD, OLD + NEW):
            routes.store(key, 0)
        if routes.stats()["retired"] == retired:
            raise RuntimeError("no bucket was retired: this shows nothing")

    meanwhile(replace)
    valid = walk.valid
    given: list[int] = []
    with suppress(StaleIterationError):
        given += (key for key in walk if key < OLD)
    return given, routes.stats()["stale_hits"], valid


def in_weak() -> str | None:
    """Reads on."""
    given, stale, valid = stand_and_go_on("weak")
    if not given or not stale or valid:
        return None
    return f"{len(given)} deleted entries from a retired bucket; stale_hits {stale}"


def in_strict() -> str | None:
    """Knows, fails, and a new walk gives what is there."""
    given, stale, valid = stand_and_go_on("strict")
    if given or stale != 1 or valid:
        return f"{len(given)} deleted entries, stale_hits {stale}, valid {valid}"
    return None


if __name__ == "__main__":
    main("delete then range on a stale bucket", weak=in_weak, mode="strict", cured=in_strict)
