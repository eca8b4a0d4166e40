"""A scripted target as data: the TOML files of ``mock_scenarios/`` and their meaning.

Times are milliseconds from the moment of the attach, which may be fractions, and
negative for what happened before. ``expect`` is the truth, written by hand: the
parks over 200 ms that a tracer has to find.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal

import msgspec

from collector.context import Frame, Resource
from probes.errors import UsageError
from probes.kinds import FUTEX
from probes.wire import Kind, MapCounter, MapMode, MapOutcome, WaitClass

SCENARIO_DIR = Path(__file__).parent / "mock_scenarios"
LONG_AGO_MS = -600_000.0
DEFAULT_PID = 4000

ParkKind = Literal["lock", "gil", "io", "sleep", "child", "map", "other"]


class _Data(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of a scenario file; an unknown key is an error."""


class CodeLine(_Data, frozen=True):
    """One Python call, as ``collector.context.Frame``."""

    function: str
    file: str
    line: int | None = None
    module: str | None = None

    def frame(self) -> Frame:
        """The same for the collector."""
        return Frame(module=self.module, function=self.function, file=self.file, line=self.line)


class Thread(_Data, frozen=True):
    """One thread of the target. A ``start_ms`` from 0 on makes a THREAD_START record.

    ``python`` of false: a native thread, which no interpreter knows. ``copies``
    makes that many threads with consecutive tids; ``{n}`` in the name counts them.
    """

    tid: int
    name: str | None = None
    pid: int = DEFAULT_PID
    python: bool = True
    frames: tuple[CodeLine, ...] = ()
    start_ms: float = LONG_AGO_MS
    exit_ms: float | None = None
    copies: int = 1


class Weaker(_Data, frozen=True):
    """A thread that may have what is waited for, and what speaks for it."""

    thread: str
    how: str


class Blamed(_Data, frozen=True):
    """What a reader of the target's memory finds out of a wait (``collector.context.Blame``).

    ``needs`` is by default the holder. With ``named_after_ms`` the name is found so
    long after the park was looked at.
    """

    type: str
    name: str | None = None
    address: int = 0
    holder: str | None = None
    how: str = "with"
    candidates: tuple[Weaker, ...] = ()
    needs: tuple[str, ...] | None = None
    timed: bool | None = False
    named_after_ms: float | None = None

    @property
    def resource(self) -> Resource:
        """What is waited for, with its name."""
        return Resource(self.type, self.name, self.address)

    @property
    def needed(self) -> tuple[str, ...] | None:
        """The threads of which one has to act, by their keys."""
        if self.needs is None and self.holder is not None:
            return (self.holder,)
        return self.needs

    def threads(self) -> set[str]:
        """All threads that it names."""
        named = {weaker.thread for weaker in self.candidates} | set(self.needs or ())
        return named if self.holder is None else named | {self.holder}


class NativeMap(_Data, frozen=True):
    """A native map: an object at ``address``, of class ``type``."""

    address: int
    name: str | None = None
    type: str = "ConcurrentMap"
    profile: str = "concurrent_map"
    pid: int = DEFAULT_PID


class MapCount(_Data, frozen=True):
    """What the kernel has counted of a native map, read at ``at_ms``; ``bucket`` in log2 ns."""

    map: str
    at_ms: float
    counter: str
    count: int
    mode: str = "weak"
    outcome: str = "complete"
    bucket: int | None = None
    items: int = 0


class Wait(_Data, frozen=True):
    """One logical wait. Without ``until_ms`` it never ends.

    ``map`` and ``shard``: a wait for a shard of that native map, which its probes see.

    ``waker`` names the thread that ends it; without one a timer does. ``gil``: the
    wait consists of slices of 5 ms. ``probed``: a lock's slow path, which the slow
    path probes see where the scenario has them armed.
    """

    thread: str
    at_ms: float
    until_ms: float | None = None
    syscall: int = FUTEX
    arg0: int = 0
    arg1: int = 0
    gil: bool = False
    probed: bool = True
    timed_out: bool = False
    waker: str | None = None
    map: str | None = None
    shard: int | None = None
    frames: tuple[CodeLine, ...] = ()
    blame: Blamed | None = None

    @property
    def wait_class(self) -> WaitClass:
        """What a probe says that it is."""
        if self.gil:
            return WaitClass.GIL
        return WaitClass.LOCK if self.map is None else WaitClass.MAP


class Burst(_Data, frozen=True):
    """``count`` allocations over 4 KiB by one thread, ``every_us`` apart."""

    thread: str
    at_ms: float
    size_bytes: int
    count: int = 1
    every_us: float = 10.0
    api: Literal["malloc", "calloc", "realloc"] = "malloc"


class Refill(_Data, frozen=True):
    """Pool refills that the kernel has counted, read at ``at_ms``."""

    thread: str
    at_ms: float
    size_bytes: int
    count: int


class ShortWaits(_Data, frozen=True):
    """Waits under ``--min-park`` that the kernel has counted in one bucket (log2 ns)."""

    thread: str
    at_ms: float
    bucket: int
    count: int
    wait_class: Literal["lock", "gil", "map"] = "lock"


class Loss(_Data, frozen=True):
    """Records that were lost in the kernel, besides those that the ring has no room for."""

    at_ms: float
    kind: str
    count: int


class Life(_Data, frozen=True):
    """Something that happens to a process."""

    at_ms: float
    what: Literal["proc_fork", "proc_exec", "proc_exit"]
    pid: int = DEFAULT_PID
    child_pid: int = 0
    exit_code: int = 0
    comm: str = "python3"


class Fact(_Data, frozen=True):
    """An event of the source itself: the governor, a probe that failed."""

    at_ms: float
    event: Literal["governor", "probe_failed"]
    data: dict[str, Any] = {}


