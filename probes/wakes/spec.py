"""The wake-up watch: the exact end of a long sleep, the waker, the run-queue delay."""

from probes.enums import Kind
from probes.spec import CostClass, Hook, ProbeSpec, Program

SPEC = ProbeSpec(
    name="wakes",
    summary="end and waker of sleeps that the task iterator watches, and when the thread ran",
    source="wakes.bpf.c",
    programs=(
        Program("ps_on_waking", Hook.BTF_TRACEPOINT, "sched_waking"),
        Program("ps_on_switch", Hook.BTF_TRACEPOINT, "sched_switch"),
    ),
    records=(Kind.WAKE, Kind.RUN),
    cost=CostClass.A,
)
