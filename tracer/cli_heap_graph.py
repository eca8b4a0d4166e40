"""The commands that say who keeps objects alive: ``heap retainers``, ``heap path``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tracer.cli_options import TRACE

if TYPE_CHECKING:
    from tracer.heap.names import Names

_AS_JSON = click.option("--json", "as_json", is_flag=True, help="JSON.")
_QUIET = click.option("-q", "--quiet", is_flag=True, help="No progress bars.")


@click.command()
@click.argument("file", type=TRACE, metavar="FILE")
@click.argument("what", metavar="TYPE|ADDRESS")
@click.option("-n", "--limit", type=click.IntRange(1), default=10, show_default=True,
              help="How many rows of each.")  # fmt: skip
@_AS_JSON
@_QUIET
def retainers(file: Path, what: str, limit: int, as_json: bool, quiet: bool) -> None:
    """Say who keeps all objects of a type, or one object, alive.

    First what refers to them, by the name of the reference; then the tree of those that
    alone keep them: without these, they would go.
    """
    from tracer.heap.retainers import retainers as find
    from tracer.heap_graph_view import retainers_facts, retainers_lines
    from tracer.watch import say

    names = _names(file, shown=not (as_json or quiet))
    found = find(names, what, limit)
    if as_json:
        say_json(retainers_facts(names, found))
    else:
        say("\n".join(retainers_lines(names, found)))


@click.command()
@click.argument("file", type=TRACE, metavar="FILE")
@click.argument("what", metavar="TYPE|ADDRESS")
@click.option("-n", "--limit", type=click.IntRange(1), default=3, show_default=True,
              help="Of a type: the ways to so many, those first that keep most.")  # fmt: skip
@_AS_JSON
@_QUIET
def path(file: Path, what: str, limit: int, as_json: bool, quiet: bool) -> None:
    """Show the shortest way from a root to an object, and what a program calls it."""
    from tracer.heap.retainers import paths
    from tracer.heap_graph_view import path_facts, path_lines
    from tracer.watch import say

    names = _names(file, shown=not (as_json or quiet))
    found = paths(names, what, limit)
    if as_json:
        for one in found:
            say_json(path_facts(names, one))
    else:
        say("\n".join(path_lines(names, found)))


def _names(file: Path, *, shown: bool) -> Names:
    """The graph of a dump, with its dominators and ways, under progress bars."""
    from tracer.heap.names import Names
    from tracer.heap.sizes import read_graph
    from tracer.heap_view import progress_bars

    with progress_bars(shown=shown) as progress:
        return Names(read_graph(file, progress))


def top_of_graph(file: Path, limit: int, by: str, *, as_json: bool) -> None:
    """``heap top --retained`` and ``--by module``."""
    from tracer.heap.sizes import by_module, by_type
    from tracer.heap_graph_view import row_facts, row_lines
    from tracer.watch import say

    names = _names(file, shown=not as_json)
    rows = by_module(names, limit) if by == "module" else by_type(names.graph, limit)
    if as_json:
        for row in rows:
            say_json(row_facts(row, by))
    else:
        say("\n".join(row_lines(rows, by)))


def say_json(value: dict[str, object]) -> None:
    """One line of JSON on stdout, escaped where it is a terminal."""
    from collector.sinks.json_lines import printable
    from collector.trace.lines import dump as as_line
    from tracer.watch import say

    say(printable(as_line(value)).decode())
