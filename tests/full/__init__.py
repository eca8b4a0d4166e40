"""The «must show» lines of the issues as measurements, for ``./check --full``.

A measurement is a function in ``tests/full/issue<N>_<topic>.py``::

    @must_show("lock loop, attached ÷ unattached", issue=2, line=4, bound=at_least(0.99))
    def lock_loop() -> float:
        return median_of_pairs(...)

It returns one number, or several ``Figure``s where a line names several (each with
its own bound), or raises ``NotMeasured`` with the reason. ``lines.toml`` holds what
each issue asks for, so that a line without a measurement shows as one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass


class NotMeasured(Exception):
    """The measurement cannot be made here; the message says why."""


def number(value: float) -> str:
    """``value`` as the table shows it: 1,234,568 or 0.9931."""
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


@dataclass(frozen=True)
class Bound:
    """A limit that a figure has to keep; ``text`` is how the table shows it."""

    text: str
    holds: Callable[[float], bool]


def at_least(limit: float, unit: str = "") -> Bound:
    """The figure is ``limit`` or more."""
    return Bound(f"≥ {number(limit)} {unit}".rstrip(), lambda figure: figure >= limit)


def at_most(limit: float, unit: str = "") -> Bound:
    """The figure is ``limit`` or less."""
    return Bound(f"≤ {number(limit)} {unit}".rstrip(), lambda figure: figure <= limit)


def exactly(limit: float, unit: str = "") -> Bound:
    """The figure is ``limit``: counts, and statuses where 0 is success."""
    return Bound(f"= {number(limit)} {unit}".rstrip(), lambda figure: figure == limit)


@dataclass(frozen=True)
class Figure:
    """One measured number. ``what`` and ``bound`` default to the measurement's own;
    ``bound=None`` there as well makes it information only (a control, a rival tool).
    ``note`` is shown beside it: an interval, a sample count.
    """

    value: float
    what: str = ""
    bound: Bound | None = None
    note: str = ""


Measurement = Callable[[], float | Figure | Iterable[Figure]]


@dataclass(frozen=True)
class MustShow:
    """A registered measurement for line ``line`` of issue ``issue``."""

    issue: int
    line: int
    what: str
    bound: Bound | None
    measure: Measurement


REGISTRY: list[MustShow] = []


def must_show(
    what: str, *, issue: int, line: int, bound: Bound | None = None
) -> Callable[[Measurement], Measurement]:
    """Register the decorated function as a measurement."""

    def register(measure: Measurement) -> Measurement:
        REGISTRY.append(MustShow(issue, line, what, bound, measure))
        return measure

    return register
