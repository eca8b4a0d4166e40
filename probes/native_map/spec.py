"""Waits for shards, ranges and counts of native maps, at places that profiles declare."""

from __future__ import annotations

from probes.enums import Kind
from probes.spec import CostClass, Hook, ProbeSpec, Program

HIT = Program("ps_map_hit", Hook.UPROBE)

SPEC = ProbeSpec(
    name="native_map",
    summary="native maps by declaration: waits for shards, ranges, splits, stale buckets",
    source="native_map.bpf.c",
    programs=(
        HIT,
        Program("ps_on_map_waiter_exit", Hook.RAW_TRACEPOINT, "sched_process_exit"),
    ),
    records=(Kind.WAIT, Kind.MAP_COUNT, Kind.BREAKER),
    cost=CostClass.B,
)
