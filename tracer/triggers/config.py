"""Rules: what is to be done when, from a TOML file or from the command line.

::

    [[trigger]]
    name = "stuck"                        # default: its place in the file
    on = 'park > 500ms and kind == "lock"'
    do = ["heap-dump", { exec = ["/usr/local/bin/page-me"], timeout = "5s" }]
    cooldown = "5m"
    per_hour = 6
"""

from __future__ import annotations

import os
import shlex
import stat
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from collector.breaker import Policy
from probes.errors import PermissionDenied, UsageError
from tracer import units
from tracer.actions import ACTIONS, REQUIRED
from tracer.triggers.condition import Condition, parse
from tracer.triggers.facts import PARKS
from tracer.triggers.keys import Key, count, duration, limit, read, text

MAX_CONFIG_BYTES = 1 << 20
MAX_RULES = 100
MAX_ASKS = 10
_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_MINUTE_NS = 60_000_000_000

RULE_KEYS: Mapping[str, Key] = {
    "name": Key(text, None, "what it is called in events"),
    "on": Key(text, None, "the condition"),
    "cooldown": Key(duration, 5 * _MINUTE_NS, "for how long it does nothing after it has acted"),
    "per_hour": Key(count, 6, "how often it acts at most"),
    "breaker_failures": Key(count, 3, "so many failures, half of all, open the breaker"),
    "breaker_window": Key(limit, 60 * _MINUTE_NS, "within this time"),
    "breaker_rest": Key(limit, 5 * _MINUTE_NS, "before one is tried again"),
}
_LONGEST_REST = 12  # times the first one


@dataclass(frozen=True, slots=True)
class Ask:
    """An action with its options (``tracer.actions``)."""

    action: str
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Rule:
    """When to do what, and how often at most. Times in ns."""

    name: str
    condition: Condition
    asks: tuple[Ask, ...]
    cooldown_ns: int
    per_hour: int
    policy: Policy


def dump_rule(folder: Path | None = None) -> Rule:
    """What ``--dump`` is short for: a long park that is known not to be idle takes a dump."""
    options = {} if folder is None else {"dir": str(folder)}
    return _made("dump", "park and idle == false", (_ask("heap-dump", options, "--dump"),))


def command_line_rules(pairs: Sequence[tuple[str, str]]) -> list[Rule]:
    """Rules of ``--on CONDITION --do ACTION``. Raises UsageError."""
    return [
        _made(f"on-{number}", condition, (_said(action, f"--do {action!r}"),))
        for number, (condition, action) in enumerate(pairs, start=1)
    ]


def load(file: Path) -> list[Rule]:
    """The rules of a TOML file.

    Raises UsageError that names key and place, PermissionDenied for a file that others
    could have written: what it says is carried out with our rights.
    """
    try:
        table = tomllib.loads(_safely_read(file))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} is no TOML: {error}", hint=_SEE) from None
    except RecursionError:
        raise UsageError(f"{file} is nested too deep", hint=_SEE) from None
    unknown = set(table) - {"trigger"}
    if unknown:
        raise UsageError(
            f"{file}: unknown key {min(unknown)!r}", hint="There is: trigger, as [[trigger]]."
        )
    entries = table.get("trigger", [])
    if not isinstance(entries, list) or not all(isinstance(one, dict) for one in entries):
        raise UsageError(f"{file}: trigger is no list of tables", hint="Write [[trigger]].")
    if not 0 < len(entries) <= MAX_RULES:
        raise UsageError(
            f"{file} has {len(entries)} triggers", hint=f"Between one and {MAX_RULES} may be there."
        )
    rules = [_rule(entry, number, file) for number, entry in enumerate(entries, start=1)]
    names = [rule.name for rule in rules]
    if doubled := {name for name in names if names.count(name) > 1}:
        raise UsageError(f"{file}: two triggers are named {min(doubled)!r}", hint=_SEE)
    return rules


def check_lengths(rules: Sequence[Rule], long_park_ns: int) -> None:
    """Raise UsageError for a rule about parks that are too short to be looked at."""
    for rule in rules:
        short = [one for one in rule.condition.lengths_ns if one < long_park_ns]
        if rule.condition.topic in PARKS and short:
            raise UsageError(
                f"trigger {rule.name!r}: parks of {units.duration(short[0])} are not looked at",
                hint=f"Add '--long-park {short[0] // 1_000_000}ms', or compare with"
                f" {units.duration(long_park_ns)} or more.",
            )


def _made(name: str, condition: str, asks: tuple[Ask, ...], **given: Any) -> Rule:
    values = {**{key: one.default for key, one in RULE_KEYS.items()}, **given}
    rest_ns = values["breaker_rest"]
    policy = Policy(
        window_ns=values["breaker_window"],
        rest_ns=rest_ns,
        longest_rest_ns=_LONGEST_REST * rest_ns,
        least=values["breaker_failures"],
    )
    return Rule(name, parse(condition), asks, values["cooldown"], values["per_hour"], policy)


