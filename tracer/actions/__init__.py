"""What triggers may do: one module each, listed here with the keys that each one takes.

A module has ``run(job)``, which does it and returns what is to be said of it (JSON values);
it raises ``ParkscopeError`` or ``OSError`` when it failed. It runs in the worker process
(``tracer.triggers.worker``), one at a time, as the user who runs Parkscope. Only ``keep``,
which writes what the session itself remembers, runs in a thread of the session.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from tracer.triggers.keys import (
    Key,
    argv,
    engine,
    folder,
    limit,
    path,
    room,
    signal_name,
    size,
    truth,
    url,
    user,
)

S = 1_000_000_000

_FILES = {
    "dir": Key(folder, None, "where files go; default: beside the trace, else the current folder"),
    "max_total": Key(room, 4 << 30, "of all files of this sort in that folder, together"),
    "max_size": Key(room, 2 << 30, "of one file"),
    "min_free": Key(size, 512 << 20, "what is left free on that file system"),
}


@dataclass(frozen=True, slots=True)
class Action:
    """One action. ``main`` is the key that may stand without its name: ``exec = [...]``."""

    name: str
    module: str
    main: str | None
    keys: Mapping[str, Key]
    about: str


ACTIONS: Mapping[str, Action] = MappingProxyType({action.name: action for action in (
    Action(
        "heap-dump", "heap_dump", "dir",
        {
            **_FILES,
            "max_pause": Key(limit, 5_000_000, "how long the process may stand still"),
            "engine": Key(engine, None, "stop-and-copy, precopy or clone; default: by the pause"),
            "inject": Key(truth, True, "may make the process execute a system call for it"),
            "values": Key(truth, False, "keep the text of strings"),
            "timeout": Key(limit, 300 * S, "after which it is given up"),
        },
        "every object of the process, as parkscope heap dump does",
    ),
    Action(
        "stack-dump", "stack_dump", "dir",
        {**_FILES, "timeout": Key(limit, 30 * S, "after which it is given up")},
        "the stacks of all threads, what they wait for and who has that",
    ),
    Action(
        "keep", "keep", "last",
        {
            **_FILES,
            "last": Key(limit, 30 * S, "how far back"),
            "memory": Key(room, 64 << 20, "what is remembered for it at most"),
            "timeout": Key(limit, 60 * S, "after which it is given up"),
        },
        "the last seconds of everything observed, as a trace",
    ),
    Action(
        "exec", "exec_program", "argv",
        {
            "argv": Key(argv, None, "the program, by its full path, and its arguments; no shell"),
            "user": Key(user, None, "run it as this user (root only); default: as Parkscope runs"),
            "log": Key(path, None, "its output is appended there; default: discarded"),
            "timeout": Key(limit, 10 * S, "after which it is killed"),
        },
        "a program, with the facts as JSON on stdin",
    ),
    Action(
        "signal", "send_signal", "signal",
        {
            "signal": Key(signal_name, None, "USR1, USR2, HUP, URG, WINCH, or RTMIN+1 to RTMIN+30"),
            "timeout": Key(limit, 5 * S, "after which it is given up"),
        },
        "a signal to the process, if it handles that one",
    ),
    Action(
        "webhook", "webhook", "url",
        {
            "url": Key(url, None, "http:// or https://; the facts are posted there as JSON"),
            "allow_remote": Key(truth, False, "also to other machines than this one"),
            "timeout": Key(limit, 5 * S, "for all of it"),
        },
        "an HTTP POST",
    ),
)})  # fmt: skip
REQUIRED = MappingProxyType({"exec": "argv", "signal": "signal", "webhook": "url"})
"""Actions that are nothing without their main key."""
