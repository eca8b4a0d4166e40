"""Issue 5, lines 4 and 5: leaks found by two dumps, and by three among what comes and goes."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.full import Figure, at_least, at_most, exactly, must_show
from tests.heap_growth import (
    churning_server,
    dumps,
    parkscope,
    tls_server,
    told_apart,
    web_app,
)
from tests.interpreters import Interpreter, interpreters

MATRIX = [one for one in interpreters() if one.version[:2] >= (3, 11)]
PEERS, VISITS, SESSIONS = 20, 500, 200
CHURN = frozenset(f"__main__.{name}" for name in ("Answer", "Cached", "Job", "Request"))


def tls_leak(interpreter: Interpreter) -> Callable[[], Iterator[Figure]]:
    """One interpreter: the threads, the sockets and the lines are named."""

    def measure() -> Iterator[Figure]:
        with (
            tempfile.TemporaryDirectory(prefix="parkscope-") as directory,
            tls_server(interpreter) as leaking,
        ):
            paths, ((least, most),) = dumps(leaking, Path(directory), PEERS)
            found = parkscope("diff", *paths)
        name = interpreter.id
        first = found["threads"][0]
        place = f"{first['at']['function']}, from {first['from']['function']}"
        right = (
            first["at"]["function"].endswith("do_handshake")
            and first["from"]["function"] == "handle"
            and first["from"]["file"].endswith("tls_leak.py")
        )
        grown = first["after"] - first["before"]
        yield Figure(right, f"{name}: the parked threads come first", exactly(1), place)
        yield Figure(
            grown, f"{name}: threads more", at_least(least - 2), f"{least} to {most} seen in /proc"
        )
        sites = {row["type"]: row for row in reversed(found["sites"])}
        sockets = sites.get("ssl.SSLSocket", {"objects": 0, "name": "not found"})
        note = f"{sockets['objects']}: {sockets['name']}"
        # A peer that behaves may be there at a dump, too.
        yield Figure(abs(sockets["objects"] - grown), f"{name}: sockets off", at_most(2), note)

    return measure


for one in MATRIX:
    must_show(f"{one.id}: tls_leak in two dumps", issue=5, line=4)(tls_leak(one))


@must_show("a leak in a Flask application, in two dumps", issue=5, line=4)
def web_application() -> Iterator[Figure]:
    """The list that keeps the visits is the first of the grown containers."""
    with tempfile.TemporaryDirectory(prefix="parkscope-") as directory, web_app() as leaking:
        paths, ((leaked, _),) = dumps(leaking, Path(directory), VISITS)
        found = parkscope("diff", *paths)
    first, site = found["grown"][0], found["sites"][0]
    right = first["name"].endswith(".visits") and site["type"] == "__main__.Visit"
    yield Figure(right, "its list comes first, its type first", exactly(1), first["name"])
    yield Figure(first["items_after"] - first["items_before"], "items more", exactly(leaked))


def leaks(interpreter: Interpreter) -> Callable[[], Iterator[Figure]]:
    """One interpreter: the leak first, the churn absent."""

    def measure() -> Iterator[Figure]:
        with (
            tempfile.TemporaryDirectory(prefix="parkscope-") as directory,
            churning_server(interpreter) as leaking,
        ):
            paths, leaked = dumps(leaking, Path(directory), SESSIONS, SESSIONS)
            rows: list[dict[str, Any]] = parkscope("leaks", *paths)["leaks"]
        name = interpreter.id
        first: dict[str, Any] = rows[0] if rows else dict.fromkeys(("type", "kept_by"), "")
        right = first["type"] == "__main__.Session" and first["kept_by"] == "__main__.SESSIONS"
        yield Figure(right, f"{name}: the leak comes first", exactly(1), str(first["kept_by"]))
        yield Figure(first.get("survived", 0), f"{name}: born and alive", exactly(leaked[0][0]))
        churn = sum(row["type"] in CHURN for row in rows)
        others = [row for row in rows if row["kept_by"] != "__main__.SESSIONS"]
        yield Figure(churn, f"{name}: rows of what comes and goes", exactly(0))
        yield Figure(len(others), f"{name}: rows of anything else", exactly(0))

    return measure


for one in MATRIX:
    must_show(f"{one.id}: three dumps among churn", issue=5, line=5)(leaks(one))


def matched(interpreter: Interpreter) -> Callable[[], Iterator[Figure]]:
    """One interpreter: what is taken for the same object, against what knows it."""

    def measure() -> Iterator[Figure]:
        counts = Counter(told_apart(interpreter))
        name = interpreter.id
        stayed, reused = (counts[kind, 0] + counts[kind, 1] for kind in ("stayed", "reused"))
        note = f"of {stayed}; one in fifty or so moved to another container"
        share = 100 * counts["stayed", 1] / stayed
        yield Figure(share, f"{name}: % of those that stayed seen as the same", at_least(98), note)
        share = 100 * counts["reused", 1] / reused
        note = f"of {reused}: each replaced in its place by its like"
        yield Figure(
            share, f"{name}: % of others at their address taken for them", at_most(1), note
        )
        yield Figure(counts["gone", 1], f"{name}: gone and seen as the same", exactly(0))

    return measure


for one in MATRIX:
    must_show(f"{one.id}: addresses used again", issue=5, line=5)(matched(one))
