"""Profiles of native maps: TOML files that say what places in a library mean.

The format is documented in ``probes/native_map/PROFILE.md``; the built-in ones lie in
``probes/native_map/profiles``. Everything is checked when it is loaded.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Literal, get_args

import msgspec

import probes
from probes.enums import BreakerState, MapCounter, MapMode, MapOutcome
from probes.errors import UsageError

PROFILE_DIR = Path(probes.__file__).parent / "native_map" / "profiles"
MAX_FILE_BYTES = 64 << 10
MAX_PROFILES = 255
MAX_OFFSET = 1 << 16
MAX_TYPE = 40
MAX_NUMBER = 8
"""A library's numbers of modes and outcomes are below (``PS_MAP_NUMBERS``)."""

Role = Literal[
    "wait_begin", "wait_end", "wait", "released",
    "range_begin", "range_end", "range",
    "split", "split_done", "retired", "stale", "retry", "spin",
    "view_opened", "view_closed", "operation", "breaker",
]  # fmt: skip

COUNTERS: Mapping[str, MapCounter] = MappingProxyType(
    {
        name: MapCounter[name.upper()]
        for name in (
            "released", "split", "split_done", "retired", "stale", "retry", "spin",
            "view_opened", "view_closed", "operation",
        )
    }
)  # fmt: skip
"""Roles that are counted and nothing else."""

_ALLOWED: Mapping[str, tuple[frozenset[str], frozenset[str]]] = MappingProxyType(
    {
        "wait_begin": (frozenset({"lock"}), frozenset({"map", "shard"})),
        "wait_end": (frozenset(), frozenset({"lock", "map", "shard"})),
        "wait": (frozenset({"lock"}), frozenset({"map", "shard"})),
        "range_begin": (frozenset({"map", "range"}), frozenset({"mode"})),
        "range_end": (frozenset({"range"}), frozenset({"map", "mode", "outcome", "items"})),
        "range": (frozenset({"map"}), frozenset({"mode", "returns"})),
        "breaker": (frozenset({"map", "new"}), frozenset({"old", "failures", "samples"})),
    }
)
"""Role → keys that it must have, and those that it may have."""
_OF_A_COUNT = (frozenset({"map"}), frozenset({"shard", "lock", "items"}))
_BY_FUNCTION_ONLY = ("wait", "range")
MODES = tuple(mode.name.lower() for mode in MapMode)
OUTCOMES = tuple(outcome.name.lower() for outcome in MapOutcome)
STATES = tuple(state.name.lower() for state in BreakerState)
_NAMED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"mode": MODES, "outcome": OUTCOMES, "old": STATES, "new": STATES}
)
"""Arguments in whose place a name may stand, where it is always the same."""
ARGUMENTS = ("map", "lock", "shard", "range", *_NAMED, "items", "failures", "samples")

_SYMBOL = re.compile(r"[A-Za-z_][\w.$]{0,255}")
_NAME_HINT = "Letters, digits, '_', '.', '$'."
_NUMBERS = tuple(map(str, range(MAX_NUMBER)))
_PAIRS = (("wait_begin", "wait_end"), ("wait_end", "wait_begin"), ("range_begin", "range_end"))
"""A role that says nothing that is true without the other one. A range's end alone is counted."""


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of a profile; an unknown key is an error."""


class Library(_Table, frozen=True, kw_only=True):
    """How the library is recognised: by file name, then by what must be in it."""

    module: tuple[str, ...]
    soname: str | None = None
    provider: str | None = None
    symbols: tuple[str, ...] = ()

    def has_name(self, path: str) -> bool:
        """Whether a file (as /proc shows its path) is called like the library."""
        path = path.removesuffix(" (deleted)")
        return any(
            fnmatchcase(path, f"*/{pattern}")
            if "/" in pattern
            else fnmatchcase(os.path.basename(path), pattern)
            for pattern in self.module
        )


class MapObject(_Table, frozen=True, kw_only=True):
    """The map as an object: what people call its class, where its name stands."""

    type: str
    name_offset: int | None = None


class Lock(_Table, frozen=True, kw_only=True):
    """What stands in the lock of a shard. ``owner_width`` and offsets in bytes.

    ``futex_offset``: of the word that a waiter parks on. Where it is given, nobody is said to
    hold up a thread that is not parked there.
    """

    owner: Literal["tid", "ident", "none"] = "none"
    owner_offset: int = 0
    owner_width: int = 4
    futex_offset: int | None = None


class Inside(_Table, frozen=True, kw_only=True):
    """A pointer at ``offset`` bytes of what an argument points to: an iterator's map."""

    argument: int
    offset: int


