"""What else loads ``.heapsnapshot`` files: DevTools' own loader, and memlab, both from npm.

``python -m tests.loaders --install`` installs them, in the versions of ``package.json``,
into the user's cache; ``./check`` does so where npm is there. ``load()`` has one of them
load a file and say what it makes of some nodes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
TOOLS = {"devtools": "devtools.mjs", "memlab": "memlab.cjs"}
_INSTALL_SECONDS = 240
_NODE_MB = 12_000
"""What node may take: 10 million nodes of DevTools' own loader take some 2 GB."""


def place() -> Path:
    """Where this version of the loaders is, or would be."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    content = hashlib.sha256(b"".join(path.read_bytes() for path in _files()))
    return Path(base) / "parkscope" / f"loaders-{content.hexdigest()[:12]}"


def _files() -> list[Path]:
    return [HERE / name for name in ("package.json", *TOOLS.values())]


def missing() -> str | None:
    """Why the loaders cannot be used; None if they can."""
    if shutil.which("node") is None:
        return "node is not installed"
    if not (place() / ".complete").exists():
        return "not installed: python -m tests.loaders --install"
    return None


def install() -> str | None:
    """Install them if need be; why that could not be done."""
    if missing() is None:
        return None
    if shutil.which("node") is None or shutil.which("npm") is None:
        return "node and npm are not installed"
    folder = place()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in _files():
            shutil.copy(path, folder)
        command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund",
                   "--no-package-lock", "--fetch-retries=0", "--fetch-timeout=20000"]  # fmt: skip
        done = subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=_INSTALL_SECONDS, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"npm failed: {error}"
    if done.returncode:
        first = done.stderr.strip().partition("\n")[0]
        return f"npm failed: {first or done.returncode}"
    (folder / ".complete").touch()
    return None


needed = pytest.mark.skipif(missing() is not None, reason=f"loaders: {missing()}")
"""Skips a test where they are not there."""


@dataclass(frozen=True)
class Loaded:
    """What a loader says: how many nodes and edges, and of some nodes what they take.

    ``sampled``: (number, shallow bytes, retained bytes, name).
    """

    nodes: int
    edges: int
    sampled: list[tuple[int, int, int, str]]


def load(tool: str, file: Path, first: int, step: int, seconds: float = 600) -> Loaded:
    """Have ``tool`` load ``file``, and say of nodes first, first + step, … what they take."""
    command = ["node", f"--max-old-space-size={_NODE_MB}", TOOLS[tool], str(file), str(first),
               str(step)]  # fmt: skip
    done = subprocess.run(
        command, cwd=place(), stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=seconds, check=False,
    )  # fmt: skip
    if done.returncode:
        raise AssertionError(f"{tool}: {done.stderr[-2000:]}")
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    sampled = [(row[0], row[1], row[2], row[3]) for row in said["sampled"]]
    return Loaded(said["nodes"], said["edges"], sampled)


def main(arguments: Sequence[str]) -> int:
    """Entry point of ``python -m tests.loaders``."""
    if "--install" in arguments and (why := install()):
        sys.stderr.write(f"parkscope: without other loaders of heap snapshots: {why}\n")
    return 0
