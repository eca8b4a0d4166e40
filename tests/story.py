"""The whole story on the native map, by the command line: from the park to the replay.

Each chapter returns what is wrong with it, as the target's own log has it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from collector.events import Event
from collector.trace.reader import TraceReader
from examples.scenarios import TRUTH_LOG, every_scenario
from tests.interpreters import Interpreter, launch
from tests.native_maps import built
from tests.observe import TrueWait, read_truth
from tests.processes import read_line, started, wait_ready, wait_until
from tests.terminals import Tmux

ROOT = Path(__file__).resolve().parents[1]
PARKSCOPE = (sys.executable, "-m", "tracer.cli")
SCENARIO = every_scenario()["shard_convoy"]
LONG_NS = 200_000_000
SLACK_NS = 10_000_000

Row = dict[str, Any]


@dataclass
class Story:
    """One run that has been told to its end. ``live`` is the screen with a waiter on it."""

    directory: Path
    pid: int
    truth: list[TrueWait]
    live: str = ""
    dumps: list[Path] = field(default_factory=list)

    @property
    def trace(self) -> Path:
        """What was recorded."""
        return self.directory / "story.pks"

    def events(self, *names: str) -> list[Event]:
        """Recorded events."""
        with TraceReader(self.trace) as reader:
            every = [event for frame in reader.frames() for event in frame.events]
        return [event for event in every if event.event in names]

    def waits(self) -> list[TrueWait]:
        """The long waits for the shard, by the target itself, but for those at the threshold."""
        return [
            wait
            for wait in self.truth
            if wait.kind == "map" and (wait.end_ns or 0) - wait.start_ns > LONG_NS + SLACK_NS
        ]


WITHOUT_RIGHTS = ("setpriv", "--bounding-set", "-all", "--inh-caps", "-all", "--no-new-privs")


def say(*arguments: str | Path, rights: bool = True) -> list[Row]:
    """Have parkscope say something as JSON lines; without ``rights`` root can do nothing either."""
    before = () if rights else WITHOUT_RIGHTS
    done = subprocess.run(
        [*before, *PARKSCOPE, *map(str, arguments)], cwd=ROOT, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return [json.loads(line) for line in done.stdout.splitlines()]


@contextmanager
def _scenario(
    interpreter: Interpreter, package: Path, directory: Path
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    for file in (TRUTH_LOG, SCENARIO.path):
        shutil.copy(file, directory)
    log = directory / "truth.jsonl"
    arguments = ["--log", str(log), "--seconds", "5", "--start-after-stdin"]
    process = launch(
        interpreter,
        directory / SCENARIO.path.name,
        arguments,
        env={**os.environ, "PYTHONPATH": str(package)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with started(process):
        wait_ready(process)
        yield process, log


@contextmanager
def _recording(pid: int, directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """``record`` with a dump for a park on a map, once it is attached."""
    words = ["record", str(pid), "--backend", "bcc", "-o", str(directory / "story.pks")]
    words += ["--no-dump", "--on", 'park > 200ms and kind == "map"', "--do", "heap-dump"]
    process = subprocess.Popen(
        [*PARKSCOPE, *words],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    with started(process):
        said = read_line(process, 30)
        assert "recording to" in said, said
        yield process


def tell(interpreter: Interpreter, directory: Path) -> Story | None:
    """Let it happen; None where the map cannot be built for this interpreter."""
    package = built(directory, interpreter)
    if package is None:
        return None
    with _scenario(interpreter, package, directory) as (process, log):
        pid = process.pid
        live = Tmux(160, 30, f"cd {ROOT} && {' '.join(PARKSCOPE)} live {pid} --backend bcc")
        try:
            with _recording(pid, directory) as recorder:
                live.shows(f"parkscope +{pid}")
                assert process.stdin is not None
                process.stdin.write(b"begin\n")
                process.stdin.close()
                screen = live.shows(WAITS_IN_LIVE)
                wait_until(lambda: process.poll() is not None, "the scenario's end", 30)
                said = recorder.communicate(timeout=30)[0].decode()
                assert recorder.returncode == 0, said
        finally:
            live.close()
        dumps = sorted(directory.glob("*.heap"))
        return Story(directory, pid, read_truth(log), screen, dumps)


WAITS_IN_LIVE = (
    r"server-\d +\d+ +[\d.]+ m?s +shard \d of ConcurrentMap sess\S* +cleaner +"
    r"shard_convoy\.py:\d+ serve"
)


def flagged(story: Story) -> list[str]:
    """Each long wait was flagged while it lasted, with map, shard, holder and lines."""
    said = [event for event in story.events("park_long") if event.kind == "map"]
    wrong = []
    for wait in story.waits():
        of_it = [
            event
            for event in said
            if event.tid == wait.tid and abs((event.start_ns or 0) - wait.start_ns) < SLACK_NS
        ]
        wrong += [f"{len(of_it)} alarms for the wait of {wait.thread}"] if len(of_it) != 1 else []
        for event in of_it:
            wrong += [f"{wait.thread}: {fault}" for fault in _faults(event, wait)]
    true = {(wait.tid, wait.start_ns // SLACK_NS) for wait in story.truth if wait.kind == "map"}
    near = {(tid, at + step) for tid, at in true for step in (-1, 0, 1)}
    wrong += [
        f"invented: {event.thread_name}"
        for event in said
        if (event.tid, (event.start_ns or 0) // SLACK_NS) not in near
    ]
    # A holder that goes on just while it is read has no stack that can be said.
    known = [event for event in said if (event.data["holder"] or {}).get("stack")]
    if not story.waits() or len(known) < 0.75 * len(said):
        wrong.append(f"{len(said)} long waits, the holder's lines are known in {len(known)}")
    return wrong


def _goes_through(stack: list[Row]) -> bool:
    return "go_through" in [frame["function"] for frame in stack]


def _faults(event: Event, wait: TrueWait) -> Iterator[str]:
    if not event.ts_ns < (wait.end_ns or 0):
        yield "flagged when it was over"
    if event.data["map"] != "sessions" or f"shard {event.data['shard']}" != wait.what:
        yield f"map {event.data['map']} shard {event.data['shard']}, not {wait.what}"
    place = event.data["stack"][0]
    if (place["function"], place["line"]) != (wait.function, (wait.line or 0) + 1):
        yield f"at {place['function']}:{place['line']}"
    holder = event.data["holder"]
    if holder is None or holder["tid"] != wait.holder:
        yield f"held by {holder}"
    elif holder["stack"] is not None and not _goes_through(holder["stack"]):
        yield f"the holder is at {holder['stack'][0]}"


def dumped(story: Story) -> list[str]:
    """One dump, of the moment, in which the map and the holder's lock are found."""
    (row,) = say("analyze", story.trace, "--view", "dumps", "--json")
    if [Path(row["path"])] != story.dumps:
        return [f"{row['path']} is said, there are {story.dumps}"]
    (park,) = [e for e in story.events("park_long") if e.data["park_id"] == row["park_id"]]
    wrong = [] if row["park_still_on"] is True else [f"the park was {row}"]
    (the_map,) = say("heap", "path", row["path"], "ConcurrentMap", "--json")
    if the_map["address"] != park.data["resource"]["address"]:
        wrong.append(f"the map is at {the_map['address']}, the park at {park.data['resource']}")
    guards = say("heap", "path", row["path"], "Exclusive", "--json")
    if not [g for g in guards if re.match(r"\(thread cleaner\) \w+:\d+ shard$", g["name"])]:
        wrong.append(f"the lock is held by {guards}")
    return wrong


