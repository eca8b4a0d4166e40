"""Thread and process lifecycle: start, exit, fork, exec."""

from probes.enums import Kind
from probes.spec import CostClass, Hook, ProbeSpec, Program

SPEC = ProbeSpec(
    name="lifecycle",
    summary="threads that start and exit, processes that fork, exec and exit",
    source="lifecycle.bpf.c",
    programs=(
        Program("ps_on_fork", Hook.RAW_TRACEPOINT, "sched_process_fork"),
        Program("ps_on_exec", Hook.RAW_TRACEPOINT, "sched_process_exec"),
        Program("ps_on_exit", Hook.RAW_TRACEPOINT, "sched_process_exit"),
    ),
    records=(
        Kind.THREAD_START,
        Kind.THREAD_EXIT,
        Kind.PROC_FORK,
        Kind.PROC_EXEC,
        Kind.PROC_EXIT,
    ),
    cost=CostClass.A,
)
