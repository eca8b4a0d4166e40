"""As quiet as a shared machine gets: what is measured goes first."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_AUTOGROUP = Path("/proc/self/autogroup")
_FIRST = -20


@contextmanager
def going_first() -> Iterator[None]:
    """Run this session, and what it starts in it meanwhile, before everybody else (root only).

    Where the scheduler groups tasks by session (man 7 sched, autogroup) niceness counts
    within a session only, so the group's is set: targets, tracers and rivals are all in
    it (they must not lead sessions of their own) and share it as equals.
    """
    before = _group_niceness()
    if before is None:
        yield
        return
    with suppress(PermissionError):
        _AUTOGROUP.write_text(str(_FIRST))
    try:
        yield
    finally:
        with suppress(PermissionError):
            _AUTOGROUP.write_text(str(before))


def _group_niceness() -> int | None:
    """None where tasks are not grouped."""
    try:
        return int(_AUTOGROUP.read_text().split()[-1])
    except OSError:
        return None


def waited_ns() -> int:
    """How long this process's first thread has been ready to run, but others ran, so far."""
    return int(Path(f"/proc/{os.getpid()}/schedstat").read_text().split()[1])


def last_cpu() -> set[int]:
    """The CPU that targets are put on; the others are for tools."""
    return {max(os.sched_getaffinity(0))}
