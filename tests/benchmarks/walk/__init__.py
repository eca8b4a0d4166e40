"""What it takes to walk a Python stack in the kernel, by a clock around the product's walk."""

from __future__ import annotations

import os
import struct
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import probes
from probes.spec import CostClass, Hook, ProbeSpec, Program
from tests.benchmarks.pairs import TARGETS, interpreter
from tests.benchmarks.quiet import going_first, last_cpu
from tests.full import NotMeasured
from tests.interpreters import launch
from tests.processes import started, wait_ready
from tracer.backends import Options, TargetPlan
from tracer.backends.bcc import syscalls
from tracer.backends.bcc.addon import NOTHING, Harvest
from tracer.backends.bcc.budget import Budget
from tracer.backends.bcc.load import Kernel
from tracer.backends.bcc.source import BccSource
from tracer.backends.bcc.waker_stacks import WakerStacks
from tracer.followed import Followed

SPEC = ProbeSpec(
    name=os.path.relpath(Path(__file__).parent, Path(probes.__file__).parent),
    summary="the walk, timed, for a benchmark",
    source="walk.bpf.c",
    programs=(Program("ps_walk_timed", Hook.RAW_TRACEPOINT, "sys_enter"),),
    records=(),
    cost=CostClass.C,
)
_COST = struct.Struct("<3Q")
_POLL_NS = 20_000_000


@dataclass(frozen=True, slots=True)
class WalkCost:
    """Walks of a stack that came out ``depth`` frames deep; the clock's own time is in it."""

    walks: int
    mean_ns: float
    depth: int


class _Timed:
    """The addon that brings the timed program into the product's source."""

    specs: Sequence[ProbeSpec] = (SPEC,)
    maps: Sequence[str] = ("ps_walk_costs",)

    def __init__(self) -> None:
        self._kernel: Kernel | None = None

    def defines(self) -> Mapping[str, int]:
        return {}

    def plan(self, plans: Sequence[TargetPlan]) -> None:
        """There is nothing to choose."""

    def prepare(self, kernel: Kernel, budget: Budget) -> None:
        if refused := kernel.refused.get("ps_walk_timed"):
            raise NotMeasured(f"the kernel refuses the timed program: {refused}")
        self._kernel = kernel

    def arm(self, now_ns: int) -> Harvest:
        return NOTHING

    def retarget(self, plan: TargetPlan) -> Harvest:
        return NOTHING

    def gone(self, pid: int) -> None:
        """The cost stays."""

    def on_scan(self, now_ns: int) -> Harvest:
        return NOTHING

    def last(self, _now_ns: int) -> Harvest:
        return NOTHING

    def close(self) -> None:
        """The source closes what it has loaded."""

    def cost(self, which: int) -> WalkCost:
        """Of all walks so far of one kind, see ``walk_costs``. Raises NotMeasured."""
        raw = None
        if self._kernel is not None:
            costs = self._kernel.maps["ps_walk_costs"]
            raw = syscalls.map_lookup(costs, struct.pack("<I", which), _COST.size)
        walks, took_ns, depth = _COST.unpack(raw or bytes(_COST.size))
        if not walks:
            raise NotMeasured("no stack was walked")
        return WalkCost(walks, took_ns / walks, depth)


def walk_costs(name: str, depth: int, seconds: float) -> list[WalkCost]:
    """The stack of a target under interpreter ``name`` that calls from ``depth``, over and over.

    As one that was seen before, as a new one of code that was, and as one of code that was not.
    """
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "start_new_session": False}
    script = TARGETS / "deep_calls.py"
    process = launch(interpreter(name), script, [str(depth)], **options)
    with going_first(), started(process):
        wait_ready(process)
        os.sched_setaffinity(process.pid, last_cpu())
        plans = Followed([process.pid], python=True, launched=False, follow=False).plans()
        timed = _Timed()
        addons = (lambda _: WakerStacks(), lambda _: timed)
        source = BccSource(plans, Options(), addons=addons)
        try:
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                source.poll(_POLL_NS)
            return [timed.cost(which) for which in range(3)]
        finally:
            source.close()
