"""Uprobes on slow paths and allocation, as an addon of the bcc source.

Which places: ``tracer.sites``. Whether the target can afford them: ``tracer.governor``.
This module carries it out: the allocation probe is armed at once, the slow path if the
target's switch rate (looked at while the programs are compiled) allows it, and each is
given up and taken back as the governor says. Every step is an event.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from collector.events import Event
from probes.alloc.spec import SPEC as ALLOC
from probes.slow_path.spec import SPEC as SLOW_PATH
from probes.spec import ProbeSpec
from tracer.backends import Options, TargetPlan
from tracer.backends.bcc import syscalls
from tracer.backends.bcc.addon import NOTHING, Harvest
from tracer.backends.bcc.budget import Budget
from tracer.backends.bcc.cache import cache_directory
from tracer.backends.bcc.load import Kernel
from tracer.backends.bcc.perf_uprobes import kernel_has_uprobe_multi
from tracer.backends.bcc.switch_rate import SwitchRate
from tracer.backends.bcc.uprobe_links import Links
from tracer.backends.bcc.uprobe_maps import OPEN_WAITS, AllocMaps, WaitMaps
from tracer.governor import SECOND_NS, Group
from tracer.sites import price
from tracer.sites.hooks import Hook, TargetHooks, plan_target
from tracer.sites.kept import KeptPlans

DRAIN_PERIOD_NS = SECOND_NS
_PROBES = (SLOW_PATH, ALLOC)
_GROUPS = (
    (ALLOC, Group("alloc.realloc", 1)),
    (ALLOC, Group("alloc.malloc", 2)),
    (ALLOC, Group("alloc.refill", 3)),
    (SLOW_PATH, Group("slow_path", 4, look_first=True)),
)
"""What is given up and taken back together (``tracer.sites.hooks.GROUP_OF``), the first first."""


@contextmanager
def _kernel_calls() -> Iterator[None]:
    """What the kernel refuses becomes an error that the source knows how to report."""
    try:
        yield
    except OSError as error:
        raise syscalls.refusal(error, "eBPF maps of uprobes") from None


class Uprobes:
    """One per source; see ``addon.Addon``.

    ``multi``: use ``uprobe_multi`` links; by default where the kernel has them.
    """

    def __init__(self, options: Options, *, multi: bool | None = None) -> None:
        wanted = {SLOW_PATH.name: options.slow_path, ALLOC.name: options.alloc}
        self.specs: Sequence[ProbeSpec] = tuple(one for one in _PROBES if wanted[one.name])
        self.maps: Sequence[str] = (
            *(WaitMaps.NAMES if options.slow_path else ()),
            *(AllocMaps.NAMES if options.alloc else ()),
        )
        self._names = [spec.name for spec in self.specs]
        self._cache = cache_directory(options.cache_dir)
        self._prices = price.load(self._cache)
        self._kept = KeptPlans(self._cache / "sites")
        self._multi = kernel_has_uprobe_multi() if multi is None else multi
        self.groups: Sequence[Group] = [g for spec, g in _GROUPS if wanted[spec.name]]
        self._budget = Budget(options.budget)
        self._plans: dict[int, TargetPlan] = {}
        self._hooks: dict[int, TargetHooks] = {}
        self._waits: WaitMaps | None = None
        self._allocs: AllocMaps | None = None
        self.links = Links({}, multi=self._multi)
        self._rate: SwitchRate | None = None
        self._pricing = Pricing(self._cache)
        self._drain_due_ns = 0
        self._seen_hits: dict[str, npt.NDArray[np.uint64]] = {}
        self._cost_ns: dict[str, int] = {}
        self._hits: dict[str, int] = {}

    def defines(self) -> Mapping[str, int]:
        """Sizes, and how the programs will be attached (``load.py`` wants to know)."""
        return {"PS_MAX_OPEN_WAITS": OPEN_WAITS, "PS_UPROBE_MULTI": int(self._multi)}

    def plan(self, plans: Sequence[TargetPlan]) -> None:
        """Choose the sites of each target."""
        if self._rate is None:
            self._rate = SwitchRate([plan.target.pid for plan in plans], time.monotonic_ns())
        for plan in plans:
            self._plans[plan.target.pid] = plan
            self._hooks[plan.target.pid] = plan_target(
                plan.target, self._kept, long_nops=self._prices.long_nops
            )

    def prepare(self, kernel: Kernel, budget: Budget) -> None:
        """Take programs and maps over."""
        self._budget = budget
        budget.join(self)
        self.links = Links(kernel.programs, multi=self._multi)
        if SLOW_PATH.name in self._names:
            self._waits = WaitMaps(kernel)
        if ALLOC.name in self._names:
            self._allocs = AllocMaps(kernel)

    @_kernel_calls()
    def arm(self, now_ns: int) -> Harvest:
        """Attach what the target can afford, by the switch rate that it had so far."""
        events: list[Event] = []
        for pid in self._hooks:
            events += self._introduce(pid, now_ns)
        events += self._look(now_ns)
        self._drain_due_ns = now_ns + DRAIN_PERIOD_NS
        if not self._prices.measured and self._waits is not None:  # with its programs
            self._pricing.start(self.links)
        return Harvest(events=tuple(events))

    @_kernel_calls()
    def retarget(self, plan: TargetPlan) -> Harvest:
        """Probe a process anew, or a new one."""
        pid = plan.target.pid
        self.gone(pid)
        self.links.settle()
        self.plan([plan])
        return Harvest(events=tuple(self._introduce(pid, time.monotonic_ns())))

    @_kernel_calls()
    def gone(self, pid: int) -> None:
        """Let go of a process that has ended or replaced its program."""
        for group in self.groups:
            self.links.detach(group.name, pid)
        if self._waits is not None:
            self._waits.forget(pid)
        if self._allocs is not None:
            self._allocs.know_libc(pid, None)
        self._hooks.pop(pid, None)
        self._plans.pop(pid, None)

    @_kernel_calls()
    def on_scan(self, now_ns: int) -> Harvest:
        """Once a second, hand over what was counted."""
        events = self._look(now_ns)
        records: tuple[npt.NDArray[Any], ...] = ()
        if now_ns >= self._drain_due_ns:
            self._drain_due_ns = now_ns + DRAIN_PERIOD_NS
            records = self._drain(now_ns)
        if not events and not records:
            return NOTHING
        return Harvest(records=records, events=tuple(events))

    @_kernel_calls()
    def last(self, now_ns: int) -> Harvest:
        """What was counted and not yet handed over."""
        return Harvest(records=self._drain(now_ns))

    def close(self) -> None:
        """Detach from everything."""
        self._budget.leave(self)
        self._pricing.close()
        self.links.close()

    def _introduce(self, pid: int, now_ns: int) -> list[Event]:
        """Fill the maps for a process, attach what is armed, tell what was refused."""
        plan, hooks = self._plans[pid], self._hooks[pid]
        if self._waits is not None:
            self._waits.know_gils(pid, plan.gil_conditions, hooks.take_gil)
        if self._allocs is not None:
            self._allocs.know_libc(pid, hooks.libc)
        events = [
            _failed(probe, pid, now_ns, f"{refusal.function}: {refusal.why}")
            for probe, refusal in hooks.refusals
            if probe in self._names
        ]
        for group in self.groups:
            if self._budget.armed(group.name):
                events += self._attach(group.name, pid, now_ns)
        return events

    def _attach(self, group: str, pid: int, now_ns: int) -> list[Event]:
        hooks = [hook for hook in self._hooks[pid].hooks if hook.group == group]
        failures = self.links.attach(group, pid, hooks)
        if failures and not self.links.pids(group):
            self._budget.drop(group)
        return [_failed(group, pid, now_ns, why) for why in failures]

    def _look(self, now_ns: int) -> list[Event]:
        """Arm the slow path if it may be, once the switch rate has been looked at."""
        rate = self._rate
        if rate is None or not self._budget.waiting(SLOW_PATH.name) or not rate.known(now_ns):
            return []
        predicted = rate.per_second(now_ns) * self._price_of_wait() / SECOND_NS
        return self._budget.look(SLOW_PATH.name, now_ns, predicted)

    def _price_of_wait(self) -> float:
        return self._prices.emulated_ns + self._prices.return_ns

    @_kernel_calls()
    def take_back(self, group: str, now_ns: int) -> Iterable[Event]:
        """Attach a group to all targets (``budget.Governed``)."""
        return [event for pid in list(self._hooks) for event in self._attach(group, pid, now_ns)]

    @_kernel_calls()
    def give_up(self, group: str) -> None:
        """Detach a group from all targets."""
        for pid in self.links.pids(group):
            self.links.detach(group, pid, self._after_detach(group))

    def _after_detach(self, group: str) -> Any:
        return self._waits.drop_open if group == SLOW_PATH.name and self._waits else None

    @_kernel_calls()
    def hits(self) -> dict[str, npt.NDArray[np.uint64]]:
        """How often each probe's sites were hit so far, by cookie."""
        hits = {}
        if self._waits is not None:
            hits[SLOW_PATH.name] = self._waits.hits()
        if self._allocs is not None:
            hits[ALLOC.name] = self._allocs.hits()
        return hits

    def spent_ns(self) -> Mapping[str, int]:
        """CPU time (ns) that each group has cost all targets so far.

        Each hit counts at the price that was known when it was seen.
        """
        self._prices = self._pricing.found or self._prices
        for probe, hits in self.hits().items():
            new = hits - self._seen_hits.get(probe, np.zeros_like(hits))
            self._seen_hits[probe] = hits
            if new.any():  # most of the time an idle target has no hits to be priced
                self._charge(probe, new)
        return dict(self._cost_ns)

    def hit_counts(self) -> Mapping[str, int]:
        """How often each group was hit, as of the last ``spent_ns``."""
        return dict(self._hits)

    def _charge(self, probe: str, hits: npt.NDArray[np.uint64]) -> None:
        """Add what these hits (index: cookie) have cost to the groups that they are of."""
        for (name, cookie), (group, price_ns) in self._cookies().items():
            if name == probe:
                cost = int(hits[cookie] * price_ns)
                self._cost_ns[group] = self._cost_ns.get(group, 0) + cost
                self._hits[group] = self._hits.get(group, 0) + int(hits[cookie])

    def _cookies(self) -> dict[tuple[str, int], tuple[str, float]]:
        """(probe, cookie) → group, price of a hit in ns."""
        returning = {(one.probe, one.cookie) for one in self._all_hooks() if one.returns}
        return {
            (one.probe, one.cookie): (
                one.group,
                self._prices.of(one.price)
                + self._prices.return_ns * ((one.probe, one.cookie) in returning),
            )
            for one in self._all_hooks()
        }

    def _all_hooks(self) -> Iterable[Hook]:
        return (hook for hooks in self._hooks.values() for hook in hooks.hooks)

    def _drain(self, now_ns: int) -> tuple[npt.NDArray[Any], ...]:
        records = []
        if self._waits is not None:
            records.append(self._waits.take_histogram(now_ns))
        if self._allocs is not None:
            records.append(self._allocs.take_refills(now_ns))
        return tuple(one for one in records if len(one))


