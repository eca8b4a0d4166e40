"""``parkscope run``: a program started stopped, watched from its first instruction on.

Imported and called before anything heavy: the fork has to happen while this process
has one thread.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self

from probes.errors import UsageError

if TYPE_CHECKING:
    from collector.sinks import Sink
    from tracer.session import SessionOptions
    from tracer.watch import Output

_NAP_S = 0.05
"""The child waits in naps, so that its wait for us never is a park worth telling."""

_FORWARDED = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
_LINGER_S = 1.0
_CANNOT_EXECUTE = 126


class Child:
    """A child process that has not executed its program yet; killed if it never may.

    A context manager. Signals that come to this process are handed on to it.
    """

    def __init__(self, command: Sequence[str]) -> None:
        """Fork. Raises UsageError when there is no such program."""
        if shutil.which(command[0]) is None:
            raise UsageError(
                f"no program {command[0]!r} can be found or executed",
                hint="Write it as for a shell: parkscope run -- python app.py",
            )
        gate, self._release = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _become(command, gate, self._release)
        os.close(gate)
        self._status: int | None = None
        self._ended_at: float | None = None
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for number in _FORWARDED:
            self._handlers[number] = signal.signal(number, self._hand_on)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._release >= 0:  # it has never run its program
            os.close(self._release)
            os.kill(self.pid, signal.SIGKILL)
        self.wait()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def start(self) -> None:
        """Let it execute its program."""
        os.write(self._release, b"x")
        os.close(self._release)
        self._release = -1

    def long_gone(self) -> bool:
        """Whether it ended over a second ago: nothing more will be heard of it."""
        if self._ended_at is None:
            options = os.WEXITED | os.WNOHANG | os.WNOWAIT
            if os.waitid(os.P_PID, self.pid, options) is None:
                return False
            self._ended_at = time.monotonic()
        return time.monotonic() - self._ended_at > _LINGER_S

    def wait(self) -> int:
        """Wait for its end; its exit code, 128 + the signal that killed it."""
        if self._status is None:
            _, self._status = os.waitpid(self.pid, 0)
        code = os.waitstatus_to_exitcode(self._status)
        return code if code >= 0 else 128 - code

    def _hand_on(self, number: int, frame: FrameType | None) -> None:
        if self._release >= 0:
            raise SystemExit(128 + number)
        if self._ended_at is not None:
            raise SystemExit(128 + number)  # only our own end is still to come
        if number == signal.SIGINT and _in_foreground():
            return  # the terminal has sent it to the child, too
        if self._status is None:
            os.kill(self.pid, number)


def watch_child(child: Child, options: SessionOptions, output: Output) -> int:
    """Attach to the waiting child, start it, watch it to its end; its exit code.

    What there is to say goes to stderr: stdout is the child's. An error after the
    start leaves the child running; it is raised when the child has ended.
    """
    from tracer.recording import Recording
    from tracer.session import run_session
    from tracer.totals import totals_line
    from tracer.watch import ActionNotes, event_sink, metrics, note, settle

    sinks: list[Sink] = []
    recording = None
    if output.trace is not None:
        recording = Recording(output.trace, options, force=output.force)
        sinks.append(recording)
    if recording is None or output.json:
        sinks.append(event_sink(options, output, sys.stderr))
    else:
        sinks.append(ActionNotes(output))

    def on_attached(info: Any) -> None:
        if recording is not None:
            recording.open(info)
        child.start()
        settle()

    with metrics(output) as more:
        result = run_session(
            options,
            [*sinks, *more],
            should_stop=child.long_gone,
            on_attached=on_attached,
            note=lambda text: note(output, text),
        )
    code = child.wait()
    if recording is not None:
        note(output, totals_line(result.counters.to_dict(), result.why))
        note(output, f"recorded to {recording.path}")
    return code


def _in_foreground() -> bool:
    try:
        return os.tcgetpgrp(sys.stderr.fileno()) == os.getpgrp()
    except OSError:
        return False


def _become(command: Sequence[str], gate: int, release: int) -> NoReturn:
    """In the child: wait for the word, then be the program."""
    try:
        os.close(release)
        for number in (*_FORWARDED, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        while not select.select([gate], [], [], _NAP_S)[0]:
            pass
        if not os.read(gate, 1):
            os._exit(0)  # the parent gave up
        os.execvp(command[0], list(command))  # noqa: S606 no shell is wanted
    except OSError as error:
        os.write(2, f"parkscope: cannot run {command[0]}: {error.strerror}\n".encode())
    finally:
        os._exit(_CANNOT_EXECUTE)
