"""Issue 2, line 1: from a clean clone one command catches a long park on a real process."""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.full import Figure, NotMeasured, at_least, exactly, must_show

ROOT = Path(__file__).resolve().parents[2]
_FLAGGED = re.compile(r"^Flagged (\d+) long parks?", re.MULTILINE)


@must_show("./run from a clean clone", issue=2, line=1)
def first_run() -> Iterator[Figure]:
    if not (ROOT / ".git").exists():
        raise NotMeasured("this tree is no git clone")
    with tempfile.TemporaryDirectory(prefix="parkscope-") as directory:
        clone = Path(directory) / "a clean clone"
        subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
        began = time.monotonic()
        done = subprocess.run(
            [clone / "run"],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        took = time.monotonic() - began
    said = done.stdout + done.stderr
    flagged = _FLAGGED.search(said)
    by_ebpf = re.search(r"^[\d:.]+ +attached to \d+ by bcc\b", said, re.MULTILINE)
    yield Figure(done.returncode, "./run from a clean clone: exit code", exactly(0))
    count = int(flagged[1]) if flagged and by_ebpf else 0
    yield Figure(count, "long parks that its demo flagged by eBPF", at_least(1), f"in {took:.0f} s")
