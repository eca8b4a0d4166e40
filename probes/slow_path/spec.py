"""Waits for locks and for the GIL, exact to the microsecond, short ones as histograms."""

from __future__ import annotations

from types import MappingProxyType

from probes.enums import Kind
from probes.spec import CostClass, Hook, ProbeSpec, Program

SITES = MappingProxyType(
    {
        "sem_wait": 1,
        "sem_clockwait": 2,
        "sem_timedwait": 3,
        "pthread_cond_timedwait": 4,
        "pthread_cond_clockwait": 5,
    }
)
"""Function → the ``site`` of its records (``enum ps_wait_site`` in the source); 0 is the
scratch child that prices are measured on."""

ENTRY = Program("ps_wait_entry", Hook.UPROBE)
RETURN = Program("ps_wait_return", Hook.URETPROBE)

SPEC = ProbeSpec(
    name="slow_path",
    summary="contended locks and the GIL, on the slow paths of libc that CPython waits in",
    source="slow_path.bpf.c",
    programs=(
        ENTRY,
        RETURN,
        Program("ps_on_waiter_exit", Hook.RAW_TRACEPOINT, "sched_process_exit"),
    ),
    records=(Kind.WAIT, Kind.WAIT_HIST),
    cost=CostClass.B,
)
