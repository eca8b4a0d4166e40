"""Where the thread that ended a park stood, against what it says of itself."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.kernel.bcc_session import tell
from tests.interpreters import Interpreter, matrix
from tests.observe import Attached, attached
from tests.processes import read_line, wait_until
from tracer.session import SessionOptions

pytestmark = pytest.mark.kernel

Start = Callable[..., subprocess.Popen[bytes]]
TARGET = Path(__file__).parents[2] / "targets" / "wakers.py"
INNERMOST = {"event": "notify", "queue": "notify"}
"""Where a way of waking goes through the library: the function that releases the lock."""


def waker_of(session: Attached, tid: int) -> dict[str, Any]:
    """Who ended the long park of a thread."""

    def ended() -> list[Any]:
        events = list(session.sink.events)
        return [one.data["waker"] for one in events if one.event == "park_end" and one.tid == tid]

    wait_until(ended, "the end of the park")
    (waker,) = ended()
    assert waker is not None
    return dict(waker)


def own(waker: dict[str, Any]) -> list[list[Any]]:
    """The frames of the target's own file."""
    assert waker["stack"], "a stack"
    frames = [one for one in waker["stack"] if one["file"].endswith("wakers.py")]
    assert {frame["module"] for frame in frames} <= {"__main__"}
    return [[frame["function"].rpartition(".")[2], frame["line"]] for frame in frames]


def round_of(process: subprocess.Popen[bytes], way: str) -> Any:
    tell(process, way if " " in way else f"{way} 0.35")
    return json.loads(read_line(process))


@matrix()
def test_the_waker_stands_where_it_says(interpreter: Interpreter, start: Start) -> None:
    process = start(interpreter, TARGET, ready=True, stdin=subprocess.PIPE)
    with attached(SessionOptions(pids=(process.pid,), backend="bcc")) as session:
        for way in ("lock", "event", "queue", "socket", "pipe", "lock"):
            truth = round_of(process, way)
            waker = waker_of(session, truth["waiter"])
            assert (waker["tid"], waker["why"]) == (truth["waker"], "thread"), way
            assert own(waker) == truth["told"], way
            assert not waker["stack_truncated"]
            innermost = waker["stack"][0]["function"].rpartition(".")[2]
            assert innermost == INNERMOST.get(way, truth["told"][0][0])
        truth = round_of(process, "deep")
        waker = waker_of(session, truth["waiter"])
        assert own(waker) == truth["told"][:32]
        assert len(waker["stack"]) == 32
        assert waker["stack_truncated"]
        for truth in round_of(process, "many"):
            waker = waker_of(session, truth["waiter"])
            assert (waker["tid"], own(waker)) == (truth["waker"], truth["told"])


@matrix()
def test_code_that_has_died_is_not_called_by_another_name(
    interpreter: Interpreter, start: Start
) -> None:
    process = start(interpreter, TARGET, ready=True, stdin=subprocess.PIPE)
    with attached(SessionOptions(pids=(process.pid,), backend="bcc")) as session:
        for _ in range(4):
            truth = round_of(process, "dying")
            waker = waker_of(session, truth["waiter"])
            assert waker["tid"] == truth["waker"]
            stack = waker["stack"]
            assert stack is None or stack[0]["function"] == "short_lived"


@matrix()
def test_two_that_take_turns_at_one_address_are_told_apart(
    interpreter: Interpreter, start: Start
) -> None:
    process = start(interpreter, TARGET, ready=True, stdin=subprocess.PIPE)
    with attached(SessionOptions(pids=(process.pid,), backend="bcc")) as session:
        for _ in range(6):
            truth = round_of(process, "turns 0.25")
            stack = waker_of(session, truth["waiter"])["stack"]
            if stack is not None and stack[0]["file"] == "<string>":
                assert [stack[0]["function"], stack[0]["line"]] == truth["told"][0]


@matrix()
def test_a_stack_does_not_end_where_another_interpreter_begins(
    interpreter: Interpreter, start: Start
) -> None:
    process = start(interpreter, TARGET, ready=True, stdin=subprocess.PIPE)
    with attached(SessionOptions(pids=(process.pid,), backend="bcc")) as session:
        truth = round_of(process, "foreign")
        waker = waker_of(session, truth["waiter"])
    assert waker["tid"] == truth["waker"]
    assert waker["stack"] is None or waker["stack"][0]["function"] == "inner"


def test_another_process_has_none(start: Start) -> None:
    ours, theirs = socket.socketpair()
    program = (
        f"import socket\ns = socket.socket(fileno={theirs.fileno()})\n"
        "print('ready', flush=True)\ns.recv(1)\ninput()\n"
    )
    process = start(
        [sys.executable, "-c", program],
        ready=True,
        stdin=subprocess.PIPE,
        pass_fds=(theirs.fileno(),),
    )
    with ours, theirs, attached(SessionOptions(pids=(process.pid,), backend="bcc")) as session:
        wait_until(lambda: [e for e in session.sink.events if e.event == "park_long"], "the park")
        ours.send(b"x")
        waker = waker_of(session, process.pid)
    assert (waker["why"], waker["stack"]) == ("process", None)
