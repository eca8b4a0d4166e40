"""All uprobes of one target: files, offsets, cookies, prices, and what was refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

from probes.alloc import spec as alloc
from probes.errors import BadElf
from probes.slow_path import spec as slow_path
from tracer.elf import Elf
from tracer.sites.allocation import REFILL, LargeSites, RefillSite, plan_large, plan_refill
from tracer.sites.kept import KeptPlans
from tracer.sites.planner import Function, PriceClass, Refusal, Site
from tracer.sites.slow_path import gil_code, plan_waits
from tracer.target import Module, Target

_Planned = TypeVar("_Planned")
_OLD_PTHREAD = "/libpthread-2."  # before glibc 2.34; what is left of it since has another name


GROUP_OF: Mapping[str, str] = MappingProxyType(
    {
        "realloc": "alloc.realloc",
        "malloc": "alloc.malloc",
        "calloc": "alloc.malloc",
        REFILL: "alloc.refill",
    }
)
"""Parts of the allocation probe, by function: ``realloc`` can be ten times as frequent as
the rest, and refills hardly ever cost much."""


@dataclass(frozen=True, slots=True)
class Hook:
    """One place in a file and the program that runs there.

    ``group`` is what is given up and taken back together: the probe, or a part of it.
    ``price`` is that of the entry; ``returns``: the program runs at the return (the
    price of a return probe comes on top of the entry's). ``semaphore``: file offset of the
    counter that the kernel raises while the place is probed, 0 when there is none.
    """

    probe: str
    group: str
    function: str
    program: str
    path: str
    offset: int
    cookie: int
    returns: bool
    price: PriceClass
    semaphore: int = 0


@dataclass(frozen=True, slots=True)
class LibcCode:
    """Run-time [start, end) of libc's functions that call ``malloc`` themselves."""

    calloc: tuple[int, int]
    realloc: tuple[int, int]
    realloc_null_is_malloc: bool


@dataclass(frozen=True, slots=True)
class TargetHooks:
    """What to attach to one process. ``take_gil`` is its run-time [start, end), if known."""

    hooks: tuple[Hook, ...]
    refusals: tuple[tuple[str, Refusal], ...]  # (probe, why not)
    libc: LibcCode | None
    take_gil: tuple[int, int] | None


def plan_target(
    target: Target, plans: KeptPlans | None = None, *, long_nops: bool = False
) -> TargetHooks:
    """The hooks of a target. Files that cannot be read end up among the refusals.

    ``plans`` knows files that were planned before. ``long_nops``: see ``x86.emulatable``.
    """
    plans = plans or KeptPlans()
    hooks: list[Hook] = []
    refusals: list[tuple[str, Refusal]] = []
    for probe, found in _waits(target, plans, long_nops):
        _sort(probe, found, hooks, refusals)
    large = _large(target, plans, long_nops)
    if isinstance(large, Refusal):
        refusals.append((alloc.SPEC.name, large))
    elif target.libc is not None:
        hooks += _large_hooks(target.libc, large)
    _sort(alloc.SPEC.name, _refill(target, plans, long_nops), hooks, refusals)
    return TargetHooks(
        tuple(hooks), tuple(refusals), _libc_code(target, large), _take_gil(target, plans)
    )


def _sort(
    probe: str,
    found: list[Hook] | Refusal,
    hooks: list[Hook],
    refusals: list[tuple[str, Refusal]],
) -> None:
    if isinstance(found, Refusal):
        refusals.append((probe, found))
    else:
        hooks += found


def _waits(
    target: Target, plans: KeptPlans, long_nops: bool
) -> Iterator[tuple[str, list[Hook] | Refusal]]:
    """Entry and return of each contended wait. Before glibc 2.34 libpthread has them."""
    probe = slow_path.SPEC.name
    if target.libc is None:
        yield probe, Refusal("sem_wait", "the target maps no C library that is known")
        return
    module = next((one for one in target.modules if _OLD_PTHREAD in one.path), target.libc)
    planned = _of(
        plans, module, ("waits", long_nops), dict[str, Site | Refusal],
        lambda elf: plan_waits(elf, long_nops=long_nops),
    )  # fmt: skip
    if isinstance(planned, Refusal):
        yield probe, planned
        return
    for name, site in planned.items():
        if isinstance(site, Refusal):
            yield probe, site
            continue
        cookie = slow_path.SITES[name]
        yield (
            probe,
            [
                _hook(probe, name, slow_path.ENTRY.function, module, site, cookie),
                _hook(probe, name, slow_path.RETURN.function, module, site, cookie, returns=True),
            ],
        )


def _large(target: Target, plans: KeptPlans, long_nops: bool) -> LargeSites | Refusal:
    if target.libc is None:
        return Refusal("malloc", "the target maps no C library that is known")
    return _of(
        plans, target.libc, ("large", long_nops), LargeSites | Refusal,
        lambda elf: plan_large(elf, long_nops=long_nops),
    )  # fmt: skip


def _large_hooks(libc: Module, sites: LargeSites) -> list[Hook]:
    return [
        _hook(alloc.SPEC.name, name, alloc.LARGE.function, libc, site, alloc.LIBC_SITES[name])
        for name, site in (
            ("malloc", sites.malloc),
            ("calloc", sites.calloc),
            ("realloc", sites.realloc),
        )
    ]


def _refill(target: Target, plans: KeptPlans, long_nops: bool) -> list[Hook] | Refusal:
    if target.python is None:
        return Refusal(REFILL, target.refusal or "no CPython")
    module = target.python.module
    found: RefillSite | Refusal = _of(
        plans, module, ("refill", long_nops), RefillSite | Refusal,
        lambda elf: plan_refill(elf, long_nops=long_nops),
    )  # fmt: skip
    if isinstance(found, Refusal):
        return found
    cookie = alloc.REFILL_SITES[found.register]
    name = found.site.function
    return [_hook(alloc.SPEC.name, name, alloc.REFILL.function, module, found.site, cookie)]


def _libc_code(target: Target, large: LargeSites | Refusal) -> LibcCode | None:
    if target.libc is None or isinstance(large, Refusal):
        return None
    bias = target.libc.load_bias
    (calloc, realloc) = ((start + bias, end + bias) for start, end in large.nested)
    return LibcCode(calloc, realloc, large.realloc_null_is_malloc)


def _take_gil(target: Target, plans: KeptPlans) -> tuple[int, int] | None:
    if target.python is None:
        return None
    found: tuple[Function, ...] | Refusal = _of(
        plans, target.python.module, ("gil",), tuple[Function, ...], gil_code
    )
    if isinstance(found, Refusal) or not found:
        return None
    start = found[0].address + target.python.module.load_bias
    return start, start + found[0].size


def _hook(
    probe: str,
    name: str,
    program: str,
    module: Module,
    site: Site,
    cookie: int,
    *,
    returns: bool = False,
) -> Hook:
    path = module.open_path
    group = GROUP_OF.get(name, probe)
    return Hook(probe, group, name, program, path, site.offset, cookie, returns, site.price)


def _of(
    plans: KeptPlans,
    module: Module,
    what: tuple[object, ...],
    kind: Any,
    read: Callable[[Elf], _Planned],
) -> _Planned | Refusal:
    """What ``read`` makes of the module's file; kept, because processes share files."""

    def make() -> _Planned:
        with Elf.open(module.open_path) as elf:
            return read(elf)

    try:
        return plans.get(module, what, kind, make)
    except (OSError, BadElf) as error:
        return Refusal(str(what[0]), f"{module.path} cannot be read: {error}")
