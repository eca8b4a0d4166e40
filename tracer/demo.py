"""``parkscope demo``: a small program that misbehaves on purpose, and what is seen of it."""

from __future__ import annotations

import importlib.util
import shlex
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from collector.counters import Counters
from collector.events import Event
from probes.errors import BackendUnavailable, InternalError, UsageError
from tracer import units
from tracer.escape import terminal
from tracer.human import Style, line
from tracer.session import SessionOptions
from tracer.triggers.setup import TriggerOptions
from tracer.watch import Output, event_sink, run, say

DEFAULT = "deadlock"
SECONDS = 5
_SESSION_NS = 5_500_000_000


@dataclass(frozen=True, slots=True)
class Demo:
    """A scenario that is shipped with Parkscope. ``kinds``: of the long parks that it makes.

    ``needs``: a package that it imports, None if the standard library will do.
    """

    name: str
    summary: str
    program: Path
    kinds: tuple[str, ...]
    needs: str | None = None


def demos() -> dict[str, Demo]:
    """The shipped scenarios by name (examples/scenarios/scenarios.toml)."""
    spec = importlib.util.find_spec("examples")
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    if not places:
        raise BackendUnavailable("the scenarios of the demo are not installed", hint="")
    folder = Path(places[0]) / "scenarios"
    table = tomllib.loads((folder / "scenarios.toml").read_text("utf-8"))
    return {
        name: Demo(
            name,
            entry["summary"],
            folder / f"{name}.py",
            tuple(entry["kinds"]),
            entry.get("needs"),
        )
        for name, entry in table.items()
    }


def list_demos() -> None:
    """Say which scenarios there are."""
    for demo in demos().values():
        say(f"{demo.name:<18}  {demo.summary}")


def run_demo(name: str | None, backend: str, trace: Path | None, *, dump: bool = True) -> int:
    """Run scenario ``name``, attach, record; 0 if it was seen as it should be."""
    demo = _find(name or DEFAULT)
    if trace is None:
        trace = Path(tempfile.mkdtemp(prefix="parkscope-demo-")) / f"{demo.name}.pks"
    say(f"Scenario {demo.name}: {demo.summary}.")
    with _started(demo) as pid:
        say(f"It runs as process {pid}; attaching …\n")
        triggers = TriggerOptions(dump=dump, stem=trace.with_suffix(""))
        options = SessionOptions(
            pids=(pid,), backend=backend, duration_ns=_SESSION_NS, triggers=triggers
        )
        seen = _Seen()
        output = Output(quiet=True, trace=trace)
        code, _ = run(options, output, [event_sink(options, output, sys.stdout), seen])
    if code:
        return code
    _summarise(demo, seen, trace)
    return 0 if bool(seen.flagged) == bool(demo.kinds) else 1


def _find(name: str) -> Demo:
    known = demos()
    if name not in known:
        raise UsageError(f"no scenario {name!r}", hint=f"There are: {', '.join(known)}.")
    demo = known[name]
    if demo.needs is not None and importlib.util.find_spec(demo.needs) is None:
        raise BackendUnavailable(
            f"the scenario {name} needs the package {demo.needs}",
            hint=f"Run './run demo {name}', or: pip install ./examples/{demo.needs}",
        )
    return demo


@contextmanager
def _started(demo: Demo) -> Iterator[int]:
    """The scenario's process once it has said that it is ready; ended at the end."""
    command = [sys.executable, str(demo.program), "--seconds", str(SECONDS)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    try:
        if process.stdout is None or process.stdout.readline().strip() != b"ready":
            raise InternalError(f"the scenario {demo.name} did not start")
        yield process.pid
    finally:
        process.kill()
        process.communicate()


def _summarise(demo: Demo, seen: _Seen, trace: Path) -> None:
    say("")
    if seen.flagged:
        count = units.plural(len(seen.flagged), "long park")
        say(f"Flagged {count} while they still lasted, the first of each kind:")
        for event in sorted(seen.first_of_kind(), key=lambda event: event.kind == "sleep"):
            say(f"  {line(event, Style())}")
    elif demo.kinds:
        say("No long park was flagged: this should not be. See 'parkscope doctor'.")
    else:
        say(f"Nothing to flag, as it should be: {seen.idle} idle parks, all of them by design.")
    for dumped in seen.dumps:
        path = terminal(shlex.quote(dumped))
        say(f"\nIts heap at that moment: parkscope heap top {path}")
    path = terminal(shlex.quote(str(trace)))
    say(f"\nEverything was recorded to {path}. Look at it with\n")
    for command in ("analyze {}", "analyze {} --view parks", "replay {}"):
        say(f"  parkscope {command.format(path)}")
    say("\nYour own process: 'parkscope doctor' lists them, 'parkscope attach PID' attaches.")


class _Seen:
    """A sink that remembers the alarms."""

    def __init__(self) -> None:
        self.flagged: list[Event] = []
        self.dumps: list[str] = []
        self.idle = 0

    def first_of_kind(self) -> list[Event]:
        """The first alarm of each kind."""
        return list({event.kind: event for event in reversed(self.flagged)}.values())

    def on_events(self, events: Sequence[Event]) -> None:
        """Remember long parks and dumps."""
        acted = [event.data for event in events if event.event == "action"]
        self.dumps += [data["path"] for data in acted if data["status"] == "done"]
        long_parks = [event for event in events if event.event == "park_long"]
        self.flagged += [event for event in long_parks if not event.idle]
        self.idle += sum(bool(event.idle) for event in long_parks)

    def on_records(self, records: npt.NDArray[Any], dropped: dict[int, int], now_ns: int) -> None:
        """Nothing."""

    def on_parks(self, parks: npt.NDArray[Any]) -> None:
        """Nothing."""

    def on_health(self, counters: Counters, now_ns: int) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""
