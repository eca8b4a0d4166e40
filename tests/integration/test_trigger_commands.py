"""Triggers on the command line, and what becomes of a dump when its session is ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE
from typing import Any

import psutil
import pytest

from collector.trace.reader import TraceReader
from tests.interpreters import get
from tests.processes import read_line, wait_until
from tests.triggering import ORDERS
from tracer.heap.reader import HeapFile

ROOT = Path(__file__).resolve().parents[2]
PARK = 'park > 200ms and kind == "lock"'
PROC = ("--backend", "proc")
Start = Callable[..., subprocess.Popen[bytes]]
pytestmark = pytest.mark.ptrace


@pytest.fixture
def parkscope(start: Start, tmp_path: Path) -> Callable[..., subprocess.Popen[bytes]]:
    tmp_path.chmod(0o700)

    def run(command: str, *arguments: str, **popen: Any) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        options = {"stderr": PIPE, "cwd": tmp_path, "env": environment, **popen}
        return start([sys.executable, "-m", "tracer.cli", command, *PROC, *arguments], **options)

    return run


@pytest.fixture
def target(start: Start) -> subprocess.Popen[bytes]:
    return start(get("system-3.11"), ORDERS, ready=True, stdin=PIPE)


def tell(target: subprocess.Popen[bytes], order: str) -> Any:
    assert target.stdin is not None
    target.stdin.write(f"{order}\n".encode())
    target.stdin.flush()
    return json.loads(read_line(target, 30))


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def until(process: subprocess.Popen[bytes], name: str) -> dict[str, Any]:
    """The next event of that name that it says as JSON."""
    while (event := json.loads(read_line(process, 30)))["event"] != name:
        pass
    return dict(event)


def until_noted(process: subprocess.Popen[bytes], *words: str) -> str:
    """What it has said on stderr by the time that these words have come, one after another."""
    assert process.stderr is not None
    said = ""
    for word in words:
        while word not in said:
            piece = os.read(process.stderr.fileno(), 4096).decode()
            assert piece, f"{word!r} is not in {said!r}"
            said += piece
    return said


def test_run_dumps_the_program_that_it_has_started(
    parkscope: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    program = (
        "import sys, threading; lock = threading.Lock(); lock.acquire(); "
        "threading.Thread(target=lambda: sys.stdin.read() or lock.release()).start(); "
        "lock.acquire()"
    )
    process = parkscope(
        "run", "-o", "app.pks", "--on", PARK, "--do", "heap-dump",
        "--", sys.executable, "-c", program, stdin=PIPE,
    )  # fmt: skip
    until_noted(process, "heap-dump of on-1 done")
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert files(tmp_path) == ["app-1.heap", "app.pks"]
    with HeapFile(tmp_path / "app-1.heap") as dump:
        assert dump.meta["trigger"]["park_still_on"] is not False


@pytest.mark.parametrize("command", ["live", "serve"])
def test_live_and_serve_act_as_well(
    parkscope: Callable[..., subprocess.Popen[bytes]],
    target: subprocess.Popen[bytes],
    tmp_path: Path,
    command: str,
) -> None:
    more = ["--listen", "127.0.0.1:0"] if command == "serve" else []
    pid = str(target.pid)
    process = parkscope(command, pid, *more, "--on", PARK, "--do", "stack-dump")
    tell(target, "park 6")  # perhaps before it is attached: such parks count, too
    wait_until(lambda: files(tmp_path) == [f"parkscope-{pid}-1.stacks.json"], "its stacks", 20)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 143


def test_what_was_kept_is_a_trace_like_any_other(
    parkscope: Callable[..., subprocess.Popen[bytes]],
    target: subprocess.Popen[bytes],
    tmp_path: Path,
) -> None:
    session = parkscope("attach", str(target.pid), "--json", "--on", PARK, "--do", "keep 20s")
    until(session, "attached")
    tell(target, "park 0.5")
    action = until(session, "action")
    assert (action["status"], action["path"]) == (
        "done",
        str(tmp_path / f"parkscope-{target.pid}-1.pks"),
    )
    session.send_signal(signal.SIGINT)
    session.communicate(timeout=20)
    said = subprocess.run(
        [sys.executable, "-m", "tracer.cli", "replay", "--json", action["path"]],
        cwd=ROOT, stdout=PIPE, check=True, timeout=30,
    )  # fmt: skip
    events = [json.loads(line) for line in said.stdout.splitlines()]
    parks = [one for one in events if one["event"] == "park_long" and one["kind"] == "lock"]
    assert parks[0]["stack"][0]["function"] == "wait_for"
    for view in ("summary", "triggers", "parks"):
        subprocess.run(
            [sys.executable, "-m", "tracer.cli", "analyze", action["path"], "--view", view],
            cwd=ROOT, stdout=PIPE, check=True, timeout=30,
        )  # fmt: skip


@contextmanager
def dumping(
    parkscope: Callable[..., subprocess.Popen[bytes]], target: subprocess.Popen[bytes]
) -> Iterator[tuple[subprocess.Popen[bytes], list[psutil.Process]]]:
    """A session in the midst of a dump of a large heap, and the processes that it has."""
    tell(target, "fill 1000000")
    session = parkscope("attach", str(target.pid), "--json", "--on", PARK, "--do", "heap-dump")
    until(session, "attached")
    tell(target, "park 1.5")
    until(session, "trigger")
    yield session, psutil.Process(session.pid).children(recursive=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signals", "code", "dumps"),
    [
        ([signal.SIGINT], 130, 1),
        ([signal.SIGTERM], 143, 1),
        ([signal.SIGINT, signal.SIGINT], 130, 0),
        ([signal.SIGKILL], -9, 0),
    ],
)
def test_a_session_that_is_ended_during_a_dump_leaves_nothing_half_done(
    parkscope: Callable[..., subprocess.Popen[bytes]],
    target: subprocess.Popen[bytes],
    tmp_path: Path,
    signals: list[int],
    code: int,
    dumps: int,
) -> None:
    with dumping(parkscope, target) as (session, helpers):
        assert helpers
        for at, number in enumerate(signals):
            if at:
                until_noted(session, "not done yet")
            session.send_signal(number)
        session.communicate(timeout=30)
    assert session.returncode == code
    _, alive = psutil.wait_procs(helpers, timeout=10)
    assert alive == [], "a helper outlives the session"
    assert len(list(tmp_path.glob("*.heap"))) == dumps
    assert files(tmp_path) == [path.name for path in tmp_path.glob("*.heap")]
    status = Path(f"/proc/{target.pid}/status").read_text()
    assert "TracerPid:\t0\n" in status
    assert psutil.Process(target.pid).status() not in (psutil.STATUS_STOPPED, "tracing-stop")
    assert tell(target, "await 0.01") == {"done": "await"}, "it goes on"


def test_two_sessions_on_one_process_both_have_their_dump(
    parkscope: Callable[..., subprocess.Popen[bytes]],
    target: subprocess.Popen[bytes],
    tmp_path: Path,
) -> None:
    tell(target, "fill 100000")
    asked = ("--json", "--on", PARK, "--do", "heap-dump")
    sessions = [parkscope("attach", str(target.pid), *asked) for _ in range(2)]
    for session in sessions:
        until(session, "attached")
    tell(target, "park 1")
    results = [until(session, "action") for session in sessions]
    for session in sessions:
        session.send_signal(signal.SIGINT)
        session.communicate(timeout=20)
    assert [result["status"] for result in results] == ["done", "done"], results
    assert files(tmp_path) == [f"parkscope-{target.pid}-{number}.heap" for number in (1, 2)]


def test_record_says_what_it_has_dumped_and_keeps_no_secret_in_its_trace(
    parkscope: Callable[..., subprocess.Popen[bytes]],
    target: subprocess.Popen[bytes],
    tmp_path: Path,
) -> None:
    asked = ("--on", "park", "--do", "webhook http://127.0.0.1:1/SECRET")
    session = parkscope("record", str(target.pid), "-o", "app.pks", *asked)
    until_noted(session, "recording to")
    tell(target, "park 1")
    until_noted(session, f"heap-dump of dump done: {tmp_path / 'app-1.heap'}")
    session.send_signal(signal.SIGINT)
    session.communicate(timeout=20)
    with TraceReader(tmp_path / "app.pks") as reader:
        assert reader.meta["options"]["triggers"]["on"] == [["park", "webhook"]]
        assert "SECRET" not in json.dumps(reader.meta)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("attach", "1", "--dump", "--no-python"), "does not go with"),
        (("attach", "1", "--dump-dir", "."), "without '--dump'"),
        (("attach", "1", "--on", "park"), "1 condition ('--on') and 0 actions"),
    ],
)
def test_what_cannot_be_meant_is_said(
    parkscope: Callable[..., subprocess.Popen[bytes]], arguments: tuple[str, ...], why: str
) -> None:
    process = parkscope(*arguments)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, why in err.decode()) == (2, True), err


def test_a_folder_that_is_gone_is_said_at_once(
    parkscope: Callable[..., subprocess.Popen[bytes]],
    target: subprocess.Popen[bytes],
    tmp_path: Path,
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    words = ["sh", "-c", 'rmdir "$PWD"; exec "$@"', "sh", sys.executable, "-m", "tracer.cli"]
    asked = ["attach", *PROC, str(target.pid), "--on", PARK, "--do", "stack-dump"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [*words, *asked], cwd=gone, env=environment, stderr=PIPE, timeout=30, check=False
    )
    assert ended.returncode == 2, ended.stderr
    assert b"folder is gone" in ended.stderr
