"""An addon whose probe makes records as fast as a target makes system calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from probes.spec import CostClass, Hook, ProbeSpec, Program
from probes.wire import Kind
from tracer.backends import Options, TargetPlan
from tracer.backends.bcc.addon import NOTHING, Harvest
from tracer.backends.bcc.budget import Budget
from tracer.backends.bcc.load import Kernel

SOURCE = Path(__file__).parents[2] / "targets" / "flood.bpf.c"

PER_CALL = 256
"""Records for each getppid of a target."""


class Flood:
    """See ``tracer.backends.bcc.addon.Addon``. ``source``: another program to load."""

    maps: Sequence[str] = ()

    def __init__(self, source: Path = SOURCE, function: str = "ps_flood") -> None:
        program = Program(function, Hook.RAW_TRACEPOINT, "sys_enter")
        self.specs: Sequence[ProbeSpec] = (
            ProbeSpec(
                "flood", "records without end", str(source), (program,), (Kind.WAIT,), CostClass.C
            ),
        )
        self.kernel: Kernel | None = None

    def defines(self) -> Mapping[str, int]:
        """How many records a call makes."""
        return {"PS_FLOOD": PER_CALL}

    def plan(self, plans: Sequence[TargetPlan]) -> None:
        """There is nothing to choose."""

    def prepare(self, kernel: Kernel, budget: Budget) -> None:
        """Keep what was loaded, for the test to look at."""
        self.kernel = kernel

    def arm(self, _now_ns: int) -> Harvest:
        """The raw tracepoint is attached by the source."""
        return NOTHING

    def retarget(self, _plan: TargetPlan) -> Harvest:
        """All targets are alike."""
        return NOTHING

    def gone(self, pid: int) -> None:
        """All targets are alike."""

    def on_scan(self, _now_ns: int) -> Harvest:
        """Everything comes through the ring."""
        return NOTHING

    def last(self, _now_ns: int) -> Harvest:
        """Everything comes through the ring."""
        return NOTHING

    def close(self) -> None:
        """Nothing is held."""


def factory(_options: Options) -> Flood:
    """For ``BccSource(addons=…)``."""
    return Flood()
