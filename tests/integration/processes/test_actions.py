"""Actions on live processes and local servers, as the worker carries them out."""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import signal
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from subprocess import PIPE
from typing import Any

import numpy as np
import pytest

from collector.counters import Counters
from collector.events import Event
from collector.park import PARK
from collector.trace.reader import TraceReader
from probes.errors import ActionFailed, RecordingError
from probes.wire import RECORD
from tests.interpreters import get
from tests.processes import read_line, wait_until
from tests.triggering import TARGET, WAITER, rules, watched
from tracer.actions import ACTIONS, exec_program, keep, send_signal, stack_dump, webhook
from tracer.heap.dump import prepare
from tracer.target import Target, inspect
from tracer.triggers.job import Job, Running, new_file

S = 1_000_000_000
DO_JSON = "import json, os, sys; d = json.load(sys.stdin); "


def job(action: str, folder: Path, pid: int | None = None, **options: Any) -> Job:
    defaults = {name: key.default for name, key in ACTIONS[action].keys.items()}
    trigger = {"name": "t", "condition": "park", "on": "park_long", "firing": 1}
    chosen = {**defaults, **({"min_free": 0} if "min_free" in defaults else {}), **options}
    return Job(
        1, action, chosen, pid, str(folder / "here"), trigger, {"kind": "lock"}, {"event": "x"}
    )


def running(one: Job) -> Running:
    def target(pid: int) -> Target:
        return inspect(pid)

    return Running(one, target, lambda pid: prepare(inspect(pid)), lambda _at, _engine: None)


def script(words: str) -> list[str]:
    return [sys.executable, "-c", DO_JSON + words]


