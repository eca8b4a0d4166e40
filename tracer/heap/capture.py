"""Taking a consistent memory image of a live CPython process from outside.

``capture`` checks that it is safe and fits, surveys what there is to copy, chooses an
engine by the pause that it predicts, and has ``parkscope-freeze`` do it. The target is
stopped for that pause and never longer than a hard deadline; whatever fails, it runs on.

Refused (``CaptureRefused`` and its relatives, nothing done): a target that is traced
already, stopped or ending; a Python that the walk could not read (``NotCPython``,
``UnsupportedPython``); an image that does not fit into memory. Engines that make the
target execute a system call are not used where seccomp filters those.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probes.errors import (
    CaptureError,
    CaptureRefused,
    EngineUnavailable,
    PermissionDenied,
    TargetGone,
    UsageError,
)
from tracer.heap import engines
from tracer.heap.engines import Choice, Survey
from tracer.heap.image import CaptureFacts, Image, Segment, Skipped
from tracer.heap.injector import Progress, TooDirty, path_of, run
from tracer.heap.machine import Headroom, headroom
from tracer.procfs import process_state, thread_ids
from tracer.pymem.layout import load, merge_debug_offsets
from tracer.pymem.memory import ProcessMemory
from tracer.target import NATIVE_MACHINE, Target, alive, require_python

DEFAULT_MAX_PAUSE_NS = 5_000_000
TOO_LONG = 10
"""A pause of so many times the wanted one is not taken, but refused."""
LEAST_DEADLINE_NS = 100_000_000
ALONE_S = 30.0
_ALONE_NAP_S = 0.005
_OWN_NEEDS = 64 << 20
_LOOKED_AT = 64
"""Threads that are asked for a filter; the injector asks whichever it is about to borrow."""


@dataclass(frozen=True, slots=True)
class CaptureOptions:
    """How an image is taken.

    ``max_pause_ns`` is the pause that is wanted: the least invasive engine that is expected
    to keep it is taken, else the quickest; more than ``TOO_LONG`` times of it is refused.
    ``inject=False`` forbids the engines that make the target execute a system call.
    ``engine`` takes the named one, whatever it costs. ``skip_foreign=False`` copies large
    memory without references, too (see ``freeze/foreign.c``). ``tries`` bounds how often
    a stop is repeated that met a garbage collection.
    """

    max_pause_ns: int = DEFAULT_MAX_PAUSE_NS
    inject: bool = True
    engine: str | None = None
    skip_foreign: bool = True
    tries: int = 20


def capture(
    target: Target, options: CaptureOptions | None = None, progress: Progress | None = None
) -> Image:
    """A memory image of the target at one moment. The caller closes it.

    Raises CaptureError and its subclasses, NotCPython, PermissionDenied, TargetGone,
    BackendUnavailable (no compiler for the injector), UsageError. One image of a process is
    taken at a time: others wait, for ``ALONE_S``, then CaptureRefused.
    """
    with _alone(target):
        return _capture(target, options or CaptureOptions(), progress)


def _capture(target: Target, options: CaptureOptions, progress: Progress | None) -> Image:
    started_ns = time.monotonic_ns()
    common = _arguments(target, options)
    state = _check_state(target)
    survey = _survey(target, common, progress)
    reasons = engines.usable(
        survey, inject=options.inject, why_no_injection=_why_no_injection(target)
    )
    notes: list[str] = []
    for choice, others in _attempts(survey, reasons, options):
        if (why := _does_not_fit(target, survey, choice)) is not None:
            notes.append(why)
            continue
        try:
            answer, memfd = _freeze(choice, others, survey, options, common, progress)
        except EngineUnavailable as error:
            if options.engine is not None:
                raise
            notes.append(f"{choice.engine.name} not used: {error.message}")
            continue
        answer["notes"] = [*notes, *answer["notes"]]
        return _image(memfd, answer, target.pid, choice, started_ns, state)
    raise CaptureRefused("no image was taken: " + "; ".join(notes))


def rehearse(target: Target, options: CaptureOptions | None = None) -> None:
    """Everything up to the stop, for nothing: so that it takes little time when it counts.

    The target is not stopped. Raises what ``capture`` raises before it stops it.
    """
    _check_state(target)
    _survey(target, _arguments(target, options or CaptureOptions()), None)
    _why_no_injection(target)


@contextmanager
def _alone(target: Target) -> Iterator[None]:
    """Only one may trace a process, and what is write-protected in it is so for everybody.

    Locked is a file that only those may open who may read the process's memory, and that
    goes with it. Raises CaptureRefused, PermissionDenied, TargetGone.
    """
    try:
        descriptor = os.open(f"/proc/{target.pid}/auxv", os.O_RDONLY)
    except (FileNotFoundError, ProcessLookupError):
        raise TargetGone(f"process {target.pid} has exited") from None
    except PermissionError:
        raise PermissionDenied(f"the memory of process {target.pid} may not be read") from None
    try:
        until = time.monotonic() + ALONE_S
        while True:
            with suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            if time.monotonic() > until:
                raise CaptureRefused(f"another image of process {target.pid} is being taken")
            time.sleep(_ALONE_NAP_S)
        yield
    finally:
        os.close(descriptor)


# --- before --------------------------------------------------------------------------------


def _arguments(target: Target, options: CaptureOptions) -> dict[str, int | str]:
    """What every run of the program is told. Raises NotCPython, UnsupportedPython."""
    python = require_python(target)
    if options.max_pause_ns <= 0 or options.tries <= 0:
        raise UsageError("the wanted pause and the number of tries are positive")
    layout = merge_debug_offsets(
        load(python.version[:2]), ProcessMemory(target.pid), python.runtime_address
    )
    return {
        "pid": target.pid,
        "start": target.start_ticks,
        "interpreters": python.runtime_address + layout["_PyRuntimeState.interpreters.head"],
        "next": layout["PyInterpreterState.next"],
        "collecting": layout["PyInterpreterState.gc"] + layout["_gc_runtime_state.collecting"],
        "tries": options.tries,
        "foreign": int(not options.skip_foreign),
    }


def _status(pid: int, tid: int, name: str) -> int:
    try:
        text = Path(f"/proc/{pid}/task/{tid}/status").read_text(errors="replace")
    except OSError:
        return 0  # a thread that has just ended
    found = re.search(rf"^{name}:\s*(\d+)", text, re.MULTILINE)
    return int(found[1]) if found else 0


def _check_state(target: Target) -> str:
    """The main thread's state. Raises CaptureRefused, TargetGone."""
    if not alive(target):
        raise TargetGone(f"process {target.pid} has exited")
    if target.pid == os.getpid():
        raise CaptureRefused("Parkscope cannot take an image of itself")
    if tracer := _status(target.pid, target.pid, "TracerPid"):
        raise CaptureRefused(
            f"process {target.pid} is traced already, by process {tracer}",
            hint="Detach the debugger or strace first; only one may trace a process.",
        )
    state = process_state(target.pid).state
    if state in "Tt":
        raise CaptureRefused(
            f"process {target.pid} is stopped (state {state})",
            hint=f"Let it go on first: kill -CONT {target.pid}",
        )
    return state


