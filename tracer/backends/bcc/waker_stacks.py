"""Tells the programs how to walk the stacks of each target's running threads."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

from probes.spec import ProbeSpec
from tracer.backends import TargetPlan
from tracer.backends.bcc import syscalls
from tracer.backends.bcc.addon import NOTHING, Harvest
from tracer.backends.bcc.budget import Budget
from tracer.backends.bcc.load import Kernel


class WakerStacks:
    """An ``Addon`` without probes of its own: it fills ``ps_pythons``.

    A process without an entry has no stacks, at no cost.
    """

    specs: Sequence[ProbeSpec] = ()
    maps: Sequence[str] = ()

    def __init__(self) -> None:
        self._plans: Sequence[TargetPlan] = ()
        self._kernel: Kernel | None = None

    def defines(self) -> Mapping[str, int]:
        """None of its own."""
        return {}

    def plan(self, plans: Sequence[TargetPlan]) -> None:
        """Keep them."""
        self._plans = plans

    def prepare(self, kernel: Kernel, _budget: Budget) -> None:
        """Nothing to attach: the walk is part of the program that sees wake-ups."""
        self._kernel = kernel

    def arm(self, _now_ns: int) -> Harvest:
        """Tell what is known."""
        for plan in self._plans:
            self._tell(plan)
        return NOTHING

    def retarget(self, plan: TargetPlan) -> Harvest:
        """Tell of another interpreter."""
        self._tell(plan)
        return NOTHING

    def gone(self, pid: int) -> None:
        """What was told is not true any more."""
        if self._kernel is not None:
            syscalls.map_delete(self._kernel.maps["ps_pythons"], struct.pack("<I", pid))

    def on_scan(self, _now_ns: int) -> Harvest:
        """Nothing to say."""
        return NOTHING

    def last(self, _now_ns: int) -> Harvest:
        """Nothing to say."""
        return NOTHING

    def close(self) -> None:
        """The map is closed with the kernel."""
        self._kernel = None

    def _tell(self, plan: TargetPlan) -> None:
        self.gone(plan.target.pid)
        if plan.stacks is not None and self._kernel is not None:
            key = struct.pack("<I", plan.target.pid)
            syscalls.map_update(self._kernel.maps["ps_pythons"], key, plan.stacks.packed())