class Place(_Table, frozen=True, kw_only=True):
    """One probe: where, what it means, and which argument (from 1 on) is what.

    ``symbol``: one name, or several of which the first that is there counts. ``mode``:
    an argument, or a mode by its name.
    """

    role: Role
    usdt: str | None = None
    symbol: str | tuple[str, ...] | None = None
    map: int | Inside | None = None
    lock: int | None = None
    shard: int | None = None
    range: int | None = None
    mode: int | str | None = None
    outcome: int | str | None = None
    items: int | None = None
    old: int | str | None = None
    new: int | str | None = None
    failures: int | None = None
    samples: int | None = None
    returns: Literal["object", "status", "nothing"] | None = None

    @property
    def symbols(self) -> tuple[str, ...]:
        """The names of the function, the best first; none for a USDT probe."""
        if self.symbol is None:
            return ()
        return (self.symbol,) if isinstance(self.symbol, str) else self.symbol

    @property
    def name(self) -> str:
        """What to call it."""
        return self.usdt or self.symbols[0]


class Profile(_Table, frozen=True, kw_only=True):
    """One library. ``modes``, ``outcomes``, ``states``: the library's number → ours, by name."""

    name: str
    summary: str
    library: Library
    map: MapObject
    lock: Lock = Lock()
    modes: dict[str, str] = {}
    outcomes: dict[str, str] = {}
    states: dict[str, str] = {}
    probe: tuple[Place, ...]


def load_all(files: Sequence[Path] = ()) -> tuple[Profile, ...]:
    """The built-in profiles and those of ``files``, which come first. Raises UsageError."""
    own = tuple(load(path) for path in files)
    for number, one in enumerate(own):
        if one.name in {other.name for other in own[:number]}:
            raise UsageError(
                f"two profiles are called {one.name!r}: {files[number]} is the second",
                hint="Give each a name of its own.",
            )
    found = (*own, *(one for one in _builtin() if one.name not in {each.name for each in own}))
    if len(found) > MAX_PROFILES:
        raise UsageError(f"at most {MAX_PROFILES} profiles of native maps can be used at once")
    return found


@cache
def _builtin() -> tuple[Profile, ...]:
    return tuple(
        parse(path.read_text("utf-8"), path) for path in sorted(PROFILE_DIR.glob("*.toml"))
    )


