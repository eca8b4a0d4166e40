"""What a park is for, in words: the thing, who has it, what that one does. Pure.

Everything comes out of events, which may come out of a file that anybody made: what is
of a wrong type is left out, and text is escaped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from collector.events import Event
from tracer import units
from tracer.escape import terminal

_STDLIB = re.compile(r"/lib(?:64)?/python3[.\d]*t?/(?!(?:site|dist)-packages/)|^<frozen ")
_PACKAGED = re.compile(r"/(?:site|dist)-packages/")
_MAX_PACKAGED = 2
_KINDS = ("lock", "gil", "map", "io", "sleep", "child", "other")
_MAX_LINKS = 4
_MAX_MEMBERS = 10
_MAX_CANDIDATES = 3


def plain(value: Any) -> str:
    """Any value as a short printable text."""
    return terminal(str(value), 60)


def where(stack: Any, frames: int = 3) -> str:
    """``queue.py:171 get ← app.py:88 handler``: the innermost call, then the program's own.

    Calls inside the standard library are left out after the first, and those of installed
    packages after the second, shown by ``…``; empty without a stack.
    """
    calls = _objects(stack)
    packaged = [n for n, call in enumerate(calls) if n and _PACKAGED.search(_file(call))]
    own = [n for n, call in enumerate(calls) if n and not in_stdlib(call) and n not in packaged]
    packaged = packaged[:_MAX_PACKAGED]
    shown = sorted([*packaged, *own[: max(1, frames - 1 - len(packaged))]])
    text = _call(calls[0]) if calls else ""
    for before, n in zip([0, *shown], shown, strict=False):
        text += (" ← " if n == before + 1 else " ← … ") + _call(calls[n])
    return text


def in_stdlib(frame: Mapping[str, Any]) -> bool:
    """Whether a frame is the standard library's rather than the program's own."""
    return _STDLIB.search(_file(frame)) is not None


def _file(frame: Mapping[str, Any]) -> str:
    return str(frame.get("file"))


def own_frame(stack: Any) -> Mapping[str, Any] | None:
    """The innermost call of the program's own that has a file and a line."""
    for frame in _objects(stack):
        if isinstance(frame.get("file"), str) and not in_stdlib(frame):
            return frame if _is_number(frame.get("line")) else None
    return None


def thing(resource: Any) -> str | None:
    """``Lock app.cache._lock``, ``the GIL``; None where no more than an address is known."""
    if not isinstance(resource, Mapping):
        return None
    kind, name = resource.get("type"), resource.get("name")
    if kind in ("GIL", "gil"):
        return "the GIL"
    if not isinstance(kind, str) or (kind in _KINDS and not isinstance(name, str)):
        return None
    if isinstance(name, str):
        return f"{terminal(kind, 20)} {terminal(name, 80)}"
    address = resource.get("address")
    return f"{terminal(kind, 20)} {plain(address)}" if address else terminal(kind, 20)


def in_map(data: Mapping[str, Any]) -> str | None:
    """``shard 3 of ConcurrentMap sessions``: where in a native map; None for other parks."""
    shard, known = data.get("shard"), thing(data.get("resource"))
    if not _is_number(shard):
        return known
    return f"shard {shard}" + (f" of {known}" if known else " of a map")


def because(data: Mapping[str, Any]) -> str:
    """``, held by refresher, which sleeps at cache.py:41 refresh``; empty if nobody knows."""
    holder = data.get("holder")
    if isinstance(holder, Mapping):
        return _links(data.get("resource"), _objects(data.get("chain")) or [holder])
    words = [
        f"{_party(one)} ({terminal(str(one.get('how')), 60)})"
        for one in _objects(data.get("candidates"))
    ]
    if not words:
        return ""
    more = ", …" if len(words) > _MAX_CANDIDATES else ""
    return ", maybe held by " + " or ".join(words[:_MAX_CANDIDATES]) + more


def holder_name(data: Mapping[str, Any]) -> str:
    """The holder in a word or two, for a column; ``X?`` for one that is only likely."""
    holder = data.get("holder")
    if isinstance(holder, Mapping):
        return _party(holder)
    return " ".join(f"{_party(one)}?" for one in _objects(data.get("candidates"))[:2])


def deadlock(event: Event) -> str:
    """The whole cycle: who waits where for what, and who has that."""
    members = _objects(event.data.get("cycle"))
    names = {one.get("tid"): _party(one) for one in members if _is_number(one.get("tid"))}
    edges = [_edge(one, names) for one in members[:_MAX_MEMBERS]]
    if len(members) > _MAX_MEMBERS:
        edges.append(f"and {len(members) - _MAX_MEMBERS} more")
    lasted = f" for {units.duration(event.duration_ns)}" if event.duration_ns is not None else ""
    whole = ", no thread is left that could end it" if event.data.get("knot") is True else ""
    return (
        f"DEADLOCK of {units.plural(len(members), 'thread')} in {event.pid}{lasted}{whole}: "
        + "; ".join(edges)
    )


def _edge(member: Mapping[str, Any], names: Mapping[Any, str]) -> str:
    place = where(member.get("stack"), 2)
    text = f"{_party(member)} waits" + (f" at {place}" if place else "")
    if (what := thing(member.get("waits_on"))) is not None:
        text += f" for {what}"
    by, resource = member.get("held_by"), member.get("waits_on")
    if not _is_number(by) or (isinstance(resource, Mapping) and resource.get("type") == "Thread"):
        return text
    return f"{text}, {_verb(resource)} by {names.get(by, plain(by))}"


def _links(resource: Any, links: Sequence[Mapping[str, Any]]) -> str:
    text = ""
    for link in links[:_MAX_LINKS]:
        text += f", {_has(resource, link)}"
        does, place = link.get("does"), where(link.get("stack"), 2)
        if not isinstance(does, str):
            break
        at = f" at {place}" if place else ""
        resource = link.get("waits_on")
        if does == "waits":
            what = thing(resource)
            text += f", which waits{at}" + (f" for {what}" if what else "")
        elif does == "runs":
            text += f", which runs {place}".rstrip()
        elif does == "sleep":
            text += f", which sleeps{at}"
        else:
            text += f", which is in {plain(does)}{at}"
    return text + (", …" if len(links) > _MAX_LINKS else "")


def _has(resource: Any, link: Mapping[str, Any]) -> str:
    """``held by X``; of a joined thread or a task, who that is."""
    kind = resource.get("type") if isinstance(resource, Mapping) else None
    if kind == "Thread":
        return f"thread {plain(link.get('tid'))}"
    return f"{_verb(resource)} by {_party(link)}"


def _verb(resource: Any) -> str:
    kind = resource.get("type") if isinstance(resource, Mapping) else None
    return "run" if kind == "Future" else "held"


def _party(party: Mapping[str, Any]) -> str:
    name = party.get("thread_name")
    return terminal(name, 40) if isinstance(name, str) else f"thread {plain(party.get('tid'))}"


def _call(frame: Mapping[str, Any]) -> str:
    path = PurePath(_file(frame))
    # logging/__init__.py and app/__main__.py: the file's own name says nothing.
    short = "/".join(path.parts[-2:]) if path.name.startswith("__") else path.name
    name = terminal(short, 40)
    line_number = frame.get("line")
    at = name if line_number is None else f"{name}:{plain(line_number)}"
    return f"{at} {terminal(str(frame.get('function')), 60)}"


def _objects(value: Any) -> list[Mapping[str, Any]]:
    """The objects of a list; none where it is no list."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        return []
    return [one for one in value if isinstance(one, Mapping)]


def _is_number(value: Any) -> bool:
    return type(value) is int
