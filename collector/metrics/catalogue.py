"""Every metric there is: its name, type, labels, help and buckets, as data.

Names and units follow Prometheus' conventions (prometheus.io/docs/practices/naming):
base units, ``_total`` for what only grows. Values are kept as integers (nanoseconds where
the name says seconds) and scaled when they are exported.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

NS: Final = 1_000_000_000
"""Nanoseconds per second."""
MS: Final = 1_000_000
S: Final = NS

PARK_BOUNDS_NS: Final = (
    *(1 * MS, 2 * MS, 5 * MS, 10 * MS, 20 * MS, 50 * MS, 100 * MS, 200 * MS, 500 * MS),
    *(1 * S, 2 * S, 5 * S, 10 * S, 30 * S, 60 * S, 300 * S),
)
"""0.2 s, the threshold for a long park, is one of them."""
SHORT_BOUNDS_NS: Final = tuple((1 << bucket) - 1 for bucket in range(10, 28))
"""The kernel counts by floor(log2(ns)): these are exact upper bounds of its buckets."""
DELAY_BOUNDS_NS: Final = tuple(
    step * size for size in (10_000, 100_000, MS, 10 * MS, 100 * MS) for step in (1, 2, 5)
)


@dataclass(frozen=True, slots=True, eq=False)
class Metric:
    """One metric, equal to itself only.

    ``bounds``: of a histogram's buckets, in the unit in which values are kept. ``per``:
    so many of what is kept make one of what is exported.
    """

    name: str
    type: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    per: int = 1
    bounds: tuple[int, ...] = ()


def _counter(name: str, words: str, *labels: str, per: int = 1) -> Metric:
    return Metric(f"parkscope_{name}_total", "counter", words, labels, per)


def _gauge(name: str, words: str, *labels: str, per: int = 1) -> Metric:
    return Metric(f"parkscope_{name}", "gauge", words, labels, per)


def _histogram(name: str, words: str, *labels: str, bounds: tuple[int, ...]) -> Metric:
    return Metric(f"parkscope_{name}", "histogram", words, labels, NS, bounds)


# -- the session and its targets ---------------------------------------------------------------

BUILD = _gauge("build_info", "Always 1: version and backend of this Parkscope.",
               "version", "backend")  # fmt: skip
WATCHING = _gauge("watching", "1 while the session runs, 0 once all targets have ended.")
TARGET_UP = _gauge("target_up", "1 while the process is watched, 0 once it has ended.", "pid")
TARGET_INFO = _gauge("target_info", "Always 1: what runs in the process.",
                     "pid", "program", "python")  # fmt: skip
TARGET_RSS = _gauge("target_resident_memory_bytes", "Resident memory of the process.", "pid")
TARGET_THREADS = _gauge("target_threads", "Threads of the process.", "pid")
TARGET_CPU = _counter("target_cpu_seconds", "CPU time that the process has used.",
                      "pid", per=NS)  # fmt: skip

# -- parks -------------------------------------------------------------------------------------

PARKS = _histogram(
    "park_duration_seconds",
    "Parks that ended, each once, of at least --min-park. idle is unknown for parks under "
    "--long-park: their stacks are not read.",
    "pid", "kind", "idle", bounds=PARK_BOUNDS_NS,
)  # fmt: skip
SHORT_WAITS = _histogram(
    "short_wait_duration_seconds",
    "Waits shorter than --min-park on probed slow paths, counted in the kernel; not in "
    "parkscope_park_duration_seconds.",
    "pid", "kind", bounds=SHORT_BOUNDS_NS,
)  # fmt: skip
LONG_PARKS = _counter("long_parks", "Parks that crossed --long-park.", "pid", "kind", "idle")
LONG_NOW = _gauge("parked_long_threads", "Threads that are parked over --long-park right now.",
                  "pid", "kind", "idle")  # fmt: skip
OLDEST_NOW = _gauge(
    "oldest_long_park_seconds",
    "How long the oldest long park that is not idle has lasted so far, 0 without one.",
    "pid", per=NS,
)  # fmt: skip
THREAD_PARKED = _counter(
    "thread_long_park_seconds",
    "Time in long parks that ended and are not idle, by thread; digits of the name are N.",
    "pid", "kind", "thread", per=NS,
)  # fmt: skip
BLAMED = _counter(
    "holder_blamed_seconds",
    "Time of ended long parks for which this thread was known for certain to hold what was "
    "waited for.",
    "pid", "kind", "thread", per=NS,
)  # fmt: skip
GIL_WAIT = _counter(
    "gil_wait_seconds",
    "Time in waits for the GIL that ended: kind gil of the park and short wait histograms. How "
    "long the GIL is held is not known from outside.",
    "pid", per=NS,
)  # fmt: skip
GIL_WAITS = _counter("gil_waits", "Waits for the GIL that ended, see gil_wait_seconds.", "pid")
RUN_DELAY = _histogram(
    "run_delay_seconds",
    "How long threads stood ready, after a long park, until they had a CPU.",
    "pid", bounds=DELAY_BOUNDS_NS,
)  # fmt: skip
CROSS_NODE = _counter("cross_node_wakes", "Long parks ended from another NUMA node.")
DEADLOCKS = _counter("deadlocks", "Deadlocks that were said.", "pid", "type")
DEADLOCKS_NOW = _gauge("deadlocks_current", "Deadlocks that have not come apart.", "pid")
DEADLOCKED = _gauge("deadlocked_threads", "Threads in a deadlock right now.", "pid")

# -- native maps -------------------------------------------------------------------------------

_RANGE = ("pid", "map", "query_type", "range_step", "is_stale_aware")
RANGES = _counter("range_queries", "Ranges over native maps that ended, by outcome.",
                  *_RANGE, "outcome")  # fmt: skip
RANGE_TIME = _counter("range_query_seconds", "Time in ranges that ended.", *_RANGE, per=NS)
STALE_HITS = _counter("stale_bucket_hits", "Stale buckets that were met.", *_RANGE)
STALE_BASE = _counter(
    "stale_base_ranges",
    "Ranges that ended, labelled as parkscope_stale_bucket_hits_total is: what it is a ratio of.",
    *_RANGE,
)
MAP_EVENTS = _counter("map_events", "What else was counted of native maps.", "pid", "map", "what")
MAP_WAIT = _counter("map_wait_seconds", "Time in waits for shards that ended, short ones too.",
                    "pid", "map", per=NS)  # fmt: skip
MAP_PARTIAL = _gauge(
    "map_partial",
    "1: counts of this group are too low: it was given up, or found no room.",
    "pid", "map", "what",
)  # fmt: skip

# -- allocation --------------------------------------------------------------------------------

LARGE_ALLOCS = _counter("large_allocations", "Requests over 4 KiB.")
LARGE_BYTES = _counter("large_allocation_bytes", "Bytes of requests over 4 KiB.")
REFILLS = _counter("pool_refills", "Refills of pymalloc's pools.", "size_bytes")

# -- Parkscope itself --------------------------------------------------------------------------

RECEIVED = _counter("records_received", "Well-formed records.", "record")
DROPPED = _counter("records_dropped", "Records lost, by place.", "where", "record")
MALFORMED = _counter("records_malformed", "Runs of bytes that were no record.")
PROBE_STATE = _gauge("probe_state", "1 for the state in which a group of probes is.",
                     "probe", "state")  # fmt: skip
PROBE_HITS = _counter("probe_hits", "How often a group's probes were hit.", "probe")
PROBE_COST = _counter("probe_cost_seconds",
                      "CPU time that a group's probes cost the targets, by measured price.",
                      "probe", per=NS)  # fmt: skip
PROBE_FAILURES = _counter("probe_failures", "Probes that could not be attached.", "probe")
GOVERNED = _counter("governor_actions", "Probes given up or taken back.", "probe", "action")
BREAKER_STATE = _gauge("breaker_state",
                       "1 for the state of a circuit breaker; of several of one name, the worst.",
                       "breaker", "state")  # fmt: skip
BREAKER_CHANGES = _counter("breaker_transitions", "Changes into a state.", "breaker", "to")
FIRED = _counter("triggers_fired", "How often the condition of a trigger's rule held.", "trigger")
ACTIONS = _counter("actions", "Actions of triggers, by what became of them.", "action", "status")
SCANS = _counter("scans", "Scans of all threads.")
SCAN_TIME = _counter("scan_seconds", "Time that scans took the tracer.", per=NS)
SCAN_PERIOD = _gauge("scan_period_seconds", "The base period of scans in force.", per=NS)
THREADS = _gauge("threads", "Threads that the last scan knew, of all targets.")
OWN_CPU = _counter("own_cpu_seconds", "CPU time of Parkscope since it attached.", per=NS)
OWN_RSS = _gauge("own_resident_memory_bytes", "Resident memory of Parkscope.")
WATCHED = _counter("watched_seconds", "Length of the session by the source's clock.", per=NS)
OVERFLOW = _counter(
    "label_overflow", "Times that something was counted as 'other' for want of room.", "label"
)

METRICS: Final = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
BY_NAME: Final = {metric.name: metric for metric in METRICS}