def load(path: Path) -> Profile:
    """A person's own profile. Raises UsageError: it names the key, or who could change it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO is none
        with os.fdopen(descriptor, "rb") as file:
            info = os.fstat(file.fileno())
            if not stat.S_ISREG(info.st_mode):
                raise UsageError(f"profile {path} is no regular file")
            if info.st_mode & (stat.S_IWGRP | stat.S_IWOTH) or info.st_uid not in (0, os.getuid()):
                raise UsageError(
                    f"profile {path} can be written by others: it says what is probed",
                    hint=f"chown it to yourself, and 'chmod go-w {path}'.",
                )
            text = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise UsageError(f"cannot read profile {path}: {error.strerror}") from None
    if len(text) > MAX_FILE_BYTES:
        raise UsageError(f"profile {path} is longer than {MAX_FILE_BYTES} bytes")
    return parse(text.decode("utf-8", "replace"), path)


def parse(text: str, path: Path) -> Profile:
    """A profile from its text; ``path`` is for messages. Raises UsageError."""
    try:
        profile = msgspec.convert(tomllib.loads(text), Profile)
    except msgspec.ValidationError as error:
        raise UsageError(f"profile {path}: {error}", hint=_allowed(str(error))) from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"profile {path}: {error}", hint="Correct the file.") from None
    wrong = _wrong(profile)
    if wrong is not None:
        message, hint = wrong
        raise UsageError(f"profile {path}: {message}", hint=hint)
    return profile


_TABLES: Mapping[str, type[msgspec.Struct]] = MappingProxyType(
    {"library": Library, "map": MapObject, "lock": Lock, "probe": Place}
)
_CHOICES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "role": get_args(Role),
        "owner": ("tid", "ident", "none"),
        "returns": ("object", "status", "nothing"),
    }
)


def _allowed(message: str) -> str:
    """What may stand where a complaint says that something else does."""
    found = re.search(r"`\$\.(\w+)(?:.*\.(\w+))?", message)
    table, key = (str(found[1]), str(found[2])) if found else ("", "")
    if "enum value" in message and key in _CHOICES:
        return f"One of {', '.join(_CHOICES[key])}."
    return f"Keys there: {', '.join(_TABLES.get(table, Profile).__struct_fields__)}."


def _wrong(profile: Profile) -> tuple[str, str] | None:
    """What types cannot say: (what is wrong, what is allowed)."""
    return next(_complaints(profile), None)


def _complaints(profile: Profile) -> Iterator[tuple[str, str]]:
    if not re.fullmatch(r"[\w-]{1,40}", profile.name):
        yield f"name = {profile.name!r}", "Letters, digits, '_' and '-', at most 40."
    if not profile.library.module or not all(profile.library.module):
        yield "library.module is empty", "File name patterns, such as 'name*.so'."
    if profile.library.provider is not None and not _SYMBOL.fullmatch(profile.library.provider):
        yield f"library.provider = {profile.library.provider!r}", _NAME_HINT
    if not profile.map.type.isprintable() or not 0 < len(profile.map.type) <= MAX_TYPE:
        yield f"map.type = {profile.map.type!r}", f"A class name of at most {MAX_TYPE} characters."
    for key, offset in (
        ("map.name_offset", profile.map.name_offset),
        ("lock.owner_offset", profile.lock.owner_offset),
        ("lock.futex_offset", profile.lock.futex_offset),
    ):
        if offset is not None and not 0 <= offset < MAX_OFFSET:
            yield f"{key} = {offset}", f"Bytes from 0 to {MAX_OFFSET - 1}."
    if profile.lock.owner_width not in (4, 8):
        yield f"lock.owner_width = {profile.lock.owner_width}", "4 or 8 bytes."
    yield from _wrong_numbers("modes", profile.modes, MODES)
    yield from _wrong_numbers("outcomes", profile.outcomes, OUTCOMES)
    yield from _wrong_numbers("states", profile.states, STATES)
    if not profile.probe:
        yield "it has no [[probe]]", "At least one."
    for number, place in enumerate(profile.probe, start=1):
        found = _wrong_place(profile, place)
        if found is not None:
            yield f"probe {number} ({place.role}): {found[0]}", found[1]
    yield from _unpaired({place.role for place in profile.probe})


def _unpaired(roles: Collection[str]) -> Iterator[tuple[str, str]]:
    for role, other in _PAIRS:
        if role in roles and other not in roles:
            yield f"it has a probe of '{role}' and none of '{other}'", f"Add one of '{other}'."


def _wrong_numbers(
    key: str, table: Mapping[str, str], names: Sequence[str]
) -> Iterator[tuple[str, str]]:
    for number, name in table.items():
        if number not in _NUMBERS:
            yield f"{key}.{number}", f"Numbers from 0 to {MAX_NUMBER - 1}."
        if name not in names:
            yield f"{key}.{number} = {name!r}", f"One of {', '.join(names)}."


def _wrong_place(profile: Profile, place: Place) -> tuple[str, str] | None:
    if (place.usdt is None) == (place.symbol is None):
        return "it has to have one of 'usdt' and 'symbol'", "A USDT probe, or a function's name."
    if place.usdt is not None and profile.library.provider is None:
        return f"usdt = {place.usdt!r} without library.provider", "Name the provider."
    names = place.symbols if place.usdt is None else (place.usdt,)
    wrong = [name for name in names if not _SYMBOL.fullmatch(name)]
    if wrong or not names:
        return f"{''.join(wrong[:1])!r} is no name of a probe or function", _NAME_HINT
    if place.role in _BY_FUNCTION_ONLY and place.usdt is not None:
        return f"'{place.role}' is a function from its entry to where it leaves", "Use 'symbol'."
    required, optional = _ALLOWED.get(place.role, _OF_A_COUNT)
    given = {key for key in (*ARGUMENTS, "returns") if getattr(place, key) is not None}
    allowed = ", ".join(sorted(required | optional))
    for key in sorted(required - given):
        return f"'{key}' is missing", f"It has to have {', '.join(sorted(required))}."
    for key in sorted(given - required - optional):
        return f"'{key}' makes no sense there", f"Allowed: {allowed}."
    return _wrong_arguments(place)


def _wrong_arguments(place: Place) -> tuple[str, str] | None:
    limit = 12 if place.usdt is not None else 6
    for key in ARGUMENTS:
        value = getattr(place, key)
        if isinstance(value, str):
            names = _NAMED[key]
            if value not in names:
                return (
                    f"{key} = {value!r}",
                    f"A number of an argument, or one of {', '.join(names)}.",
                )
            continue
        if isinstance(value, Inside):
            if not 0 <= value.offset < MAX_OFFSET:
                return f"{key}.offset = {value.offset}", f"Bytes from 0 to {MAX_OFFSET - 1}."
            value = value.argument
        if value is not None and not 1 <= value <= limit:
            return f"{key} = {value}", f"Arguments count from 1 to {limit}."
    return None
