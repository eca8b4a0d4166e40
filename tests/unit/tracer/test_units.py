"""Durations and shares: what people write is what is meant, the rest is refused."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probes.errors import UsageError
from tracer import units


@pytest.mark.parametrize(
    ("text", "value_ns"),
    [
        ("0ns", 0),
        ("1ns", 1),
        ("20us", 20_000),
        ("20µs", 20_000),
        ("200ms", 200_000_000),
        ("1.5s", 1_500_000_000),
        (" 2m ", 120_000_000_000),
        ("0.25ms", 250_000),
    ],
)
def test_durations(text: str, value_ns: int) -> None:
    assert units.parse_duration_ns(text) == value_ns


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5",
        "ms",
        "-1s",
        "1 s",
        "1h",
        "1e3s",
        "0x1s",
        "1.s",
        ".5s",
        "inf",
        "nans",
        "1sms",
        "٣s",
        "9" * 40 + "s",
    ],
)
def test_what_is_no_duration_is_refused_and_told_how(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        units.parse_duration_ns(text)
    assert "200ms" in refused.value.hint


@given(st.integers(0, 10**12), st.sampled_from(["ns", "us", "ms", "s", "m"]))
def test_whole_numbers_are_exact(number: int, unit: str) -> None:
    size = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9}[unit]
    if number * size < 1 << 53:
        assert units.parse_duration_ns(f"{number}{unit}") == Fraction(number) * size


@pytest.mark.parametrize(
    ("value_ns", "text"),
    [
        (-5, "0 ns"),
        (999, "999 ns"),
        (1_000, "1.0 µs"),
        (26_400, "26 µs"),
        (999_499, "999 µs"),
        (999_600, "1.0 ms"),
        (9_940_000, "9.9 ms"),
        (203_400_000, "203 ms"),
        (999_600_000, "1.00 s"),
        (1_523_000_000, "1.52 s"),
        (12_340_000_000, "12.3 s"),
        (59_960_000_000, "1 min 00 s"),
        (125_000_000_000, "2 min 05 s"),
        (11_520_000_000_000, "3 h 12 min"),
    ],
)
def test_durations_for_people(value_ns: int, text: str) -> None:
    assert units.duration(value_ns) == text


@pytest.mark.parametrize(
    ("text", "share"), [("1%", 0.01), ("0.5%", 0.005), ("0.02", 0.02), ("100%", 1.0)]
)
def test_shares(text: str, share: float) -> None:
    assert units.parse_share(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["0", "0%", "101%", "1.5", "-1%", "one", "", "nan", "1e-2"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        units.parse_share(text)


@pytest.mark.parametrize(
    ("value_bytes", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 << 40, "3.0 TiB")]
)
def test_sizes(value_bytes: int, text: str) -> None:
    assert units.size(value_bytes) == text
