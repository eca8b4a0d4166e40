"""What a probe is: where it hooks, what it costs, which records it makes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from probes.enums import Kind


class CostClass(Enum):
    """What a probe may cost a target that hits it all the time."""

    A = "under 1 %"
    B = "up to 2x on workloads that do nothing else"
    C = "10x and more: refused unless insisted upon"


class Hook(Enum):
    """The kernel's place that a program is attached to."""

    TASK_ITERATOR = "iter/task"
    RAW_TRACEPOINT = "raw tracepoint"
    BTF_TRACEPOINT = "BTF tracepoint"
    """As a raw one, but the kernel knows its arguments' types: their fields are plain loads."""
    UPROBE = "uprobe"
    URETPROBE = "uretprobe"


@dataclass(frozen=True, slots=True)
class Program:
    """One BPF function of a probe.

    ``function`` is its name in the probe's ``.bpf.c``; ``event`` names the raw
    tracepoint of a ``RAW_TRACEPOINT`` or ``BTF_TRACEPOINT`` and is empty otherwise
    (uprobe sites are chosen per target by the site planner).
    """

    function: str
    hook: Hook
    event: str = ""


@dataclass(frozen=True, slots=True)
class ProbeSpec:
    """One probe: a folder under ``probes/`` of the same name.

    ``source`` is the program file inside that folder, ``records`` the kinds it
    may emit. What is given up first when probes cost too much: ``tracer.governor``.
    """

    name: str
    summary: str
    source: str
    programs: tuple[Program, ...]
    records: tuple[Kind, ...]
    cost: CostClass