def _rule(entry: Mapping[str, Any], number: int, file: Path) -> Rule:
    where = f"{file}, trigger {entry.get('name', number)!r}"
    values = read(entry, RULE_KEYS, where, ("do",))
    if values["on"] is None:
        raise UsageError(f"{where}: 'on' is missing", hint="It is the condition.")
    wanted = entry.get("do")
    wanted = wanted if isinstance(wanted, list) else [wanted]
    if not 0 < len(wanted) <= MAX_ASKS:
        raise UsageError(
            f"{where}: 'do' has {len(wanted)} actions",
            hint=f"Between one and {MAX_ASKS} may be there.",
        )
    asks = tuple(_wanted(one, where) for one in wanted)
    name = values.pop("name") or str(number)
    try:
        return _made(name, values.pop("on"), asks, **values)
    except UsageError as error:
        raise UsageError(f"{where}: {error.message}", hint=error.hint) from None


def _wanted(one: Any, where: str) -> Ask:
    """One entry of ``do``: a text, or a table with the action's name among its keys."""
    if isinstance(one, str):
        return _said(one, where)
    names = [key for key in one if key in ACTIONS] if isinstance(one, dict) else []
    if len(names) != 1:
        raise UsageError(f"{where}: 'do' names no action", hint=f"There are: {', '.join(ACTIONS)}.")
    options = {key: value for key, value in one.items() if key != names[0]}
    main = ACTIONS[names[0]].main
    if one[names[0]] is not True:  # { heap-dump = true, engine = "clone" }
        options[str(main)] = one[names[0]]
    return _ask(names[0], options, f"{where}, {names[0]}")


def _said(words: str, where: str) -> Ask:
    """An action as a line: ``exec /bin/prog argument``, ``signal USR1``, ``heap-dump DIR``."""
    try:
        name, *rest = shlex.split(words) or [""]
    except ValueError as error:
        raise UsageError(f"{where}: {words!r} cannot be read: {error}", hint=_SEE) from None
    action = ACTIONS.get(name)
    if action is None:
        raise UsageError(
            f"{where}: {name!r} is no action", hint=f"There are: {', '.join(ACTIONS)}."
        )
    if not rest:
        return _ask(name, {}, where)
    if len(rest) > 1 and name != "exec":
        raise UsageError(
            f"{where}: {name} takes one word, its {action.main}", hint="More goes into --triggers."
        )
    return _ask(name, {str(action.main): rest if name == "exec" else rest[0]}, where)


def _ask(name: str, options: Mapping[str, Any], where: str) -> Ask:
    action = ACTIONS[name]
    values = read(options, action.keys, where)
    needed = REQUIRED.get(name)
    if needed is not None and values[needed] is None:
        raise UsageError(
            f"{where}: {name} needs {needed}", hint=f"{needed}: {action.keys[needed].about}."
        )
    return Ask(name, values)


def _safely_read(file: Path) -> str:
    """The text of a file that nobody but us and root can have written.

    Looked at by its descriptor, and so is each folder above where it really lies: whoever
    may rename one of them could put another file there. A folder with the sticky bit is
    fine: what lies in it can be renamed by its owner only.
    """
    try:
        # Not waited for: a pipe has no end, and nobody may be there to write into it.
        with open(os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as stream:
            found = os.fstat(stream.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise UsageError(f"{file} is no regular file", hint=_SEE)
            _refuse_others(file, found, "file")
            for folder in file.resolve(strict=True).parents:
                _refuse_others(folder, folder.stat(), "folder")
            raw = stream.read(MAX_CONFIG_BYTES + 1)
    except (OSError, RuntimeError) as error:  # the latter: links that lead in a circle
        why = getattr(error, "strerror", None) or error
        raise UsageError(f"{file} cannot be read: {why}", hint="") from None
    if len(raw) > MAX_CONFIG_BYTES:
        raise UsageError(f"{file} is larger than {units.size(MAX_CONFIG_BYTES)}", hint=_SEE)
    return raw.decode()


def _refuse_others(place: Path, found: os.stat_result, what: str) -> None:
    sticky = stat.S_ISDIR(found.st_mode) and bool(found.st_mode & stat.S_ISVTX)
    if found.st_mode & _OTHERS and not sticky:
        raise PermissionDenied(
            f"the {what} {place} can be written by others, and triggers act with your rights",
            hint=f"Run: chmod go-w {shlex.quote(str(place))}",
        )
    if found.st_uid not in (0, os.geteuid()):
        raise PermissionDenied(
            f"the {what} {place} belongs to another user, and triggers act with your rights",
            hint="Copy it to a place of your own.",
        )


_SEE = "tracer/actions/README.md describes the file."
