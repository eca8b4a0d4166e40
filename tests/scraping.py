"""Commands that serve metrics, scraped, and held against what their target logged."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.interpreters import Interpreter
from tests.metrics_events import parse, value
from tests.observe import TrueWait, install, read_truth
from tests.processes import read_line, wait_until

ROOT = Path(__file__).resolve().parents[1]
PARKSCOPE = (sys.executable, "-m", "tracer.cli")
TARGET = ROOT / "tests" / "targets" / "counted_parks.py"
_ATTACH_S = 40.0

Start = Callable[..., subprocess.Popen[bytes]]


def url_of(process: subprocess.Popen[bytes]) -> str:
    """Where it serves, as it says on stderr (a pipe)."""
    return stderr_until(process, rb"metrics at (http://\S+/metrics)")


def stderr_until(process: subprocess.Popen[bytes], pattern: bytes) -> str:
    """Read stderr (a pipe) until the pattern comes; its first group, or all of it."""
    if process.stderr is None:
        raise ValueError("started without stderr=PIPE")
    said, deadline = b"", time.monotonic() + _ATTACH_S
    while (found := re.search(pattern, said)) is None:
        ready, _, _ = select.select([process.stderr], [], [], max(0, deadline - time.monotonic()))
        piece = os.read(process.stderr.fileno(), 65536) if ready else b""
        if not piece:
            raise AssertionError(f"{pattern!r} never came: {said!r}")
        said += piece
    return found[found.re.groups and 1].decode()


def scrape(url: str, accept: str = "") -> dict[str, Any]:
    """The families of one scrape, by name."""
    request = urllib.request.Request(url, headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return parse(answer.read().decode(), strict="openmetrics" in accept)


def health(url: str) -> bytes:
    """What ``/-/healthy`` says."""
    with urllib.request.urlopen(url.replace("/metrics", "/-/healthy"), timeout=20) as answer:
        return bytes(answer.read())


class Counted:
    """``targets/counted_parks.py`` under an interpreter; ``directory``: where both reach."""

    def __init__(self, start: Start, interpreter: Interpreter, directory: Path) -> None:
        self._log = directory / "truth.jsonl"
        self.process = start(
            interpreter,
            install(directory, TARGET),
            [self._log],
            stdin=subprocess.PIPE,
            ready=True,
        )

    def tell(self) -> None:
        """Let it go on."""
        if self.process.stdin is None:
            raise ValueError("stdin is no pipe")
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()

    def run(self) -> list[TrueWait]:
        """Let it do its rounds; its log."""
        self.tell()
        if (said := read_line(self.process, 30)) != "done":
            raise AssertionError(f"it said {said!r}")
        return read_truth(self._log)


def over(families: dict[str, Any], kind: str, bound: str, pid: int) -> float:
    """How many parks of a kind lasted longer than a bucket's bound."""
    labels = {"kind": kind, "pid": str(pid)}
    name = "parkscope_park_duration_seconds"
    every = value(families, f"{name}_count", **labels)
    return every - value(families, f"{name}_bucket", le=bound, **labels)


def agree(url: str, truth: list[TrueWait], pid: int, slack_s: float) -> dict[str, Any]:
    """Wait for the scrape that has all of the log; assert that it has no more; return it."""
    kinds = ("lock", "sleep")
    true_s = {
        kind: [(w.end_ns - w.start_ns) / 1e9 for w in truth if w.kind == kind and w.end_ns]
        for kind in kinds
    }
    long_s = {kind: [one for one in true_s[kind] if one > 0.2] for kind in kinds}

    def whole() -> dict[str, Any] | None:
        found = scrape(url)
        counts = [over(found, kind, "0.2", pid) for kind in kinds]
        return found if counts >= [len(long_s[kind]) for kind in kinds] else None

    families: dict[str, Any] = wait_until(whole, "all that was logged is in a scrape", 10)
    for kind in kinds:
        labels = {"kind": kind, "pid": str(pid)}
        assert over(families, kind, "0.2", pid) == len(long_s[kind]) > 0, kind
        seen_s = value(families, "parkscope_park_duration_seconds_sum", idle="false", **labels)
        off = abs(seen_s - sum(long_s[kind]))
        assert off <= slack_s * len(long_s[kind]), (kind, seen_s, long_s[kind])
        crossed = value(families, "parkscope_long_parks_total", **labels)
        assert crossed == len(long_s[kind])
    return families
