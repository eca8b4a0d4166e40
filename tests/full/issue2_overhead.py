"""Line 4: what a target's throughput loses to Parkscope, and to other tools."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tests.benchmarks import kernel
from tests.benchmarks.pairs import (
    SLICE_S,
    Attach,
    Workload,
    counted_switches,
    interpreter,
    measure_pairs,
    workload,
)
from tests.benchmarks.tools import (
    LOCK_FUNCTION,
    SLOW_PATHS,
    bpftrace_slow_paths,
    naive_lock_probe,
    parkscope,
    parkscope_process,
    py_spy,
)
from tests.full import Figure, at_least, must_show

RIVAL_PAIRS = 3
_WITNESS_S = 2.0


@dataclass(frozen=True)
class _Load:
    """A workload: its name in ``tests/targets/workload.py``, its words, bound and slice."""

    name: str
    words: str
    bound: float
    seconds: float = SLICE_S


LOADS = (
    _Load("lock_loop", "uncontended lock loop", 0.99),
    _Load("bulk_queue", "bulk queue", 0.98),
    # Long enough that giving a probe up and trying it again have their usual share.
    _Load("lockstep_queue", "lock-step queue", 0.95, seconds=4.0),
    _Load("gil_threads", "GIL-contending threads", 0.99),
    _Load("echo", "threaded socket echo", 0.96),
)
JSON = _Load("json_trips", "json round trips", 0.96)
DICT = _Load("dict_churn", "dict churn", 0.96)


def figures(load: _Load, python: str = "pyenv-3.11") -> Iterator[Figure]:
    """A load's figure with its bound, then what the programs themselves cost."""
    with workload(interpreter(python, "system-3.11"), load.name) as target:
        ratios = measure_pairs(target, parkscope, seconds=load.seconds)
        yield Figure(ratios.median, load.words, at_least(load.bound), ratios.note())
        yield _witness(target, load)


def _witness(target: Workload, load: _Load) -> Figure:
    """The kernel's own account of the programs' run time, as a share of one core.

    Entering a uprobe is not in it, and keeping the account itself takes some 30 ns a run.
    """
    with parkscope_process(target.pid) as tracer, kernel.statistics_on():
        before = kernel.program_times(tracer.pid)
        with counted_switches(target.pid) as switched:
            done = target.work(_WITNESS_S)
        times = kernel.times_since(before, kernel.program_times(tracer.pid))
    spent = sum(one.run_ns for one in times)
    dearest = ", ".join(f"{one.name} {one.runs}x{one.run_ns // one.runs} ns" for one in times[:4])
    return Figure(
        spent / done.wall_ns,
        f"{load.words}: eBPF programs, share of a core",
        note=f"{dearest}; {switched.per_second:,.0f} switches/s",
    )


@must_show("uncontended lock loop, attached ÷ unattached", issue=2, line=4)
def lock_loop() -> Iterator[Figure]:
    return figures(LOADS[0])


@must_show("bulk queue, attached ÷ unattached", issue=2, line=4)
def bulk_queue() -> Iterator[Figure]:
    return figures(LOADS[1])


@must_show("lock-step queue, attached ÷ unattached", issue=2, line=4)
def lockstep_queue() -> Iterator[Figure]:
    return figures(LOADS[2])


@must_show("GIL-contending threads, attached ÷ unattached", issue=2, line=4)
def gil_threads() -> Iterator[Figure]:
    return figures(LOADS[3])


@must_show("threaded socket echo, attached ÷ unattached", issue=2, line=4)
def echo() -> Iterator[Figure]:
    return figures(LOADS[4])


def _rival(attach: Attach, words: str) -> Iterator[Figure]:
    """The same table for another tool; information, so fewer pairs and no control."""
    for load in LOADS:
        with workload(interpreter("pyenv-3.11", "system-3.11"), load.name) as target:
            ratios = measure_pairs(target, attach, pairs=RIVAL_PAIRS, control=False)
        yield Figure(ratios.median, f"{load.words} with {words}", note=ratios.note())


@must_show("py-spy record", issue=2, line=4)
def with_py_spy() -> Iterator[Figure]:
    return _rival(py_spy, "py-spy record")


@must_show("bpftrace on the slow paths", issue=2, line=4)
def with_bpftrace() -> Iterator[Figure]:
    return _rival(bpftrace_slow_paths, f"bpftrace on {', '.join(SLOW_PATHS)}")


@must_show("naive lock probing", issue=2, line=4)
def with_naive_probe() -> Iterator[Figure]:
    return _rival(naive_lock_probe, f"bpftrace on {LOCK_FUNCTION}")
