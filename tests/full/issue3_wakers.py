"""Issue 3, line 4: what it costs a thread that its stack is taken when it wakes another one."""

from __future__ import annotations

from collections.abc import Iterator

from tests.benchmarks.walk import walk_costs
from tests.full import Figure, NotMeasured, at_most, must_show
from tests.interpreters import interpreters
from tracer.pymem.kernel_stacks import MAX_FRAMES

MEMBERS = [one for one in interpreters() if one.version[:2] >= (3, 11)]
SECONDS = 1.0


@must_show("a Python stack, walked in the kernel", issue=3, line=4)
def walk() -> Iterator[Figure]:
    for interpreter in MEMBERS:
        cost, new, unseen = walk_costs(interpreter.id, MAX_FRAMES, SECONDS)
        if cost.depth != MAX_FRAMES:
            raise NotMeasured(f"under {interpreter.id} the stack was {cost.depth} frames deep")
        note = f"mean of {cost.walks:,} walks of a stack seen before, the clock's time included"
        what = f"{interpreter.id}: BPF stack of {MAX_FRAMES} frames, µs"
        yield Figure(cost.mean_ns / 1000, what, at_most(1.5, "µs"), note)
        note = "of code objects that were part of others, each of its own"
        yield Figure(new.mean_ns / 1000, f"{what}, a new one", at_most(1.5, "µs"), note)
        note = f"once for each code object: {MAX_FRAMES} are looked at, too"
        yield Figure(unseen.mean_ns / 1000, f"{what}, of code never seen", None, note)
