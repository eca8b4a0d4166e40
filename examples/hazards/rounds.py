"""What the hazard scripts share: rounds, their outcome as one JSON line, the exit code.

Nothing here waits for luck: the other thread's turn comes at a certain item of the walk, and
the walk goes on when that turn is over.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
from collections.abc import Callable
from typing import Any, TypeAlias

from concurrent_map import ConcurrentMap

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


def numbers(count: int, name: str) -> ConcurrentMap[int, int]:
    """A map of numbers to their squares, on one shard.

    An int's hash is itself and the map mixes it the same way each time: where each key lies
    is the same in all runs.
    """
    return ConcurrentMap({n: n * n for n in range(count)}, name=name, shards=1)


def main(hazard: str, *, weak: Round, mode: str, cured: Round) -> None:
    """Run the rounds that the command line asks for. Exit code 0: all as documented.

    Each round fails in weak mode, and is clean in ``mode``.
    """
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--rounds", type=int, default=1, help="how often each (default: 1)")
    rounds = parser.parse_args().rounds
    if rounds < 1:
        parser.error("--rounds must be 1 or more")
    failures = [weak() for _ in range(rounds)]
    relapses = [cured() for _ in range(rounds)]
    print(json.dumps(_outcome(hazard, mode, failures, relapses)), flush=True)
    sys.exit(0 if all(failures) and not any(relapses) else 1)


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
