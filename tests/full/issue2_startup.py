"""Line 6: how long a person waits."""

from __future__ import annotations

from collections.abc import Iterator

from tests.benchmarks import startup
from tests.benchmarks.quiet import going_first
from tests.full import Figure, at_most, must_show


@must_show("command to armed", issue=2, line=6)
def armed() -> Iterator[Figure]:
    bound = at_most(0.7, "s")
    with going_first(), startup.idle_target(20) as pid:
        first = startup.first_time_to_armed(pid)
        times = startup.times_to_armed(pid)
    yield Figure(startup.median(times), "command to armed, s", bound, startup.note(times))
    yield Figure(first, "the same with an empty cache, s", note="once")


@must_show("parkscope --help", issue=2, line=6, bound=at_most(150, "ms"))
def help_text() -> Figure:
    times = startup.times_of_help()
    return Figure(startup.median(times) * 1000, note=startup.note(times) + " s")
