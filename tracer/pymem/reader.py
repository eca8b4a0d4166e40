"""One target's Python, as the rest of Parkscope asks for it: by native thread id.

Nothing here believes a layout because of a version number alone: before the
first answer the target's lists must close (thread state → interpreter →
``sys.modules``), its thread ids must be those of /proc, and its GIL must look
like one. Otherwise the reader refuses with ``UnsupportedPython``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from collector.context import Blame, Frame, NameFound, Resource, WakerStack
from probes.errors import (
    ImplausibleMemory,
    MemoryReadError,
    PermissionDenied,
    TargetError,
    TargetGone,
    UnsupportedPython,
)
from tracer import procfs
from tracer.pymem.frames import FrameReader, Stack
from tracer.pymem.kernel_stacks import StackWalk, find_walk, parse
from tracer.pymem.layout import Layout, load, merge_debug_offsets
from tracer.pymem.locks import BlameReader, Wait
from tracer.pymem.locks.blame import Threads
from tracer.pymem.memory import MemoryReader, ProcessMemory
from tracer.pymem.names import NameReader
from tracer.pymem.objects import ObjectReader
from tracer.pymem.runtime import RuntimeReader, ThreadState, retry
from tracer.target import Target, alive, require_python

MAIN_THREAD = "MainThread"


@dataclass(slots=True)
class _Readers:
    """The parts of a reader that depend on the layout."""

    runtime: RuntimeReader
    objects: ObjectReader
    frames: FrameReader
    names: NameReader
    blames: BlameReader


class PythonReader:
    """Threads, names, stacks and GILs of one live target.

    Methods raise TargetGone when the process has exited or replaced its program,
    UnsupportedPython when what it holds is not what its version should hold, and
    MemoryReadError when something could not be read whole in several tries.
    """

    def __init__(self, target: Target, memory: MemoryReader | None = None) -> None:
        self.target = target
        self.python = require_python(target)
        self._memory = memory or ProcessMemory(target.pid)
        layout = load(self.python.version[:2])
        try:
            layout = merge_debug_offsets(layout, self._memory, self.python.runtime_address)
        except MemoryReadError as error:
            raise self._unsupported(str(error)) from None
        self.layout = layout
        self._readers = self._make(layout)
        self._own_ids = not procfs.same_pid_namespace(target.pid)
        self._translated: dict[int, int] = {}
        self._threads: dict[int, list[ThreadState]] = {}
        self._checked = False

    def _make(self, layout: Layout) -> _Readers:
        objects = ObjectReader(self._memory, layout)
        runtime = RuntimeReader(self._memory, layout, self.python.runtime_address)
        frames = FrameReader(self._memory, layout, objects)
        return _Readers(
            runtime=runtime,
            objects=objects,
            frames=frames,
            names=NameReader(self._memory, layout, objects, runtime),
            blames=BlameReader(self._memory, layout, objects, runtime, frames),
        )

    def _unsupported(self, why: str) -> UnsupportedPython:
        version = ".".join(map(str, self.python.version))
        return UnsupportedPython(
            f"this build of CPython {version} keeps its data elsewhere than it should: {why}"
        )

    @property
    def started(self) -> bool:
        """Whether Python was up (had threads) when its thread list was last read."""
        return bool(self._threads)

    @property
    def memory(self) -> MemoryReader:
        """The target's memory."""
        return self._memory

    def threads(self) -> dict[int, ThreadState]:
        """All threads that an interpreter knows, by native thread id; empty while it starts up."""
        try:
            states = retry(self._readers.runtime.thread_states)
            if not self._checked and states:
                self._check(states)
        except MemoryReadError as error:
            raise self._explained(error) from None
        self._threads = self._by_tid(states)
        return {tid: found[0] for tid, found in self._threads.items()}

    def _explained(self, error: MemoryReadError) -> TargetError:
        """What a failed reading of the lists means."""
        if not alive(self.target):
            return TargetGone(f"process {self.target.pid} has gone")
        return error if self._checked else self._unsupported(error.message)

    def _check(self, states: list[ThreadState]) -> None:
        """Refuse a layout that does not fit, before the first answer is given."""
        here = procfs.thread_ids(self.target.pid)
        known = self._by_tid(states)
        if not known.keys() & here:
            raise self._unsupported("it names no thread that the process has")
        for interpreter in self._readers.runtime.interpreters():
            modules = self._readers.runtime.modules(interpreter.address)
            if modules:
                retry(partial(self._check_modules, modules))
        retry(self._readers.runtime.gils)
        self._checked = True

    def _check_modules(self, modules: int) -> None:
        if not any(self._readers.objects.lookup(modules, ("sys", "builtins"))):
            raise ImplausibleMemory("it has no module table")

    def _by_tid(self, states: Iterable[ThreadState]) -> dict[int, list[ThreadState]]:
        """Keyed by the TID that this process (and the kernel's tracer) uses, newest first.

        A thread has several states while it runs code in a sub-interpreter: the
        newest is the one that runs, the oldest the one that it began with.
        """
        found: dict[int, list[ThreadState]] = {}
        for state in states:
            found.setdefault(state.native_id, []).append(state)
        if not self._own_ids:
            return found
        if not found.keys() <= self._translated.keys():
            tids = procfs.thread_ids(self.target.pid)
            self._translated = procfs.namespace_ids(self.target.pid, tids)
        return {
            self._translated[own]: state for own, state in found.items() if own in self._translated
        }

    def thread(self, tid: int) -> ThreadState | None:
        """One thread by native id, None when no interpreter knows it. Cheap when known before."""
        known = self._threads.get(tid)
        if known is not None and self._readers.runtime.still(known[0]):
            return known[0]
        return self.threads().get(tid)

    def names(self) -> dict[int, str]:
        """``threading`` names of all threads that have one, by native thread id."""
        self.threads()
        states = [state for found in self._threads.values() for state in found]
        by_ident = self._readers.names.all_names(states)
        named = {}
        for tid, found in self._threads.items():
            names = [by_ident.get((state.interpreter, state.ident)) for state in reversed(found)]
            name = next((name for name in names if name is not None), self._default_name(tid))
            if name is not None:
                named[tid] = name
        return named

    def name(self, tid: int) -> str | None:
        """One thread's name, None when it has none (a thread of C code) or is unknown."""
        if self.thread(tid) is None:
            return None
        for state in reversed(self._threads[tid]):
            name = self._readers.names.name(state)
            if name is not None:
                return name
        return self._default_name(tid)

    def _default_name(self, tid: int) -> str | None:
        """The main thread's name as long as ``threading`` is not imported."""
        return MAIN_THREAD if tid == self.target.pid else None

    def stack(self, tid: int, limit: int) -> tuple[tuple[Frame, ...], bool] | None:
        """Up to ``limit`` frames, innermost first, and whether they are torn.

        None when no interpreter knows the thread.
        """
        found = self.stacks((tid,), limit).get(tid)
        return None if found is None else (found.frames, found.torn)

    def stacks(self, tids: Iterable[int], limit: int) -> dict[int, Stack]:
        """Stacks of several threads at once, by native id; threads unknown here are left out."""
        states = {tid: state for tid in tids if (state := self.thread(tid)) is not None}
        found = self._readers.frames.stacks(states.values(), limit)
        return {
            tid: found[state.address] for tid, state in states.items() if state.address in found
        }

    def stack_walk(self) -> StackWalk | None:
        """How the kernel finds the stacks of running threads; None where it cannot."""
        with suppress(MemoryReadError):  # they come and go too fast: those known will do
            self.threads()
        states = [found[0] for found in self._threads.values()]
        return find_walk(self._memory, self.layout, states)

    def name_kernel_stack(self, raw: bytes) -> tuple[WakerStack | None, bool]:
        """A stack that the kernel took a moment ago; None if nothing of it is certain.

        And whether all its code is what it was then.
        """
        stack = parse(raw)
        if stack.tgid != self.target.pid:
            return None, True
        if self._readers.runtime.keeps_first_state():
            return None, True  # it may have run in another interpreter, further in
        frames, whole = self._readers.frames.named(stack.frames)
        return WakerStack(frames, stack.truncated or not whole) if frames else None, whole

    def blame(self, tid: int, kind: str, address: int) -> Blame | None:
        """What a parked thread waits for, None where that cannot be told.

        ``kind`` and ``address`` are the park's (``probes.kinds``; 0 for an unknown address).
        """
        return self.blames({tid: (kind, address)}).get(tid)

    def blames(self, waits: Mapping[int, tuple[str, int]]) -> dict[int, Blame]:
        """The same of many threads at once, by native id: {tid: (kind, address)}."""
        states = self.threads()
        parked = {
            tid: self._wait(tid, kind, address)
            for tid, (kind, address) in waits.items()
            if tid in states
        }
        threads = Threads(states, self.name, self._readers.names.thread_objects)
        return self._of_the_living(self._readers.blames.blames(parked, threads), states)

    def _of_the_living(
        self, blames: Mapping[int, Blame], states: Mapping[int, ThreadState]
    ) -> dict[int, Blame]:
        """The same without threads that have ended since ``states`` were listed.

        Another one may have their thread state or ident by now: then all that was read there,
        however often, is of that one.
        """
        now = self.threads() if blames else {}
        living = {tid for tid, state in states.items() if now.get(tid) == state}
        found = {}
        for tid, blame in blames.items():
            if tid not in living:
                continue
            parties = tuple(one for one in blame.candidates if one.tid in living)
            gone = blame.holder is not None and blame.holder.tid not in living
            found[tid] = replace(
                blame,
                candidates=parties,
                holder=None if gone else blame.holder,
                needs=None if gone else blame.needs,
            )
        return found

    def named(self, blames: Mapping[int, Blame]) -> dict[int, Blame]:
        """The same blames with the names of their resources, as far as they are known by now.

        For objects that are found otherwise than by a lock; ``find_name`` goes on looking.
        """
        threads = Threads(self.threads(), self.name, self._readers.names.thread_objects)
        return self._readers.blames.named(blames, threads)

    def text(self, address: int) -> str:
        """A str object. Raises MemoryReadError where there is none."""
        return self._readers.objects.text(address)

    def tid_of_ident(self, ident: int) -> int:
        """The native id of the thread with that ``threading.get_ident``; 0 if none or several."""
        found = [tid for tid, state in self.threads().items() if state.ident == ident]
        return found[0] if len(found) == 1 else 0

    def warm_up(self) -> None:
        """Make the first ``blame`` as quick as later ones."""
        threads = Threads(self.threads(), self.name, self._readers.names.thread_objects)
        self._readers.blames.warm_up(threads)

    def find_name(self, resource: Resource) -> NameFound:
        """Go on looking for the name of an earlier ``Blame``'s resource, some milliseconds."""
        return self._readers.blames.find_name(resource)

    def _wait(self, tid: int, kind: str, address: int) -> Wait:
        """A park with what /proc says of it now."""
        if kind != "lock":
            return Wait(kind, address)
        try:
            futex = procfs.futex_wait(self.target.pid, tid)
        except PermissionDenied:
            return Wait(kind, address)
        return Wait(kind, *futex, told=address)

    def gil_ranges(self) -> list[tuple[int, int]]:
        """[lo, hi) of each GIL structure (mutexes and conditions are inside); may grow."""
        return [self._readers.runtime.gil_range(gil) for gil in self._gils()]

    def gil_conditions(self) -> list[int]:
        """Address of ``gil->cond`` of each GIL."""
        return [self._readers.runtime.gil_condition(gil) for gil in self._gils()]

    def _gils(self) -> list[int]:
        if not self._checked:
            self.threads()
        try:
            return retry(self._readers.runtime.gils)
        except MemoryReadError as error:
            raise self._explained(error) from None
