"""Metrics as a file for node_exporter's textfile collector."""

from __future__ import annotations

import os
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

from collector.metrics.exposition import Renderer
from probes.errors import RecordingError

PERIOD_S = 5.0
_MODE = 0o644  # node_exporter is another user


class MetricsFile:
    """Rewrites ``path`` every five seconds in a thread, and once more when it is closed.

    A reader sees either the old content or the new one. Raises RecordingError from the
    constructor when it cannot be written; what fails later is told by ``close`` (a full
    disk is not worth ending a session for).
    """

    def __init__(self, path: Path, renderer: Renderer) -> None:
        self._path = path
        self._renderer = renderer
        self._stop = threading.Event()
        self._write()
        self._failed = ""
        self._thread = threading.Thread(
            target=self._run, name="parkscope-metrics-file", daemon=True
        )

    def start(self) -> None:
        """Keep it up to date from now on."""
        self._thread.start()

    def close(self) -> str:
        """Write the last readings; why the file may not hold them, empty if it does."""
        self._stop.set()
        self._thread.join()
        return self._failed

    def _run(self) -> None:
        stopped = False
        while not stopped:
            stopped = self._stop.wait(PERIOD_S)
            try:
                self._write()
            except RecordingError as error:
                self._failed = error.message
            else:
                self._failed = ""

    def _write(self) -> None:
        body, _ = self._renderer.render()
        if os.path.exists(self._path) and not os.path.isfile(self._path):
            raise RecordingError(
                f"{self._path} is no regular file, it is not replaced",
                hint="Choose another file with '--metrics-textfile'.",
            )
        try:
            fd, name = tempfile.mkstemp(dir=self._path.parent, prefix=f".{self._path.name}.")
            try:
                with os.fdopen(fd, "wb") as file:
                    os.fchmod(fd, _MODE)
                    file.write(body)
                os.replace(name, self._path)
            except BaseException:
                with suppress(OSError):
                    os.unlink(name)
                raise
        except OSError as error:
            raise RecordingError(
                f"{self._path} cannot be written: {error.strerror}",
                hint="Choose another file with '--metrics-textfile'.",
            ) from None
