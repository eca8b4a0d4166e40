"""Line 7: allocation probes tell everything they promise, and what they cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tests.benchmarks import allocation
from tests.benchmarks.pairs import interpreter
from tests.full import Figure, at_most, exactly, must_show
from tests.full.issue2_overhead import DICT, JSON, figures

PYTHONS = (
    "pyenv-3.11",
    "pyenv-3.12",
    "pyenv-3.13",
    "system-3.11",
    "chroot-3.14",
    "chroot-3.15",
)
_REQUESTS = 10_000


def _of(python: str) -> Callable[[], Iterator[Figure]]:
    def measure() -> Iterator[Figure]:
        chosen = interpreter(python)
        half = _REQUESTS // 2
        found = allocation.large_requests(chosen, [("bytes", half), ("list", half)])
        what = f"{python}: of {_REQUESTS:,} requests over 4 KiB, told with size and thread"
        yield Figure(found.told, what, exactly(_REQUESTS), found.note)
        growth = allocation.refills_and_growth(chosen)
        errors = {size: abs(counted - pools) / pools for size, (counted, pools) in growth.items()}
        rows = ", ".join(f"{size} B: {a}/{b}" for size, (a, b) in growth.items())
        what = f"{python}: pool refills against growth of pools, largest error"
        yield Figure(max(errors.values(), default=1.0), what, at_most(0.02), rows)

    return measure


for _python in PYTHONS:
    must_show(f"allocation probes, {_python}", issue=2, line=7)(_of(_python))


@must_show("large requests with numpy", issue=2, line=7)
def numpy_requests() -> Figure:
    wanted = [("bytes", 3000), ("list", 3000), ("numpy", 4000)]
    found = allocation.large_requests(None, wanted)
    what = f"numpy too: of {_REQUESTS:,} requests over 4 KiB, told with size and thread"
    return Figure(found.told, what, exactly(_REQUESTS), found.note)


@must_show("json round trips, attached ÷ unattached", issue=2, line=7)
def json_trips() -> Iterator[Figure]:
    return figures(JSON)


@must_show("dict churn, attached ÷ unattached", issue=2, line=7)
def dict_churn() -> Iterator[Figure]:
    return figures(DICT)
