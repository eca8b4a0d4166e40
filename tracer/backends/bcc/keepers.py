"""Threads that keep uprobe links, each in a table of descriptors of its own.

To close such a link the kernel takes the traps out and then waits until nobody can be
inside the program (kernel/events/uprobes.c, uprobe_unregister_sync): 44 ms as a rule, 420
were seen. A process that is killed closes its descriptors one by one, so the last trap
would go after all of these waits. Threads that end together close at the same time
what each has for itself.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from tracer.backends.bcc import syscalls

_KEEPERS = 8
_APART = 512
"""Kept descriptors have numbers that the process's own table hardly reaches: a file that the
garbage collector closes in a keeper's thread must not hit one of them."""


@dataclass(frozen=True, slots=True)
class Kept:
    """Descriptors in the table of one keeper's thread; good for ``Keepers.drop`` only."""

    keeper: int
    descriptors: Sequence[int]


class Keepers:
    """A bounded number of threads that make, keep and close descriptors.

    ``shared``: descriptors of the process that are to be open in them, too, until ``close``.
    Before Linux 5.9 the threads share the process's table, and all works but the kill.
    """

    def __init__(self, shared: Collection[int]) -> None:
        self._shared = sorted(set(shared))
        self._threads: list[ThreadPoolExecutor] = []
        self._kept = [0] * _KEEPERS
        self._choice = threading.Lock()

    def keep(self, make: Callable[[], Sequence[int]]) -> Kept:
        """Call ``make`` in the keeper that has least, which keeps what it opens there.

        Raises what ``make`` raises.
        """
        with self._choice:
            keeper = self._kept.index(min(self._kept))
            if keeper == len(self._threads):
                self._threads.append(
                    ThreadPoolExecutor(1, "parkscope-links", initializer=self._own_table)
                )
            self._kept[keeper] += 1
        try:
            made = self._threads[keeper].submit(lambda: [_apart(one) for one in make()])
            return Kept(keeper, made.result())
        except BaseException:
            with self._choice:
                self._kept[keeper] -= 1
            raise

    def drop(self, kept: Kept) -> Future[None]:
        """Close them, in the background."""
        with self._choice:
            self._kept[kept.keeper] -= 1
        return self._threads[kept.keeper].submit(_close_all, kept.descriptors)

    def close(self) -> None:
        """Wait until everything that was dropped is closed, and end the threads. Safe twice."""
        for thread in self._threads:
            thread.shutdown(wait=True)

    def _own_table(self) -> None:
        with suppress(OSError):
            syscalls.unshare_descriptors(self._shared)


def _apart(descriptor: int) -> int:
    """The same under a high number, where there may be one."""
    try:
        moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _APART)
    except OSError:
        return descriptor
    os.close(descriptor)
    return moved


def _close_all(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
