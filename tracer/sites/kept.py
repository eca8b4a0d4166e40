"""Plans that are kept, in memory and on disk: a file's code does not change.

Planning a libc and a libpython takes 0.1 to 0.6 s and a disassembler of 10 MB. What
came of it depends on the file alone (device, inode, time of change), so the next start
only reads it back.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec

from tracer.target import Module

PLAN_VERSION = 1
"""Raised when the planner's answers change."""
MAX_FILES = 500

_Planned = TypeVar("_Planned")


class KeptPlans:
    """``directory``: where they are kept (made when needed); None: in memory only."""

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory
        self._known: dict[tuple[object, ...], object] = {}

    def get(
        self,
        module: Module,
        what: tuple[object, ...],
        kind: Any,
        make: Callable[[], _Planned],
    ) -> _Planned:
        """The plan ``what`` of a file, of type ``kind``; ``make()`` where it is not kept.

        Raises what ``make`` raises; a cache that cannot be read or written does not matter.
        """
        key = (PLAN_VERSION, module.device, module.inode, module.mtime_ns, *what)
        if key in self._known:
            return cast("_Planned", self._known[key])
        path = self._path(key)
        plan = _read(path, kind)
        if plan is None:
            plan = make()
            self._write(path, plan)
        if len(self._known) >= MAX_FILES:
            self._known.clear()
        self._known[key] = plan
        return cast("_Planned", plan)

    def _path(self, key: tuple[object, ...]) -> Path | None:
        if self._directory is None:
            return None
        return self._directory / f"{hashlib.sha256(repr(key).encode()).hexdigest()[:32]}.json"

    def _write(self, path: Path | None, plan: object) -> None:
        if path is None:
            return
        partial = path.with_suffix(f".{os.getpid()}")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            known = list(path.parent.iterdir())
            for old in known if len(known) >= MAX_FILES else ():
                old.unlink(missing_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            with os.fdopen(os.open(partial, flags, 0o600), "wb") as stream:
                stream.write(msgspec.json.encode(plan))
            partial.replace(path)
        except OSError:
            return


def _read(path: Path | None, kind: Any) -> object | None:
    if path is None:
        return None
    try:
        plan: object = msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError):
        return None
    return plan
