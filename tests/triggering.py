"""Sessions with triggers on a target that parks as told, and what their dumps must show."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE
from typing import Any

import numpy as np

from collector.events import Event
from tests import interpreters, processes
from tests.interpreters import Interpreter
from tests.observe import Attached
from tests.processes import read_line, wait_until
from tracer.heap.reader import HeapFile
from tracer.session import SessionOptions
from tracer.triggers.setup import TriggerOptions

TARGET = Path(__file__).parent / "targets/parks_on_a_lock.py"
ORDERS = Path(__file__).parent / "targets/obeys_orders.py"
WAITER = 'park > 200ms and kind == "lock" and thread_name == "waiter"'
PATIENCE_S = 60.0


@dataclass
class Watched:
    """A target under watch."""

    process: subprocess.Popen[bytes]
    session: Attached

    def tell(self, command: str) -> dict[str, Any]:
        """Have it do something; what it answers at once."""
        if self.process.stdin is None:
            raise ValueError("stdin is no pipe")
        self.process.stdin.write(f"{command}\n".encode())
        self.process.stdin.flush()
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """The next line that it says."""
        said: dict[str, Any] = json.loads(read_line(self.process, 30))
        return said

    def events(self, event_name: str, /, **data: Any) -> list[Event]:
        """Events so far, by name and some of their own keys."""
        return [
            event
            for event in list(self.session.sink.events)
            if event.event == event_name and all(event.data.get(k) == v for k, v in data.items())
        ]

    def wait_for(self, event_name: str, count: int = 1, /, **data: Any) -> list[Event]:
        """Such events, once there are that many."""
        wait_until(
            lambda: len(self.events(event_name, **data)) >= count,
            f"{count} {event_name} {data}",
            PATIENCE_S,
        )
        return self.events(event_name, **data)


@contextmanager
def watched(
    interpreter: Interpreter,
    triggers: TriggerOptions,
    backend: str = "bcc",
    target: Path = TARGET,
    **options: Any,
) -> Iterator[Watched]:
    """The target with a session on it that has these triggers."""
    process = interpreters.launch(interpreter, target, stdin=PIPE, stdout=PIPE)
    with processes.started(process):
        processes.wait_ready(process)
        chosen = SessionOptions(pids=(process.pid,), backend=backend, triggers=triggers, **options)
        session = Attached(chosen).start()
        try:
            yield Watched(process, session)
        finally:
            session.stop()


def rules(directory: Path, text: str) -> TriggerOptions:
    """Triggers by the text of a TOML file in ``directory``, where files go, too."""
    file = directory / "triggers.toml"
    file.write_text(text)
    file.chmod(0o600)
    return TriggerOptions(files=(file,), stem=directory / "here")


SORTS = {
    "stall": "loop_stall > 300ms",
    "knot": "deadlock and members == 2",
    "large": "rss > 150MB",
    "many": "threads > 40",
}
"""A rule for each sort of thing that ``obeys_orders.py`` can be told to do."""


def of_all_sorts(directory: Path) -> TriggerOptions:
    """Those rules; each takes the stacks of all threads."""
    text = ""
    for name, condition in SORTS.items():
        text += f"[[trigger]]\nname='{name}'\non='{condition}'\n"
        text += "do={stack-dump=true, min_free=0}\n"
    return rules(directory, text)


def provoke(watch: Watched) -> list[int]:
    """Have it do all that, one after another as each is noticed; who is in the deadlock."""
    watch.tell("stall 0.8")
    watch.wait_for("trigger", trigger="stall")
    watch.answer()
    watch.tell("grow 200")
    watch.wait_for("trigger", trigger="large")
    watch.tell("threads 45")
    watch.wait_for("trigger", trigger="many")
    members: list[int] = watch.tell("deadlock")["tids"]
    watch.wait_for("trigger", trigger="knot")
    return members


def wrong_in(path: Path, facts: dict[str, Any], park: Event) -> list[str]:
    """What a dump of ``parks_on_a_lock.py`` does not show as the target and the park say it."""
    with HeapFile(path) as file:
        heap = file.load()
    wrong = []
    if (said := park.data["resource"]["address"]) != f"{facts['lock']:#x}":
        wrong.append(f"the park is on {said}, the lock is at {facts['lock']:#x}")
    nodes = {
        name: _node(heap.columns["address"], facts[name], wrong, name)
        for name in ("lock", "orders")
    }
    waiter = _frame(heap, park.tid or 0, "wait_for_it", wrong)
    _frame(heap, facts["holder"], "hold", wrong)
    variables = {
        heap.strings[name]: int(node)
        for frame, node, name in zip(
            heap.columns["reference_frame"],
            heap.columns["reference_node"],
            heap.columns["reference_name"],
            strict=True,
        )
        if frame == waiter
    }
    for variable, name in (("guard", "lock"), ("order", "orders")):
        if variables.get(variable) != nodes[name]:
            wrong.append(f"{variable} is not the {name}")
    return wrong


def _node(addresses: Any, address: int, wrong: list[str], name: str) -> int:
    at = int(np.searchsorted(addresses, address))
    if at == len(addresses) or addresses[at] != address:
        wrong.append(f"no object at the {name}'s address")
    return at


def _frame(heap: Any, tid: int, function: str, wrong: list[str]) -> int:
    """The number of a thread's frame of that function."""
    found: Sequence[int] = [
        number
        for number, frame in enumerate(heap.frames)
        if frame["function"].endswith(function)
        and heap.threads[frame["thread"]]["native_id"] == tid
    ]
    if not found:
        wrong.append(f"no frame {function} of thread {tid}")
        return -1
    return found[0]
