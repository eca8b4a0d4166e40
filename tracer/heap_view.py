"""What the ``heap`` commands show: progress bars, the facts of a dump, tables of types."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tracer import units
from tracer.escape import terminal
from tracer.heap.dump import Progress as Told
from tracer.heap.model import HeapType
from tracer.table_view import table_lines

_PHASES: Mapping[str, str] = {
    "look": "looking",
    "copy": "copying memory",
    "walk": "walking objects",
    "name": "naming",
    "write": "writing",
    "read": "reading",
    "references": "references",
    "dominators": "who keeps whom",
    "ways": "ways from roots",
    "compare": "comparing",
    "export": "exporting",
}


@contextmanager
def progress_bars(*, shown: bool) -> Iterator[Told]:
    """Bars on stderr, one for each phase; nothing at all where it is no terminal."""
    if not shown or not sys.stderr.isatty():
        yield lambda _phase, _done, _total: None
        return
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as bars:
        tasks: dict[str, Any] = {}

        def told(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                tasks[phase] = bars.add_task(_PHASES.get(phase, "working"), total=None)
            bars.update(tasks[phase], completed=done, total=total or None)

        yield told


def dump_lines(result: Mapping[str, Any]) -> list[str]:
    """What ``heap dump`` says at the end."""
    objects = units.plural(result["objects"], "object")
    references = units.plural(result["references"], "reference")
    pause, whole = units.duration(result["pause_ns"]), units.duration(result["duration_ns"])
    lines = [
        f"{terminal(result['path'])}: {objects}, {references}, {units.size(result['bytes'])}",
        f"paused {pause} ({result['engine']}), {whole} in all",
        "consistent: " + closure_text(result),
    ]
    return lines + [f"note: {terminal(note)}" for note in result["notes"]]


def closure_text(closure: Mapping[str, Any]) -> str:
    """The proof of consistency in words."""
    share = closure["share"] if "share" in closure else closure["closure"]
    return (
        f"{100 * share:.3f} % of the reference counts are accounted for, "
        f"{units.plural(closure['held'], 'object')} held by C code, "
        f"{units.plural(closure['contradictions'], 'contradiction')}"
    )


def info_lines(facts: Mapping[str, Any]) -> Iterator[str]:
    """What ``heap info`` says."""
    closure = facts["closure"]
    capture = facts.get("capture", {})
    yield f"file        {terminal(facts['path'])}, {units.size(facts['bytes'])}"
    yield f"process     {terminal(str(facts.get('pid')))} {terminal(str(facts.get('program', '')))}"
    yield f"python      {terminal(str(facts.get('python', '?')))}"
    yield f"written     {terminal(str(facts.get('written_at', '?')))}"
    if isinstance(capture, dict) and isinstance(capture.get("pause_ns"), int):
        yield (
            f"paused      {units.duration(capture['pause_ns'])}"
            f" by {terminal(str(capture.get('engine')))}"
        )
    if isinstance(facts.get("trigger"), dict):
        yield f"taken for   {_taken_for(facts['trigger'])}"
    yield f"objects     {units.number(facts['objects'])} of {units.plural(facts['types'], 'type')}"
    yield f"references  {units.number(facts['references'])}"
    yield f"shallow     {units.size(facts['shallow_bytes'])}"
    yield f"values      {'kept' if facts.get('values') is True else 'left out'}"
    yield f"closure     {closure_text(closure)}, {units.number(closure['immortal'])} immortal"
    for thread in facts["threads"]:
        name = terminal(str(thread.get("name") or ""))
        yield f"thread      {terminal(str(thread.get('native_id')))} {name}".rstrip()


def _taken_for(trigger: Mapping[str, Any]) -> str:
    """What set the dump off, by what it says of itself: nothing in it is sure to be there."""
    name = terminal(str(trigger.get("name")))
    if trigger.get("park_id") is None:
        return f"trigger {name}: {terminal(str(trigger.get('condition')))}"
    text = (
        f"park {terminal(str(trigger['park_id']))} of {terminal(str(trigger.get('thread_name')))}"
    )
    after_ns = trigger.get("freeze_after_crossing_ns")
    if isinstance(after_ns, int):
        text += f", frozen {units.duration(after_ns)} after it had become that long"
    still = trigger.get("park_still_on")
    if isinstance(still, bool):
        text += ": it still lasted" if still else ": it had just ended"
    return f"{text} (trigger {name})"


def top_lines(rows: Sequence[tuple[HeapType, int, int]]) -> Iterator[str]:
    """What ``heap top`` says."""
    cells = [(kind.name, units.number(count), units.size(size)) for kind, count, size in rows]
    yield from table_lines(("type", "objects", "shallow"), ("VARCHAR", "BIGINT", "BIGINT"), cells)
