"""A heap dump of the moment: what is in memory while the thread is parked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tracer.heap.capture import TOO_LONG, CaptureOptions
from tracer.heap.dump import DumpOptions, dump_prepared
from tracer.heap.image import Image
from tracer.triggers.job import Running, new_file, room
from tracer.units import duration

SUFFIX = ".heap"


def run(running: Running) -> dict[str, Any]:
    """Dump it. The file says what fired it, and how long after the crossing it froze.

    Raises ActionFailed (no room), and what ``tracer.heap.dump.dump`` raises.
    """
    job = running.job
    path = new_file(job, SUFFIX)
    taking = CaptureOptions(
        max_pause_ns=job.options["max_pause"],
        inject=job.options["inject"],
        engine=job.options["engine"],
    )
    options = DumpOptions(
        taking, values=job.options["values"], max_bytes=room(job, path.parent), background=True
    )
    fired: dict[str, Any] = {}

    def about(image: Image) -> Mapping[str, Any]:
        fired.update(_fired(running, image))
        return {"trigger": {**job.trigger, **fired}}

    result = dump_prepared(running.prepared(job.pid or 0), path, options, about=about)
    return {**result, **fired, **_verdict(result, job.options["max_pause"])}


def _fired(running: Running, image: Image) -> dict[str, Any]:
    """What the dump knows of the park that it was taken for."""
    frozen_ns, engine = image.facts.frozen_ns, image.facts.engine
    park = running.job.park
    if park is None:
        return {"frozen_ns": frozen_ns, "park_id": None}
    return {
        "frozen_ns": frozen_ns,
        "park_id": park["park_id"],
        "tid": park["tid"],
        "thread_name": park["thread_name"],
        "freeze_after_crossing_ns": frozen_ns - park["crossing_ns"],
        "park_still_on": running.frozen(frozen_ns, engine),
    }


def _verdict(result: Mapping[str, Any], max_pause_ns: int) -> dict[str, Any]:
    notes = list(result["notes"])
    if result["engine"] == "precopy":
        notes.append("precopy: the memory was copied before the process was frozen")
    pause_ns = result["pause_ns"]
    if pause_ns <= TOO_LONG * max_pause_ns:
        return {"notes": notes}
    over = f"it stood still for {duration(pause_ns)} (max_pause {duration(max_pause_ns)})"
    return {"notes": notes, "over_budget": over}
