"""Semantic events: what the collector says, to sinks, traces and people.

The JSON form of an event is one flat object. ``COMMON`` keys stand in every
event, null where they do not apply; the others depend on ``event`` and are
listed in ``EVENTS`` and in README.md. ``SCHEMA_VERSION`` is
raised when a key changes its meaning or goes away, not when one is added.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

SCHEMA_VERSION = 1

COMMON = (
    "event",
    "schema",
    "ts_ns",
    "pid",
    "tid",
    "thread_name",
    "kind",
    "idle",
    "start_ns",
    "duration_ns",
    "before_attach",
)

EVENTS: Mapping[str, str] = MappingProxyType(
    {
        "attached": "probes are armed: backend, why, python, version, accuracy, probes, nodes",
        "park_long": "a thread is parked longer than --long-park and still is: park_id, source, "
        "syscall, fd, resource, holder, candidates, chain, map, shard, lock, python, stack, "
        "stack_torn, idle_reason",
        "resource_named": "what a park is on was found out later: park_id, resource (and map)",
        "native_library": "a library with native maps is probed: profile, library, places",
        "native_map": "what a native map has done so far, once a second while it does anything: "
        "map, address, type, profile, ranges_begun, ranges, waits, released, splits, splits_done, "
        "moved, retired, stale, retries, spins, views_opened, views_closed, operations, "
        "success_rate, stale_ratio, partial",
        "deadlock": "threads wait for one another for ever: cycle, knot, since_ns",
        "park_end": "the same park has ended: as park_long, and end (woken, timed_out, exited, "
        "lost), waker, slices, run_delay_ns, cpu, node, cross_node",
        "large_alloc": "a request over 4 KiB: size_bytes, api",
        "data_loss": "records were lost: where, record_kind, count",
        "governor": "Parkscope gave up or took back a probe, or scans more rarely: probe, action, "
        "why, cost",
        "trigger": "a rule's condition holds and its actions are asked for: trigger, firing, "
        "condition, on, park_id, facts, actions",
        "action": "what became of an action: trigger, action, firing, status (done, failed, "
        "skipped), why, count, on, park_id, path, took_ns, result",
        "breaker": "a circuit breaker changed its state: name, from, to, why; of a native map also "
        "failures, samples, map, address, type, profile",
        "probe_failed": "one probe could not be attached, the others go on: probe, why",
        "process_fork": "the target forked: child_pid, followed",
        "process_exec": "the target replaced its program",
        "process_exit": "the target ended: exit_code",
        "totals": "counters, once a second: as in detached",
        "detached": "the recording is over: why, totals",
    }
)


@dataclass(frozen=True, slots=True)
class Event:
    """One fact. Times are CLOCK_MONOTONIC ns; ``data`` holds the event's own keys.

    ``kind`` is one of ``lock gil io sleep child map other`` for parks. ``idle`` is
    None until it is known. ``before_attach`` says that the park had begun before
    the probes were armed.
    """

    event: str
    ts_ns: int
    pid: int | None = None
    tid: int | None = None
    thread_name: str | None = None
    kind: str | None = None
    idle: bool | None = None
    start_ns: int | None = None
    duration_ns: int | None = None
    before_attach: bool | None = None
    data: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The flat JSON object (keys of ``COMMON`` first, then ``data``)."""
        flat: dict[str, Any] = {
            "event": self.event,
            "schema": SCHEMA_VERSION,
            "ts_ns": self.ts_ns,
            "pid": self.pid,
            "tid": self.tid,
            "thread_name": self.thread_name,
            "kind": self.kind,
            "idle": self.idle,
            "start_ns": self.start_ns,
            "duration_ns": self.duration_ns,
            "before_attach": self.before_attach,
        }
        flat.update(self.data)
        return flat

    @classmethod
    def from_dict(cls, flat: Mapping[str, Any]) -> Event:
        """The event back from its flat form; unknown keys go into ``data``.

        Raises ValueError when ``event`` or ``ts_ns`` is missing or of a wrong type.
        """
        name, ts_ns = flat.get("event"), flat.get("ts_ns")
        if not isinstance(name, str) or not isinstance(ts_ns, int):
            raise ValueError(  # noqa: TRY004 one class for a line that is no event
                "an event needs 'event' (text) and 'ts_ns' (integer)"
            )
        known = {key: flat.get(key) for key in COMMON if key not in ("event", "schema", "ts_ns")}
        data = {key: value for key, value in flat.items() if key not in COMMON}
        return cls(event=name, ts_ns=ts_ns, data=data, **known)