def _why_no_injection(target: Target) -> str | None:
    if os.uname().machine != NATIVE_MACHINE or target.machine != NATIVE_MACHINE:
        return f"system calls are injected on {NATIVE_MACHINE} only"
    for tid in sorted(thread_ids(target.pid))[:_LOOKED_AT]:
        if _status(target.pid, tid, "Seccomp"):
            return "the target's system calls are filtered (seccomp)"
    return None


def _survey(target: Target, common: Mapping[str, int | str], progress: Progress | None) -> Survey:
    found = run({**common, "engine": "survey"}, progress=progress)
    return Survey(
        threads=len(thread_ids(target.pid)),
        present_bytes=found["present"],
        huge_bytes=found["huge"],
        image_bytes=found["copied"],
        elf_bytes=found["elf"],
        precopy=found["precopy"],
        gadget=found["gadget"],
        clone_ns_per_page=found["clone_price"],
    )


def _attempts(
    survey: Survey, reasons: Mapping[str, str | None], options: CaptureOptions
) -> list[tuple[Choice, list[Choice]]]:
    """Engines in the order of trying, each with those that would be left. Raises CaptureRefused."""
    if options.engine is not None:
        return [(engines.forced(survey, reasons, options.engine)[0], [])]
    engines.require_any(reasons)
    choices = engines.choose(survey, reasons, options.max_pause_ns)
    limit = TOO_LONG * options.max_pause_ns
    best = min(choices, key=lambda choice: choice.predicted_ns)
    if best.predicted_ns > limit:
        raise CaptureRefused(
            f"a pause of about {best.predicted_ns / 1e6:.0f} ms is expected"
            f" ({best.engine.name}), and {options.max_pause_ns / 1e6:g} ms are wanted",
            hint="Allow a longer pause, or the engines that inject a system call.",
        )
    kept = [choice for choice in choices if choice.predicted_ns <= limit]
    return [(choice, kept[:at] + kept[at + 1 :]) for at, choice in enumerate(kept)]


