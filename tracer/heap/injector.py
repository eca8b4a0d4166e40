"""Running ``parkscope-freeze``: the one place that starts it and understands its answers.

The program lies in ``freeze/``. It is told by NAME=VALUE arguments what to do, says one
line of JSON at a time, and gives up as soon as its stdin ends: when this process dies,
the pipe does so by itself.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from probes.errors import (
    CaptureError,
    CaptureRefused,
    CaptureTimeout,
    EngineUnavailable,
    InternalError,
    PermissionDenied,
    TargetGone,
)
from tracer.heap.build import built

Progress = Callable[[str, int, int], None]
"""Called with a phase (``look``, ``copy``), what is done of it, and the whole."""

MAX_LINE = 64 << 20
_GRACE_S = 30.0

_ERRORS: Mapping[str, tuple[type[CaptureError | PermissionDenied | TargetGone], str]] = {
    "gone": (TargetGone, ""),
    "permission": (PermissionDenied, ""),
    "ptrace": (CaptureError, ""),
    "deadline": (CaptureTimeout, "Try again when the machine is less busy."),
    "killed": (CaptureError, ""),
    "abandoned": (CaptureError, ""),
    "collecting": (CaptureError, "Try again: the target spends most of its time collecting."),
    "uninterruptible": (CaptureRefused, "A thread waits for a device or a file system: try later."),
    "no_thread": (EngineUnavailable, "Forbid engines that inject: inject=False."),
    "engine": (EngineUnavailable, ""),
    "memory": (CaptureRefused, "Make room, and try again."),
}
"""Error codes of the program, what they are here, and a hint beside the class's own."""


class TooDirty(EngineUnavailable):
    """The target writes faster than a copy can follow; ``dirty_bytes`` stayed behind."""

    def __init__(self, dirty_bytes: int) -> None:
        super().__init__(f"the target rewrites {dirty_bytes} bytes while they are copied")
        self.dirty_bytes = dirty_bytes


def run(
    arguments: Mapping[str, int | str],
    memfd: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """What the program says at its end. Raises by its error code; TooDirty among them.

    Raises BackendUnavailable when the program cannot be compiled here.
    """
    program = str(built("freeze"))
    words = [f"{name}={value}" for name, value in arguments.items()]
    if memfd is not None:
        words.append(f"memfd={memfd}")
    process = subprocess.Popen(
        [program, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=() if memfd is None else (memfd,),
    )
    try:
        return _listen(process, progress)
    finally:
        _finish(process)


def _listen(process: subprocess.Popen[bytes], progress: Progress | None) -> dict[str, Any]:
    if process.stdout is None:
        raise InternalError("the injector was started without a pipe")
    while line := process.stdout.readline(MAX_LINE):
        try:
            said = json.loads(line)
        except ValueError:
            raise InternalError("the injector's answer is not understood") from None
        if "phase" in said:
            if progress is not None:
                progress(said["phase"], said["done"], said["total"])
        elif "ok" in said:
            return dict(said["ok"])
        else:
            raise _error(said["error"], said["detail"])
    raise CaptureError("the injector ended without a word")


def _error(code: str, detail: str) -> Exception:
    if code == "dirty":
        return TooDirty(int(detail))
    kind, hint = _ERRORS.get(code, (InternalError, ""))
    return kind(detail, hint or None)


def _finish(process: subprocess.Popen[bytes]) -> None:
    """Close its lifeline and let it clear up after itself; it is not killed while it may."""
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with suppress(OSError):
                stream.close()
    try:
        process.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def path_of(text: str) -> str:
    """A path as the program writes it (one character a byte), as Python has paths."""
    return os.fsdecode(text.encode("latin-1"))
