"""What becomes of processes, as the bcc source sees it."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from probes.errors import ParkscopeError
from probes.wire import Flag, Kind, make
from tracer import procfs

PROCESS_KINDS = (Kind.PROC_FORK, Kind.PROC_EXEC, Kind.PROC_EXIT)


def inferred_exit(pid: int, now_ns: int) -> npt.NDArray[Any]:
    """The record of an exit that nobody saw happen."""
    return make(Kind.PROC_EXIT, ts_ns=now_ns, pid=pid, tid=pid, flags=Flag.INFERRED)


def is_over(pid: int) -> bool:
    """Whether a process has ended, a zombie included."""
    try:
        return procfs.process_state(pid).state in "ZXx"
    except ParkscopeError:
        return True
