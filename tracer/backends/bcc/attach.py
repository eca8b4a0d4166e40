"""From nothing to armed programs, in an order that loses nothing."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from collector.events import Event
from probes.spec import Hook, ProbeSpec, Program
from probes.wire import KIND_END
from tracer import procfs
from tracer.backends import Options
from tracer.backends.bcc import btf, objects, syscalls
from tracer.backends.bcc.addon import Addon
from tracer.backends.bcc.load import Kernel, Loader
from tracer.backends.bcc.ring import PAGE, Ring
from tracer.backends.bcc.scanner import Scanner
from tracer.backends.bcc.unit import make_unit
from tracer.backends.scan import NEWS_AFTER_NS
from tracer.pymem import kernel_stacks

MAX_TARGETS = 4096
MAX_WATCHES = 32768
MAX_STACKS = 512
"""Stacks of wakers that are kept: the latest, a KiB each, until they are named."""
TIDS_A_PAGE = 4096
"""``PS_TIDS_A_PAGE`` of common.bpf.h."""

_TRACED, _SAMPLED, _FOLLOW = 1, 2, 4  # enum ps_target_flag
# enum ps_setting
_WATCH_AFTER_NS, _CLOCK_OFFSET_NS, _MIN_PARK_NS, _FULL_SCAN, _TELLS_WAKE, _TELLS_RUN = range(6)
_TOLD_BY = {"sched_waking": _TELLS_WAKE, "sched_switch": _TELLS_RUN}


def probe_failed(probe: str, why: str) -> Event:
    """The event that says that one probe is missing while the others go on."""
    return Event("probe_failed", time.monotonic_ns(), data={"probe": probe, "why": why})


def load(
    addons: Sequence[Addon], ring_pages: int, cache_dir: Path, meanwhile: Callable[[], None]
) -> Kernel:
    """The core probes and those of ``addons``, loaded: from the cache, else compiled.

    ``meanwhile`` is called while the compiler works. Raises WrongBcc,
    PermissionDenied, BackendUnavailable.
    """
    sizes = {
        "PS_MAX_TARGETS": MAX_TARGETS,
        "PS_MAX_WATCHES": MAX_WATCHES,
        "PS_MAX_STACKS": MAX_STACKS,
        "PS_TID_PAGES": procfs.pid_max() // TIDS_A_PAGE + 1,
        "PS_RING_PAGES": ring_pages,
    }
    unit = make_unit(
        (spec for addon in addons for spec in addon.specs),
        sizes | {name: value for addon in addons for name, value in addon.defines().items()},
        (name for addon in addons for name in addon.maps),
    )
    kept = objects.path_of(cache_dir, unit, btf.kernel_identity())
    revived = objects.revive(kept, unit)
    if revived is not None:
        meanwhile()
        return revived
    loader = Loader(cache_dir)
    try:
        facts = btf.kernel_facts(cache_dir)
        loader.send(unit, facts.offsets)
        meanwhile()
        kernel = loader.receive()
    finally:
        loader.close()
    objects.load_the_rest(kernel, unit, facts.places)
    objects.store(kept, kernel, facts.places)
    return kernel


class Attachment:
    """The core probes, loaded: settings, targets, iterator, ring, tracepoints.

    Owns ``kernel`` and everything made with it. Raises what the kernel's refusal
    means (PermissionDenied, BackendUnavailable), having closed everything.
    """

    def __init__(self, kernel: Kernel, options: Options, ring_pages: int) -> None:
        self.kernel = kernel
        self.failures: list[Event] = []
        self._links: dict[tuple[str, str], int] = {}
        self._options = options
        self._complete = False
        self._own = Scanner(kernel.programs["bpf_iter__task"])
        self.scanner = Scanner(kernel.programs["bpf_iter__task"])
        try:
            self.ring = Ring(kernel.maps["ps_ring"], ring_pages * PAGE)
        except OSError as error:
            kernel.close()
            raise syscalls.refusal(error, "eBPF ring buffers") from None
        try:
            self._set(_WATCH_AFTER_NS, NEWS_AFTER_NS)
            self._set(_MIN_PARK_NS, options.min_park_ns)
            self._put_target(os.getpid(), _SAMPLED)
            self._own.add(os.getpid())
        except OSError as error:
            self.close()
            raise syscalls.refusal(error, "eBPF task iterators") from None

    def own_samples(self) -> npt.NDArray[Any]:
        """Raw samples of this process's threads, for the clock."""
        states: npt.NDArray[Any] = self._own.scan(count=False)["state"]
        return states

    def scan(self, *, complete: bool) -> npt.NDArray[Any]:
        """Raw samples (``SAMPLE``) of the targets' threads.

        Unless ``complete``, without those that sleep under watch as they did in the
        scan before. Raises OSError.
        """
        if complete != self._complete:
            self._set(_FULL_SCAN, int(complete))
            self._complete = complete
        return self.scanner.scan(count=complete)

    def set_clock_offset(self, offset_ns: int) -> None:
        """Tell the programs the scheduler clock's offset."""
        self._set(_CLOCK_OFFSET_NS, offset_ns)

    def attach_tracepoints(self) -> None:
        """Attach all tracepoints; what fails is in ``failures``, the rest goes on."""
        for spec, program in self._tracepoints():
            why = self._attach(spec.name, program)
            if why:
                self.failures.append(probe_failed(f"{spec.name}/{program.event}", why))

    def attach_tracepoint(self, event: str) -> str:
        """Attach what belongs to ``event``; why that failed, empty if it did not."""
        found = [(spec, program) for spec, program in self._tracepoints() if program.event == event]
        return "; ".join(filter(None, (self._attach(spec.name, one) for spec, one in found)))

    def detach_tracepoint(self, event: str) -> None:
        """Detach all programs of a tracepoint."""
        if event in _TOLD_BY:
            self._set(_TOLD_BY[event], 0)
        for key in [key for key in self._links if key[1] == event]:
            os.close(self._links.pop(key))

    def is_attached(self, event: str) -> bool:
        """Whether a program is attached to a tracepoint."""
        return any(attached == event for _, attached in self._links)

    def _tracepoints(self) -> Iterator[tuple[ProbeSpec, Program]]:
        for spec in self.kernel.specs:
            for program in spec.programs:
                if program.event:
                    yield spec, program

    def _attach(self, probe: str, program: Program) -> str:
        """Why it failed, empty if it did not."""
        fd = self.kernel.programs.get(program.function)
        if fd is None:
            return self.kernel.refused.get(program.function, "not loaded")
        name = program.event if program.hook is Hook.RAW_TRACEPOINT else None
        try:
            link = syscalls.open_raw_tracepoint(fd, name)
        except OSError as error:
            return str(error.strerror)
        self._links[probe, program.event] = link
        if program.event in _TOLD_BY:
            self._set(_TOLD_BY[program.event], 1)
        return ""

    def trace(self, pid: int) -> None:
        """Make ``pid`` a target: from here on its threads are seen. Raises OSError."""
        flags = _TRACED | _SAMPLED | (_FOLLOW if self._options.follow else 0)
        self._put_target(pid, flags)
        self.scanner.add(pid)

    def untrace(self, pid: int) -> None:
        """``pid`` is over, or not who it was: the kernel forgets it."""
        syscalls.map_delete(self.kernel.maps["ps_targets"], struct.pack("<I", pid))
        self.scanner.remove(pid)

    def unwatch(self, tids: Sequence[int]) -> None:
        """The wake-ups of these threads are not wanted after all."""
        for tid in tids:
            syscalls.map_delete(self.kernel.maps["ps_watch"], struct.pack("<I", tid))

    def stack(self, key: int) -> bytes | None:
        """A stack that a program interned, as ``kernel_stacks.parse`` reads it."""
        size = kernel_stacks.STACK_SIZE
        return syscalls.map_lookup(self.kernel.maps["ps_stacks"], struct.pack("<I", key), size)

    def forget_codes(self, pid: int) -> None:
        """Have the programs look anew at the code objects of that process."""
        pythons, key = self.kernel.maps["ps_pythons"], struct.pack("<I", pid)
        packed = syscalls.map_lookup(pythons, key, kernel_stacks.WALK_SIZE)
        if packed is not None:
            syscalls.map_update(pythons, key, kernel_stacks.forgetful(packed))

    def emitted(self) -> npt.NDArray[np.uint64]:
        """Records that the programs wanted to make, by kind, since the start."""
        return syscalls.per_cpu_sums(self.kernel.maps["ps_emitted"], KIND_END)

    def dropped(self) -> npt.NDArray[np.uint64]:
        """Records that found no room in the ring, by kind, since the start."""
        return syscalls.per_cpu_sums(self.kernel.maps["ps_dropped"], KIND_END)

    def detach(self) -> None:
        """No program runs any more; what is in the ring can still be drained."""
        for fd in self._links.values():
            os.close(fd)
        self._links.clear()
        self.scanner.close()
        self._own.close()

    def close(self) -> None:
        """Detach and give everything back. Safe to call twice."""
        self.detach()
        self.ring.close()
        self.kernel.close()

    def _put_target(self, pid: int, flags: int) -> None:
        if pid == os.getpid():
            flags |= _SAMPLED
        key = struct.pack("<I", pid)
        syscalls.map_update(self.kernel.maps["ps_targets"], key, struct.pack("<II", flags, 0))

    def _set(self, which: int, value: int) -> None:
        key, data = struct.pack("<I", which), struct.pack("<Q", value & (1 << 64) - 1)
        syscalls.map_update(self.kernel.maps["ps_settings"], key, data)
