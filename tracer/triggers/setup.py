"""From what a person asked for to triggers that are ready when the session begins."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from collector.park import Park
from collector.sinks import Sink
from collector.source import SourceInfo
from collector.trace.facts import recording_facts
from probes.errors import UsageError
from tracer import procfs
from tracer.actions import keep
from tracer.triggers.around import Surroundings
from tracer.triggers.config import Rule, check_lengths, command_line_rules, dump_rule, load
from tracer.triggers.engine import Triggers
from tracer.triggers.job import Job
from tracer.triggers.runner import Here, Runner
from tracer.version import VERSION

WARM_S = 3.0
"""How long the begin of a session waits for the worker to be ready for a dump, at most."""
_NAP_S = 0.005


@dataclass(frozen=True, slots=True)
class TriggerOptions:
    """What a person asked for.

    ``on`` are pairs of a condition and an action, ``files`` TOML files of rules. ``dump``:
    a long park takes a heap dump, into ``dump_dir`` (default: beside the trace, else the
    current folder). ``stem``: path without suffix that files are named after, with a number.
    """

    on: tuple[tuple[str, str], ...] = ()
    files: tuple[Path, ...] = ()
    dump: bool = False
    dump_dir: Path | None = None
    stem: Path | None = None

    def rules(self, long_park_ns: int) -> list[Rule]:
        """All the rules. Raises UsageError, PermissionDenied."""
        rules = [dump_rule(self.dump_dir)] if self.dump else []
        rules += command_line_rules(self.on)
        for file in self.files:
            rules += load(file)
        names = [rule.name for rule in rules]
        if doubled := {name for name in names if names.count(name) > 1}:
            raise UsageError(f"two triggers are named {min(doubled)!r}", hint="Rename one.")
        check_lengths(rules, long_park_ns)
        return rules


class Parks(Protocol):
    """Who knows of the parks of a session: its pipeline."""

    def park_of(self, pid: int, tid: int, /) -> Park | None:
        """The park that a thread is in."""

    def known_ns(self, park: Park, /) -> int:
        """Until when an open park is known to have lasted."""


NO_TRIGGERS = TriggerOptions()


class Setup:
    """Rules and a worker that warms up while the session attaches. Raises UsageError."""

    def __init__(
        self, options: TriggerOptions, long_park_ns: int, pids: Sequence[int], ready: bool
    ) -> None:
        """``ready``: the processes run the Python by now that they will."""
        self._options = options
        self._long_park_ns = long_park_ns
        self._rules = options.rules(long_park_ns)
        self._pids = pids if ready else ()
        self._folder = _here(self._rules)
        self._ring: keep.Ring | None = None
        self._facts: Mapping[str, Any] = {}
        asks = [ask for rule in self._rules for ask in rule.asks]
        keeps = [ask.options for ask in asks if ask.action == "keep"]
        if keeps:
            self._ring = keep.Ring(
                max(one["last"] for one in keeps), max(one["memory"] for one in keeps)
            )
        here: dict[str, Here] = {} if self._ring is None else {"keep": self._keep}
        self._actions = sorted({ask.action for ask in asks})
        self._runner = Runner(self._actions, here)
        if self._rules:
            self._runner.start()
            for pid in self._pids:
                self._runner.look_at(pid)

    @property
    def has_rules(self) -> bool:
        """Whether there is anything to watch for."""
        return bool(self._rules)

    @property
    def sinks(self) -> list[Sink]:
        """What has to hear of everything that passes."""
        return [] if self._ring is None else [self._ring]

    def triggers(
        self,
        info: SourceInfo,
        targets: Sequence[int],
        session: Mapping[str, Any],
        parks: Parks,
        source: Any = None,
        note: Callable[[str], None] = lambda _text: None,
    ) -> Triggers | None:
        """The triggers of an armed session; None without a rule.

        ``source`` is told when a dump is taken, if it wants to know (``stopping``).

        Waits for the worker to have looked at the processes if there may be a dump: a park
        may cross at once.
        """
        if not self._rules:
            return None
        self._facts = recording_facts(info, [{"pid": pid} for pid in targets], session, VERSION)
        around = Surroundings(
            park_of=parks.park_of,
            known_ns=parks.known_ns,
            gauges=procfs.figures,
            stem=partial(_stem, self._folder, self._options.stem),
            long_park_ns=self._long_park_ns,
            end_error_ns=info.end_error_ns,
            note=note,
            stopping=getattr(source, "stopping", lambda _pid, _until_ns: None),
        )
        triggers = Triggers(self._rules, self._runner, around)
        until = time.monotonic() + WARM_S
        while "heap-dump" in self._actions and time.monotonic() < until:
            self._runner.take()
            if self._runner.lost or set(self._pids) <= set(self._runner.ready):
                break
            time.sleep(_NAP_S)
        for pid, why in self._runner.ready.items():
            if why is not None and "heap-dump" in self._actions:
                note(f"heap dumps of process {pid} will fail: {why}")
        return triggers

    def close(self) -> None:
        """The session never began."""
        self._runner.close()

    def _keep(self, job: Job) -> Callable[[], dict[str, Any]]:
        if self._ring is None:
            raise UsageError("nothing is remembered", hint="")
        return partial(keep.write, job, self._facts, self._ring.snapshot(job.options["last"]))


def _here(rules: Sequence[Rule]) -> Path:
    """The current folder, as it is now: it may be gone later. Raises UsageError."""
    try:
        return Path.cwd()
    except OSError:
        if any("dir" in ask.options for rule in rules for ask in rule.asks):
            raise UsageError(
                "the current folder is gone, and files would go there", hint="Go to another one."
            ) from None
        return Path("/")


def _stem(folder: Path, stem: Path | None, pid: int | None) -> str:
    """Absolute: the worker runs in another folder."""
    if stem is None:
        stem = Path("parkscope" if pid is None else f"parkscope-{pid}")
    return str(folder / stem)
