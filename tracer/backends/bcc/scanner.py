"""Runs the task iterator over the targets."""

from __future__ import annotations

import errno
import os
from typing import Any

import numpy as np
import numpy.typing as npt

from tracer.backends.bcc import syscalls
from tracer.backends.bcc.samples import SAMPLE

_ONE_READ = (32 << 10) // SAMPLE.itemsize
"""So many samples the kernel hands over at once (bpf_seq_read's buffer of 8 pages)."""
_MANY_LINKS = 64


class Scanner:
    """One iterator link per process, or one over all where that is better or all there is.

    ``program``: descriptor of the loaded iterator program.
    """

    def __init__(self, program: int) -> None:
        self._program = program
        self._pids: set[int] = set()
        self._links: dict[int, int] = {}
        self._all: int | None = None
        self._hidden: dict[int, int] = {}
        self._buffer = bytearray()

    def add(self, pid: int) -> None:
        """Scan process ``pid`` too. Raises OSError."""
        self._pids.add(pid)
        if self._all is not None or pid in self._links:
            return
        if len(self._links) < _MANY_LINKS:
            try:
                self._links[pid] = syscalls.link_iterator(self._program, pid)
                return
            except ProcessLookupError:
                return  # it has gone already
            except OSError as error:
                if error.errno != errno.EINVAL:  # before Linux 6.1
                    raise
        self._all = syscalls.link_iterator(self._program)
        self._close_links()

    def remove(self, pid: int) -> None:
        """Process ``pid`` is over."""
        self._pids.discard(pid)
        link = self._links.pop(pid, None)
        self._hidden.pop(pid, None)
        if link is not None:
            os.close(link)

    def scan(self, *, count: bool) -> npt.NDArray[Any]:
        """Raw samples (``SAMPLE``), with ``count`` surely of all threads. Raises OSError."""
        if self._all is not None:
            end = syscalls.run_iterator(self._all, self._buffer)
        else:
            end = 0
            for pid, link in self._links.items():
                end = self._scan_one(pid, link, end, count=count)
        samples = np.frombuffer(self._buffer, SAMPLE, end // SAMPLE.itemsize)
        if self._all is not None and os.getpid() not in self._pids:
            # The kernel's list of targets has this process too, for its clock.
            samples = samples[samples["state"]["pid"] != os.getpid()]
        return samples.copy()

    def _scan_one(self, pid: int, link: int, start: int, *, count: bool) -> int:
        """One process, all of its threads, into the buffer from ``start`` on; the end.

        Between two reads the kernel loses its place when the thread at which it
        stands exits, and stops early: the number of threads tells.
        """
        end = syscalls.run_iterator(link, self._buffer, start)
        seen = (end - start) // SAMPLE.itemsize
        if not count or seen < _ONE_READ or seen + self._hidden.get(pid, 0) >= _threads(pid):
            return end
        end = syscalls.run_iterator(link, self._buffer, start)
        again = (end - start) // SAMPLE.itemsize
        if again == seen:  # there are threads that the iterator leaves out
            self._hidden[pid] = max(0, _threads(pid) - seen)
        return end

    def close(self) -> None:
        """Give the links back. Safe to call twice."""
        self._close_links()
        if self._all is not None:
            os.close(self._all)
            self._all = None

    def _close_links(self) -> None:
        for link in self._links.values():
            os.close(link)
        self._links.clear()


def _threads(pid: int) -> int:
    """How many threads a process has; 0 when it has gone."""
    try:
        return os.stat(f"/proc/{pid}/task").st_nlink - 2
    except OSError:
        return 0
