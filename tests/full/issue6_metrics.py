"""Metrics: what they cost the loop that everything else depends on."""

from __future__ import annotations

from collections.abc import Iterator

from tests.benchmarks import metrics
from tests.full import Figure, at_least, at_most, must_show

PUBLISHED_PER_S = 4


@must_show("metrics sink, CPU of the loop with ÷ without", issue=6, line=4)
def loop() -> Iterator[Figure]:
    """A stream of long and short waits as fast as it goes; then what a quiet session pays."""
    ratio, rate = metrics.ratio()
    yield Figure(ratio, "loop with the sink ÷ loop without any", at_most(1.7))
    yield Figure(rate, "records a second with the sink", at_least(3_500_000))
    published = metrics.publish_s()
    yield Figure(
        published * PUBLISHED_PER_S,
        "publishing four times a second, share of a core",
        at_most(0.002),
        f"{published * 1e6:.0f} µs each",
    )
    rendered, size = metrics.render_s()
    yield Figure(
        rendered * 1e3,
        "a scrape with every metric in it, ms of CPU",
        at_most(20),
        f"{size:,} bytes",
    )
