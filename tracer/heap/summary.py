"""``heap info`` and ``heap top``: what a dump says at a glance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tracer.heap.model import HeapType
from tracer.heap.reader import HeapFile


def info(path: Path) -> dict[str, Any]:
    """What is said of a dump as a whole, for JSON. Raises HeapDumpError, OSError."""
    with HeapFile(path) as file:
        kinds = file.node_types()
        return {
            **{key: value for key, value in file.meta.items() if key != "root_kinds"},
            "path": str(path),
            "bytes": file.size,
            "objects": len(kinds),
            "references": file.rows("target"),
            "types": len(file.types),
            "shallow_bytes": int(file.sizes(kinds).sum()),
            "threads": file.document("threads", list[dict[str, Any]]),
            "closure": file.closure.to_dict(),
        }


def top(path: Path, limit: int, by_count: bool) -> list[tuple[HeapType, int, int]]:
    """(type, objects, shallow bytes), the largest first. Raises HeapDumpError, OSError."""
    with HeapFile(path) as file:
        kinds = file.node_types()
        counts = np.bincount(kinds, minlength=len(file.types))
        sizes = np.bincount(kinds, weights=file.sizes(kinds), minlength=len(file.types))
        order = np.lexsort((-sizes, -counts) if by_count else (-counts, -sizes))[:limit]
        return [
            (file.types[at], int(counts[at]), int(sizes[at])) for at in order.tolist() if counts[at]
        ]
