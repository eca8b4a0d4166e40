"""``heap export``: a dump in a form that other programs read."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from probes.errors import UsageError
from tracer.heap.dump import Progress
from tracer.heap.graph import Graph
from tracer.heap.heap_tables import write_csv, write_json
from tracer.heap.heapsnapshot import write_heapsnapshot
from tracer.heap.sizes import read_graph
from tracer.heap.text_rows import Write
from tracer.heap.writer import appearing, refuse_existing


def _csv(graph: Graph, write: Write, progress: Callable[[int, int], None]) -> dict[str, Any]:
    return write_csv(graph, write, progress, references=False)


def _references(graph: Graph, write: Write, progress: Callable[[int, int], None]) -> dict[str, Any]:
    return write_csv(graph, write, progress, references=True)


FORMATS: Mapping[str, Callable[[Graph, Write, Callable[[int, int], None]], dict[str, Any]]] = (
    MappingProxyType(
        {
            "heapsnapshot": write_heapsnapshot,
            "csv": _csv,
            "csv-references": _references,
            "json": write_json,
        }
    )
)
"""What writes each format."""

VALUES = "the text of strings is in it, passwords too: the dump was taken with --values"


def export(
    path: Path, output: Path, form: str, *, force: bool = False, progress: Progress | None = None
) -> dict[str, Any]:
    """Write the dump at ``path`` to ``output`` as ``form``; what is said of it, for JSON.

    The file appears whole or not at all, mode 0600. Raises UsageError, HeapDumpError,
    RecordingError (disk full), BackendUnavailable (no compiler).
    """
    tell = progress or (lambda _phase, _done, _total: None)
    refuse_existing(output, force=force)
    if os.path.exists(output) and os.path.samefile(output, path):
        raise UsageError(f"{output} is the dump itself", hint="Choose another '-o'.")
    started_ns = time.monotonic_ns()
    graph = read_graph(path, tell)
    written = 0
    with appearing(output, force=force) as descriptor:

        def write(piece: bytes | memoryview) -> None:
            nonlocal written
            left = memoryview(piece)
            while left:
                done = os.write(descriptor, left)
                written += done
                left = left[done:]

        said = FORMATS[form](graph, write, lambda done, total: tell("export", done, total))
    return {
        "path": str(output),
        "format": form,
        "objects": graph.nodes,
        "references": graph.edges,
        "bytes": written,
        "dump_bytes": path.stat().st_size,
        "duration_ns": time.monotonic_ns() - started_ns,
        **said,
        "notes": [*said["notes"], *([VALUES] if graph.heap.meta.get("values") else [])],
    }
