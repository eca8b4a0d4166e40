"""What is promised of walks under writes, and what weak ones happen to do in this version.

The second half is a contract test in reverse: nothing of it is promised, and programs must
not rely on it. It is pinned so that a change is noticed, said in the changelog, and made
on purpose (see examples/hazards/version_dependent.py).
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from concurrent_map import ConcurrentMap, StaleIterationError, reference

MAKES = [ConcurrentMap, reference.ConcurrentMap]
OLD, NEW = 300, 1000

# A store after the 101st entry: entries given in all, new keys, old ones repeated, missed.
STORED: dict[Any, tuple[int, int, int, int]] = {
    ConcurrentMap: (232, 96, 32, 196),
    reference.ConcurrentMap: (300, 0, 0, 0),
}
# All deleted after the 101st entry: deleted ones that are given nevertheless.
DELETED: dict[Any, int] = {ConcurrentMap: 3, reference.ConcurrentMap: 199}
MIDDLE = 100


def walked(make: Any, mode: str, *, delete: bool = False) -> Counter[int]:
    m = make(dict.fromkeys(range(OLD), 0), shards=1)
    seen: Counter[int] = Counter()
    for at, (key, _value) in enumerate(m.iterate(mode)):
        seen[key] += 1
        if at == MIDDLE:
            seen[-1] = at + 1
            if delete:
                for old in range(OLD):
                    m.load_and_delete(old)
            else:
                m.update(dict.fromkeys(range(OLD, OLD + NEW), 0))
    return seen


@pytest.mark.parametrize("make", MAKES)
@pytest.mark.parametrize("mode", ["snapshot", "view"])
@pytest.mark.parametrize("delete", [False, True])
def test_pictures_give_each_entry_of_their_moment_once(make: Any, mode: str, delete: bool) -> None:
    seen = walked(make, mode, delete=delete)
    del seen[-1]
    assert seen == Counter(range(OLD))


@pytest.mark.parametrize("make", MAKES)
def test_weak_gives_each_entry_once_when_nobody_writes(make: Any) -> None:
    m = make(dict.fromkeys(range(OLD), 0))
    assert Counter(m.iterate("weak", "keys")) == Counter(range(OLD))


@pytest.mark.parametrize("make", MAKES)
@pytest.mark.parametrize("delete", [False, True])
def test_strict_gives_nothing_after_the_change(make: Any, delete: bool) -> None:
    with pytest.raises(StaleIterationError):
        walked(make, "strict", delete=delete)


@pytest.mark.parametrize("make", MAKES)
def test_pinned_what_weak_does_with_keys_that_are_stored_meanwhile(make: Any) -> None:
    seen = walked(make, "weak")
    del seen[-1]
    new = sum(1 for key in seen if key >= OLD)
    repeated = sum(1 for times in seen.values() if times > 1)
    missed = sum(1 for key in range(OLD) if not seen[key])
    assert (seen.total(), new, repeated, missed) == STORED[make]


@pytest.mark.parametrize("make", MAKES)
def test_pinned_what_weak_does_with_keys_that_are_deleted_meanwhile(make: Any) -> None:
    seen = walked(make, "weak", delete=True)
    at = seen.pop(-1)
    assert seen.total() - at == DELETED[make]
