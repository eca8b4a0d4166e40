"""What the hazard scripts share: rounds, their outcome as one JSON line, the exit code.

Nothing here waits for luck: the other thread's turn comes at a certain item of the walk, and
the walk goes on when that turn is over.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

from concurrent_map import ConcurrentMap

M = TypeVar("M")
Round: TypeAlias = Callable[[], str | None]
"""One try: what went wrong, in words, or None."""


def meanwhile(work: Callable[[], object]) -> None:
    """Let another thread do ``work`` from begin to end, now. What it raises is raised here."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised below
            raised.append(error)

    thread = threading.Thread(target=run, name="writer")
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


_kept: list[object] | None = None


def kept(one: M) -> M:
    """``one``, which with --wait lives to the end: who looks on reads its name a moment later."""
    if _kept is not None:
        _kept.append(one)
    return one


def numbers(count: int, name: str) -> ConcurrentMap[int, int]:
    """A map of numbers to their squares, on one shard.

    An int's hash is itself and the map mixes it the same way each time: where each key lies
    is the same in all runs.
    """
    return kept(ConcurrentMap({n: n * n for n in range(count)}, name=name, shards=1))


def main(hazard: str, *, weak: Round, mode: str, cured: Round) -> None:
    """Run the rounds that the command line asks for. Exit code 0: all as documented.

    Each round fails in weak mode, and is clean in ``mode``.
    """
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--rounds", type=int, default=1, help="how often each (default: 1)")
    parser.add_argument("--wait", action="store_true", help="for somebody to attach, and to see")
    asked = parser.parse_args()
    rounds: int = asked.rounds
    if rounds < 1:
        parser.error("--rounds must be 1 or more")
    if asked.wait:
        _wait("begins")
    failures = [weak() for _ in range(rounds)]
    relapses = [cured() for _ in range(rounds)]
    print(json.dumps(_outcome(hazard, mode, failures, relapses)), flush=True)
    if asked.wait:
        _wait("ends")
    sys.exit(0 if all(failures) and not any(relapses) else 1)


def _wait(what: str) -> None:
    """Until Enter is pressed. Maps are kept from the first time on."""
    global _kept  # noqa: PLW0603 - it is made once, before the first map
    _kept = [] if _kept is None else _kept
    print(f"process {os.getpid()} {what} when you press Enter", file=sys.stderr, flush=True)
    sys.stdin.readline()


def _outcome(
    hazard: str, mode: str, failures: list[str | None], relapses: list[str | None]
) -> dict[str, Any]:
    return {
        "hazard": hazard,
        "rounds": len(failures),
        "failed_in_weak": sum(map(bool, failures)),
        "weak": next(filter(None, failures), None),
        "mode": mode,
        "failed_in_mode": sum(map(bool, relapses)),
        "in_mode": next(filter(None, relapses), None),
    }
