"""Durations, sizes and shares as people write and read them."""

from __future__ import annotations

import re

from probes.errors import UsageError

_UNITS_NS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
}
_DURATION = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)(ns|us|µs|ms|s|m)", re.ASCII)
_UNITS_BYTES = {
    "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40,
}  # fmt: skip
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)([kKMGT]?i?B)", re.ASCII)
_SHARE = re.compile(r"(\d{1,6}(?:\.\d{1,6})?)(%?)", re.ASCII)
_ALLOWED = "a number and one of ns us ms s m, such as 200ms, 1.5s or 2m"
_MAX_NS = (1 << 63) - 1


def parse_duration_ns(text: str) -> int:
    """``200ms`` -> 200000000. Raises UsageError that says what is allowed."""
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise UsageError(f"{text!r} is no duration", hint=f"Write {_ALLOWED}.")
    value_ns = round(float(found[1]) * _UNITS_NS[found[2]])
    if value_ns > _MAX_NS:
        raise UsageError(f"{text!r} is longer than 292 years", hint=f"Write {_ALLOWED}.")
    return value_ns


def parse_size_bytes(text: str) -> int:
    """``500MB`` -> 500000000. Raises UsageError that says what is allowed."""
    found = _SIZE.fullmatch(text.strip())
    unit = _UNITS_BYTES.get(found[2]) if found else None
    if found is None or unit is None:
        raise UsageError(
            f"{text!r} is no size",
            hint=f"Write a number and one of {' '.join(_UNITS_BYTES)}, such as 500MB.",
        )
    return round(float(found[1]) * unit)


def parse_share(text: str) -> float:
    """``1%`` or ``0.01`` -> 0.01 (of one core). Raises UsageError."""
    found = _SHARE.fullmatch(text.strip())
    share = float(found[1]) / (100 if found[2] else 1) if found else 0.0
    if not 0 < share <= 1:
        raise UsageError(
            f"{text!r} is no share of a core", hint="Write more than 0 and up to 100%, such as 1%."
        )
    return share


def duration(value_ns: int) -> str:
    """``203 ms``, ``1.52 s``, ``2 min 05 s``: about three digits, never more than is known."""
    if value_ns < 1_000:
        return f"{max(0, value_ns)} ns"
    for unit, size in (("µs", 1_000), ("ms", 1_000_000)):
        if value_ns < 999.5 * size:
            return f"{_three_digits(value_ns / size)} {unit}"
    if value_ns < 59_950_000_000:
        return f"{value_ns / 1e9:.2f} s" if value_ns < 9_995_000_000 else f"{value_ns / 1e9:.1f} s"
    minutes, seconds = divmod(round(value_ns / 1e9), 60)
    if minutes < 60:
        return f"{minutes} min {seconds:02} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min"


def size(value_bytes: int) -> str:
    """``640 B``, ``1.5 MiB``."""
    amount = float(value_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{_three_digits(amount)} {unit}"
        amount /= 1024
    return f"{_three_digits(amount)} TiB"


def percent(share: float) -> str:
    """``0.42 %`` of 0.0042."""
    return f"{share * 100:.2f} %" if share < 0.0995 else f"{share * 100:.0f} %"


def number(value: int) -> str:
    """``1,234,567``."""
    return f"{value:,}"


def plural(count: int, what: str) -> str:
    """``1 park``, ``2 parks``."""
    return f"{number(count)} {what}{'' if count == 1 else 's'}"


def _three_digits(amount: float) -> str:
    return f"{amount:.1f}" if amount < 9.95 else f"{amount:.0f}"
