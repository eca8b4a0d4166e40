"""``heap dump``, ``heap info`` and ``heap top`` on a live process, as a person runs them."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from probes.errors import ImplausibleMemory, InternalError, RecordingError
from tests.capturing import take
from tests.heaps import edges_of
from tests.interpreters import Interpreter, get, matrix
from tracer.heap.dump import walk_image
from tracer.heap.image import Image
from tracer.heap.model import LABEL_KINDS, Heap
from tracer.heap.place import place_of
from tracer.heap.reader import HeapFile
from tracer.target import inspect

pytestmark = pytest.mark.ptrace
SECRETS = Path(__file__).parents[2] / "targets/holds_secrets.py"


def parkscope(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tracer.cli", "heap", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )


def all_text(heap: Heap) -> str:
    kinds = " ".join(f"{one.module} {one.qualname}" for one in heap.types)
    return json.dumps([heap.strings, heap.meta, heap.threads, heap.frames, kinds])


@matrix()
def test_a_dump_names_what_code_names_and_leaves_values_out(
    interpreter: Interpreter, start: Callable[..., Any], tmp_path: Path
) -> None:
    process = start(interpreter, SECRETS, ready=True)
    path = tmp_path / "dump"
    done = parkscope("dump", process.pid, "-o", path, "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["path"] == str(path)
    assert said["engine"] in {"precopy", "clone", "stop-and-copy"}
    assert said["pause_ns"] > 0
    assert said["bytes"] == path.stat().st_size
    assert said["closure"] >= 0.998  # of 15,000 objects; running threads hold some on their stacks
    assert path.stat().st_mode & 0o777 == 0o600
    with HeapFile(path) as file:
        heap = file.load()
    assert said["objects"] == heap.nodes
    text = all_text(heap)
    assert "s3cr3t" not in text
    assert "some-user" not in text
    assert "opened by" not in text
    for name in ("token", "history", "ACCOUNTS", "account_in_hand", "Account"):
        assert name in text, name
    keeper = [one["name"] for one in heap.threads].index("keeper")
    frames = [one for one in heap.frames if one["thread"] == keeper]
    (frame,) = [one for one in frames if one["function"] == "wait"]
    lines = SECRETS.read_text().splitlines()
    assert "wait(3600)" in lines[frame["line"] - 1]
    assert_the_frame_holds_an_account(heap, heap.frames.index(frame))


def assert_the_frame_holds_an_account(heap: Heap, frame: int) -> None:
    """From the thread's variable to the account, and from it by name to its token."""
    columns = heap.columns
    rows = (columns["reference_frame"] == frame) & (
        columns["reference_kind"] & 0x7F == LABEL_KINDS.index("local")
    )
    named = {
        heap.strings[name]: int(node)
        for name, node in zip(
            columns["reference_name"][rows], columns["reference_node"][rows], strict=True
        )
    }
    account = named["account_in_hand"]
    assert heap.types[columns["type"][account]].qualname == "Account"
    source, target = edges_of(heap)
    held = {heap.types[columns["type"][node]].name for node in target[source == account].tolist()}
    assert {"str", "list"} <= held or "dict" in held


def test_values_are_kept_when_asked_for(start: Callable[..., Any], tmp_path: Path) -> None:
    process = start(get("pyenv-3.12"), SECRETS, ready=True)
    path = tmp_path / "dump"
    assert parkscope("dump", process.pid, "-o", path, "--values", "-q").returncode == 0
    with HeapFile(path) as file:
        assert "token-7-s3cr3t" in file.load().strings
    done = parkscope("info", path)
    assert "values      kept" in done.stdout
    assert json.loads(parkscope("info", path, "--json").stdout)["values"] is True
    done = parkscope("export", path, "--format", "json", "-o", tmp_path / "out", "-q")
    assert "note: the text of strings is in it" in done.stdout
    rows = [
        json.loads(row) for row in parkscope("top", path, "--json", "-n", "500").stdout.splitlines()
    ]
    accounts = next(row for row in rows if row["type"] == "__main__.Account")
    assert accounts["objects"] == 50
    assert [row["shallow_bytes"] for row in rows] == sorted(
        (row["shallow_bytes"] for row in rows), reverse=True
    )
    assert parkscope("top", path, "-n", "3").stdout.split("\n")[0].split() == [
        "type", "objects", "shallow",
    ]  # fmt: skip


