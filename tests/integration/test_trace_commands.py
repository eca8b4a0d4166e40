"""record, analyze and replay as a person meets them, on a mock target and bad files."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.traces import raw_frames

ROOT = Path(__file__).parents[2]
PARKSCOPE = [sys.executable, "-c", "from tracer.cli import main; main()"]
LIMITED = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0}));"


def parkscope(*words: str | Path, file_size: int = 0) -> subprocess.CompletedProcess[str]:
    command = [*PARKSCOPE, *map(str, words)]
    if file_size:
        command[2] = LIMITED.format(file_size) + command[2]
    return subprocess.run(
        command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=60
    )


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "t.pks"
    done = parkscope("record", "--backend", "mock", "--scenario", "lock_convoy", "-o", path)
    assert done.returncode == 0, done.stderr
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    return path


def answers(trace: Path, view: str) -> list[dict[str, object]]:
    done = parkscope("analyze", trace, "--view", view, "--json")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_recording_is_analysed_and_replayed(trace: Path) -> None:
    parks = answers(trace, "parks")
    assert [park["thread_name"] for park in parks] == [
        "MainThread", "worker-2", "worker-1", "worker-0",
    ]  # fmt: skip
    done = parkscope("replay", trace, "--json")
    assert done.returncode == 0
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert [e["thread_name"] for e in said if e["event"] == "park_long"] == [
        "MainThread", "worker-0", "worker-1", "worker-2",
    ]  # fmt: skip


def test_a_trace_is_not_overwritten_unasked(trace: Path) -> None:
    before = trace.read_bytes()
    words = ("record", "--backend", "mock", "--scenario", "sleep", "-o", trace)
    done = parkscope(*words)
    assert done.returncode == 8
    assert "exists" in done.stderr
    assert "--force" in done.stderr
    assert trace.read_bytes() == before
    assert parkscope(*words, "--force").returncode == 0
    assert trace.read_bytes() != before


def test_a_full_disk_ends_the_recording_with_exit_code_8(tmp_path: Path) -> None:
    path = tmp_path / "t"
    words = ("record", "--backend", "mock", "--scenario", "flood", "-o", path)
    done = parkscope(*words, file_size=6000)
    assert done.returncode == 8, done.stderr
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    (summary,) = [row for row in answers(path, "summary") if row["name"] == "trace"]
    assert summary["value"] == "truncated"


def test_a_cut_and_a_damaged_trace_are_answered_with_a_verdict(trace: Path) -> None:
    data = trace.read_bytes()
    frames = list(raw_frames(data))
    records = next(frame for frame in frames if frame.kind == 2)
    flipped = bytearray(data)
    flipped[records.payload_offset] ^= 0xFF
    for content, verdict in (
        (data[: frames[-1].offset], "truncated"),
        (bytes(flipped), "corrupt"),
    ):
        trace.write_bytes(content)
        facts = {row["name"]: row["value"] for row in answers(trace, "summary")}
        assert facts["trace"] == verdict
        assert parkscope("replay", trace).returncode == 0
    lost = {row["what"]: row["lost"] for row in answers(trace, "loss")}
    assert lost["damaged frames"] == 1
    assert lost["records in them"] == records.rows


@pytest.mark.parametrize("command", ["analyze", "replay"])
def test_what_is_no_trace_ends_with_exit_code_7(tmp_path: Path, command: str) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("no trace\n" * 100)
    os.mkfifo(tmp_path / "fifo")
    for name in ("empty", "text", "fifo"):
        done = parkscope(command, tmp_path / name)
        assert done.returncode == 7, done.stderr
        assert "Traceback" not in done.stderr
