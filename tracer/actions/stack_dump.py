"""The stacks of all threads of a process, what each one waits for and who has that.

Read from outside while the process runs, so a thread is said to stand somewhere only if
it did not run while it was read (its context switches have not changed), or, if it may
have run, when its stack read the same twice. What a thread waits for is said of those
that held still. One JSON object, README.md beside this module says what is in it.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from collector.context import Blame, ParkedAt, ThreadContext
from collector.said import party_dict, resource_dict, stack_list
from collector.trace.lines import dump
from probes.errors import ActionFailed, NoSuchProcess
from probes.kinds import syscall_name
from tracer import procfs
from tracer.backends.proc_files import parse_switches
from tracer.context import TargetContext
from tracer.heap.writer import appearing
from tracer.triggers.job import Running, new_file, room

SUFFIX = ".stacks.json"
_NAMING_S = 1.0


def run(running: Running) -> dict[str, Any]:
    """Write it. Raises ActionFailed (no room, no Python that can be read), RecordingError."""
    job = running.job
    path = new_file(job, SUFFIX)
    target = running.target(job.pid or 0)
    context = TargetContext((target,))
    began_ns = time.monotonic_ns()
    threads = [_thread(context, target.pid, tid) for tid in sorted(procfs.thread_ids(target.pid))]
    said = {
        "schema": 1,
        "pid": target.pid,
        "began_ns": began_ns,
        "ended_ns": time.monotonic_ns(),
        "trigger": dict(job.trigger),
        "facts": dict(job.facts),
        "threads": threads,
    }
    raw = dump(said) + b"\n"
    if len(raw) > room(job, path.parent):
        raise ActionFailed(f"over the budget: {path} would take {len(raw)} bytes")
    with appearing(path) as output:
        os.write(output, raw)
    return {
        "path": str(path),
        "threads": len(threads),
        "with_stack": sum(one["stack"] is not None for one in threads),
        "bytes": len(raw),
    }


def _thread(context: TargetContext, pid: int, tid: int) -> dict[str, Any]:
    """One thread. ``held_still``: it did not run while it was read."""
    before, called = _switches(pid, tid), _call(pid, tid)
    parked = _parked(context, pid, called[1])
    seen = context.describe(pid, tid, 0, parked)
    blame = seen.blame
    if blame is None and parked is not None:
        blame = context.blames(pid, {tid: parked}).get(tid)
    held_still = before is not None and before == _switches(pid, tid)
    return {
        "tid": tid,
        "thread_name": seen.thread_name,
        "python": seen.python,
        "held_still": held_still,
        "syscall": syscall_name(called[0]) if held_still else None,
        "stack": _stack(seen, held_still=held_still),
        **_blame(context, pid, blame if held_still else None),
    }


def _stack(seen: ThreadContext, *, held_still: bool) -> list[dict[str, Any]] | None:
    return stack_list(seen.frames) if held_still or not seen.torn else None


def _blame(context: TargetContext, pid: int, blame: Blame | None) -> dict[str, Any]:
    if blame is None:
        return {"resource": None, "holder": None, "candidates": []}
    resource, until = blame.resource, time.monotonic() + _NAMING_S
    said = resource_dict(resource)
    while said["name"] is None and time.monotonic() < until:
        found = context.find_name(pid, resource)
        said["name"] = found.name
        if found.done:
            break
    return {
        "resource": said,
        "holder": None if blame.holder is None else party_dict(blame.holder),
        "candidates": [party_dict(party) for party in blame.candidates],
    }


def _parked(context: TargetContext, pid: int, address: int) -> ParkedAt | None:
    """Where a thread waits for a lock or the GIL, by the futex it is at."""
    if not address:
        return None
    ranges, conditions = context.gil(pid)
    gil = address in conditions or any(start <= address < end for start, end in ranges)
    return ParkedAt("gil" if gil else "lock", address)


def _call(pid: int, tid: int) -> tuple[int, int]:
    """The number of the system call that it is in (-1: none), and its futex if that is one."""
    with suppress(OSError, ValueError, NoSuchProcess):
        words = Path(f"/proc/{pid}/task/{tid}/syscall").read_text().split()
        if len(words) > 2:
            return int(words[0]), procfs.futex_wait(pid, tid)[0]
    return -1, 0


def _switches(pid: int, tid: int) -> bytes | None:
    try:
        return parse_switches(Path(f"/proc/{pid}/task/{tid}/status").read_bytes())
    except OSError:
        return None