def test_what_cannot_be_done_is_said_with_its_exit_code(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.write_bytes(b"not a dump, but long enough to be looked at as one")
    for words, code, hint in (
        (("dump", 1 << 22, "-o", tmp_path / "x"), 3, "doctor"),
        (("dump", os.getpid(), "-o", there), 2, "--force"),
        (("dump", os.getpid(), "-o", tmp_path / "no" / "x"), 2, "-o"),
        (("info", there), 7, "heap dump"),
        (("top", there), 7, "heap dump"),
        (("top", tmp_path / "missing"), 2, "--help"),
    ):
        done = parkscope(*map(str, words))
        assert done.returncode == code, (words, done.stderr)
        assert "hint:" in done.stderr or "See '" in done.stderr
        assert hint in done.stderr
        assert "Traceback" not in done.stderr
    assert os.listdir(tmp_path) == ["there"]


def test_a_process_that_is_no_python_is_refused(start: Callable[..., Any], tmp_path: Path) -> None:
    process = start(["sleep", "100"])
    done = parkscope("dump", process.pid, "-o", tmp_path / "x")
    assert done.returncode == 4
    assert os.listdir(tmp_path) == []


@pytest.fixture
def captured(start: Callable[..., Any]) -> Any:
    process = start([sys.executable, str(SECRETS)], ready=True)
    place = place_of(inspect(process.pid))
    with take(process.pid) as image:
        yield image, place


def test_a_full_disk_is_the_writers_error(captured: Any) -> None:
    image, place = captured
    with open("/dev/full", "wb") as full, pytest.raises(OSError, match="No space") as raised:
        walk_image(image, place, full.fileno(), {})
    assert raised.value.errno == errno.ENOSPC


def test_an_image_of_nothing_is_refused(captured: Any, tmp_path: Path) -> None:
    image, place = captured
    empty = Image(os.memfd_create("empty"), image.size, image.segments, image.facts)
    os.ftruncate(empty.fd, image.size)
    with empty, (tmp_path / "x").open("wb") as output, pytest.raises(ImplausibleMemory):
        walk_image(empty, place, output.fileno(), {})


def test_the_worker_gives_its_privileges_up() -> None:
    code = (
        "from tracer.heap.worker import give_up_privileges; give_up_privileges();"
        "print(open('/proc/self/status').read())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    status = dict(line.split(":\t", 1) for line in done.stdout.splitlines() if ":\t" in line)
    assert status["NoNewPrivs"].strip() == "1"
    assert "0" not in status["Uid"].split() or os.geteuid() != 0
    assert int(status["CapEff"], 16) == 0


def test_the_worker_ends_with_its_tracer(start: Callable[..., Any]) -> None:
    walk = (
        "from tracer.heap.worker import give_up_privileges; give_up_privileges();"
        "print('ready', flush=True); import signal; signal.pause()"
    )
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {walk!r}])"
    tracer = start([sys.executable, "-c", code], ready=True)
    (worker,) = psutil.Process(tracer.pid).children()
    tracer.kill()
    worker.wait(20)


DIES = """
import os, sys
from tracer.heap import worker
def die(*_args, **_more):
    worker._tell(phase="walk", done=1)
    os.kill(os.getpid(), int(sys.argv[1]))
worker.build_heap = die
worker.main()
"""


@pytest.mark.parametrize(
    ("how", "error", "words"),
    [(signal.SIGKILL, RecordingError, "memory"), (signal.SIGSEGV, InternalError, "-11")],
)
def test_a_worker_that_dies_is_no_crash_of_ours(
    captured: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    how: signal.Signals,
    error: type[Exception],
    words: str,
) -> None:
    """It dies by its own hand, after a word: one that is killed from here may be done before."""
    image, place = captured
    popen, said = subprocess.Popen, []

    def doomed(_command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        return popen([sys.executable, "-c", DIES, str(int(how))], **options)

    monkeypatch.setattr("tracer.heap.dump.subprocess.Popen", doomed)
    with (tmp_path / "x").open("wb") as output, pytest.raises(error, match=words):
        walk_image(image, place, output.fileno(), {}, progress=lambda *word: said.append(word))
    assert ("walk", 1, 0) in said


def test_the_worker_loads_nothing_once_it_is_nobody(captured: Any, tmp_path: Path) -> None:
    """Its own files may lie where only root can read."""
    image, place = captured
    code = """
import json, sys
from tracer.heap import worker
seen = []
give_up = worker.give_up_privileges
def note():
    give_up()
    seen.extend(sys.modules)
worker.give_up_privileges = note
order = worker.msgspec.json.decode(sys.stdin.buffer.readline(), type=worker.Order)
worker.work(order)
print(json.dumps(sorted(set(sys.modules) - set(seen))))
"""
    with (tmp_path / "x").open("wb") as output:
        order = {
            "image": image.fd,
            "size": image.size,
            "output": output.fileno(),
            "segments": [[s.start, s.end, s.offset, s.writable, s.path] for s in image.segments],
            "version": place.version,
            "runtime_address": place.runtime_address,
            "symbols": dict(place.symbols),
            "meta": {},
            "values": True,
        }
        done = subprocess.run(
            [sys.executable, "-c", code],
            input=json.dumps(order).encode() + b"\n",
            capture_output=True,
            pass_fds=(image.fd, output.fileno()),
            check=True,
        )
    assert json.loads(done.stdout.splitlines()[-1]) == []
