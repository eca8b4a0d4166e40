"""Delete during range: a weak range gives entries that were deleted a while ago.

It copies one bucket at a time under the lock and hands it out without; whatever is deleted
in between is handed out all the same. A strict range fails at the very next step instead,
and is begun again.
"""

from __future__ import annotations

from typing import Literal

from concurrent_map import ConcurrentMap, StaleIterationError
from rounds import main, meanwhile, numbers


class Cleanup:
    """Handles entries; when it comes to the first one, another thread deletes all others."""

    def __init__(self, jobs: ConcurrentMap[int, int]) -> None:
        self.jobs = jobs
        self.done: list[int] = []
        self.ghosts: list[int] = []
        """Keys that were handed out after their deletion had returned."""

    def handle(self, key: int, _value: int) -> None:
        """The callback of the range."""
        if key not in self.jobs:
            self.ghosts.append(key)
        if not self.done:
            meanwhile(lambda: self.delete_all_but(key))
        self.done.append(key)

    def delete_all_but(self, key: int) -> None:
        """What the other thread does."""
        for other in self.jobs:
            if other != key:
                self.jobs.load_and_delete(other)

    def said(self) -> str | None:
        """What went wrong."""
        return f"{len(self.ghosts)} entries handed out after their end" if self.ghosts else None


def walked(mode: Literal["weak", "strict"]) -> Cleanup:
    """One range in ``mode``, begun again when it failed."""
    cleanup = Cleanup(numbers(200, "jobs"))
    while True:
        try:
            cleanup.jobs.range(cleanup.handle, mode)
        except StaleIterationError:
            continue
        return cleanup


if __name__ == "__main__":
    main(
        "delete during range",
        weak=lambda: walked("weak").said(),
        mode="strict",
        cured=lambda: walked("strict").said(),
    )
