"""What ``heap diff``, ``heap leaks`` and ``heap export`` show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tracer import units
from tracer.escape import terminal


def export_lines(result: Mapping[str, Any]) -> list[str]:
    """What ``heap export`` says at the end."""
    objects = units.plural(result["objects"], "object")
    took = units.duration(result["duration_ns"])
    lines = [f"{terminal(result['path'])}: {objects}, {units.size(result['bytes'])}, in {took}"]
    return lines + [f"note: {terminal(note)}" for note in result["notes"]]
