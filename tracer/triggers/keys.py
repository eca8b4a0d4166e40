"""Keys of a config table: what may stand there and what it is turned into."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probes.errors import UsageError
from tracer import units


@dataclass(frozen=True, slots=True)
class Key:
    """A key: how its value is read, what it is without one, and what it is for.

    ``read`` raises ValueError with what is allowed.
    """

    read: Callable[[Any], Any]
    default: Any
    about: str


def duration(value: Any) -> int:
    """``"5s"`` as ns."""
    return _by(units.parse_duration_ns, value)


def size(value: Any) -> int:
    """``"500MB"`` as bytes; a plain 0 is one, too."""
    return 0 if value in (0, "0") and value is not False else _by(units.parse_size_bytes, value)


def text(value: Any) -> str:
    """A text that is not empty."""
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("a text")
    return value


def truth(value: Any) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise ValueError("true or false")  # noqa: TRY004 one class for a wrong value
    return value


def count(value: Any) -> int:
    """A number from 1 on."""
    if type(value) is not int or not 0 < value < 1 << 31:
        raise ValueError("a number from 1 on")
    return value


def path(value: Any) -> str:
    """A path, made absolute here: the worker runs elsewhere."""
    return str(Path(text(value)).absolute())


def argv(value: Any) -> list[str]:
    """A program by its full path, and its arguments."""
    words = value if isinstance(value, list) else []
    if not words or not all(isinstance(word, str) and "\0" not in word for word in words):
        raise ValueError("a list of texts")
    if not words[0].startswith("/"):
        raise ValueError("a list that begins with the full path of a program")
    return list(words)


def read(
    table: Mapping[str, Any], keys: Mapping[str, Key], where: str, extra: Sequence[str] = ()
) -> dict[str, Any]:
    """The values of a table with the defaults of what is not there.

    Raises UsageError that names the key and what is allowed.
    """
    unknown = set(table) - set(keys) - set(extra)
    if unknown:
        raise UsageError(
            f"{where}: unknown key {min(unknown)!r}",
            hint=f"There are: {', '.join([*extra, *keys])}.",
        )
    values = {name: key.default for name, key in keys.items()}
    for name, key in keys.items():
        if name in table:
            try:
                values[name] = key.read(table[name])
            except ValueError as error:
                raise UsageError(
                    f"{where}: {name} = {table[name]!r} is not what is allowed",
                    hint=f"{name} ({key.about}) is {error}.",
                ) from None
    return values


def _by(parse: Callable[[str], int], value: Any) -> int:
    try:
        return parse(text(value))
    except UsageError as error:
        raise ValueError(f"{error.hint.removeprefix('Write ').rstrip('.')}") from None
