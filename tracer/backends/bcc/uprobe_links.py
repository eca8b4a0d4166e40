"""Attach and detach groups of uprobes: one link per program and file, or one per probe.

``uprobe_multi`` links take many places at once and go quickly, also when the tracer
is killed (``keepers``); kernels before 6.6 get perf events.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

from probes.slow_path import spec as slow_path
from tracer.backends.bcc import syscalls
from tracer.backends.bcc.keepers import Keepers, Kept
from tracer.backends.bcc.perf_uprobes import Place, link_uprobe
from tracer.sites.hooks import Hook
from tracer.sites.planner import PriceClass

_CALIBRATE = 0  # PS_SITE_CALIBRATE


class Links:
    """The open links of a tracer, by (group, pid). Not thread-safe but for ``close``'s work.

    ``programs``: descriptors by function name. ``multi``: the programs were loaded for
    ``uprobe_multi``.
    """

    def __init__(self, programs: Mapping[str, int], *, multi: bool) -> None:
        self._programs = programs
        self._multi = multi
        self._keepers = Keepers(programs.values())
        self._open: dict[tuple[str, int], list[Kept]] = {}
        self._closing: list[Future[None]] = []
        self._after = ThreadPoolExecutor(1, "parkscope-detach")

    def attach(self, group: str, pid: int, hooks: Sequence[Hook]) -> list[str]:
        """Attach a group's hooks to one process; what could not be attached, for people.

        A hook that fails leaves the others attached.
        """
        failures: list[str] = []
        links: list[Kept] = []
        for (program, path, returns), together in _grouped(hooks).items():
            if program not in self._programs:
                failures.append(f"{together[0].function}: {program} was not loaded")
                continue
            try:
                links.append(self._keep(program, path, together, pid, returns))
            except OSError as error:
                names = ", ".join(hook.function for hook in together)
                failures.append(f"{names}: {error.strerror}")
        if links:
            self._open.setdefault((group, pid), []).extend(links)
        return failures

    def _keep(
        self, program: str, path: str, hooks: Sequence[Hook], pid: int, returns: bool
    ) -> Kept:
        return self._keepers.keep(partial(self._link, program, path, hooks, pid, returns))

    def _link(
        self, program: str, path: str, hooks: Sequence[Hook], pid: int, returns: bool
    ) -> list[int]:
        fd = self._programs[program]
        offsets = [hook.offset for hook in hooks]
        cookies = [hook.cookie for hook in hooks]
        if self._multi:
            counters = [hook.semaphore for hook in hooks]
            link = syscalls.link_uprobe_multi(
                fd, path, offsets, cookies, counters, pid=pid, returns=returns
            )
            return [link]
        links: list[int] = []
        try:
            for hook in hooks:
                place = Place(path, hook.offset, hook.semaphore)
                links += link_uprobe(fd, place, hook.cookie, pid=pid, returns=returns)
        except OSError:
            for link in links:
                os.close(link)
            raise
        return links

    def detach(self, group: str, pid: int, then: Callable[[], None] | None = None) -> None:
        """Detach a group from one process, in the background; call ``then`` there afterwards."""
        closing = [self._keepers.drop(kept) for kept in self._open.pop((group, pid), [])]
        self._closing = [one for one in self._closing if not one.done()]
        self._closing += closing if then is None else [self._after.submit(_once, closing, then)]

    def settle(self) -> None:
        """Wait until all that was detached is gone: no place is ever hit twice."""
        for one in self._closing:
            one.result()
        self._closing.clear()

    def pids(self, group: str) -> list[int]:
        """The processes that a group is attached to."""
        return [pid for name, pid in self._open if name == group]

    @contextmanager
    def on_scratch(self, path: str, offset: int, pid: int, returns: bool) -> Iterator[None]:
        """The slow-path programs on a place of the scratch child (``price.Attach``)."""
        pairs = [(slow_path.ENTRY.function, False)]
        if returns:
            pairs.append((slow_path.RETURN.function, True))
        links: list[Kept] = []
        try:
            for program, at_return in pairs:
                hook = Hook(
                    probe=slow_path.SPEC.name,
                    group=slow_path.SPEC.name,
                    function="scratch",
                    program=program,
                    path=path,
                    offset=offset,
                    cookie=_CALIBRATE,
                    returns=at_return,
                    price=PriceClass.EMULATED,
                )
                links.append(self._keep(program, path, [hook], pid, at_return))
            yield
        finally:
            for closing in [self._keepers.drop(kept) for kept in links]:
                closing.result()

    def close(self) -> None:
        """Detach everything and wait until that has been done. Safe to call twice."""
        for group, pid in list(self._open):
            self.detach(group, pid)
        self.settle()
        self._keepers.close()
        self._after.shutdown(wait=True)


def _grouped(hooks: Sequence[Hook]) -> dict[tuple[str, str, bool], list[Hook]]:
    """Hooks that one link can take, those at returns first.

    An entry whose return is not yet probed would leave an open wait behind.
    """
    groups: dict[tuple[str, str, bool], list[Hook]] = defaultdict(list)
    for hook in sorted(hooks, key=lambda hook: not hook.returns):
        groups[hook.program, hook.path, hook.returns].append(hook)
    return groups


def _once(closing: Sequence[Future[None]], then: Callable[[], None]) -> None:
    for one in closing:
        one.result()
    then()
