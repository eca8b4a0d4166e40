"""Ctrl-C, SIGTERM and SIGHUP end a session cleanly instead of tearing it apart.

Until probes are armed a signal ends the program at once (whatever is half done is
undone by ``finally`` blocks); from then on it asks the loop to stop, so that the
recording gets its end and the totals are said. A second signal does not wait.
"""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """A context manager; ``should_stop`` is what a session asks.

    ``exit_code`` is 128 + the signal that came (130 for Ctrl-C, 143 for SIGTERM),
    0 without one.
    """

    def __init__(self) -> None:
        self._armed = False
        self._signal = 0
        self._asked = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for number in _SIGNALS:
            self._before[number] = signal.signal(number, self._came)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def arm(self) -> None:
        """From now on the first signal only asks to stop."""
        self._armed = True

    def stop(self) -> None:
        """Ask to stop as a person does who presses q: nothing went wrong."""
        self._asked = True

    def should_stop(self) -> bool:
        """Whether the session is to end."""
        return self._asked or self._signal != 0

    @property
    def exit_code(self) -> int:
        """What the process should exit with on account of signals."""
        return 128 + self._signal if self._signal else 0

    def _came(self, number: int, frame: FrameType | None) -> None:
        again = self._signal != 0
        self._signal = number
        if again or not self._armed:
            raise SystemExit(128 + number)
