"""The command line as a process: signals, pipes, children, a terminal. No eBPF needed."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.processes import wait_until
from tests.terminals import Tmux
from tracer.native.profiles import PROFILE_DIR

ROOT = Path(__file__).resolve().parents[2]
PARKSCOPE = (sys.executable, "-m", "tracer.cli")
SCENARIOS = ROOT / "examples" / "scenarios"
PROC = ("--backend", "proc")

Start = Callable[..., subprocess.Popen[bytes]]
pytestmark = pytest.mark.ptrace


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


@pytest.fixture
def parkscope(start: Start) -> Callable[..., subprocess.Popen[bytes]]:
    def run(*arguments: str, **popen: Any) -> subprocess.Popen[bytes]:
        options = {"stderr": subprocess.PIPE, "cwd": ROOT, **popen}
        return start([*PARKSCOPE, *arguments], **options)

    return run


def finish(process: subprocess.Popen[bytes], timeout: float = 30) -> Ended:
    out, err = process.communicate(timeout=timeout)
    return Ended(process.returncode, (out or b"").decode(), (err or b"").decode())


@pytest.fixture
def deadlock(start: Start) -> subprocess.Popen[bytes]:
    return start([sys.executable, str(SCENARIOS / "deadlock.py"), "--seconds", "60"], ready=True)


def read_until(process: subprocess.Popen[bytes], word: bytes) -> bytes:
    assert process.stderr is not None
    seen = b""
    for line in process.stderr:
        seen += line
        if word in seen:
            return seen
    raise AssertionError(f"{word!r} never came: {seen!r}")


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_ends_a_recording_properly(
    parkscope: Start, deadlock: Any, tmp_path: Path, number: int, code: int
) -> None:
    trace = tmp_path / "a.pks"
    process = parkscope("record", str(deadlock.pid), *PROC, "-o", str(trace))
    read_until(process, b"Ctrl-C ends it")
    size = trace.stat().st_size
    wait_until(lambda: trace.stat().st_size > size, "something recorded")
    process.send_signal(number)
    ended = finish(process)
    assert ended.code == code
    assert "detached after" in ended.out
    assert "Traceback" not in ended.err
    looked = subprocess.run(
        [*PARKSCOPE, "analyze", str(trace), "--json"], cwd=ROOT, capture_output=True, check=True
    )
    rows = {row["name"]: row["value"] for row in map(json.loads, looked.stdout.splitlines())}
    assert rows["trace"] == "clean"
    assert deadlock.poll() is None


def test_attach_flags_a_deadlock_that_began_before(parkscope: Start, deadlock: Any) -> None:
    process = parkscope("attach", str(deadlock.pid), *PROC, "--json", "--duration", "1500ms")
    ended = finish(process)
    assert (ended.code, ended.err) == (0, "")
    events = [json.loads(line) for line in ended.out.splitlines()]
    flagged = {
        event["thread_name"]
        for event in events
        if event["event"] == "park_long" and event["kind"] == "lock"
    }
    assert flagged == {"takes-a-then-b", "takes-b-then-a"}
    assert events[-1]["why"] == "duration over"


def test_the_session_ends_with_its_target(parkscope: Start, start: Start) -> None:
    target = start([sys.executable, "-c", "print('ready', flush=True); input()"],
                   stdin=subprocess.PIPE, ready=True)  # fmt: skip
    process = parkscope("attach", str(target.pid), *PROC, "--json")
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["event"] == "attached"
    assert target.stdin is not None
    target.stdin.write(b"\n")
    target.stdin.close()
    target.wait()
    ended = finish(process)
    assert ended.code == 0
    assert json.loads(ended.out.splitlines()[-1])["why"] == "source ended"


def test_a_reader_that_goes_away_ends_it_quietly(parkscope: Start) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        process = parkscope(
            "attach", "--backend", "mock", "--scenario", "lock_convoy", stdout=write_end
        )
    finally:
        os.close(write_end)
    ended = finish(process)
    assert (ended.code, ended.err) == (141, "")


def test_something_else_than_python(parkscope: Start, start: Start) -> None:
    target = start(["sleep", "60"])
    refused = finish(parkscope("attach", str(target.pid), *PROC))
    assert refused.code == 4
    assert "--no-python" in refused.err or "doctor" in refused.err
    ended = finish(
        parkscope("attach", str(target.pid), *PROC, "--no-python", "--duration", "1s", "--json")
    )
    assert ended.code == 0
    flagged = [e for e in map(json.loads, ended.out.splitlines()) if e["event"] == "park_long"]
    assert [event["kind"] for event in flagged] == ["sleep"]


def test_a_profile_that_nobody_will_use_is_said(
    parkscope: Start, deadlock: Any, tmp_path: Path
) -> None:
    own = tmp_path / "own.toml"
    own.write_text((PROFILE_DIR / "cereggii.toml").read_text())
    own.chmod(0o600)
    asked = ("attach", str(deadlock.pid), "--native-profile", str(own), "--duration", "200ms")
    ended = finish(parkscope(*asked, *PROC))
    assert ended.code == 0
    assert "native maps are not probed" in ended.out.splitlines()[0]
    ended = finish(parkscope(*asked, *PROC, "--no-native-map"))
    assert ended.code == 2
    assert "Leave one out" in ended.err


def test_doctor_looks_at_a_process(parkscope: Start, deadlock: Any) -> None:
    ended = finish(parkscope("doctor", str(deadlock.pid), "--json"))
    said = json.loads(ended.out)
    assert (ended.code, said["attachable"]) == (0, True)
    findings = {finding["check"]: finding["what"] for finding in said["findings"]}
    version = ".".join(map(str, sys.version_info[:3]))
    assert findings["target Python"] == f"CPython {version}"
    assert "3 Python threads" in findings["target memory"]
    listed = finish(parkscope("doctor", "--json"))
    assert deadlock.pid in [process["pid"] for process in json.loads(listed.out)["processes"]]


# -- run ---------------------------------------------------------------------------


def test_run_watches_from_the_first_instruction_and_keeps_out_of_the_way(
    parkscope: Start,
) -> None:
    program = "import time; time.sleep(.6); print('got', input()); raise SystemExit(7)"
    process = parkscope(
        "run", *PROC, "--json", "--", sys.executable, "-c", program, stdin=subprocess.PIPE
    )
    out, err = process.communicate(b"hello\n", timeout=30)
    assert (process.returncode, out) == (7, b"got hello\n")
    events = [json.loads(line) for line in err.splitlines()]
    (flagged,) = [event for event in events if event["event"] == "park_long"]
    assert (flagged["kind"], flagged["before_attach"]) == ("sleep", False)
    assert flagged["thread_name"] == "MainThread"


def test_run_hands_signals_on_and_tells_how_the_program_was_killed(
    parkscope: Start, tmp_path: Path
) -> None:
    trace = tmp_path / "a.pks"
    program = (
        "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(3)); "
        "print('up', flush=True); signal.pause()"
    )
    process = parkscope("run", *PROC, "-o", str(trace), "--", sys.executable, "-c", program)
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    process.send_signal(signal.SIGTERM)
    ended = finish(process)
    assert ended.code == 3
    assert f"recorded to {trace}" in ended.err
    killed = finish(parkscope("run", *PROC, "-q", "--", "sh", "-c", "kill -9 $$"))
    assert killed.code == 128 + 9


def test_a_program_that_cannot_be_attached_to_is_never_run(
    parkscope: Start, tmp_path: Path
) -> None:
    proof = tmp_path / "ran"
    ended = finish(
        parkscope("run", *PROC, "-o", str(tmp_path / "no" / "t"), "--", "touch", str(proof))
    )
    assert ended.code == 8
    assert not proof.exists()


# -- live --------------------------------------------------------------------------


@pytest.fixture
def terminal() -> Iterator[Callable[..., Tmux]]:
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not installed")
    running: list[Tmux] = []

    def make(columns: int, lines: int, *command: str) -> Tmux:
        place = f"cd {shlex.quote(str(ROOT))} && "
        running.append(Tmux(columns, lines, place + shlex.join([*PARKSCOPE, *command])))
        return running[-1]

    try:
        yield make
    finally:
        for tmux in running:
            tmux.close()


def test_live_in_a_real_terminal(terminal: Callable[..., Tmux], deadlock: Any) -> None:
    tmux = terminal(80, 24, "live", str(deadlock.pid), *PROC)
    screen = tmux.shows("takes-a-then-b .* R?Lock ")
    lines = screen.rstrip("\n").split("\n")
    assert len(lines) == 24
    assert re.match(rf"parkscope  {deadlock.pid} ", lines[0])
    assert re.match(r" q quit +i show idle +s sort: time", lines[-1])
    assert re.search(r"\d stuck", lines[1])
    tmux("send-keys", "i", "s")
    tmux.shows("i hide idle +s sort: name")
    tmux("resize-window", "-x", "60", "-y", "12")
    narrow = tmux.shows(r"(?s)\A(?!.*WHERE).*sort: name")
    assert len(narrow.rstrip("\n").split("\n")) == 12
    tmux("send-keys", "q")
    tmux.shows(r"(?s)detached after .* \(stopped\).*ended with 0")


def test_ctrl_c_in_live_leaves_the_terminal_as_it_was(
    terminal: Callable[..., Tmux], deadlock: Any
) -> None:
    tmux = terminal(80, 24, "live", str(deadlock.pid), *PROC)
    tmux.shows("takes-a-then-b")
    tmux("send-keys", "C-c")
    tmux.shows("ended with 130")
    tmux("send-keys", "echoed again")
    tmux.shows("echoed again")  # cat gets it at Enter only: the terminal echoes by itself


# -- demo --------------------------------------------------------------------------


@pytest.mark.slow
def test_the_demo_flags_a_park_and_says_where_the_trace_is(
    parkscope: Start, tmp_path: Path
) -> None:
    trace = tmp_path / "demo.pks"
    ended = finish(parkscope("demo", *PROC, "-o", str(trace)))
    assert ended.code == 0
    summary = ended.out[ended.out.index("Flagged ") :]
    assert re.search(
        r"takes-\w-then-\w .* waits .* for R?Lock .*, held by takes-\w-then-\w", summary
    )
    assert f"parkscope analyze {trace}" in summary
    assert trace.stat().st_mode & 0o777 == 0o600
