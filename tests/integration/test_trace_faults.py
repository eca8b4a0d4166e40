"""What really happens to a recorder: it is killed, or the disk is full."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from collector.trace.format import BATCH_ROWS, TraceState
from tests.conftest import Start
from tests.processes import wait_until
from tests.traces import read, some_records

ROOT = Path(__file__).parents[2]

RECORDER = """
import itertools, sys
from collector.trace.writer import TraceWriter
from probes.errors import RecordingError
from tests.traces import START_NS, some_records
rows = some_records(1000)
writer = TraceWriter(sys.argv[1], {})
limit = int(sys.argv[2])
if limit:
    import resource, signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
sent = 0
try:
    for n in itertools.count():
        sent += len(rows)
        writer.add_records(rows, {4: 1}, START_NS + n * 1_000_000)
        print(sent, flush=True)
except RecordingError as error:
    print("lost", writer.unwritten["records"], sent, error.message, flush=True)
    writer.close()
"""


def recorder(start: Start, path: Path, limit: int = 0) -> subprocess.Popen[bytes]:
    return start([sys.executable, "-c", RECORDER, str(path), str(limit)], cwd=ROOT)


def test_sigkill_at_any_moment_costs_one_batch(start: Start, tmp_path: Path) -> None:
    moments = random.Random(5)
    row = some_records(1000).tobytes()
    for attempt in range(8):
        path = tmp_path / f"{attempt}"
        process = recorder(start, path)
        assert process.stdout is not None
        after = moments.randrange(1, 200_000)
        sent = 0
        while sent < after:
            sent = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        for line in process.stdout:
            sent = int(line) if line.endswith(b"\n") else sent
        process.wait()
        got = read(path)
        assert got.reader.integrity.state is TraceState.TRUNCATED
        assert not got.reader.integrity.damaged
        assert sent - len(got.records) <= BATCH_ROWS
        data = got.records.tobytes()
        whole = len(data) // len(row)
        assert data == row * whole + row[: len(data) - whole * len(row)]


def test_a_full_disk_stops_the_recording_and_keeps_it(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "t"
    process = recorder(start, path, limit=1_000_000)
    out, _ = process.communicate()
    verdict, lost, sent, message = out.decode().splitlines()[-1].split(" ", 3)
    assert verdict == "lost"
    assert "File too large" in message
    got = read(path)
    assert got.reader.integrity.state is TraceState.TRUNCATED
    assert not got.reader.integrity.damaged
    assert len(got.records) == int(sent) - int(lost) > 0
    assert path.stat().st_size <= 1_000_000


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_no_space_left_on_a_real_file_system(start: Start, tmp_path: Path) -> None:
    mount = tmp_path / "small"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", mount], check=True)
    try:
        process = recorder(start, mount / "t")
        out, _ = process.communicate()
        verdict, lost, sent, message = out.decode().splitlines()[-1].split(" ", 3)
        assert verdict == "lost"
        assert "No space left" in message
        got = read(mount / "t")
        assert not got.reader.integrity.damaged
        assert len(got.records) == int(sent) - int(lost) > 0
    finally:
        subprocess.run(["umount", mount], check=True)


def test_a_trace_can_be_read_while_it_is_written(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "t"
    process = recorder(start, path)
    assert process.stdout is not None

    def some_are_there() -> bool:
        assert process.stdout is not None
        process.stdout.readline()
        return path.exists() and path.stat().st_size > 300_000

    wait_until(some_are_there, "frames written")
    got = read(path)
    assert got.reader.integrity.state is TraceState.TRUNCATED
    assert not got.reader.integrity.damaged
    assert len(got.records) > 0
