"""Tables of text for a terminal or a pipe; nothing is cut, nothing gets through raw."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.cells import cell_len

from tracer.escape import terminal

_CELL = 120


def table_lines(
    columns: Sequence[str], types: Sequence[str], rows: Sequence[Sequence[Any]]
) -> Iterator[str]:
    """A header and the rows, aligned: numbers to the right (``types`` are DuckDB's).

    Empty columns are left out, so that a row fits on a line more often.
    """
    kept = [i for i in range(len(columns)) if not rows or any(row[i] is not None for row in rows)]
    right = {i for i in kept if types[i] in ("BIGINT", "UBIGINT", "INTEGER", "HUGEINT", "DOUBLE")}
    cells = [[_cell(row[i]) for i in kept] for row in rows]
    header = [terminal(columns[i], _CELL) for i in kept]
    widths = [max(map(cell_len, column)) for column in zip(header, *cells, strict=True)]
    for line in [header, *cells]:
        parts = [
            _padded(text, width, i in right)
            for text, width, i in zip(line, widths, kept, strict=True)
        ]
        yield "  ".join(parts).rstrip()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.3f}"
    return terminal(str(value), _CELL)


def _padded(text: str, width: int, right: bool) -> str:
    space = " " * (width - cell_len(text))
    return space + text if right else text + space
