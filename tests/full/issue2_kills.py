"""Line 8: the tracer is killed, the target does not notice."""

from __future__ import annotations

from collections.abc import Iterator

from tests.benchmarks import kills
from tests.full import Figure, at_least, exactly, must_show


@must_show("SIGKILL of the tracer", issue=2, line=8)
def killing() -> Iterator[Figure]:
    verdict = kills.kill_often()
    after = f"{kills.GONE_S:g} s after it"
    yield Figure(verdict.crashed, f"{len(verdict.killed)} x SIGKILL, crashes", exactly(0))
    yield Figure(verdict.stalls(), "stalls that the control does not show", exactly(0),
                 verdict.note())  # fmt: skip
    yield Figure(
        sum(count > 0 for count in verdict.probed_bytes),
        "kills with probes in the target's code",
        at_least(len(verdict.killed)),
        f"{min(verdict.probed_bytes)} to {max(verdict.probed_bytes)} bytes of code differed",
    )
    yield Figure(sum(verdict.left_bytes), f"bytes of code changed {after}", exactly(0))
    yield Figure(sum(verdict.left_links), f"links left {after}", exactly(0))
    yield Figure(sum(verdict.left_programs), f"programs left {after}", exactly(0))
