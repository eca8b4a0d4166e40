"""Named SQL over a trace, in a DuckDB that can reach nothing but the tables given to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from probes.errors import InternalError, TraceError, UsageError
from tracer.analysis.load import load

if TYPE_CHECKING:
    import duckdb

VIEW_DIR = Path(__file__).parent / "views"
_DERIVED = Path(__file__).parent / "derived.sql"

SETTINGS: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "python_enable_replacements": "false",
}


@dataclass(frozen=True, slots=True)
class ViewResult:
    """A table. ``types`` are DuckDB's names (``BIGINT``, ``DOUBLE``, ``VARCHAR``, ``BOOLEAN``).

    Texts in ``rows`` come from the target: whoever shows them escapes them.
    """

    columns: tuple[str, ...]
    types: tuple[str, ...]
    rows: list[tuple[Any, ...]]


@cache
def list_views() -> Mapping[str, str]:
    """The names of all views with what they show, ``summary`` first."""
    found = {path.stem: _description(path) for path in VIEW_DIR.glob("*.sql")}
    return MappingProxyType(
        {name: found[name] for name in sorted(found, key=lambda name: (name != "summary", name))}
    )


def run_view(trace: Path, name: str = "summary") -> ViewResult:
    """Runs a view over a trace file.

    Raises UsageError for an unknown view, NotATrace, UnknownTraceVersion and TraceError
    for a file that cannot be read; a damaged one is read as far as it goes.
    """
    if name not in list_views():
        raise UsageError(
            f"no view is named '{name}'", hint=f"There are: {', '.join(list_views())}."
        )
    with connect(trace) as connection:
        return view_of(connection, name)


@contextmanager
def connect(trace: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database of the trace's tables (``load``) and those of ``derived.sql``, nothing else.

    Raises as ``run_view``; errors of DuckDB inside come out as ParkscopeErrors.
    """
    import duckdb

    try:
        with duckdb.connect(":memory:", config=SETTINGS) as connection:
            for table, content in load(trace).items():
                connection.register(table, content)
            connection.execute(_DERIVED.read_text("utf-8"))
            yield connection
    except (duckdb.OutOfMemoryException, MemoryError) as error:
        raise TraceError(f"{trace} is too large for the memory of this machine") from error
    except duckdb.Error as error:
        raise InternalError(f"a view failed on {trace}: {error}") from error


def view_of(connection: duckdb.DuckDBPyConnection, name: str) -> ViewResult:
    """Runs one view in an open database."""
    done = connection.execute((VIEW_DIR / f"{name}.sql").read_text("utf-8"))
    described = done.description or []
    return ViewResult(
        columns=tuple(str(column[0]) for column in described),
        types=tuple(str(column[1]) for column in described),
        rows=done.fetchall(),
    )


def _description(path: Path) -> str:
    """The first line of a view's file, without the comment's dashes."""
    with path.open(encoding="utf-8") as file:
        first = file.readline()
    if not first.startswith("-- "):
        raise InternalError(f"{path.name} does not begin with a comment that describes it")
    return first.removeprefix("-- ").strip()
