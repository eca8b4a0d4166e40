"""The 64-byte record of ``record.h`` as numpy sees it.

``RECORD`` is the generic view (five payload words); ``PAYLOAD[kind]`` is a view
of the same 64 bytes with the payload's own field names::

    waits = records[records["kind"] == Kind.WAIT].view(PAYLOAD[Kind.WAIT])
    waits["duration_ns"]

``tests/unit/probes/test_wire.py`` compiles ``record.h`` and compares every size
and offset with the ones written here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from probes.enums import (
    KIND_END,
    NO_BUCKET,
    AllocApi,
    BreakerState,
    Flag,
    Kind,
    MapCounter,
    MapMode,
    MapOutcome,
    RunState,
    WaitClass,
)

__all__ = [
    "KIND_END",
    "NO_BUCKET",
    "PAYLOAD",
    "RECORD",
    "RECORD_SIZE",
    "WIRE_VERSION",
    "AllocApi",
    "BreakerState",
    "Flag",
    "Kind",
    "MapCounter",
    "MapMode",
    "MapOutcome",
    "RunState",
    "WaitClass",
    "empty",
    "make",
]

WIRE_VERSION = 1
RECORD_SIZE = 64

_HEADER: list[tuple[str, str]] = [
    ("ts_ns", "<u8"),
    ("pid", "<u4"),
    ("tid", "<u4"),
    ("kind", "<u2"),
    ("flags", "<u2"),
    ("aux", "<u4"),
]


def _record(*payload: tuple[str, str]) -> np.dtype[Any]:
    dtype = np.dtype(_HEADER + list(payload))
    if dtype.itemsize != RECORD_SIZE:
        raise AssertionError(f"record of {dtype.itemsize} bytes: {payload}")
    return dtype


RECORD: np.dtype[Any] = _record(*((f"word{i}", "<u8") for i in range(5)))

_WAIT = _record(
    ("start_ns", "<u8"),
    ("address", "<u8"),
    ("duration_ns", "<u8"),
    ("wait_class", "<u4"),
    ("slices", "<u4"),
    ("site", "<u8"),
)
_LIFECYCLE = _record(
    ("parent_pid", "<u4"),
    ("parent_tid", "<u4"),
    ("child_pid", "<u4"),
    ("exit_code", "<i4"),
    ("comm", "S16"),
    ("pad0", "<u8"),
)

PAYLOAD: dict[Kind, np.dtype[Any]] = {
    Kind.THREAD_STATE: _record(
        ("since_ns", "<u8"),
        ("arg0", "<u8"),
        ("arg1", "<u8"),
        ("cpu_ns", "<u8"),
        ("syscall", "<i2"),
        ("state", "<u1"),
        ("pad0", "<u1"),
        ("pad1", "<u4"),
    ),
    Kind.WAIT_OPEN: _WAIT,
    Kind.WAIT: _WAIT,
    Kind.WAKE: _record(
        ("waker_pid", "<u4"),
        ("waker_tid", "<u4"),
        ("waker_arg0", "<u8"),
        ("waker_arg1", "<u8"),
        ("waker_syscall", "<i2"),
        ("cpu", "<u2"),
        ("slept_cpu", "<u4"),
        ("since_ns", "<u8"),
    ),
    Kind.THREAD_START: _LIFECYCLE,
    Kind.THREAD_EXIT: _LIFECYCLE,
    Kind.PROC_FORK: _LIFECYCLE,
    Kind.PROC_EXEC: _LIFECYCLE,
    Kind.PROC_EXIT: _LIFECYCLE,
    Kind.LARGE_ALLOC: _record(
        ("size_bytes", "<u8"),
        ("old_address", "<u8"),
        ("api", "<u4"),
        ("pad0", "<u4"),
        ("pad1", "<u8"),
        ("pad2", "<u8"),
    ),
    Kind.WAIT_HIST: _record(
        ("wait_class", "<u4"),
        ("bucket", "<u4"),
        ("count", "<u8"),
        ("total_ns", "<u8"),
        ("pad0", "<u8"),
        ("pad1", "<u8"),
    ),
    Kind.POOL_REFILL: _record(
        ("size_bytes", "<u4"),
        ("pad0", "<u4"),
        ("count", "<u8"),
        ("pad1", "<u8"),
        ("pad2", "<u8"),
        ("pad3", "<u8"),
    ),
    Kind.SCAN: _record(
        ("threads", "<u4"),
        ("blocked", "<u4"),
        ("cost_ns", "<u8"),
        ("period_ns", "<u8"),
        ("pad0", "<u8"),
        ("pad1", "<u8"),
    ),
    Kind.MAP_COUNT: _record(
        ("map", "<u8"),
        ("count", "<u8"),
        ("total_ns", "<u8"),
        ("items", "<u8"),
        ("counter", "<u1"),
        ("mode", "<u1"),
        ("outcome", "<u1"),
        ("bucket", "<u1"),
        ("profile", "<u4"),
    ),
    Kind.BREAKER: _record(
        ("map", "<u8"),
        ("failures", "<u8"),
        ("samples", "<u8"),
        ("profile", "<u4"),
        ("from", "<u1"),
        ("to", "<u1"),
        ("pad0", "<u2"),
        ("pad1", "<u8"),
    ),
    Kind.RUN: _record(
        ("cpu", "<u4"),
        ("pad0", "<u4"),
        ("pad1", "<u8"),
        ("pad2", "<u8"),
        ("pad3", "<u8"),
        ("pad4", "<u8"),
    ),
}


def empty() -> npt.NDArray[Any]:
    """No records."""
    return np.empty(0, RECORD)


def make(kind: Kind, **fields: Any) -> npt.NDArray[Any]:
    """One record (shape ``(1,)``, dtype ``RECORD``) from field names and values.

    Raises ValueError for a field that the kind does not have.
    """
    record = np.zeros(1, PAYLOAD[kind])
    record["kind"] = kind
    for name, value in fields.items():
        record[name] = value
    return record.view(RECORD)
