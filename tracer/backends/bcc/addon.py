"""How probes beyond the scan plug into the bcc source: slow paths, allocation.

An addon brings probe folders that are compiled into the one unit, attaches its
programs once they are loaded, and hands over what it reads from its own maps. The
source knows no more of it than this protocol; ``ADDONS`` is the explicit list.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy.typing as npt

from collector.events import Event
from probes.spec import ProbeSpec
from tracer.backends import Options, TargetPlan
from tracer.backends.bcc.budget import Budget
from tracer.backends.bcc.load import Kernel


@dataclass(frozen=True, slots=True)
class Harvest:
    """What an addon has to say: arrays of ``RECORD``, losses by kind, events."""

    records: tuple[npt.NDArray[Any], ...] = ()
    dropped: Mapping[int, int] = field(default_factory=dict)
    events: tuple[Event, ...] = ()


NOTHING = Harvest()


class Addon(Protocol):
    """One instance per source.

    Nothing but ``ParkscopeError`` may come out of it; it becomes a ``probe_failed``
    event, the addon is closed, and the rest goes on.
    """

    specs: Sequence[ProbeSpec]
    """Its probes; those in ``PROBES`` are compiled in PROBES order."""
    maps: Sequence[str]
    """Maps of its programs that it wants descriptors of."""

    def defines(self) -> Mapping[str, int]:
        """``-D`` values for its programs (names with the prefix ``PS_``)."""

    def plan(self, plans: Sequence[TargetPlan]) -> None:
        """Choose sites; called while the unit compiles, so time is free here."""

    def prepare(self, kernel: Kernel, budget: Budget) -> None:
        """Programs and maps are loaded (``kernel.refused``: those that are not).

        What costs the target joins ``budget``.
        """

    def arm(self, now_ns: int) -> Harvest:
        """Attach. The scan runs already."""

    def retarget(self, plan: TargetPlan) -> Harvest:
        """A process executed a new program, or a followed child is known now."""

    def gone(self, pid: int) -> None:
        """A process has ended or replaced its program."""

    def on_scan(self, now_ns: int) -> Harvest:
        """Called after every scan: once a second, and more often while threads run."""

    def last(self, now_ns: int) -> Harvest:
        """The end: what was counted and not yet handed over."""

    def close(self) -> None:
        """Detach. Safe to call twice; never raises."""


AddonFactory = Callable[[Options], "Addon | None"]


def _uprobes(options: Options) -> Addon | None:
    from tracer.backends.bcc.uprobes import uprobes  # it imports this module

    return uprobes(options)


def _waker_stacks(_options: Options) -> Addon | None:
    from tracer.backends.bcc.waker_stacks import WakerStacks  # it imports this module

    return WakerStacks()


def _native_maps(options: Options) -> Addon | None:
    from tracer.backends.bcc.native_map import native_maps  # it imports this module

    return native_maps(options)


ADDONS: tuple[AddonFactory, ...] = (_uprobes, _waker_stacks, _native_maps)
"""What a source is built with by default; a factory returns None when switched off."""
