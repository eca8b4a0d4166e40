"""``heap dump``: take an image, have it walked and written, say how it went."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from probes.errors import (
    BackendUnavailable,
    ImplausibleMemory,
    InternalError,
    ParkscopeError,
    RecordingError,
)
from tracer.heap.capture import CaptureOptions, capture
from tracer.heap.image import Image
from tracer.heap.place import Place, place_of
from tracer.heap.walker import library
from tracer.heap.writer import appearing, refuse_existing
from tracer.target import Target, inspect
from tracer.version import VERSION

Progress = Callable[[str, int, int], None]
"""Told of a phase (look, copy, walk, name, write), what is done of it, and of how much (or 0)."""

_ROOT = Path(__file__).resolve().parents[2]
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class DumpOptions:
    """How a dump is made.

    ``values``: keep the text of strings, too. ``max_bytes``: a file that would be larger
    is given up (0: no limit). ``background``: walk it only while nobody else wants a CPU.
    """

    capture: CaptureOptions
    values: bool = False
    force: bool = False
    max_bytes: int = 0
    background: bool = False


@dataclass(frozen=True, slots=True)
class Prepared:
    """A process that has been looked at: what takes time before it can be dumped."""

    target: Target
    place: Place


def _nothing(_phase: str, _done: int, _total: int) -> None:
    pass


def dump(
    pid: int, path: Path, options: DumpOptions | None = None, progress: Progress = _nothing
) -> dict[str, Any]:
    """Dump the heap of process ``pid`` to ``path``; what is said of it, for JSON.

    Raises UsageError, TargetError, CaptureError, RecordingError, PermissionDenied,
    BackendUnavailable (no compiler). The target runs on whatever happens.
    """
    options = options or DumpOptions(CaptureOptions())
    refuse_existing(path, force=options.force)
    return dump_prepared(prepare(inspect(pid)), path, options, progress)


def prepare(target: Target) -> Prepared:
    """Look up what a dump of a process takes. Raises TargetError, BackendUnavailable."""
    library()  # a missing compiler is said before the target is stopped
    return Prepared(target, place_of(target))


def dump_prepared(
    prepared: Prepared,
    path: Path,
    options: DumpOptions,
    progress: Progress = _nothing,
    about: Callable[[Image], Mapping[str, Any]] = lambda _image: {},
) -> dict[str, Any]:
    """Dump a process that has been prepared for. ``about`` adds to what the file says of itself.

    It is asked when the image is there and before it is walked. Raises as ``dump``.
    """
    target, place = prepared.target, prepared.place
    started_ns = time.monotonic_ns()
    with (
        appearing(path, force=options.force) as output,
        capture(target, options.capture, progress) as image,
    ):
        facts = asdict(image.facts)
        meta = {**_meta(target, place, image), **about(image)}
        result = walk_image(image, place, output, meta, options, progress)
    return {
        "path": str(path),
        "pid": target.pid,
        "engine": facts["engine"],
        "pause_ns": facts["pause_ns"],
        "objects": result["objects"],
        "references": result["references"],
        "closure": result["closure"]["share"],
        "contradictions": result["closure"]["contradictions"],
        "held": result["closure"]["held"],
        "bytes": result["bytes"],
        "image_bytes": image.size,
        "dirty_bytes": facts["dirty_bytes"],
        "duration_ns": time.monotonic_ns() - started_ns,
        "peak_memory_bytes": result["peak_memory_bytes"],
        "notes": list(facts["notes"]),
    }


def _meta(target: Target, place: Place, image: Image) -> dict[str, Any]:
    facts = asdict(image.facts)
    skipped = facts.pop("skipped")
    return {
        "written_by": f"parkscope {VERSION}",
        "written_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "pid": target.pid,
        "process": _identity(target, place),
        "program": target.cmdline[0] if target.cmdline else "",
        "python": ".".join(map(str, place.version)),
        "image_bytes": image.size,
        "capture": facts,
        "skipped_bytes": sum(one["end"] - one["start"] for one in skipped),
    }


def _identity(target: Target, place: Place) -> dict[str, Any]:
    """What two dumps of one process that ran one program have in common, beside the PID."""
    return {
        "boot": _BOOT_ID.read_text().strip(),
        "start_ticks": target.start_ticks,
        "runtime_address": place.runtime_address,
    }


def walk_image(
    image: Image,
    place: Place,
    output: int,
    meta: dict[str, Any],
    options: DumpOptions | None = None,
    progress: Progress = _nothing,
) -> dict[str, Any]:
    """Have ``image`` walked and written to the descriptor ``output`` by a worker.

    Raises ImplausibleMemory, OSError (as the worker's writing did), ParkscopeError.
    """
    options = options or DumpOptions(CaptureOptions())
    order = {
        "image": image.fd,
        "size": image.size,
        "output": output,
        "segments": [
            [one.start, one.end, one.offset, one.writable, one.path] for one in image.segments
        ],
        "version": list(place.version),
        "runtime_address": place.runtime_address,
        "symbols": dict(place.symbols),
        "meta": meta,
        "values": options.values,
        "max_bytes": options.max_bytes,
        "background": options.background,
    }
    with _worker((image.fd, output)) as worker:
        for answer in _answers(worker, order):
            if "result" in answer:
                result: dict[str, Any] = answer["result"]
                return result
            if "error" in answer:
                raise _error(answer)
            progress(answer["phase"], answer["done"], answer.get("total", 0))
    if worker.returncode == -signal.SIGKILL:
        raise RecordingError(
            "the walk was killed, for want of memory perhaps",
            hint="It takes about twice the target's memory. Make room; nothing was written.",
        )
    raise InternalError(f"the walk ended without a word (exit code {worker.returncode})")


@contextmanager
def _worker(descriptors: tuple[int, ...]) -> Iterator[subprocess.Popen[bytes]]:
    worker = subprocess.Popen(
        [sys.executable, "-m", "tracer.heap.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=descriptors,
        cwd=_ROOT,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    try:
        yield worker
    finally:
        for stream in (worker.stdin, worker.stdout):
            if stream is not None:
                stream.close()
        try:
            worker.wait(timeout=5)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()


def _answers(worker: subprocess.Popen[bytes], order: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if worker.stdin is None or worker.stdout is None:
        raise InternalError("the walk was started without pipes")
    try:
        worker.stdin.write(json.dumps(order).encode() + b"\n")
        worker.stdin.flush()
    except BrokenPipeError:
        return
    for line in worker.stdout:
        yield json.loads(line)


def _error(answer: dict[str, Any]) -> Exception:
    kind, message = answer["error"], answer["message"]
    if kind == "write":
        return OSError(answer["code"], message)
    if kind == "image":
        return ImplausibleMemory(message, hint="Take another dump; the target goes on unharmed.")
    if kind == "BackendUnavailable":
        return BackendUnavailable(message)
    return ParkscopeError(message, hint="Close other programs, or try again later.")