def test_a_program_gets_the_facts_and_little_else(tmp_path: Path) -> None:
    said = tmp_path / "said"
    words = (
        f"json.dump([d, os.getcwd(), sorted(os.environ), os.getpgrp() == os.getpid(),"
        f" sorted(os.listdir('/proc/self/fd'))], open({str(said)!r}, 'w'))"
    )
    result = exec_program.run(running(job("exec", tmp_path, argv=script(words))))
    assert result == {"exit_code": 0, "user": pwd.getpwuid(os.geteuid()).pw_name}
    told, folder, names, leads, descriptors = json.loads(said.read_text())
    assert told == {
        "trigger": {"name": "t", "condition": "park", "on": "park_long", "firing": 1},
        "facts": {"kind": "lock"},
        "event": {"event": "x"},
    }
    assert folder == "/"
    assert set(names) - {"LC_CTYPE"} == {"HOME", "LANG", "PATH", "USER"}
    assert leads
    assert len(descriptors) <= 5, "0, 1, 2, its file and the listing"


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (["/bin/false"], "failed with exit code 1"),
        (["/nowhere/to/be/found"], "cannot be run"),
        (["/bin/sh", "-c", "kill -9 $$"], "killed by signal 9"),
        (["/bin/sh", "-c", "sleep 60 & sleep 60"], "took longer than 0.3 s"),
    ],
)
def test_a_program_that_fails_or_hangs_is_said_and_gone(
    tmp_path: Path, argv: list[str], why: str
) -> None:
    with pytest.raises(ActionFailed, match=why):
        exec_program.run(running(job("exec", tmp_path, argv=argv, timeout=3 * S // 10)))


def test_a_program_that_writes_without_end_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exec_program, "MAX_OUTPUT", 1 << 16)
    log = tmp_path / "log"
    words = ["/bin/sh", "-c", "yes & head -c 100000 /dev/zero; wait"]
    with pytest.raises(ActionFailed, match="wrote more than 64 KiB"):
        exec_program.run(running(job("exec", tmp_path, argv=words, log=str(log), timeout=30 * S)))
    size = log.stat().st_size
    exec_program.run(running(job("exec", tmp_path, argv=["/bin/true"])))
    assert log.stat().st_size == size, "nobody writes on"


def test_a_log_that_is_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    one = job("exec", tmp_path, argv=["/bin/true"], log=str(tmp_path / "pipe"))
    with pytest.raises(ActionFailed, match="cannot be written"):
        exec_program.run(running(one))
    with pytest.raises(ActionFailed, match="no regular file"):
        exec_program.run(running(job("exec", tmp_path, argv=["/bin/true"], log="/dev/full")))


def test_a_programs_output_goes_into_a_log_that_is_ours(tmp_path: Path) -> None:
    log = tmp_path / "log"
    for _ in range(2):
        exec_program.run(running(job("exec", tmp_path, argv=["/bin/echo", "hello"], log=str(log))))
    assert log.read_text() == "hello\nhello\n"
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    link = tmp_path / "link"
    link.symlink_to(log)
    with pytest.raises(ActionFailed, match="cannot be written"):
        exec_program.run(running(job("exec", tmp_path, argv=["/bin/echo"], log=str(link))))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may run as somebody else")
def test_root_may_have_it_run_as_another_user(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    log = tmp_path / "log"
    one = job("exec", tmp_path, argv=["/usr/bin/id", "-u"], user="nobody", log=str(log))
    assert exec_program.run(running(one))["user"] == "nobody"
    assert log.read_text() == f"{pwd.getpwnam('nobody').pw_uid}\n"


@contextmanager
def server(status: int, hang: bool = False) -> Iterator[tuple[str, list[bytes]]]:
    """An HTTP server on this machine, and what was posted to it."""
    posted: list[bytes] = []
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(self.rfile.read(int(self.headers["Content-Length"])))
            if hang:
                over.wait(20)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_what: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.server_port}/hook?a=1", posted
        finally:
            over.set()
            listening.shutdown()
            thread.join()


def test_a_web_hook_is_posted_to_this_machine(tmp_path: Path) -> None:
    with server(204) as (url, posted):
        assert webhook.run(running(job("webhook", tmp_path, url=url))) == {"status_code": 204}
    assert json.loads(posted[0])["facts"] == {"kind": "lock"}


@pytest.mark.parametrize(("status", "hang", "why"), [(302, False, "answered 302"),
                                                     (200, True, "did not answer")])  # fmt: skip
def test_a_web_hook_that_fails_is_said(tmp_path: Path, status: int, hang: bool, why: str) -> None:
    with server(status, hang) as (url, _), pytest.raises(ActionFailed, match=why):
        webhook.run(running(job("webhook", tmp_path, url=url, timeout=S // 2)))


def test_a_server_that_answers_a_byte_at_a_time_does_not_outlast_the_limit(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def drip() -> None:
            stream, _ = listening.accept()
            with stream, suppress(OSError):
                while True:
                    stream.sendall(b"x")
                    over.wait(0.05)

        over = threading.Event()
        thread = threading.Thread(target=drip)
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
        began = time.monotonic()
        with pytest.raises(ActionFailed, match="did not answer within"):
            webhook.run(running(job("webhook", tmp_path, url=url, timeout=S // 2)))
        assert time.monotonic() - began < 5
        thread.join()


def test_a_server_without_a_trusted_certificate_is_told_nothing(tmp_path: Path) -> None:
    with server(204) as (url, posted):
        hook = job("webhook", tmp_path, url=url.replace("http:", "https:"), timeout=S)
        with pytest.raises(ActionFailed, match=r"SSL|TLS"):
            webhook.run(running(hook))
    assert posted == []


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://192.0.2.1/x", "another machine"),
        ("http://[2001:db8::1]/x", "another machine"),
        ("http://0.0.0.0/x", "another machine"),
        ("http://127.0.0.1:1/", "127.0.0.1:1"),
        ("https://127.0.0.1:1/", "127.0.0.1:1"),
    ],
)
def test_where_a_web_hook_does_not_go(tmp_path: Path, url: str, why: str) -> None:
    with pytest.raises(ActionFailed, match=why):
        webhook.run(running(job("webhook", tmp_path, url=url)))


def obedient(start: Callable[..., Any], command: str | None = None) -> Any:
    process = start(get("system-3.11"), TARGET, ready=True, stdin=PIPE)
    if command is not None:
        process.stdin.write(f"{command}\n".encode())
        process.stdin.flush()
        read_line(process)
    return process


@pytest.mark.ptrace
def test_a_signal_reaches_who_handles_it_and_nobody_else(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    deaf, hearing = obedient(start), obedient(start, "catch")
    with pytest.raises(ActionFailed, match="no handler"):
        send_signal.run(running(job("signal", tmp_path, deaf.pid, signal="USR1")))
    assert deaf.poll() is None
    result = send_signal.run(running(job("signal", tmp_path, hearing.pid, signal="SIGUSR1")))
    assert result["number"] == signal.SIGUSR1

    def caught() -> bool:
        hearing.stdin.write(b"caught\n")
        hearing.stdin.flush()
        return bool(json.loads(read_line(hearing))["caught"])

    wait_until(caught, "the signal in the target")


@pytest.mark.ptrace
def test_a_stack_dump_says_who_waits_for_what_and_who_has_it(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    process = obedient(start)
    process.stdin.write(b"park 20\n")
    process.stdin.flush()
    facts = json.loads(read_line(process))
    (waiter,) = facts["waiters"]

    def parked() -> Any:
        result = stack_dump.run(running(job("stack-dump", tmp_path, process.pid)))
        said = json.loads(Path(result["path"]).read_text())
        found = {one["tid"]: one for one in said["threads"]}
        return found if found[waiter]["held_still"] and found[waiter]["resource"] else None

    threads = wait_until(parked, "a waiter that holds still")
    assert {one["thread_name"] for one in threads.values()} == {"MainThread", "holder", "waiter"}
    assert threads[waiter]["stack"][0]["function"] == "wait_for_it"
    assert threads[waiter]["resource"]["address"] == f"{facts['lock']:#x}"
    assert threads[waiter]["resource"]["type"] == "Lock"
    assert threads[waiter]["holder"]["tid"] == facts["holder"]
    assert threads[facts["holder"]]["stack"][0]["function"] == "hold"


def remembered(last_ns: int, max_bytes: int, batches: int) -> keep.Ring:
    ring = keep.Ring(last_ns, max_bytes)
    ring.on_events([Event("attached", 0, data={"backend": "mock"})])
    for second in range(1, batches + 1):
        records = np.zeros(100, RECORD)
        records["ts_ns"], records["kind"] = second * S, 1
        ring.on_records(records, {}, second * S)
        ring.on_parks(np.zeros(1, PARK))
        ring.on_events([Event("totals", second * S)])
        ring.on_health(Counters(), second * S)
    return ring


def test_the_last_seconds_are_kept_as_a_regular_trace(tmp_path: Path) -> None:
    one = job("keep", tmp_path, last=10 * S)
    result = keep.write(one, {"options": {}}, remembered(20 * S, 1 << 30, 100).snapshot(10 * S))
    assert result["path"] == str(tmp_path / "here-1.pks")
    with TraceReader(Path(result["path"])) as reader:
        frames = list(reader.frames())
        assert reader.integrity.state.value == "clean"
    times = {int(ts) for frame in frames for ts in frame.records["ts_ns"]}
    assert times == {second * S for second in range(90, 101)}
    events = [event.event for frame in frames for event in frame.events]
    assert events[0] == "attached"


def test_what_is_remembered_is_bounded_by_time_and_by_bytes() -> None:
    by_time = remembered(5 * S, 1 << 30, 100)
    assert by_time.forgotten == 0
    assert len(by_time.snapshot(100 * S)[1]) <= 3 * 6
    by_bytes = remembered(1000 * S, 100_000, 100)
    assert by_bytes.forgotten > 0
    assert sum(one.size for one in by_bytes.snapshot(1000 * S)[1]) <= 110_000


def test_a_name_that_another_session_is_about_to_use_is_left_to_it(tmp_path: Path) -> None:
    other = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    name = hashlib.sha256(os.fsencode(tmp_path / "here-1")).hexdigest()
    with other:
        other.bind(f"\0parkscope-{name}")
        assert new_file(job("stack-dump", tmp_path), ".stacks.json").name == "here-2.stacks.json"
    assert new_file(job("stack-dump", tmp_path), ".stacks.json").name == "here-1.stacks.json"


def test_files_get_the_next_free_number_and_keep_within_their_budgets(tmp_path: Path) -> None:
    assert new_file(job("stack-dump", tmp_path), ".stacks.json").name == "here-1.stacks.json"
    (tmp_path / "here-1.heap").write_bytes(b"x" * 1000)
    assert new_file(job("stack-dump", tmp_path), ".stacks.json").name == "here-2.stacks.json"
    with pytest.raises(ActionFailed, match="max_total"):
        new_file(job("heap-dump", tmp_path, max_total=1000), ".heap")
    with pytest.raises(ActionFailed, match="min_free"):
        new_file(job("heap-dump", tmp_path, min_free=1 << 60), ".heap")
    with pytest.raises(ActionFailed, match="cannot be used"):
        new_file(job("heap-dump", tmp_path, dir=str(tmp_path / "none")), ".heap")


@pytest.mark.ptrace
def test_a_session_carries_out_all_that_a_rule_asks_for_one_after_another(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    log = tmp_path / "log"
    files = ["heap-dump", "stack-dump", "keep"]
    wanted = [f"{{{name}=true, min_free=0}}" for name in files]
    wanted += [f"{{exec=['/bin/cat'], log='{log}'}}", "'signal USR1'"]
    text = f"[[trigger]]\nname='all'\non='{WAITER}'\ndo=[{', '.join(wanted)}]\n"
    with watched(get("system-3.11"), rules(tmp_path, text), backend="proc") as watch:
        watch.tell("catch")
        watch.tell("park 1")
        done = watch.wait_for("action", 5, status="done")
        watch.answer()
        assert watch.tell("caught") == {"caught": 1}
        (fired,) = watch.events("trigger")
    assert [event.data["action"] for event in done] == [*files, "exec", "signal"]
    assert {event.data["firing"] for event in done} == {fired.data["firing"]}
    told = json.loads(log.read_text())
    assert told["facts"]["lock_type"] == "Lock"
    assert told["event"]["park_id"] == fired.data["park_id"]
    with TraceReader(Path(done[2].data["path"])) as reader:
        events = [event for frame in reader.frames() for event in frame.events]
        assert reader.meta["kept"]["name"] == "all"
    assert any(event.data.get("park_id") == fired.data["park_id"] for event in events)
    assert sorted(path.name for path in tmp_path.glob("here-*")) == [
        "here-1.heap", "here-2.stacks.json", "here-3.pks",
    ]  # fmt: skip


def test_what_cannot_be_kept_whole_is_not_left_in_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_what: Any) -> None:
        raise RecordingError("No space left on device")

    monkeypatch.setattr("collector.sinks.trace_file.TraceFile.on_parks", full)
    with pytest.raises(RecordingError):
        keep.write(job("keep", tmp_path), {}, remembered(20 * S, 1 << 30, 5).snapshot(10 * S))
    assert list(tmp_path.iterdir()) == []


def test_an_event_with_a_long_stack_weighs_what_it_takes() -> None:
    frame = {"function": "f", "file": "x.py", "line": 1, "module": "x"}
    ring = keep.Ring(1000 * S, 1 << 20)
    for second in range(1000):
        stack = [dict(frame) for _ in range(32)]
        ring.on_events([Event("park_long", second * S, data={"stack": stack})])
        ring.on_health(Counters(), second * S)
    assert ring.forgotten > 800
