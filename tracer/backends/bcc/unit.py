"""The unit: what is compiled, as one text with its flags, programs and maps."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import probes
from probes import PROBES
from probes.spec import Hook, ProbeSpec, Program
from tracer.backends.bcc import syscalls
from tracer.backends.bcc.btf import ITERATOR, TRACEPOINT_PREFIX

PROBES_DIR = Path(probes.__file__).parent
HEADERS = PROBES_DIR / "include"

CORE = ("threads", "wakes", "lifecycle")
"""The probes that every source has; the others come with addons."""
MAPS = (
    "ps_targets",
    "ps_settings",
    "ps_ring",
    "ps_emitted",
    "ps_dropped",
    "ps_watch",
    "ps_expected_of",
    "ps_pythons",
    "ps_stacks",
    "ps_walks",
    "ps_codes",
)
"""The maps of ``common.bpf.h`` and ``stacks.bpf.h``; probes add their own."""

BTF_TRACEPOINT = "BTF_TRACEPOINT"
"""A kind of ours: bcc compiles such a program but has no way to load it."""

_PROGRAM_TYPE: Mapping[Hook, str] = {
    Hook.TASK_ITERATOR: "TRACING",
    Hook.RAW_TRACEPOINT: "RAW_TRACEPOINT",
    Hook.BTF_TRACEPOINT: BTF_TRACEPOINT,
    Hook.UPROBE: "KPROBE",
    Hook.URETPROBE: "KPROBE",
}


@dataclass(frozen=True, slots=True)
class WantedProgram:
    """A program as it is loaded: bcc's name of its type, the attach type (-1: none).

    The kernel ties a program to one way of attaching when it is loaded, ``TRACING``
    ones also to a place: ``attach_to`` is its name in the kernel's BTF.
    """

    name: str
    kind: str
    attach_type: int
    optional: bool
    attach_to: str = ""


@dataclass(frozen=True, slots=True)
class Unit:
    """Probes in ``PROBES`` order, ``-D`` values, and the maps that are taken over.

    ``PS_UPROBE_MULTI`` among the defines says that uprobe programs are for
    ``uprobe_multi`` links.
    """

    specs: tuple[ProbeSpec, ...]
    defines: Mapping[str, int]
    maps: tuple[str, ...]

    @property
    def programs(self) -> list[WantedProgram]:
        """All programs of all probes."""
        multi = bool(self.defines.get("PS_UPROBE_MULTI", 1))
        return [_wanted(program, multi) for spec in self.specs for program in spec.programs]

    def text(self) -> str:
        """The one text that bcc compiles: the common part, then each probe's source."""
        return "".join(
            f'#line 1 "{path.parent.name}/{path.name}"\n{path.read_text()}\n'
            for path in self._files()
        )

    def digest(self) -> str:
        """Names everything that goes into the compiled programs but the kernel."""
        digest = hashlib.sha256()
        headers = sorted(HEADERS.rglob("*.h"))
        for path in (*self._files(), PROBES_DIR / "record.h", *headers):
            digest.update(path.read_bytes())
        digest.update(repr((sorted(self.defines.items()), self.programs, self.maps)).encode())
        return digest.hexdigest()[:24]

    def _files(self) -> list[Path]:
        sources = [PROBES_DIR / spec.name / spec.source for spec in self.specs]
        return [PROBES_DIR / "common.bpf.h", PROBES_DIR / "stacks.bpf.h", *sources]


def make_unit(extra: Iterable[ProbeSpec], defines: Mapping[str, int], maps: Iterable[str]) -> Unit:
    """The unit of the core probes and ``extra`` ones, which bring defines and maps."""
    extra = tuple(extra)
    wanted = {*CORE, *(spec.name for spec in extra)}
    specs = [spec for spec in PROBES if spec.name in wanted]
    specs += [spec for spec in extra if spec not in specs]
    return Unit(tuple(specs), dict(defines), (*MAPS, *maps))


def _wanted(program: Program, multi: bool) -> WantedProgram:
    attach_type, attach_to = -1, ""
    if program.hook in (Hook.UPROBE, Hook.URETPROBE) and multi:
        attach_type = syscalls.ATTACH_TRACE_UPROBE_MULTI
    elif program.hook is Hook.BTF_TRACEPOINT:
        attach_type, attach_to = syscalls.ATTACH_TRACE_RAW_TP, TRACEPOINT_PREFIX + program.event
    elif program.hook is Hook.TASK_ITERATOR:
        attach_to = ITERATOR
    optional = program.hook is not Hook.TASK_ITERATOR
    kind = _PROGRAM_TYPE[program.hook]
    return WantedProgram(program.function, kind, attach_type, optional, attach_to)
