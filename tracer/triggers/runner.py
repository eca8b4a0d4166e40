"""Has actions carried out elsewhere: one at a time, in a process; ``keep`` in a thread.

The loop hands jobs over and takes results, and waits for nothing: orders go into a pipe
that is not waited for, answers are read as far as they have come. A worker that takes too
long is ended and replaced.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from collector.trace.lines import dump
from probes.errors import InternalError, ParkscopeError
from tracer.triggers.job import Job

_ROOT = Path(__file__).resolve().parents[2]
_READ_BYTES = 1 << 16
_END_S = 8.0
_PIPE_BYTES = 1 << 20
"""Room for orders that the worker has not read yet: some hundred."""

Here = Callable[[Job], Callable[[], dict[str, Any]]]
"""Takes from a job, in the loop, what a thread then does by the function that it returns."""


class Runner:
    """The worker process and what it is told. Not thread-safe: it belongs to the loop.

    ``actions`` are those that it may be asked for; ``here`` are those that a thread of this
    process does.
    """

    def __init__(self, actions: Sequence[str], here: Mapping[str, Here]) -> None:
        self._actions = [name for name in actions if name not in here]
        self._here = here
        self._thread: threading.Thread | None = None
        self._soon: Job | None = None
        self._said: deque[dict[str, Any]] = deque()
        self._process: subprocess.Popen[bytes] | None = None
        self._pids: dict[int, None] = {}
        self._partial = b""
        self._reapers: list[threading.Thread] = []
        self.ready: dict[int, str | None] = {}
        """Processes that the worker has looked at, and why they cannot be dumped, or None."""

    def start(self) -> None:
        """Start the worker, which warms up and looks at the processes it is told of."""
        if not self._actions or self._process is not None:
            return
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tracer.triggers.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=_ROOT,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            start_new_session=True,  # no Ctrl-C of the terminal reaches it
        )
        self._partial = b""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                os.set_blocking(stream.fileno(), False)
        if self._process.stdin is not None:
            with suppress(OSError):  # the limit of an unprivileged user: a smaller one will do
                fcntl.fcntl(self._process.stdin.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._order(do="warm", actions=self._actions)
        for pid in self._pids:
            self._order(do="target", pid=pid)

    def look_at(self, pid: int) -> None:
        """A process has a Python by now: have it looked at beforehand."""
        self._pids[pid] = None
        self.ready.pop(pid, None)
        self._order(do="target", pid=pid)

    def forget(self, pid: int) -> None:
        """A process has ended or runs another program."""
        self._pids.pop(pid, None)
        self._order(do="forget", pid=pid)

    def submit(self, job: Job) -> bool:
        """Have it done; False when it cannot be taken now."""
        if job.action not in self._here:
            self.start()
            return self._order(do="run", job=asdict(job))
        if self._thread is not None and self._thread.is_alive():
            return False
        self._soon = job
        return True

    def answer(self, still_on: bool | None) -> None:
        """Whether the park of the dump that is being taken still lasted at the freeze."""
        self._order(do="answer", still_on=still_on)

    def take(self) -> list[dict[str, Any]]:
        """What has been said since: ``frozen``, ``done`` or ``failed``, each with ``number``."""
        self._begin_here()
        self._read()
        said = list(self._said)
        for _ in said:
            self._said.popleft()
        for one in said:
            if one["say"] == "ready":
                self.ready[one["pid"]] = one["why"]
        return [one for one in said if "number" in one]

    @property
    def lost(self) -> bool:
        """Whether the worker has ended by itself."""
        return self._process is not None and self._process.poll() is not None

    def restart(self) -> None:
        """End the worker, whatever it does, and start another one."""
        self._end()
        self.start()

    def close(self) -> None:
        """End the worker and wait for its end; safe to call twice."""
        self._end()
        for reaper in self._reapers:
            reaper.join()
        self._reapers.clear()

    def _begin_here(self) -> None:
        """Not at the order: what was observed last, and set it off, has not passed by then."""
        job, self._soon = self._soon, None
        if job is not None:
            task = self._here[job.action](job)
            self._thread = threading.Thread(
                target=self._do, args=(job, task), name=f"parkscope-{job.action}", daemon=True
            )
            self._thread.start()

    def _do(self, job: Job, task: Callable[[], dict[str, Any]]) -> None:
        """In a thread: carry it out. A deque takes what it says without a lock."""
        try:
            said = {"say": "done", "number": job.number, "result": task()}
        except ParkscopeError as error:
            said = {"say": "failed", "number": job.number, "why": error.message}
        except (OSError, MemoryError) as error:
            said = {"say": "failed", "number": job.number, "why": str(error)}
        self._said.append(said)

    def _order(self, **order: Any) -> bool:
        """A line to the worker, whole or not at all."""
        if self._process is None or self._process.stdin is None:
            return False
        line = dump(order) + b"\n"
        descriptor = self._process.stdin.fileno()
        try:
            sent = os.write(descriptor, line)
        except (BlockingIOError, BrokenPipeError):
            return False
        if sent < len(line):  # no room for all of it: what it reads now is nonsense
            self._end()
            return False
        return True

    def _read(self) -> None:
        if self._process is None or self._process.stdout is None:
            return
        pieces = [self._partial]
        with suppress(BlockingIOError):
            while piece := os.read(self._process.stdout.fileno(), _READ_BYTES):
                pieces.append(piece)
        *lines, self._partial = b"".join(pieces).split(b"\n")
        for line in lines:
            try:
                self._said.append(json.loads(line))
            except ValueError:
                raise InternalError("the worker's answer is not understood") from None

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()
        process.terminate()
        reaper = threading.Thread(target=_reap, args=(process,), name="parkscope-reaper")
        reaper.start()
        self._reapers.append(reaper)


def _reap(process: subprocess.Popen[bytes]) -> None:
    """In a thread: give it a moment to clear up."""
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
