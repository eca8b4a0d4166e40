"""Issue 6, line 5: each hazard fails in weak mode and is cured in the mode that it names."""

from __future__ import annotations

from collections.abc import Iterator

from tests.full import Figure, exactly, must_show
from tests.hazards import SCRIPTS, Hazards
from tests.interpreters import interpreters, scratch

ROUNDS = 100
MINORS = ((3, 11), (3, 12), (3, 13), (3, 14), (3, 15))


@must_show("hazards: as documented in weak mode, cured in their mode", issue=6, line=5)
def hazards() -> Iterator[Figure]:
    """A figure is of all scripts together under one interpreter."""
    minors = set()
    for python in interpreters():
        if python.version[:2] not in MINORS:
            continue
        with scratch(python) as directory:
            scripts = Hazards(directory, python)
            if not scripts.usable:
                continue
            found = [scripts.outcome(script, ROUNDS) for script in SCRIPTS]
        minors.add(python.version[:2])
        failed = sum(one.get("failed_in_weak", 0) for one in found)
        uncured = [one for one in found if one.get("failed_in_mode") != 0 or one["status"] != 0]
        wanted = ROUNDS * len(SCRIPTS)
        note = f"{len(SCRIPTS)} scripts, {ROUNDS} rounds each"
        yield Figure(failed, f"{python.id}: rounds that failed in weak", exactly(wanted), note)
        what = f"{python.id}: scripts not cured"
        yield Figure(len(uncured), what, exactly(0), str(uncured or ""))
    yield Figure(len(minors), "versions from 3.11 to 3.15", exactly(len(MINORS)))
