"""A hint to a cooperating target: a signal, and only one that it handles.

Sent through a pidfd of the very process that was attached to (pidfd_send_signal(2)), so
that it can never reach another one that got the number; and only if the process has a
handler for it (``SigCgt`` in proc_pid_status(5)), since the default of most is death.
"""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any

from probes.errors import ActionFailed, ParkscopeError
from tracer.procfs import process_state
from tracer.triggers.job import Running
from tracer.triggers.keys import signal_number


def run(running: Running) -> dict[str, Any]:
    """Send it. Raises ActionFailed when the process has gone or does not handle it."""
    job = running.job
    number = signal_number(job.options["signal"])
    pid = job.pid or 0
    start_ticks = running.target(pid).start_ticks
    try:
        descriptor = os.pidfd_open(pid)
    except OSError as error:
        raise ActionFailed(f"process {pid} cannot be signalled: {error.strerror}") from None
    try:
        if process_state(pid).start_ticks != start_ticks:
            raise ActionFailed(f"process {pid} is another one by now")
        if not handles(pid, number):
            name = job.options["signal"]
            raise ActionFailed(f"process {pid} has no handler for {name}: it might end by it")
        signal.pidfd_send_signal(descriptor, number)
    except OSError as error:
        raise ActionFailed(f"process {pid} cannot be signalled: {error.strerror}") from None
    except ParkscopeError as error:
        raise ActionFailed(error.message) from None
    finally:
        os.close(descriptor)
    return {"signal": job.options["signal"], "number": number}


def handles(pid: int, number: int) -> bool:
    """Whether the process has a handler for that signal. Raises ActionFailed."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(errors="replace")
    except OSError as error:
        raise ActionFailed(f"process {pid} cannot be looked at: {error.strerror}") from None
    found = re.search(r"^SigCgt:\s*([0-9a-f]+)", text, re.MULTILINE)
    return found is not None and bool(int(found[1], 16) >> (number - 1) & 1)
