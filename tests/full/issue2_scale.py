"""Line 5: floods, and what the tracer itself takes."""

from __future__ import annotations

from collections.abc import Iterator

from tests.benchmarks import scale
from tests.benchmarks.flood import BURST, Outcome, flood, flooded_source, producer
from tests.full import Figure, at_least, at_most, exactly, must_show

_SECONDS = 4.0
_PACE_NS = 2050  # 3.9 million records a second: some of the time is always lost
_OVERLOADS = ((16, 0, 0), (64, 0, 0), (256, 0, 5), (512, 1500, 20), (2048, 0, 50), (2048, 0, 200))
"""Ring pages, nanoseconds between hits, milliseconds that the consumer sleeps."""


@must_show("flood", issue=2, line=5)
def flooding() -> Iterator[Figure]:
    calls = round(_SECONDS * 1e9 / _PACE_NS)
    with producer() as target, flooded_source(target) as source:
        flood(target, source, calls // 4, _PACE_NS)
        outcome = flood(target, source, calls, _PACE_NS)
    note = f"{outcome.made:,} made, {outcome.received:,} received, {outcome.dropped:,} dropped"
    yield Figure(outcome.rate, "flood, records/s", at_least(3_500_000, "/s"), note)
    yield Figure(outcome.core, "the same, drain and decode, share of a core", at_most(0.3))
    yield Figure(outcome.dropped, "the same, records dropped", exactly(0))


@must_show("emitted = received + dropped at every overload", issue=2, line=5)
def exactness() -> Iterator[Figure]:
    with producer() as target:
        for pages, pace_ns, pause_ms in _OVERLOADS:
            with flooded_source(target, pages) as source:
                outcome = flood(target, source, 500_000, pace_ns, pause_ns=pause_ms * 1_000_000)
            words = f"ring of {pages * 4} KiB, reader away {pause_ms} ms: unaccounted records"
            yield Figure(_unaccounted(outcome), words, exactly(0), _told(outcome))


def _unaccounted(outcome: Outcome) -> int:
    """How many records the three counts disagree about."""
    counted = outcome.received + outcome.dropped
    return abs(outcome.made - outcome.emitted) + abs(outcome.emitted - counted)


def _told(outcome: Outcome) -> str:
    lost = outcome.dropped / outcome.made
    return f"{outcome.made:,} made at {outcome.rate / 1e6:.1f} M/s ({BURST} a hit), {lost:.1%} lost"


@must_show("detector", issue=2, line=5)
def detector() -> Iterator[Figure]:
    rate = scale.detector_rate()
    yield Figure(rate, "detector, parks/s", at_least(1_000_000, "/s"), "complete waits")
    yield Figure(scale.scanned_park_rate(), "the same, parks that only scans see, parks/s")


@must_show("what the tracer takes on an idle target of 200 threads", issue=2, line=5)
def tracer() -> Iterator[Figure]:
    found = scale.footprint(200)
    note = f"highest {found.highest_mb:.0f} MB"
    yield Figure(found.rss_mb, "tracer's resident memory, MB", at_most(160, "MB"), note)
    seconds = f"over {scale.IDLE_S:.0f} s, an idle target of 200 threads"
    yield Figure(found.core, "tracer's share of a core", at_most(0.01), seconds)


@must_show("a scan of 10,000 threads", issue=2, line=5, bound=at_most(15, "ms"))
def scanning() -> Figure:
    costs = scale.scan_costs_ms(10_000)
    return Figure(scale.median(costs), note=scale.spread(costs))