class Pricing:
    """Measures prices on a scratch child, in the background, and keeps them for this boot."""

    def __init__(self, cache_dir: Path) -> None:
        self._cache = cache_dir
        self._scratch: price.Scratch | None = None
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()
        self.found: price.Prices | None = None

    def start(self, links: Links) -> None:
        """Begin; ``found`` is set when it has worked."""
        self._thread = threading.Thread(
            target=self._measure, args=(links,), name="parkscope-price", daemon=True
        )
        self._thread.start()

    def _measure(self, links: Links) -> None:
        try:
            with price.Scratch() as self._scratch:
                if self._closed.is_set():
                    return
                found = price.measure(self._scratch, links.on_scratch)
            price.store(self._cache, found)
        except OSError:
            return  # the defaults stay; they are on the careful side
        self.found = found

    def close(self) -> None:
        """Stop measuring, wherever it is."""
        self._closed.set()
        if self._thread is not None:
            if self._scratch is not None:
                self._scratch.kill()
            self._thread.join()


def _failed(probe: str, pid: int, now_ns: int, why: str) -> Event:
    return Event("probe_failed", now_ns, pid=pid, data={"probe": probe, "why": why})


def uprobes(options: Options) -> Uprobes | None:
    """The addon, or None when both probes are switched off (``addon.AddonFactory``)."""
    return Uprobes(options) if options.slow_path or options.alloc else None