def _does_not_fit(target: Target, survey: Survey, choice: Choice) -> str | None:
    """Why there is not the memory for it, with figures, or None."""
    image = survey.image_bytes + survey.elf_bytes + _OWN_NEEDS
    cost = choice.engine.reserve(survey)
    checks = [(image, headroom("self"), "for the image")]
    if cost:
        checks += [
            (image + cost, headroom("self"), "for the image and the target's copies on write"),
            (cost, headroom(target.pid), "for the target's copies on write"),
        ]
    for needed, room, purpose in checks:
        if needed > room.size_bytes:
            return _shortage(choice.engine.name, needed, room, purpose)
    return None


def _shortage(engine: str, needed: int, room: Headroom, purpose: str) -> str:
    return (
        f"{engine} needs {needed >> 20} MiB {purpose},"
        f" and {room.limited_by} leaves {room.size_bytes >> 20} MiB"
    )


# --- the deed ------------------------------------------------------------------------------


def _freeze(
    choice: Choice,
    others: list[Choice],
    survey: Survey,
    options: CaptureOptions,
    common: Mapping[str, int | str],
    progress: Progress | None,
) -> tuple[dict[str, Any], int]:
    """The program's answer and the file of the image."""
    arguments = {
        **common,
        "engine": choice.engine.name,
        "deadline": max(LEAST_DEADLINE_NS, 3 * choice.predicted_ns),
        "dirty": engines.dirty_limit(survey, others, options.max_pause_ns),
    }
    memfd = os.memfd_create("parkscope-image", os.MFD_CLOEXEC)
    try:
        return run(arguments, memfd, progress), memfd
    except BaseException:
        os.close(memfd)
        raise


def _image(
    memfd: int, answer: dict[str, Any], pid: int, choice: Choice, started_ns: int, state: str
) -> Image:
    try:
        facts = CaptureFacts(
            pid=pid,
            engine=choice.engine.name,
            pause_ns=answer["pause_ns"],
            bytes_copied=answer["bytes_copied"],
            dirty_bytes=answer["dirty_bytes"],
            rounds=answer["rounds"],
            threads=answer["threads"],
            started_ns=started_ns,
            frozen_ns=answer["frozen_ns"],
            gc_retries=answer["gc_retries"],
            state=state,
            predicted_ns=choice.predicted_ns,
            window_ns=answer["window_ns"],
            stops_ns=tuple(answer["stops_ns"]),
            skipped=tuple(
                Skipped(start, end, path_of(path), reason, free)
                for start, end, path, reason, free in answer["skipped"]
            ),
            notes=tuple(answer["notes"]),
        )
        segments = tuple(
            Segment(start, end, offset, writable, path_of(path))
            for start, end, offset, writable, path in answer["segments"]
        )
        return Image(memfd, answer["size"], segments, facts, in_memory=True)
    except BaseException:
        os.close(memfd)
        raise


__all__ = ["CaptureError", "CaptureOptions", "Progress", "TooDirty", "capture", "rehearse"]
