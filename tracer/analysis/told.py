"""The events of a trace as Arrow tables: parts of a wrong type are null."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from collector.events import Event
from collector.trace.lines import dump

if TYPE_CHECKING:
    import pyarrow as pa

MAX_INT = (1 << 63) - 1


def event_table(events: Sequence[Event]) -> pa.Table:
    """One row per event: the common keys, and what most queries want of the others."""
    import pyarrow as pa

    columns: dict[str, tuple[pa.DataType, list[Any]]] = {
        "event": (pa.string(), [event.event for event in events]),
        "ts_ns": (pa.uint64(), [event.ts_ns for event in events]),
        "pid": (pa.uint32(), [event.pid for event in events]),
        "tid": (pa.uint32(), [event.tid for event in events]),
        "thread_name": (pa.string(), [event.thread_name for event in events]),
        "kind": (pa.string(), [event.kind for event in events]),
        "idle": (pa.bool_(), [event.idle for event in events]),
        "start_ns": (pa.uint64(), [event.start_ns for event in events]),
        "duration_ns": (pa.uint64(), [event.duration_ns for event in events]),
        "before_attach": (pa.bool_(), [event.before_attach for event in events]),
        "park_id": (pa.int64(), [integer(event.data.get("park_id")) for event in events]),
        "end_kind": (pa.string(), [text(event.data.get("end")) for event in events]),
        "map": (pa.string(), [text(event.data.get("map")) for event in events]),
        "shard": (pa.int64(), [integer(event.data.get("shard")) for event in events]),
        "fd": (pa.int64(), [integer(event.data.get("fd")) for event in events]),
        "syscall": (pa.string(), [text(event.data.get("syscall")) for event in events]),
        "place": (pa.string(), [place(event.data.get("stack")) for event in events]),
        "idle_reason": (pa.string(), [text(event.data.get("idle_reason")) for event in events]),
        "data": (pa.string(), [dump(event.data).decode() for event in events]),
        **_parties(events),
    }
    return table(columns)


def _parties(events: Sequence[Event]) -> dict[str, tuple[Any, list[Any]]]:
    """What a park was on, who had that, and who ended it."""
    import pyarrow as pa

    resources = [_object(event.data.get("resource")) for event in events]
    holders = [_object(event.data.get("holder")) for event in events]
    wakers = [_object(event.data.get("waker")) for event in events]
    return {
        "resource": (pa.string(), [resource_text(one) for one in resources]),
        "resource_type": (pa.string(), [text(one.get("type")) for one in resources]),
        "resource_address": (pa.string(), [text(one.get("address")) for one in resources]),
        "holder": (pa.string(), [thread_text(one) for one in holders]),
        "holder_tid": (pa.int64(), [integer(one.get("tid")) for one in holders]),
        "holder_how": (pa.string(), [text(one.get("how")) for one in holders]),
        "holder_does": (pa.string(), [text(one.get("does")) for one in holders]),
        "holder_place": (pa.string(), [place(one.get("stack")) for one in holders]),
        "waker": (pa.string(), [_waker(one) for one in wakers]),
        "waker_name": (pa.string(), [text(one.get("thread_name")) for one in wakers]),
        "waker_why": (pa.string(), [text(one.get("why")) for one in wakers]),
        "waker_place": (pa.string(), [place(one.get("stack")) for one in wakers]),
    }


def chain_table(events: Sequence[Event]) -> pa.Table:
    """One row per thread of the chain of a long park.

    ``park_id``, ``link`` from 1 on, ``tid``, ``thread_name``, ``how``, ``does``,
    ``waits_for``, ``place``.
    """
    import pyarrow as pa

    links = [
        (event.data, n, link)
        for event in events
        if event.event == "park_long"
        for n, link in enumerate(_links(event), start=1)
    ]
    return table(
        {
            "park_id": (pa.int64(), [integer(data.get("park_id")) for data, _, _ in links]),
            "link": (pa.int64(), [n for _, n, _ in links]),
            "tid": (pa.int64(), [integer(link.get("tid")) for _, _, link in links]),
            "thread_name": (pa.string(), [text(link.get("thread_name")) for _, _, link in links]),
            "how": (pa.string(), [text(link.get("how")) for _, _, link in links]),
            "does": (pa.string(), [text(link.get("does")) for _, _, link in links]),
            "waits_for": (
                pa.string(),
                [resource_text(_object(link.get("waits_on"))) for _, _, link in links],
            ),
            "place": (pa.string(), [place(link.get("stack")) for _, _, link in links]),
        }
    )


def cycle_table(events: Sequence[Event]) -> pa.Table:
    """One row per thread of a deadlock.

    ``deadlock`` from 1 on, ``ts_ns``, ``pid``, ``since_ns``, ``knot``, ``member`` from 1
    on, ``tid``, ``thread_name``, ``waits_for``, ``held_by`` (a tid), ``park_id``, ``place``.
    """
    import pyarrow as pa

    said = [event for event in events if event.event == "deadlock"]
    members = [
        (number, event, n, member)
        for number, event in enumerate(said, start=1)
        for n, member in enumerate(_objects(event.data.get("cycle")), start=1)
    ]
    own: dict[str, tuple[pa.DataType, list[Any]]] = {
        "deadlock": (pa.int64(), [number for number, _, _, _ in members]),
        "ts_ns": (pa.uint64(), [event.ts_ns for _, event, _, _ in members]),
        "pid": (pa.uint32(), [event.pid for _, event, _, _ in members]),
        "since_ns": (pa.int64(), [integer(e.data.get("since_ns")) for _, e, _, _ in members]),
        "knot": (pa.bool_(), [event.data.get("knot") is True for _, event, _, _ in members]),
        "member": (pa.int64(), [n for _, _, n, _ in members]),
        "waits_for": (
            pa.string(),
            [resource_text(_object(one.get("waits_on"))) for _, _, _, one in members],
        ),
        "thread_name": (pa.string(), [text(one.get("thread_name")) for _, _, _, one in members]),
        "place": (pa.string(), [place(one.get("stack")) for _, _, _, one in members]),
    }
    for name in ("tid", "held_by", "park_id"):
        own[name] = (pa.int64(), [integer(one.get(name)) for _, _, _, one in members])
    return table(own)


def _links(event: Event) -> Iterator[dict[str, Any]]:
    """The chain of a park, or its holder alone."""
    chain = _objects(event.data.get("chain"))
    holder = _object(event.data.get("holder"))
    yield from chain or ([holder] if holder else [])


def table(columns: dict[str, tuple[Any, list[Any]]]) -> pa.Table:
    """An Arrow table of columns, each with its type and its values."""
    import pyarrow as pa

    return pa.table({name: pa.array(values, kind) for name, (kind, values) in columns.items()})


def integer(value: Any) -> int | None:
    """A JSON integer that fits a BIGINT, else None."""
    return value if type(value) is int and -MAX_INT <= value <= MAX_INT else None


def text(value: Any) -> str | None:
    """Text that Arrow takes, None for anything else."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else None


def resource_text(resource: dict[str, Any]) -> str | None:
    """Name or address of what was waited for."""
    return text(resource.get("name")) or text(resource.get("address"))


def thread_text(party: dict[str, Any]) -> str | None:
    """Name of a thread, else its number."""
    tid = integer(party.get("tid"))
    return text(party.get("thread_name")) or (None if tid is None else str(tid))


def place(stack: Any) -> str | None:
    """The innermost call of a stack: ``function (file:line)``."""
    if not isinstance(stack, list) or not stack or not isinstance(stack[0], dict):
        return None
    innermost = stack[0]
    function, file = text(innermost.get("function")), text(innermost.get("file"))
    line = integer(innermost.get("line"))
    return f"{function} ({file}{'' if line is None else f':{line}'})"


def _waker(waker: dict[str, Any]) -> str | None:
    """``pid/tid`` of an event's waker."""
    pid, tid = integer(waker.get("pid")), integer(waker.get("tid"))
    return None if tid is None else f"{pid}/{tid}"


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _objects(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
