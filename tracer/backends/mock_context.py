"""What a scenario says of its threads, in place of a reader of a target's memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from collector.context import (
    UNKNOWN,
    Blame,
    Census,
    Frame,
    MapFacts,
    NameFound,
    ParkedAt,
    Party,
    Resource,
    ThreadContext,
    WakerStack,
    Waking,
)
from collector.wait_graph import NATIVE
from tracer.backends.mock_machine import MS, Machine
from tracer.backends.mock_scenario import Blamed, Scenario, Thread, Wait


class ScenarioContext:
    """A ContextProvider that goes by the life that a thread had at the time.

    ``now`` tells the source's clock.
    """

    def __init__(self, scenario: Scenario, machine: Machine, now: Callable[[], int]) -> None:
        self._scenario = scenario
        self._machine = machine
        self._now = now
        self._unnamed: dict[tuple[int, int], tuple[int, str | None]] = {}

    def describe(
        self, pid: int, tid: int, since_ns: int, parked: ParkedAt | None = None, /
    ) -> ThreadContext:
        """Name, frames and blame of the thread that has been parked since then."""
        found = self._find(pid, tid, since_ns)
        if found is None:
            return UNKNOWN
        key, thread = found
        if not thread.python:
            return ThreadContext(python=False)
        blame = None if parked is None else self._blame(pid, key, since_ns)
        return ThreadContext(thread.name, True, self._frames(key, thread, since_ns), blame=blame)

    def _without_name(self, pid: int, blame: Blame, scripted: Blamed) -> Blame:
        """The same where a name is only found later."""
        if scripted.named_after_ms is None:
            return blame
        due_ns = self._now() + round(scripted.named_after_ms * MS)
        self._unnamed.setdefault((pid, scripted.address), (due_ns, scripted.name))
        return replace(blame, resource=replace(blame.resource, name=None))

    def find_name(self, pid: int, resource: Resource, /) -> NameFound:
        """The name, once its time has come."""
        due_ns, name = self._unnamed.get((pid, resource.address), (0, None))
        if self._now() < due_ns:
            return NameFound(None, done=False)
        return NameFound(name, done=True)

    def thread_name(self, pid: int, tid: int) -> str | None:
        """The name of the thread that has this tid now."""
        found = self._find(pid, tid, self._now())
        return found[1].name if found is not None and found[1].python else None

    def waker_stack(
        self, _pid: int, _tid: int, since_ns: int, waking: Waking, /
    ) -> WakerStack | None:
        """The frames that the scenario gives to the waking thread."""
        found = self._find(waking.pid, waking.tid, since_ns)
        frames = tuple(line.frame() for line in found[1].frames) if found is not None else ()
        return WakerStack(frames, truncated=False) if frames else None

    def blames(self, pid: int, waits: Mapping[int, ParkedAt], /) -> dict[int, Blame]:
        """What the scenario says of the waits that these threads are in."""
        found = {}
        now_ns = self._now()
        for tid in waits:
            thread = self._find(pid, tid, now_ns)
            blame = None if thread is None else self._blame(pid, thread[0], now_ns)
            if blame is not None:
                found[tid] = blame
        return found

    def census(self, pid: int) -> Census | None:
        """The threads of a process that live now."""
        now_ns = self._now()
        living = {
            thread.tid: thread.python
            for thread in self._scenario.threads.values()
            if thread.pid == pid and self._lives(thread, now_ns)
        }
        return Census(living, self._scenario.handlers)

    def native_map(self, pid: int, address: int, _profile: int, /) -> MapFacts | None:
        """What the scenario calls it."""
        for one in self._scenario.maps.values():
            if (one.pid, one.address) == (pid, address):
                return MapFacts(one.type, one.name, one.profile)
        return None

    def _lives(self, thread: Thread, now_ns: int) -> bool:
        ns = self._machine.ns
        return ns(thread.start_ms) <= now_ns and (
            thread.exit_ms is None or now_ns < ns(thread.exit_ms)
        )

    def _blame(self, pid: int, key: str, since_ns: int) -> Blame | None:
        wait = self._wait_at(key, since_ns)
        if wait is None:
            return None
        if wait.blame is None:
            native = not self._scenario.threads[key].python
            return Blame(Resource(NATIVE), timed=wait.timed_out) if native else None
        blamed = wait.blame
        needed = blamed.needed
        blame = Blame(
            resource=blamed.resource,
            holder=None if blamed.holder is None else self._party(blamed.holder, blamed.how),
            candidates=tuple(self._party(one.thread, one.how) for one in blamed.candidates),
            needs=None if needed is None else tuple(self._scenario.threads[k].tid for k in needed),
            timed=blamed.timed,
        )
        return self._without_name(pid, blame, blamed)

    def _party(self, key: str, how: str) -> Party:
        thread = self._scenario.threads[key]
        return Party(thread.tid, thread.name, how, self._frames(key, thread, self._now()))

    def _frames(self, key: str, thread: Thread, at_ns: int) -> tuple[Frame, ...]:
        wait = self._wait_at(key, at_ns)
        lines = wait.frames if wait is not None and wait.frames else thread.frames
        return tuple(line.frame() for line in lines)

    def _wait_at(self, key: str, at_ns: int) -> Wait | None:
        found = None
        for wait in self._scenario.wait:
            if wait.thread == key and self._within(at_ns, wait):
                found = wait
        return found

    def _find(self, pid: int, tid: int, at_ns: int) -> tuple[str, Thread] | None:
        """The thread with these numbers that lived at a time; a dead one until a successor."""
        found = None
        for key, thread in self._scenario.threads.items():
            lived = self._machine.ns(thread.start_ms) <= at_ns
            if (thread.pid, thread.tid) == (pid, tid) and (found is None or lived):
                found = key, thread
        return found

    def _within(self, since_ns: int, wait: Wait) -> bool:
        ns = self._machine.ns
        ended = wait.until_ms is not None and since_ns >= ns(wait.until_ms)
        return ns(wait.at_ms) <= since_ns and not ended
