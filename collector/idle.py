"""Idle is not stuck: parks at sites where threads wait by design.

The sites are data: ``idle_sites.toml`` beside this module, and files of the same
form that a user adds. A park is idle when one site matches it wholly; what is not
known to be idle is not idle. Stacks that are torn or could not be read match no
site: an alarm too many is better than one too few.

A file has tables ``[[site]]`` with these keys:

``reason``   why such a thread waits, for people (required)
``waits``    the kinds of wait it may be in: lock, io, sleep, child, other (required)
``frames``   ``module:function`` patterns of the innermost frames, innermost first and
             without gaps. Function means qualified name. Both parts are globs; a
             module part that contains a slash is matched against the end of the file's
             path instead.
``inside``   a pattern that some frame further out must match
``threads``  globs, one of which the thread's name must match
``native``   true: threads that Python does not know, or that run no Python code;
             then there are no frames

and one list ``through``: patterns of functions that do nothing but wait
(``threading:Condition.wait``). Such frames may stand inside of a site's first one.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import translate
from importlib import resources
from pathlib import Path
from typing import Any

from collector.context import Frame, ThreadContext
from probes.errors import UsageError
from probes.kinds import KINDS

_FILE_HINT = "The keys of a [[site]] are described in collector/idle.py and README.md."
_MAX_FILE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class FramePattern:
    """One ``module:function`` pattern, compiled."""

    module: re.Pattern[str]
    function: re.Pattern[str]
    by_file: bool

    @classmethod
    def parse(cls, text: str) -> FramePattern:
        """Raises ValueError when it is not of the form ``module:function``."""
        module, colon, function = text.rpartition(":")
        if not colon or not module or not function:
            raise ValueError(f"{text!r} is not of the form 'module:function'")
        by_file = "/" in module
        if by_file:
            module = "*/" + module.lstrip("*/")
        return cls(re.compile(translate(module)), re.compile(translate(function)), by_file)

    def matches(self, frame: Frame) -> bool:
        """Whether the frame is of that function."""
        place = f"/{frame.file}" if self.by_file else frame.module or ""
        return bool(self.function.match(frame.function) and self.module.match(place))


@dataclass(frozen=True, slots=True)
class IdleSite:
    """One known place to wait."""

    reason: str
    waits: frozenset[str]
    frames: tuple[FramePattern, ...] = ()
    inside: FramePattern | None = None
    threads: tuple[re.Pattern[str], ...] = ()
    native: bool = False

    def matches(self, context: ThreadContext, waiting: int) -> bool:
        """Whether a thread waits here (its kind of wait has been looked at already).

        ``waiting``: so many of the innermost frames do nothing but wait.
        """
        if self.threads and not self._name_matches(context.thread_name):
            return False
        if self.native:
            return context.python is False or context.frames == ()
        frames = context.frames or ()
        return any(self._matches_at(frames, at) for at in range(waiting + 1))

    def _name_matches(self, name: str | None) -> bool:
        return name is not None and any(pattern.match(name) for pattern in self.threads)

    def _matches_at(self, frames: tuple[Frame, ...], at: int) -> bool:
        end = at + len(self.frames)
        if end > len(frames):
            return False
        if not all(p.matches(f) for p, f in zip(self.frames, frames[at:end], strict=True)):
            return False
        return self.inside is None or any(self.inside.matches(frame) for frame in frames[end:])


@dataclass(frozen=True, slots=True)
class SiteFile:
    """What one file says."""

    sites: tuple[IdleSite, ...]
    through: tuple[FramePattern, ...]


class IdleRules:
    """All known idle sites."""

    def __init__(self, files: Iterable[SiteFile]) -> None:
        self._by_kind: dict[str, list[IdleSite]] = {kind: [] for kind in KINDS}
        self._through: list[FramePattern] = []
        for file in files:
            self._through += file.through
            for site in file.sites:
                for kind in site.waits:
                    self._by_kind[kind].append(site)

    @classmethod
    def load(cls, paths: Sequence[Path] = ()) -> IdleRules:
        """The built-in sites and those of the user's files.

        Raises UsageError naming the file, the site and the key that is wrong.
        """
        text = (resources.files("collector") / "idle_sites.toml").read_text(encoding="utf-8")
        built_in = parse_sites(text, "the built-in idle sites")
        return cls([built_in, *(parse_sites(_read(path), str(path)) for path in paths)])

    def match(self, kind: str, context: ThreadContext, /) -> str | None:
        """Why a park of this kind in this thread is idle; None when it is not known to be."""
        sites = self._by_kind.get(kind)
        if not sites or context.torn:
            return None
        waiting = self._waiting(context.frames or ())
        for site in sites:
            if site.matches(context, waiting):
                return site.reason
        return None

    def _waiting(self, frames: tuple[Frame, ...]) -> int:
        """How many of the innermost frames do nothing but wait."""
        for count, frame in enumerate(frames):
            if not any(pattern.matches(frame) for pattern in self._through):
                return count
        return len(frames)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
        if len(data) > _MAX_FILE_BYTES:
            raise UsageError(f"{path}: longer than {_MAX_FILE_BYTES >> 20} MiB")
        return data.decode("utf-8")
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not UTF-8 text") from None


def parse_sites(text: str, source: str) -> SiteFile:
    """Sites from TOML text; ``source`` names it in errors. Raises UsageError."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{source}: {error}") from None
    for key in data:
        if key not in ("site", "through"):
            raise UsageError(f"{source}: unknown key {key!r}", hint=_FILE_HINT)
    tables = data.get("site", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise UsageError(f"{source}: 'site' must be written [[site]]", hint=_FILE_HINT)
    return SiteFile(
        sites=tuple(
            _site(table, f"{source}: site {number}") for number, table in enumerate(tables, start=1)
        ),
        through=tuple(_value("through", data["through"], source)) if "through" in data else (),
    )


def _site(table: Mapping[str, Any], where: str) -> IdleSite:
    for key in table:
        if key not in _SITE_KEYS:
            raise UsageError(f"{where}: unknown key {key!r}", hint=_FILE_HINT)
    for key in ("reason", "waits"):
        if key not in table:
            raise UsageError(f"{where}: {key!r} is missing", hint=_FILE_HINT)
    values = {key: _value(key, value, where) for key, value in table.items()}
    site = IdleSite(**values)
    if site.native == bool(site.frames):
        raise UsageError(f"{where}: give either 'frames' or 'native = true'", hint=_FILE_HINT)
    return site


def _value(key: str, value: Any, where: str) -> Any:
    """A key's value, checked and made into what ``IdleSite`` holds."""
    kind = _SITE_KEYS.get(key, list)
    if not _is_of(kind, value):
        wanted = "a list of texts" if kind is list else _KIND_NAMES[kind]
        raise UsageError(f"{where}: {key!r} must be {wanted}", hint=_FILE_HINT)
    try:
        return _converted(key, value)
    except ValueError as error:
        raise UsageError(f"{where}: {key!r}: {error}", hint=_FILE_HINT) from None


def _is_of(kind: type, value: Any) -> bool:
    if kind is list:
        return isinstance(value, list) and bool(value) and all(type(v) is str for v in value)
    return type(value) is kind


def _converted(key: str, value: Any) -> Any:
    match key:
        case "waits":
            unknown = sorted(set(value) - set(KINDS))
            if unknown:
                raise ValueError(f"no kind of wait is called {unknown[0]!r}")
            return frozenset(value)
        case "frames" | "through":
            return tuple(FramePattern.parse(text) for text in value)
        case "inside":
            return FramePattern.parse(value)
        case "threads":
            return tuple(re.compile(translate(text)) for text in value)
        case "reason" if not value:
            raise ValueError("must not be empty")
    return value


_SITE_KEYS: Mapping[str, type] = {
    "reason": str, "waits": list, "frames": list, "inside": str, "threads": list, "native": bool,
}  # fmt: skip
_KIND_NAMES: Mapping[type, str] = {str: "text", bool: "true or false"}
