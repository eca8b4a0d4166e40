"""A terminal for the live view: keys in, pictures out, on a thread of its own."""

from __future__ import annotations

import os
import select
import sys
import termios
import threading
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live

from collector.sinks.live import LiveSnapshot
from tracer.live_view import ViewState, press, render
from tracer.watch import own_memory_bytes

DRAW_S = 0.25


class LiveScreen:
    """Draws ``snapshot()`` four times a second until closed; calls ``stop`` at q.

    A context manager around the session. The terminal is as before afterwards.
    """

    def __init__(
        self, snapshot: Callable[[], LiveSnapshot], stop: Callable[[], None], state: ViewState
    ) -> None:
        self._snapshot = snapshot
        self._stop = stop
        self._state = state
        self._closing, self._wake = os.pipe()
        self._thread = threading.Thread(target=self._run, name="parkscope-screen", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.write(self._wake, b"x")
        self._thread.join()
        os.close(self._closing)
        os.close(self._wake)

    def _run(self) -> None:
        console = Console(highlight=False)
        with (
            _keys_at_once(),
            Live(console=console, screen=True, auto_refresh=False) as live,
        ):
            while True:
                snapshot = self._snapshot()
                self._state = replace(self._state, rss_bytes=own_memory_bytes())
                picture = render(snapshot, self._state, *console.size)
                live.update(picture, refresh=True)
                if not self._wait():
                    return

    def _wait(self) -> bool:
        """Wait for the next picture's time or a key; False when it is over."""
        inputs = [self._closing] + ([sys.stdin.fileno()] if self._state.keys else [])
        ready, _, _ = select.select(inputs, [], [], DRAW_S)
        if self._closing in ready:
            return False
        for key in self._pressed() if ready else "":
            state = press(self._state, key)
            if state is None:
                self._stop()
            else:
                self._state = state
        return True

    def _pressed(self) -> str:
        data = os.read(sys.stdin.fileno(), 64)
        if not data:  # the terminal has gone; a hang-up signal follows
            self._state = replace(self._state, keys=False)
        return data.decode("ascii", "ignore")


@contextmanager
def _keys_at_once() -> Iterator[None]:
    """Keys without Enter and without echo; Ctrl-C stays a signal."""
    if not sys.stdin.isatty():
        yield
        return
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    try:
        tty.setcbreak(fd, termios.TCSADRAIN)
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
