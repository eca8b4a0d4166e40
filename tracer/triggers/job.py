"""One action to be carried out: what it is told, and where its files go."""

from __future__ import annotations

import glob
import hashlib
import os
import shutil
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from probes.errors import ActionFailed
from tracer import units
from tracer.target import Target

_MANY_FILES = 100_000
_MANY_NUMBERS = 1_000_000


@dataclass(frozen=True, slots=True)
class Job:
    """What an action is told; all of it is JSON.

    ``options`` are the keys of ``tracer.actions``. ``trigger`` says what fired: ``name``,
    ``condition``, ``on`` (the event), ``firing``. ``facts`` and ``event`` (the flat event, or
    None) are what it was about. ``park`` (``park_id``, ``tid``, ``thread_name``,
    ``crossing_ns``) is there when that was a park. Files are named after ``stem``: where
    the action names no folder, beside it.
    """

    number: int
    action: str
    options: Mapping[str, Any]
    pid: int | None
    stem: str
    trigger: Mapping[str, Any]
    facts: Mapping[str, Any] = field(default_factory=dict)
    event: Mapping[str, Any] | None = None
    park: Mapping[str, Any] | None = None

    def told(self) -> dict[str, Any]:
        """What programs and web hooks are given."""
        return {"trigger": dict(self.trigger), "facts": dict(self.facts), "event": self.event}


@dataclass(frozen=True, slots=True)
class Running:
    """A job and what the process that runs it has to offer.

    ``target(pid)`` is the process as it was looked at beforehand, ``prepared(pid)`` the same
    with what a heap dump takes; both raise TargetGone when it is another one by now.
    ``frozen(time, engine)`` tells the session when a process was frozen, and returns whether
    the job's park still lasted then (None: not known).
    """

    job: Job
    target: Callable[[int], Target]
    prepared: Callable[[int], Any]
    frozen: Callable[[int, str], bool | None]


def new_file(job: Job, suffix: str) -> Path:
    """A free name such as ``app-1.heap``, once the budgets of its folder allow a file.

    The number is the lowest that no file of this stem has, whatever its suffix. Raises
    ActionFailed.
    """
    stem = Path(job.stem)
    folder = Path(job.options["dir"] or stem.parent)
    try:
        taken, used = _listing(folder, stem.name, suffix)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise ActionFailed(f"{folder} cannot be used: {error.strerror}") from None
    if used >= job.options["max_total"]:
        raise ActionFailed(
            f"over the budget: {folder} holds {units.size(used)} of {suffix} files"
            f" (max_total {units.size(job.options['max_total'])})"
        )
    if free < job.options["min_free"]:
        raise ActionFailed(
            f"over the budget: {units.size(free)} are free for {folder}"
            f" (min_free {units.size(job.options['min_free'])})"
        )
    numbers = (n for n in range(1, _MANY_NUMBERS) if str(n) not in taken)
    number = next((n for n in numbers if _claimed(folder / f"{stem.name}-{n}")), 0)
    return folder / f"{stem.name}-{number}{suffix}"


class _Claim:
    """The name that this process is about to use, held until the next one."""

    holder: socket.socket | None = None


def _claimed(path: Path) -> bool:
    """Whether a name is ours: no other session is about to use it, or has done so meanwhile.

    A file has no name until it is whole, so a name of a socket stands for it; it goes with
    us, whatever ends us (unix(7), abstract sockets).
    """
    if _Claim.holder is not None:
        _Claim.holder.close()
    _Claim.holder = holder = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        holder.bind(b"\0parkscope-" + hashlib.sha256(os.fsencode(path)).hexdigest().encode())
    except OSError:
        return False
    return not any(path.parent.glob(f"{glob.escape(path.name)}.*"))


def _listing(folder: Path, stem: str, suffix: str) -> tuple[set[str], int]:
    """The numbers that are taken, and the bytes of all files with that suffix."""
    taken, used = set(), 0
    with os.scandir(folder) as entries:
        for count, entry in enumerate(entries):
            if count > _MANY_FILES:
                break
            if entry.name.startswith(f"{stem}-"):
                taken.add(entry.name.removeprefix(f"{stem}-").partition(".")[0])
            if entry.name.endswith(suffix):
                used += entry.stat(follow_symlinks=False).st_size
    return taken, used


def room(job: Job, folder: Path) -> int:
    """How many bytes the next file may have. Raises ActionFailed."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise ActionFailed(f"{folder} cannot be used: {error.strerror}") from None
    least: int = min(job.options["max_size"], free - job.options["min_free"])
    return max(1, least)
