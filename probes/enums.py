"""The enums of ``record.h``.

Apart from ``wire.py``, which takes them up and needs numpy: probe specs name record
kinds, and ``parkscope --help`` reads the specs' package without loading numpy.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag


class Kind(IntEnum):
    """What a record says (``enum ps_kind``)."""

    THREAD_STATE = 1
    WAIT_OPEN = 2
    WAIT = 3
    WAKE = 4
    THREAD_START = 5
    THREAD_EXIT = 6
    PROC_FORK = 7
    PROC_EXEC = 8
    PROC_EXIT = 9
    LARGE_ALLOC = 10
    WAIT_HIST = 11
    POOL_REFILL = 12
    SCAN = 13
    RUN = 14
    MAP_COUNT = 15
    BREAKER = 16


KIND_END = 17


class Flag(IntFlag):
    """Qualifiers of a record (``enum ps_flag``)."""

    GIL = 1 << 0
    BEFORE_ATTACH = 1 << 1
    INFERRED = 1 << 2
    WATCHED = 1 << 3
    TIMED_OUT = 1 << 4
    COARSE = 1 << 5
    RUN_FOLLOWS = 1 << 6


class WaitClass(IntEnum):
    """Which slow path a wait was seen on (``enum ps_wait_class``)."""

    LOCK = 1
    GIL = 2
    MAP = 3


class MapCounter(IntEnum):
    """What of a native map is counted (``enum ps_map_counter``)."""

    RANGE_BEGUN = 1
    RANGE = 2
    WAIT = 3
    PARK = 4
    RELEASED = 5
    SPLIT = 6
    SPLIT_DONE = 7
    RETIRED = 8
    STALE = 9
    RETRY = 10
    SPIN = 11
    VIEW_OPENED = 12
    VIEW_CLOSED = 13
    OPERATION = 14


class MapMode(IntEnum):
    """How a range goes over a map (``enum ps_map_mode``)."""

    WEAK = 0
    STRICT = 1
    SNAPSHOT = 2
    VIEW = 3
    CURSOR = 4
    OTHER = 5


class MapOutcome(IntEnum):
    """How a range over a map ended (``enum ps_map_outcome``)."""

    COMPLETE = 0
    STOPPED = 1
    STALE = 2
    ERROR = 3
    UNKNOWN = 4


class BreakerState(IntEnum):
    """Where a circuit breaker over a map stands (``enum ps_breaker_state``)."""

    CLOSED = 0
    OPEN = 1
    HALF_OPEN = 2
    UNKNOWN = 3


NO_BUCKET = 255
"""A count without durations (``PS_NO_BUCKET``)."""
SHARD_BITS = 24
NO_SHARD = (1 << SHARD_BITS) - 1
"""``aux`` of a wait for a shard: its number below, the profile's number above."""


class AllocApi(IntEnum):
    """Which request pymalloc handed on (``enum ps_alloc_api``)."""

    MALLOC = 1
    CALLOC = 2
    REALLOC = 3


class RunState(IntEnum):
    """Scheduler state of a thread (``enum ps_run_state``), as ``ps`` letters."""

    RUNNING = ord("R")
    SLEEPING = ord("S")
    DISK_SLEEP = ord("D")
    STOPPED = ord("T")
    DEAD = ord("X")
