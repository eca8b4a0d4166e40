"""Issue 3, lines 1, 4 and 5: what a thread waits for and who has it, as the reader says it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

from tests.benchmarks.locks import blame_costs
from tests.damage import damage_locks, damage_stacks
from tests.full import Figure, NotMeasured, at_least, at_most, exactly, must_show
from tests.interpreters import interpreters
from tests.lock_truth import compare
from tests.recorded import image, images
from tests.storm import storm

ROUNDS = 10_000
DAMAGED = 100_000
THREADS = 200
MEMBERS = [one for one in interpreters() if one.version[:2] >= (3, 11)]


@must_show("waits of every kind, against the target's own word", issue=3, line=1)
def waits() -> Iterator[Figure]:
    for interpreter in MEMBERS:
        done = compare(interpreter)
        share = done.right / done.waits
        note = f"{done.waits} waits; {'; '.join(done.wrong) or 'all as the target says'}"
        yield Figure(
            share, f"{interpreter.id}: line, resource, name, holder right", at_least(1), note
        )


@must_show("adversarial rounds", issue=3, line=1)
def adversary() -> Iterator[Figure]:
    for number, interpreter in enumerate(MEMBERS):
        rounds = -(-ROUNDS // len(MEMBERS))
        outcome = storm(interpreter, rounds, seed=number)
        note = (
            f"{outcome.rounds:,} rounds, {outcome.waits:,} waits for locks, holder named for"
            f" {outcome.named:,}"
        )
        yield Figure(len(outcome.wrong), f"{interpreter.id}: wrong holders", exactly(0), note)


@must_show("one long park among 200 threads", issue=3, line=4)
def cost() -> Iterator[Figure]:
    for interpreter in MEMBERS:
        costs = blame_costs(interpreter.id, THREADS)
        if not costs.held:
            raise NotMeasured(f"under {interpreter.id} the holder was not found each time")
        note = f"CPU time; highest {max(costs.later_ms):.1f}, on the clock {costs.passed_ms:.1f}"
        median = statistics.median(costs.later_ms)
        what = f"{interpreter.id}: full attribution among {THREADS} threads, ms"
        yield Figure(median, what, at_most(10, "ms"), note)
        note = f"CPU time, with the search for the name; highest {max(costs.first_ms):.1f}"
        median = statistics.median(costs.first_ms)
        yield Figure(median, f"{what} (the first)", at_most(10, "ms"), note)


@must_show("damaged images", issue=3, line=5)
def damage() -> Iterator[Figure]:
    for kind, read in (("cp", damage_stacks), ("locks", damage_locks)):
        began = time.monotonic()
        paths = images(kind)
        rounds = -(-DAMAGED // len(paths) // 2)
        for path in paths:
            read(image(path), 7, rounds)  # raises what is not the reader's own
        done = rounds * len(paths)
        what = f"random corruptions of {len(paths)} images ({kind})"
        note = f"{(time.monotonic() - began) / done * 1000:.2f} ms each"
        yield Figure(done, what, at_least(DAMAGED // 2), note)
