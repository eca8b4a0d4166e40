"""Backends: where records come from, and the choice between them.

``bcc`` is the real one, ``proc`` the one without privileges, ``mock`` the scripted
or replayed one. Each module says itself whether it works here (``available``); it
is imported only when it is asked, because the heavy ones take time to import.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import cast

from collector.source import RecordSource
from probes.errors import BackendUnavailable, PermissionDenied, UsageError
from tracer.native.profiles import Profile
from tracer.pymem.kernel_stacks import StackWalk
from tracer.target import Target


@dataclass(frozen=True, slots=True)
class Options:
    """What every backend is told. Times in ns; ``budget`` is a share of one core.

    ``follow``: trace forked children too. ``slow_path`` and ``alloc`` switch the
    uprobes on; a backend without uprobes ignores them. ``native_profiles``: of native maps
    that are probed, in the order of their numbers. ``cache_dir`` of None means
    ``$XDG_CACHE_HOME/parkscope``.
    """

    long_park_ns: int = 200_000_000
    min_park_ns: int = 1_000_000
    follow: bool = False
    alloc: bool = True
    slow_path: bool = True
    budget: float = 0.01
    native_profiles: tuple[Profile, ...] = ()
    cache_dir: Path | None = None


@dataclass(frozen=True, slots=True)
class TargetPlan:
    """A target and what of its memory the backend must know.

    ``gil_ranges`` are the ``[start, end)`` addresses of each interpreter's GIL,
    ``gil_conditions`` the address of each one's condition variable; both empty
    when memory reading is refused. ``stacks``: how the kernel finds the stacks of its
    running threads, None where it cannot.
    """

    target: Target
    gil_ranges: tuple[tuple[int, int], ...] = ()
    gil_conditions: tuple[int, ...] = ()
    stacks: StackWalk | None = None


SourceFactory = Callable[[Sequence[TargetPlan], Options], RecordSource]

BACKENDS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "bcc": ("tracer.backends.bcc", "BccSource"),
        "proc": ("tracer.backends.proc", "ProcSource"),
    }
)
"""Backends for live processes, the best first: module and class. The mock is not
among them: it has a scenario or a trace instead of a target (``tracer.backends.mock``)."""


def attach(name: str, plans: Sequence[TargetPlan], options: Options) -> tuple[RecordSource, str]:
    """An attached backend and, in one line, why that one (and why not a better one).

    ``name`` is ``auto`` or a key of ``BACKENDS``. With ``auto`` the next one is tried
    when a better one does not work here or is not allowed to. Raises
    BackendUnavailable and PermissionDenied when none can be had, UsageError for
    another name, and whatever is wrong with a target.
    """
    if name != "auto" and name not in BACKENDS:
        raise UsageError(f"no backend is named {name!r}: {', '.join(('auto', *BACKENDS))}")
    if name != "auto":
        obstacle = obstacle_to(name)
        if obstacle is not None:
            raise BackendUnavailable(f"backend {name} does not work here: {obstacle}")
        return _factory(name)(plans, options), f"{name}, as asked for"
    passed_over: list[str] = []
    for candidate in BACKENDS:
        obstacle = obstacle_to(candidate)
        if obstacle is None:
            try:
                source = _factory(candidate)(plans, options)
                return source, "; ".join((candidate, *passed_over))
            except (BackendUnavailable, PermissionDenied) as error:
                obstacle = error.message
        passed_over.append(f"not {candidate}: {obstacle}")
    raise BackendUnavailable("no backend works here: " + "; ".join(passed_over))


def obstacle_to(name: str) -> str | None:
    """Why backend ``name`` cannot be used here; None when it works."""
    available = importlib.import_module(BACKENDS[name][0]).available
    return cast("str | None", available())


def _factory(name: str) -> SourceFactory:
    module, attribute = BACKENDS[name]
    return cast("SourceFactory", getattr(importlib.import_module(module), attribute))
