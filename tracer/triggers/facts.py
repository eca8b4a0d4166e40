"""What a condition may speak of: topics (events) and facts, as two tables.

**To add an event:** a line in ``TOPICS`` and lines in ``FACTS``. Nothing else: the parser,
its messages, the documentation (``parkscope triggers``) and the engine go by these tables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Any

from collector.events import Event


class Type(Enum):
    """What kind of value a fact is, and how its literals are written."""

    DURATION = "a duration such as 200ms (ns us ms s m)"
    SIZE = "a size such as 500MB (B kB MB GB, KiB MiB GiB)"
    COUNT = "a number"
    TEXT = 'a text in quotes, such as "lock"'
    TRUTH = "true or false"


@dataclass(frozen=True, slots=True)
class Moment:
    """What a condition is held against: an event of a topic as it stands now.

    ``duration_ns``: of the park so far. ``event`` is None when only the process is looked
    at. ``gauges``: figures of the process ``pid`` as last read, missing where unknown.
    """

    topic: str
    pid: int | None
    now_ns: int
    event: Event | None = None
    duration_ns: int = 0
    gauges: Mapping[str, int] = field(default_factory=dict)

    def data(self, key: str) -> Any:
        """An own key of the event; None without one."""
        return None if self.event is None else self.event.data.get(key)


@dataclass(frozen=True, slots=True)
class Topic:
    """A sort of event that a condition may be about.

    ``event``: the name of the event that tells it; ``when``: which of those count.
    """

    name: str
    event: str
    about: str
    when: Callable[[Event], bool] = lambda _event: True


@dataclass(frozen=True, slots=True)
class Fact:
    """A word of the language. ``topics`` are those that it can be said of; none: of all."""

    name: str
    type: Type
    topics: tuple[str, ...]
    about: str
    value: Callable[[Moment], Any]


SAMPLE = "process"
"""The topic of a condition that speaks of nothing but gauges."""

_LOOP_CALL = ("asyncio.events", "Handle._run")


def blocks_a_loop(event: Event) -> bool:
    """Whether a park is one of a thread inside a callback of asyncio's own event loop.

    That is: ``asyncio.events:Handle._run`` is among its frames, so it does not stand in the
    loop's selector, where a loop waits by design.
    """
    frames = event.data.get("stack") or ()
    return any((frame["module"], frame["function"]) == _LOOP_CALL for frame in frames)


_TOPICS = (
    Topic("park", "park_long", "a thread is parked for longer than --long-park"),
    Topic(
        "loop_stall", "park_long", "a callback or task of an asyncio loop parks the loop's thread",
        blocks_a_loop,
    ),
    Topic("deadlock", "deadlock", "threads that wait for one another for ever"),
    Topic("data_loss", "data_loss", "records were lost"),
    Topic("governor", "governor", "Parkscope gave up or took back a probe"),
    Topic(SAMPLE, "", "the process itself, looked at once a second"),
)  # fmt: skip

TOPICS: Mapping[str, Topic] = MappingProxyType({topic.name: topic for topic in _TOPICS})
PARKS = ("park", "loop_stall")


def _event(key: str) -> Callable[[Moment], Any]:
    return lambda moment: None if moment.event is None else getattr(moment.event, key)


def _data(key: str) -> Callable[[Moment], Any]:
    return lambda moment: moment.data(key)


def _inside(key: str, inner: str) -> Callable[[Moment], Any]:
    """A key of an object among the event's keys, null where there is no such object."""

    def value(moment: Moment) -> Any:
        found = moment.data(key)
        return found.get(inner) if isinstance(found, Mapping) else None

    return value


def _frame(key: str) -> Callable[[Moment], Any]:
    """Of the innermost frame."""

    def value(moment: Moment) -> Any:
        stack = moment.data("stack")
        return stack[0].get(key) if stack else None

    return value


def _gauge(key: str) -> Callable[[Moment], Any]:
    return lambda moment: moment.gauges.get(key)


def _duration(moment: Moment) -> int:
    return moment.duration_ns


def _here(moment: Moment) -> bool:
    return moment.event is not None


D, S, C, T, B = Type.DURATION, Type.SIZE, Type.COUNT, Type.TEXT, Type.TRUTH

_FACTS = (
    Fact("park", D, ("park",), "how long the thread has been parked", _duration),
    Fact("loop_stall", D, ("loop_stall",), "how long the loop has stood still", _duration),
    Fact("kind", T, PARKS, "lock, gil, io, sleep, child, map or other", _event("kind")),
    Fact("thread_name", T, PARKS, "threading.Thread.name", _event("thread_name")),
    Fact("idle", B, PARKS, "it waits there by design; without this word never idle parks",
         _event("idle")),
    Fact("before_attach", B, PARKS, "it had begun before the attach", _event("before_attach")),
    Fact("lock", T, PARKS, "name of what it waits for", _inside("resource", "name")),
    Fact("lock_type", T, PARKS, "Lock, RLock, Condition, Queue, Thread, GIL, …",
         _inside("resource", "type")),
    Fact("holder", T, PARKS, "name of the thread that has it", _inside("holder", "thread_name")),
    Fact("syscall", T, PARKS, "the system call that it is in", _data("syscall")),
    Fact("function", T, PARKS, "innermost frame", _frame("function")),
    Fact("file", T, PARKS, "innermost frame", _frame("file")),
    Fact("line", C, PARKS, "innermost frame", _frame("line")),
    Fact("module", T, PARKS, "innermost frame", _frame("module")),
    Fact("deadlock", B, ("deadlock",), "true: there is one", _here),
    Fact("knot", B, ("deadlock",), "it is a knot, not a plain cycle", _data("knot")),
    Fact("members", C, ("deadlock",), "how many threads are in it",
         lambda moment: len(moment.data("cycle") or ())),
    Fact("data_loss", C, ("data_loss",), "how many records were lost", _data("count")),
    Fact("where", T, ("data_loss",), "where they were lost", _data("where")),
    Fact("governor", T, ("governor",), "shed, trial, restored, slowed, …", _data("action")),
    Fact("probe", T, ("governor",), "the probe that it is about", _data("probe")),
    Fact("rss", S, (), "resident memory of the process", _gauge("rss")),
    Fact("threads", C, (), "threads of the process", _gauge("threads")),
)  # fmt: skip

FACTS: Mapping[str, Fact] = MappingProxyType({fact.name: fact for fact in _FACTS})


def facts_of(moment: Moment) -> dict[str, Any]:
    """All facts that can be said of a moment, for those who are told of it."""
    return {
        fact.name: fact.value(moment)
        for fact in _FACTS
        if not fact.topics or moment.topic in fact.topics
    }
