"""Keys of a config table: what may stand there and what it is turned into."""

from __future__ import annotations

import os
import pwd
import re
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from probes.errors import UsageError
from tracer import units

SIGNALS = ("USR1", "USR2", "HUP", "URG", "WINCH")
"""That may be sent, beside RTMIN+1 to RTMIN+30: hints, as far as a program takes them so."""
_REAL_TIME = re.compile(r"RTMIN\+([1-9]|[12]\d|30)", re.ASCII)
_LONGEST_NS = 86_400_000_000_000
_SCHEMES = ("http", "https")


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


def limit(value: Any) -> int:
    """A time that may pass, in ns: more than nothing, a day at most."""
    value_ns = duration(value)
    if not 0 < value_ns <= _LONGEST_NS:
        raise ValueError("more than 0 and at most 1440m")
    return value_ns


def size(value: Any) -> int:
    """``"500MB"`` as bytes; a plain 0 is one, too."""
    return 0 if value in (0, "0") and value is not False else _by(units.parse_size_bytes, value)


def room(value: Any) -> int:
    """A size of something that is to hold something."""
    if not (value_bytes := size(value)):
        raise ValueError("more than 0 bytes")
    return value_bytes


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


def folder(value: Any) -> str:
    """A folder that is there, by its absolute path."""
    place = path(value)
    if not os.path.isdir(place):
        raise ValueError("a folder that exists")
    return place


def engine(value: Any) -> str:
    """How a dump is taken (``tracer.heap.engines.ENGINES``, which takes long to import)."""
    if value not in ENGINES:
        raise ValueError(f"one of {', '.join(ENGINES)}")
    return str(value)


ENGINES = ("stop-and-copy", "precopy", "clone")


def user(value: Any) -> str:
    """A user whom we may become."""
    name = text(value)
    try:
        uid = pwd.getpwnam(name).pw_uid
    except (KeyError, UnicodeError):
        raise ValueError("the name of a user of this machine") from None
    if os.geteuid() not in (0, uid):
        raise ValueError("for root only")
    return name


def signal_number(name: str) -> int:
    """The number of a signal that may be sent, with or without SIG. Raises ValueError."""
    short = name.removeprefix("SIG")
    if short in SIGNALS:
        return int(signal.Signals[f"SIG{short}"])
    if (found := _REAL_TIME.fullmatch(short)) is not None:
        return int(signal.SIGRTMIN) + int(found[1])
    raise ValueError(f"{', '.join(SIGNALS)}, or RTMIN+1 to RTMIN+30")


def signal_name(value: Any) -> str:
    """A signal that may be sent."""
    signal_number(text(value))
    return str(value)


def url(value: Any) -> str:
    """An address of the web, in plain ASCII, without a password."""
    said = text(value)
    try:
        parts = urlsplit(said)
        fine = parts.scheme in _SCHEMES and bool(parts.hostname) and parts.port != 0
        fine = fine and "@" not in parts.netloc and said.isprintable() and " " not in said
        said.encode("ascii")
        (parts.hostname or "").encode("idna")  # as a look-up does: lengths of its parts
    except ValueError:
        fine = False
    if not fine:
        raise ValueError("http:// or https:// with a host, in ASCII and without user or password")
    return said


def argv(value: Any) -> list[str]:
    """A program that is there, by its full path, and its arguments."""
    words = value if isinstance(value, list) else []
    if not words or not all(isinstance(word, str) and "\0" not in word for word in words):
        raise ValueError("a list of texts")
    if not words[0].startswith("/"):
        raise ValueError("a list that begins with the full path of a program")
    if not os.path.isfile(words[0]) or not os.access(words[0], os.X_OK):
        raise ValueError("a list that begins with a program: this one is not there to be run")
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
        return parse(value if isinstance(value, str) else "")
    except UsageError as error:
        said = error.hint.removeprefix("Write ").rstrip(".")
        raise ValueError(f"{said}, as a text in quotes") from None
