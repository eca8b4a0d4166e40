"""Probes on native maps, as an addon of the bcc source.

What is probed: ``tracer.native``. A library may be loaded long after the attach, so the
target's file mappings are looked at again now and then, at a bounded price, and nothing
more is read of them than the names of files that were not there before.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from collector.events import Event
from probes.errors import BadElf, ParkscopeError
from probes.native_map.spec import HIT, SPEC
from probes.spec import ProbeSpec
from tracer import procfs
from tracer.backends import Options, TargetPlan
from tracer.backends.bcc import syscalls
from tracer.backends.bcc.addon import NOTHING, Harvest
from tracer.backends.bcc.budget import Budget
from tracer.backends.bcc.cache import cache_directory
from tracer.backends.bcc.load import Kernel
from tracer.backends.bcc.native_counts import MAX_COUNTS, MAX_RANGES, MAX_SITES, MAX_WAITS, MapMaps
from tracer.backends.bcc.perf_uprobes import kernel_has_uprobe_multi
from tracer.backends.bcc.uprobe_links import Links
from tracer.elf import Elf
from tracer.governor import SECOND_NS, Group
from tracer.native.profiles import Profile
from tracer.native.sites import (
    BREAKERS,
    COUNTS,
    RANGES,
    WAITS,
    LibraryPlan,
    MapSite,
    not_library,
    plan_library,
)
from tracer.sites import price
from tracer.sites.hooks import Hook
from tracer.target import Module, inspect

DRAIN_PERIOD_NS = SECOND_NS
LOOK_PERIOD_NS = 2 * SECOND_NS
LOOK_SHARE = 200
"""Looking for new libraries takes at most one part in so many of a core."""
LOOK_LIBRARIES = 4
"""So many are read at a time; a program that maps many files of such names waits, not the loop."""
UNPRICED_PERIOD_NS = SECOND_NS // 4
UNPRICED_NS = 5 * SECOND_NS
"""So long after the attach the prices have been measured (whether a long nop is cheap here),
or will not be."""
_GROUPS = (Group(COUNTS, 2), Group(RANGES, 4), Group(WAITS, 5), Group(BREAKERS, 6))

_Key = tuple[str, int, int]  # profile, device, inode


@dataclass(slots=True)
class _Process:
    """A target: the files of libraries that are known in it, and what is attached."""

    plan: TargetPlan
    hooks: list[Hook] = field(default_factory=list)
    libraries: set[_Key] = field(default_factory=set)
    said: set[_Key] = field(default_factory=set)
    look_due_ns: int = 0


@contextmanager
def _kernel_calls() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise syscalls.refusal(error, "eBPF maps of native map probes") from None


class NativeMaps:
    """One per source; see ``addon.Addon``. ``profiles``: their order is their number."""

    specs: Sequence[ProbeSpec] = (SPEC,)
    maps: Sequence[str] = MapMaps.NAMES
    groups: Sequence[Group] = _GROUPS

    def __init__(
        self, options: Options, profiles: Sequence[Profile], *, multi: bool | None = None
    ) -> None:
        self._profiles = profiles
        self._cache = cache_directory(options.cache_dir)
        self._prices = price.load(self._cache)
        self._multi = kernel_has_uprobe_multi() if multi is None else multi
        self._budget = Budget(options.budget)
        self._processes: dict[int, _Process] = {}
        self._settled = self._prices.measured
        self._settle_ns = self._price_due_ns = 0
        self._numbers: dict[tuple[int, int, int, bytes], int] = {}
        self._priced: list[tuple[str, float]] = []
        self._counts: MapMaps | None = None
        self.links = Links({}, multi=self._multi)
        self._drain_due_ns = 0
        self._seen_hits = np.zeros(MAX_SITES, np.uint64)
        self._drained_hits = 0
        self._cost_ns: dict[str, int] = {}
        self._pending: list[npt.NDArray[Any]] = []

    def defines(self) -> Mapping[str, int]:
        """Sizes, and how the programs will be attached."""
        return {
            "PS_MAX_MAP_WAITS": MAX_WAITS,
            "PS_MAX_MAP_RANGES": MAX_RANGES,
            "PS_MAX_MAP_COUNTS": MAX_COUNTS,
            "PS_UPROBE_MULTI": int(self._multi),
        }

    def plan(self, plans: Sequence[TargetPlan]) -> None:
        """Keep them: a target without a library of ours costs no more than that."""
        for plan in plans:
            self._processes[plan.target.pid] = _Process(plan)

    def prepare(self, kernel: Kernel, budget: Budget) -> None:
        """Take programs and maps over."""
        self._budget = budget
        budget.join(self)
        self.links = Links(kernel.programs, multi=self._multi)
        self._counts = MapMaps(kernel)

    @_kernel_calls()
    def arm(self, now_ns: int) -> Harvest:
        """Attach to the libraries that are there."""
        self._settle_ns = now_ns + UNPRICED_NS
        self._drain_due_ns = now_ns + DRAIN_PERIOD_NS
        events = [e for pid in self._processes for e in self._introduce(pid, now_ns)]
        return Harvest(events=tuple(events))

    @_kernel_calls()
    def retarget(self, plan: TargetPlan) -> Harvest:
        """Probe a process anew, or a new one."""
        self.gone(plan.target.pid)
        self.links.settle()
        self.plan([plan])
        return Harvest(events=tuple(self._introduce(plan.target.pid, time.monotonic_ns())))

    @_kernel_calls()
    def gone(self, pid: int) -> None:
        """Let go of a process that has ended or replaced its program."""
        process = self._processes.pop(pid, None)
        if process is None or self._counts is None:
            return
        for group in self.groups:
            self.links.detach(group.name, pid)
        if process.hooks:
            self._pending.append(self._counts.take_counts(time.monotonic_ns()))
            self._counts.forget(pid)

    @_kernel_calls()
    def on_scan(self, now_ns: int) -> Harvest:
        """Look for new libraries; once a second, hand over what was counted."""
        self._settle(now_ns)
        events = [e for pid in list(self._processes) for e in self._look(pid, now_ns)]
        if now_ns >= self._drain_due_ns:
            self._drain_due_ns = now_ns + DRAIN_PERIOD_NS
            self._drain(now_ns)
        return self._harvest(events)

    @_kernel_calls()
    def last(self, now_ns: int) -> Harvest:
        """What was counted and not yet handed over, at the end."""
        self._drain(now_ns)
        return self._harvest([])

    def _harvest(self, events: list[Event]) -> Harvest:
        records, self._pending = tuple(one for one in self._pending if len(one)), []
        return Harvest(records=records, events=tuple(events)) if events or records else NOTHING

    def _drain(self, now_ns: int) -> None:
        if self._counts is None or not self._numbers:
            return
        hits = int(self._counts.hits(len(self._numbers)).sum())
        if hits != self._drained_hits:
            self._drained_hits = hits
            self._pending.append(self._counts.take_counts(now_ns))

    def close(self) -> None:
        """Detach from everything."""
        self._budget.leave(self)
        self.links.close()

    # -- libraries ------------------------------------------------------------------

    def _look(self, pid: int, now_ns: int) -> list[Event]:
        """See whether a library has been loaded since."""
        process = self._processes[pid]
        if now_ns < process.look_due_ns:
            return []
        began_ns = time.thread_time_ns()
        try:
            if self._new_names(pid, process):
                self._processes[pid].plan = TargetPlan(inspect(pid))
            return self._introduce(pid, now_ns)
        except ParkscopeError:
            return []  # gone, or going: the source will say so
        finally:
            spent_ns = time.thread_time_ns() - began_ns
            process.look_due_ns = now_ns + max(LOOK_PERIOD_NS, spent_ns * LOOK_SHARE)

    def _settle(self, now_ns: int) -> None:
        """Once it is known whether long nops are cheap here, go through all libraries again."""
        if self._settled or now_ns < self._price_due_ns:
            return
        self._price_due_ns = now_ns + UNPRICED_PERIOD_NS
        self._prices = price.load(self._cache)
        self._settled = self._prices.measured or now_ns >= self._settle_ns
        if self._settled:
            for process in self._processes.values():
                process.libraries.clear()
                process.look_due_ns = now_ns

    def _new_names(self, pid: int, process: _Process) -> bool:
        """Whether a file is mapped that is called like a library and was not seen."""
        known = {(device, inode) for _, device, inode in process.libraries}
        return any(
            (device, inode) not in known
            and any(one.library.has_name(path) for one in self._profiles)
            for path, device, inode in procfs.code_files(pid)
        )

    def _introduce(self, pid: int, now_ns: int) -> list[Event]:
        """Attach to libraries of a process that were not known yet."""
        process = self._processes[pid]
        new = [
            (key, module, number)
            for module in process.plan.target.modules
            for number, profile in enumerate(self._profiles)
            if (key := (profile.name, module.device, module.inode)) not in process.libraries
            and profile.library.has_name(module.path)
        ]
        events: list[Event] = []
        for key, module, number in new[:LOOK_LIBRARIES]:
            process.libraries.add(key)
            events += self._library(process, module, number, now_ns)
        return events

    def _library(self, process: _Process, module: Module, number: int, now_ns: int) -> list[Event]:
        profile, pid = self._profiles[number], process.plan.target.pid
        key = (profile.name, module.device, module.inode)
        try:
            with Elf.open(module.open_path) as elf:
                why = not_library(elf, profile)
                if why is not None:
                    told = key in process.said
                    process.said.add(key)
                    return [] if told else [_failed(pid, now_ns, _called_so(module, profile, why))]
                plan = plan_library(elf, profile, long_nops=self._prices.long_nops)
        except (OSError, BadElf) as error:
            return [_failed(pid, now_ns, f"{os.path.basename(module.path)}: {error}")]
        known = {(hook.path, hook.offset, hook.cookie) for hook in process.hooks}
        planned = self._hooks(module, number, plan)
        if planned is None:
            return [_failed(pid, now_ns, f"{profile.name}: {MAX_SITES} places are probed already")]
        hooks = [one for one in planned if (one.path, one.offset, one.cookie) not in known]
        process.hooks += hooks
        events: list[Event] = []
        if key not in process.said and (self._settled or not plan.refusals):
            process.said.add(key)
            events.append(_found(pid, now_ns, profile, module, plan))
            events += [_failed(pid, now_ns, f"{one.function}: {one.why}") for one in plan.refusals]
        for group in self.groups:
            if self._budget.armed(group.name):
                events += self._attach(group.name, pid, hooks, now_ns)
        return events

    def _hooks(self, module: Module, profile: int, plan: LibraryPlan) -> list[Hook] | None:
        """All of a library or none (no room): a wait without its end would never be over."""
        hooks = []
        for site in plan.sites:
            number = self._number(module, profile, site)
            if number is None:
                return None
            hooks.append(
                Hook(
                    SPEC.name, site.group, site.function, HIT.function, module.open_path,
                    site.offset, number, False, site.price, site.semaphore,
                )
            )  # fmt: skip
        return hooks

    def _number(self, module: Module, profile: int, site: MapSite) -> int | None:
        """The cookie of a site; processes that share a file share it. None: there are too many."""
        packed = site.packed(profile)
        key = (module.device, module.inode, site.offset, packed)
        if key not in self._numbers:
            if len(self._numbers) >= MAX_SITES or self._counts is None:
                return None
            self._numbers[key] = len(self._numbers)
            self._counts.put_site(self._numbers[key], packed)
            self._priced.append((site.group, self._prices.of(site.price)))
        return self._numbers[key]

    # -- the budget -----------------------------------------------------------------

    def _attach(self, group: str, pid: int, hooks: Iterable[Hook], now_ns: int) -> list[Event]:
        wanted = [hook for hook in hooks if hook.group == group]
        failures = self.links.attach(group, pid, wanted) if wanted else []
        return [_failed(pid, now_ns, why) for why in failures]

    @_kernel_calls()
    def take_back(self, group: str, now_ns: int) -> Iterable[Event]:
        """Attach a group to all targets (``budget.Governed``)."""
        return [
            event
            for pid, process in self._processes.items()
            for event in self._attach(group, pid, process.hooks, now_ns)
        ]

    @_kernel_calls()
    def give_up(self, group: str) -> None:
        """Detach a group from all targets; what was open cannot end any more."""
        then = None
        if self._counts is not None:
            then = {WAITS: self._counts.drop_waits, RANGES: self._counts.drop_ranges}.get(group)
        for pid in self.links.pids(group):
            self.links.detach(group, pid, then)

    @_kernel_calls()
    def spent_ns(self) -> Mapping[str, int]:
        """CPU time (ns) that each group has cost all targets so far."""
        sites = len(self._priced)
        if self._counts is not None and sites:
            hits = self._counts.hits(sites)
            new = (hits - self._seen_hits[:sites]).tolist()
            self._seen_hits[:sites] = hits
            for count, (group, price_ns) in zip(new, self._priced, strict=True):
                if count:
                    self._cost_ns[group] = self._cost_ns.get(group, 0) + int(count * price_ns)
        return dict(self._cost_ns)


def _found(pid: int, now_ns: int, profile: Profile, module: Module, plan: LibraryPlan) -> Event:
    name = os.path.basename(module.path.removesuffix(" (deleted)"))
    data = {"profile": profile.name, "library": name, "places": len(plan.sites)}
    return Event("native_library", now_ns, pid=pid, data=data)


def _called_so(module: Module, profile: Profile, why: str) -> str:
    name = os.path.basename(module.path)
    return f"{name} is called like the library of profile {profile.name}, but {why}"


def _failed(pid: int, now_ns: int, why: str) -> Event:
    return Event("probe_failed", now_ns, pid=pid, data={"probe": SPEC.name, "why": why})


def native_maps(options: Options) -> NativeMaps | None:
    """The addon, or None when it is switched off (``addon.AddonFactory``)."""
    return NativeMaps(options, options.native_profiles) if options.native_profiles else None