def analysed(story: Story) -> list[str]:
    """The views say of the trace what the target says of itself."""
    waits = [wait for wait in story.waits() if wait.end_ns is not None]
    (row,) = say("analyze", story.trace, "--view", "maps", "--json")
    wrong = []
    if (row["name"], row["held_by"]) != ("sessions", "cleaner"):
        wrong.append(f"maps: {row['name']} held by {row['held_by']}")
    longest_ms = max((wait.end_ns or 0) - wait.start_ns for wait in waits) / 1e6
    if abs(row["longest_ms"] - longest_ms) > SLACK_NS / 1e6:
        wrong.append(f"maps: longest {row['longest_ms']}, not {longest_ms}")
    holders = say("analyze", story.trace, "--view", "holders", "--json")
    of_map = [one for one in holders if one["name"] == "sessions"]
    if [(one["tid"], one["waiters"]) for one in of_map] != [
        (waits[0].holder, len({wait.tid for wait in waits}))
    ]:
        wrong.append(f"holders: {of_map}")
    return wrong


TOLD = ("park_long", "park_end", "resource_named", "action", "trigger", "native_map")


def replayed(story: Story) -> list[str]:
    """The trace through the mock backend says the same again, to one without any rights."""
    rows = say("replay", story.trace, "--json", rights=False)
    again = [_same(row) for row in rows if row["event"] in TOLD]
    first = [_same(event.to_dict()) for event in story.events(*TOLD)]
    missing = [row for row in first if row not in again]
    more_of = [row for row in again if row not in first]
    wrong = [f"not said again: {row}"[:600] for row in missing[:3]]
    wrong += [f"said anew: {row}"[:600] for row in more_of[:3]]
    return wrong + ([] if again else ["nothing was said"])


def _same(row: Row) -> Row:
    """But for the moment of its being said: a replay is told of a batch's records at its end."""
    plain: Row = json.loads(json.dumps(row))
    moment = ["ts_ns", "schema", *(["duration_ns"] if row["event"] == "park_long" else [])]
    return {key: value for key, value in plain.items() if key not in moment}


CHAPTERS: Sequence[tuple[str, Callable[[Story], list[str]]]] = (
    ("flagged while it lasts: map, shard, holder, lines", flagged),
    ("dumped: the map and the lock are in it", dumped),
    ("analysed offline", analysed),
    ("replayed by the mock backend: nothing is otherwise", replayed),
)
