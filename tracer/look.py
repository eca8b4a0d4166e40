"""What ``parkscope analyze`` does: a view of a trace, as a table or as JSON lines."""

from __future__ import annotations

from pathlib import Path

from collector.sinks.json_lines import printable
from collector.trace.lines import dump
from tracer.analysis import list_views, run_view
from tracer.escape import terminal
from tracer.watch import say

DEFAULT_VIEW = "summary"


def show_view(trace: Path, view: str, as_json: bool) -> None:
    """Say what a view finds. Raises TraceError, UsageError."""
    result = run_view(trace, view)
    if as_json:
        for row in result.rows:
            flat = {"view": view, **dict(zip(result.columns, row, strict=True))}
            say(printable(dump(flat)).decode())
        return
    from tracer.table_view import table_lines

    if result.rows:
        say("\n".join(table_lines(result.columns, result.types, result.rows)))
    else:
        say(f"nothing: no row in view {view}")


def show_views(as_json: bool) -> None:
    """Say which views there are."""
    for name, text in list_views().items():
        if as_json:
            say(printable(dump({"view": name, "description": text})).decode())
        else:
            say(f"{name:<12}  {terminal(text)}")
