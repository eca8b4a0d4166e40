"""The task iterator: what every thread does right now, for nothing in the target."""

from probes.enums import Kind
from probes.spec import CostClass, Hook, ProbeSpec, Program

SPEC = ProbeSpec(
    name="threads",
    summary="state, block time and system call of every thread, seen by the kernel's task iterator",
    source="threads.bpf.c",
    programs=(Program("bpf_iter__task", Hook.TASK_ITERATOR),),
    records=(Kind.THREAD_STATE, Kind.WAIT_OPEN, Kind.SCAN),
    cost=CostClass.A,
)
