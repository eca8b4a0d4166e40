"""The processes of one session: which, with which Python, and what became of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePath
from typing import Any, Protocol

from collector.context import ContextProvider
from collector.events import Event
from collector.sinks import SinkBase
from probes.errors import ParkscopeError
from tracer.backends import TargetPlan
from tracer.context import TargetContext
from tracer.native.profiles import Profile
from tracer.target import Target, inspect, require_python

_LOOK_PERIOD_NS = 20_000_000
_GIVE_UP_NS = 10_000_000_000
"""An interpreter that has not come up 10 s after an exec will hardly be one."""


class Retargetable(Protocol):
    """A source that can be told more about a process that it already follows."""

    def retarget(self, plan: TargetPlan) -> None:
        """Use what is known by now: GIL addresses, probe sites."""


class Followed(SinkBase):
    """Inspects the targets and keeps up with their forks and execs.

    It is a sink, to hear of them, and is ``tend``-ed between batches. A target
    without a readable CPython is refused (NotCPython, UnsupportedPython) unless
    ``python`` is False or it was ``launched`` and will execute one soon.
    """

    def __init__(
        self,
        pids: Sequence[int],
        *,
        python: bool,
        launched: bool,
        follow: bool,
        profiles: Sequence[Profile] = (),
    ) -> None:
        self._python = python
        self._launched = launched
        self._follow = follow
        self._source: Retargetable | None = None
        self.on_python: Callable[[int], None] = lambda _pid: None
        """Told of each process whose interpreter has come up meanwhile."""
        self._pending: dict[int, int] = {}
        self._looked_ns = 0
        self._context = TargetContext(profiles=profiles)
        self._targets: dict[int, Target] = {}
        for pid in dict.fromkeys(pids):
            target = inspect(pid)
            self._targets[pid] = target
            if launched:
                self._expect(pid)
            elif python:
                require_python(target)
                self._context.add(target)

    @property
    def context(self) -> ContextProvider:
        """Names and frames of all the targets."""
        return self._context

    def plans(self) -> list[TargetPlan]:
        """What the backend needs of each target."""
        return [self._plan(target) for target in self._targets.values()]

    def bind(self, source: Any) -> None:
        """Tell ``source`` of interpreters that come up later, if it wants to know.

        The stacks that it has taken in the kernel, if it can, are named from now on.
        """
        if hasattr(source, "retarget"):
            self._source = source
        if hasattr(source, "kernel_stack"):
            self._context.name_stacks_of(source)

    def about(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Facts of each target for its ``attached`` event; no command line, no paths.

        Of a child that has yet to execute its program there are none.
        """
        for pid, target in self._targets.items():
            if self._launched:
                yield pid, {"program": None, "python": None, "refusal": None}
                continue
            python = target.python
            yield (
                pid,
                {
                    "program": PurePath(target.cmdline[0]).name if target.cmdline else None,
                    "python": ".".join(map(str, python.version)) if python else None,
                    "refusal": target.refusal,
                },
            )

    def tend(self) -> None:
        """Look at processes that have executed a program or were forked."""
        now_ns = time.monotonic_ns()
        if not self._pending or now_ns - self._looked_ns < _LOOK_PERIOD_NS:
            return
        self._looked_ns = now_ns
        for pid, since_ns in list(self._pending.items()):
            if self._came_up(pid) or now_ns - since_ns > _GIVE_UP_NS:
                del self._pending[pid]

    def _came_up(self, pid: int) -> bool:
        try:
            target = inspect(pid)
            if target.python is None:
                return False
            self._context.add(target)
            reader = self._context.reader(pid)
            if reader is None or not reader.threads():
                self._context.remove(pid)
                return False
        except ParkscopeError:
            return False
        self._targets[pid] = target
        if self._source is not None:
            self._source.retarget(self._plan(target))
        self.on_python(pid)
        return True

    def _plan(self, target: Target) -> TargetPlan:
        reader = self._context.reader(target.pid)
        if reader is None:
            return TargetPlan(target)
        return TargetPlan(
            target,
            tuple(reader.gil_ranges()),
            tuple(reader.gil_conditions()),
            reader.stack_walk(),
        )

    def _expect(self, pid: int) -> None:
        if self._python:
            self._pending[pid] = time.monotonic_ns()

    # -- as a sink ------------------------------------------------------------------

    def on_events(self, events: Sequence[Event]) -> None:
        """Hear of execs, forks and exits."""
        for event in events:
            if event.event == "process_exec" and event.pid is not None:
                self._context.remove(event.pid)
                self._expect(event.pid)
            elif event.event == "process_fork" and self._follow:
                self._expect(int(event.data["child_pid"]))
            elif event.event == "process_exit" and event.pid is not None:
                self._pending.pop(event.pid, None)
