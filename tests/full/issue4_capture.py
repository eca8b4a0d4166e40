"""Lines 1 and 4: the pause of an image by the target's own clock, and the harm it does."""

from __future__ import annotations

from collections.abc import Iterator

from tests.benchmarks import heap_harm, heap_pauses
from tests.benchmarks.heap_pauses import Pauses
from tests.capturing import has_room
from tests.full import Bound, Figure, NotMeasured, at_most, exactly, must_show

ROOM = 6 << 30
RIVALS = 3
"""How often each rival is measured: it stops the target for seconds."""


def _figure(pauses: Pauses, what: str, bound: Bound | None) -> Figure:
    return Figure(pauses.median(), f"{what}: gap less control, ms", bound, pauses.note())


@must_show("pause of an image", issue=4, line=1)
def pauses() -> Iterator[Figure]:
    if not has_room(ROOM):
        raise NotMeasured(f"needs {ROOM >> 30} GiB of memory")
    with heap_pauses.pause_target(100, "ordinary") as target:
        found = heap_pauses.by_engine(target, heap_pauses.DUMPS)
        yield _figure(found, "100 MB, ordinary", at_most(3, "ms"))
    with heap_pauses.pause_target(1000, "everywhere") as target:
        found = heap_pauses.by_engine(target, heap_pauses.DUMPS)
        yield _figure(found, "1 GB, written all over", at_most(20, "ms"))
    with heap_pauses.pause_target(1000, "ordinary") as target:
        found = heap_pauses.by_engine(target, heap_pauses.DUMPS)
        yield _figure(found, "1 GB, ordinary", at_most(3, "ms"))
        copied = heap_pauses.by_engine(target, RIVALS, "stop-and-copy")
        yield _figure(copied, "1 GB, stop-the-world copy", None)
        if (core := heap_pauses.by_gcore(target, RIVALS)) is not None:
            yield _figure(core, "1 GB, gcore", None)
        yield _figure(heap_pauses.from_inside(target, RIVALS), "1 GB, from inside", None)


@must_show("harm of 200 images", issue=4, line=4)
def many_images() -> Iterator[Figure]:
    with heap_harm.served(50) as target:
        harm = heap_harm.many(target, 200)
        slowest = max(client.slowest_s for client in target.clients)
        note = f"{target.requests()} requests, the slowest {slowest * 1e3:.0f} ms"
        yield Figure(len(harm), "200 images: failed, leaked or changed", exactly(0),
                     "; ".join([note, *harm[:3]]))  # fmt: skip


@must_show("harm of SIGKILL", issue=4, line=4)
def kills() -> Iterator[Figure]:
    with heap_harm.served(20) as target:
        for who, name in (("t", "tracer"), ("i", "injector"), ("s", "supervisor")):
            harm, times = [], 0
            for engine, steps in heap_harm.STEPS.items():
                for step in steps.split():
                    harm += [
                        why
                        for why in heap_harm.killed_at(target, engine, who, step)
                        if who != "s" or "nobody" not in why
                    ]
                    times += 1
            yield Figure(len(harm), f"{name} killed at {times} steps: harm", exactly(0),
                         "; ".join(harm[:3]))  # fmt: skip
        harm = heap_harm.killed_at_random(target, 100)
        yield Figure(len(harm), "tracer killed 100 times at random: harm", exactly(0),
                     "; ".join(harm[:3]))  # fmt: skip