class Expected(_Data, frozen=True):
    """A park that has to be found. Without ``duration_ms`` it never ends."""

    thread: str
    kind: ParkKind
    start_ms: float
    duration_ms: float | None = None
    end: Literal["open", "woken", "timed_out", "exited", "lost"] = "woken"
    before_attach: bool = False
    start_slack_ms: float = 0.0
    duration_slack_ms: float = 0.0


class Deadlocked(_Data, frozen=True):
    """A deadlock that has to be found, and when the last wait in it begins."""

    threads: tuple[str, ...]
    since_ms: float
    knot: bool = False


class Scenario(_Data, frozen=True):
    """One file. ``long_park_ms`` is what the scans are planned for; the detector has its own.

    ``handlers``: the target has signal handlers besides the one for SIGINT.
    ``deadlock`` lists, in order, the threads of each deadlock that has to be found.
    """

    summary: str
    duration_ms: float
    threads: dict[str, Thread]
    name: str = ""
    seed: int = 1
    slow_path: bool = False
    long_park_ms: int = 200
    ring_bytes: int = 8 << 20
    handlers: bool = False
    wait: tuple[Wait, ...] = ()
    alloc: tuple[Burst, ...] = ()
    refill: tuple[Refill, ...] = ()
    short_waits: tuple[ShortWaits, ...] = ()
    maps: dict[str, NativeMap] = {}
    map_count: tuple[MapCount, ...] = ()
    loss: tuple[Loss, ...] = ()
    life: tuple[Life, ...] = ()
    fact: tuple[Fact, ...] = ()
    expect: tuple[Expected, ...] = ()
    deadlock: tuple[Deadlocked, ...] = ()


def names() -> tuple[str, ...]:
    """The scenarios that come with Parkscope."""
    return tuple(sorted(path.stem for path in SCENARIO_DIR.glob("*.toml")))


def load(name: str | Path) -> Scenario:
    """A scenario by its name, or from a TOML file of one's own.

    Raises UsageError, which names the key, when there is none or it is wrong.
    """
    path = Path(name)
    if path.suffix != ".toml":
        path = SCENARIO_DIR / f"{name}.toml"
        if str(name) not in names():
            raise UsageError(f"no scenario '{name}'", hint=f"There are: {', '.join(names())}.")
    try:
        data = tomllib.loads(path.read_text("utf-8"))
        scenario = msgspec.convert(data, Scenario)
    except OSError as error:
        raise UsageError(f"cannot read scenario {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"scenario {path}: {error}", hint="Correct the file.") from error
    scenario = _expanded(msgspec.structs.replace(scenario, name=path.stem))
    _check(scenario, path)
    return scenario


def _expanded(scenario: Scenario) -> Scenario:
    """Copies of threads, and of the waits of such threads, written out."""
    threads: dict[str, Thread] = {}
    copies: dict[str, list[str]] = {}
    for key, thread in scenario.threads.items():
        if thread.copies == 1:
            threads[key], copies[key] = thread, [key]
            continue
        copies[key] = [f"{key}-{n}" for n in range(thread.copies)]
        for n, copy in enumerate(copies[key]):
            name = None if thread.name is None else thread.name.replace("{n}", str(n))
            threads[copy] = msgspec.structs.replace(thread, tid=thread.tid + n, name=name, copies=1)
    waits = [
        msgspec.structs.replace(wait, thread=copy)
        for wait in scenario.wait
        for copy in copies.get(wait.thread, [wait.thread])
    ]
    return msgspec.structs.replace(scenario, threads=threads, wait=tuple(waits))


def _check(scenario: Scenario, path: Path) -> None:
    """Whatever types cannot say."""
    wrong = _unknown_thread(scenario)
    for wait in scenario.wait:
        if wait.until_ms is not None and wait.until_ms <= wait.at_ms:
            wrong = f"a wait of '{wait.thread}' ends before it begins"
    for loss in scenario.loss:
        if loss.kind.upper() not in Kind.__members__:
            wrong = f"no record kind '{loss.kind}'"
    wrong = _wrong_maps(scenario) or wrong
    if scenario.long_park_ms <= 0 or scenario.duration_ms <= 0 or scenario.ring_bytes < 0:
        wrong = "long_park_ms and duration_ms have to be positive, ring_bytes not negative"
    if wrong is not None:
        raise UsageError(f"scenario {path}: {wrong}", hint="Correct the file.")


def _wrong_maps(scenario: Scenario) -> str | None:
    """What to say of a map that is named and is not there, or of what cannot be counted."""
    named = {count.map for count in scenario.map_count}
    named |= {wait.map for wait in scenario.wait if wait.map is not None}
    for key in sorted(named - scenario.maps.keys()):
        return f"no map '{key}'"
    for count in scenario.map_count:
        for word, names in (
            (count.counter, MapCounter),
            (count.mode, MapMode),
            (count.outcome, MapOutcome),
        ):
            if word.upper() not in names.__members__:
                return f"'{word}' is none of {', '.join(names.__members__).lower()}"
    return None


def _unknown_thread(scenario: Scenario) -> str | None:
    """What to say of a thread that is named and is not there."""
    entries: list[Wait | Burst | Refill | ShortWaits | Expected]
    entries = [*scenario.wait, *scenario.alloc, *scenario.refill]
    entries += [*scenario.short_waits, *scenario.expect]
    named = {entry.thread for entry in entries}
    named |= {wait.waker for wait in scenario.wait if wait.waker is not None}
    named |= {key for deadlock in scenario.deadlock for key in deadlock.threads}
    named = named.union(*(w.blame.threads() for w in scenario.wait if w.blame is not None))
    for key in sorted(named - scenario.threads.keys()):
        return f"no thread '{key}'"
    return None
