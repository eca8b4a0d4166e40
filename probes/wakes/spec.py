"""The wake-up watch: the exact end of a long sleep, and the waker."""

from probes.enums import Kind
from probes.spec import CostClass, Hook, ProbeSpec, Program

SPEC = ProbeSpec(
    name="wakes",
    summary="end and waker of sleeps that the task iterator watches",
    source="wakes.bpf.c",
    programs=(Program("ps_on_waking", Hook.BTF_TRACEPOINT, "sched_waking"),),
    records=(Kind.WAKE,),
    cost=CostClass.A,
)
