"""``serve`` and ``--metrics`` as processes: addresses, ends of targets, the file. No eBPF."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests import interpreters
from tests.conftest import Start
from tests.interpreters import Interpreter
from tests.metrics_events import parse, value
from tests.processes import wait_until
from tests.scraping import PARKSCOPE, ROOT, Counted, agree, health, scrape, stderr_until, url_of
from tracer import cli

PROC = ("--backend", "proc")
MOCK = ("--backend", "mock", "--scenario")
HERE = "127.0.0.1:0"
WAITS = "print('ready', flush=True); input()"
FORKS = """
import os
print('ready', flush=True); input()
if not os.fork():
    input()
    os._exit(0)
os.wait()
"""

Parkscope = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def parkscope(start: Start) -> Parkscope:
    def run(*arguments: str, **popen: Any) -> subprocess.Popen[bytes]:
        return start([*PARKSCOPE, *arguments], stderr=subprocess.PIPE, cwd=ROOT, **popen)

    return run


@pytest.fixture
def waiting(start: Start) -> subprocess.Popen[bytes]:
    """A process that ends when something comes on its stdin."""
    return start([sys.executable, "-c", WAITS], stdin=subprocess.PIPE, ready=True)


def release(process: subprocess.Popen[bytes], lines: int = 1) -> None:
    assert process.stdin is not None
    process.stdin.write(b"\n" * lines)
    process.stdin.flush()


def finish(process: subprocess.Popen[bytes]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=30)
    return process.returncode, out.decode(), err.decode()


@pytest.mark.ptrace
@interpreters.matrix("system-3.11")
def test_what_is_scraped_is_what_the_target_logged(
    start: Start, parkscope: Parkscope, interpreter: Interpreter, scratch: Path
) -> None:
    target = Counted(start, interpreter, scratch)
    pid = target.process.pid
    tracer = parkscope("serve", str(pid), *PROC, "--listen", HERE, "--stay")
    url = url_of(tracer)
    wait_until(lambda: value(scrape(url), "parkscope_target_up", pid=str(pid)), "attached", 20)
    families = agree(url, target.run(), pid, slack_s=0.1)
    assert value(families, "parkscope_target_threads", pid=str(pid)) >= 1
    assert "parkscope_large_allocations" not in families, "nobody looks"
    assert value(families, "parkscope_build_info", backend="proc") == 1
    target.tell()
    target.process.wait(20)
    stderr_until(tracer, rb"that was all\n(?s:.*)still serving the last readings")
    last = scrape(url, "application/openmetrics-text; version=1.0.0")
    assert value(last, "parkscope_watching") == value(last, "parkscope_target_up") == 0
    name = "parkscope_park_duration_seconds_count"
    assert value(last, name, kind="lock") >= value(families, name, kind="lock") > 0
    assert health(url) == b"well\n"
    tracer.send_signal(signal.SIGTERM)
    assert finish(tracer)[0] == 143


@pytest.mark.ptrace
def test_it_ends_with_the_last_of_several_targets(
    start: Start, parkscope: Parkscope, waiting: Any
) -> None:
    other = start([sys.executable, "-c", FORKS], stdin=subprocess.PIPE, ready=True)
    pids = str(waiting.pid), str(other.pid)
    tracer = parkscope("serve", *pids, *PROC, "--listen", HERE, "--follow")
    url = url_of(tracer)
    wait_until(lambda: value(scrape(url), "parkscope_target_up") == 2, "both are up", 20)
    release(waiting)
    stderr_until(tracer, rb"process %d has ended; 1 still watched" % waiting.pid)

    def one_gone() -> bool:
        found = scrape(url)
        each = [value(found, "parkscope_target_up", pid=pid) for pid in pids]
        return each == [0, 1] and value(found, "parkscope_watching") == 1

    wait_until(one_gone, "one has ended, the other goes on")
    release(other)
    wait_until(lambda: value(scrape(url), "parkscope_target_up") == 2, "the child is watched", 20)
    release(other)
    code, out, err = finish(tracer)
    assert (code, "Traceback" in err) == (0, False)
    assert out.startswith("detached after ")
    assert "that was all" in err


@pytest.mark.ptrace
def test_a_second_one_at_the_same_port_attaches_to_nothing(
    parkscope: Parkscope, waiting: Any
) -> None:
    tracer = parkscope("serve", str(waiting.pid), *PROC, "--listen", HERE)
    port = url_of(tracer).split(":")[2].split("/")[0]
    code, out, err = finish(
        parkscope("attach", str(waiting.pid), *PROC, "--metrics", f"127.0.0.1:{port}")
    )
    assert (code, out) == (10, "")
    assert f"port {port} is in use" in err
    assert "hint: Another Parkscope may serve there" in err
    release(waiting)
    assert finish(tracer)[0] == 0
    with closing(socket.create_server(("127.0.0.1", int(port)))):
        pass


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["serve"], 2, "no target given"),
        (["serve", "4194304", "--listen", HERE], 3, "no process has the PID"),
        (["serve", "1", "--listen", "0.0.0.0:0"], 2, "--listen-anywhere"),
        (["attach", "--metrics", "4711"], 2, "PIDs go before '--metrics'"),
        (["attach", "1", "--listen-anywhere"], 2, "without --metrics"),
        (["record", "1", "-o", "x", "--metrics-textfile", "x.txt"], 2, ".prom"),
        (["attach", "1", "--metrics-textfile", "/nowhere/x.prom"], 8, "cannot be written"),
        (["run", "--metrics", "no", "--", "true"], 2, "no address to listen at"),
        (["replay", "x", "--metrics"], 2, "No such option"),
    ],
)
def test_what_cannot_be_served_is_said_with_a_hint(
    capfd: pytest.CaptureFixture[str], arguments: list[str], code: int, words: str
) -> None:
    status = cli.run(arguments)
    out, err = capfd.readouterr()
    assert (status, out, "Traceback" in err) == (code, "", False)
    assert words in err


@pytest.mark.parametrize("command", ["attach", "record", "live", "serve"])
def test_every_watching_command_serves_and_writes_the_file(
    parkscope: Parkscope, tmp_path: Path, command: str
) -> None:
    file = tmp_path / "parkscope.prom"
    more = {"record": ["-o", str(tmp_path / "a.pks")], "serve": ["--listen", HERE]}
    where = more.get(command, []) + (["--metrics", HERE] if command != "serve" else [])
    code, out, err = finish(
        parkscope(command, *where, "--metrics-textfile", str(file), *MOCK, "lock_convoy")
    )
    assert (code, "metrics at http://127.0.0.1:" in err) == (0, True)
    assert out
    families = parse(file.read_text())
    assert value(families, "parkscope_watching") == 0
    name = "parkscope_park_duration_seconds"
    assert value(families, f"{name}_count", kind="lock") == 5
    assert value(families, f"{name}_count") - value(families, f"{name}_bucket", le="0.2") == 3


@pytest.mark.ptrace
def test_a_program_that_is_run_is_served_too(parkscope: Parkscope, tmp_path: Path) -> None:
    file = tmp_path / "parkscope.prom"
    program = [sys.executable, "-c", "import time; time.sleep(0.4); print('its own')"]
    code, out, err = finish(
        parkscope(
            *("run", "--metrics", HERE, "--metrics-textfile", str(file), *PROC, "--no-python"),
            "--",
            *program,
        )
    )
    assert (code, out) == (0, "its own\n")
    assert "metrics at http://" in err
    assert value(parse(file.read_text()), "parkscope_long_parks_total", kind="sleep") == 1


def test_quiet_is_quiet(parkscope: Parkscope) -> None:
    code, out, err = finish(parkscope("attach", "-q", "--json", "--metrics", HERE, *MOCK, "sleep"))
    assert (code, err) == (0, "")
    assert out.splitlines()[-1].startswith('{"event":"detached"')
