"""The commands that compare heap dumps, and give them to other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tracer.cli_heap_graph import say_json
from tracer.cli_options import PATH, TRACE


@click.command()
@click.argument("file", type=TRACE, metavar="FILE")
@click.option(
    "--format", "form", type=click.Choice(["heapsnapshot", "csv", "json"]), required=True,
    help="heapsnapshot: for Chrome's DevTools and memlab. csv: a table. json: JSON lines.",
)  # fmt: skip
@click.option(
    "-o", "--output", "path", type=PATH, required=True, metavar="OUTPUT", help="The file to write."
)
@click.option("--references", is_flag=True, help="csv: a row for each reference, not object.")
@click.option("--force", is_flag=True, help="Replace OUTPUT if it exists.")
@click.option("--json", "as_json", is_flag=True, help="Say what was written as one JSON object.")
@click.option("-q", "--quiet", is_flag=True, help="No progress bars.")
def export(file: Path, form: str, path: Path, as_json: bool, quiet: bool, **how: Any) -> None:
    """Write a dump in a form that other programs read.

    Its objects, with what each takes and keeps alive, and their references. A
    .heapsnapshot is opened in Chrome under DevTools, Memory, Load.
    """
    from probes.errors import UsageError
    from tracer.heap.export import export as do_export
    from tracer.heap_compare_view import export_lines
    from tracer.heap_view import progress_bars
    from tracer.watch import say

    if how["references"] and form != "csv":
        raise UsageError(f"--references is for csv: {form} has them anyway", hint="Leave it out.")
    form = "csv-references" if how["references"] else form
    with progress_bars(shown=not (quiet or as_json)) as progress:
        result = do_export(file, path, form, force=how["force"], progress=progress)
    if as_json:
        say_json(result)
    else:
        say("\n".join(export_lines(result)))


@click.command()
@click.argument("first", type=TRACE, metavar="A")
@click.argument("second", type=TRACE, metavar="B")
@click.option("-n", "--limit", type=click.IntRange(1), default=10, show_default=True,
              help="How many of each list.")  # fmt: skip
@click.option("--type", "only", metavar="NAME", help="List the objects of this type, too.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("-q", "--quiet", is_flag=True, help="No progress bars.")
def diff(first: Path, second: Path, as_json: bool, quiet: bool, **how: Any) -> None:
    """Say what became more from dump A to dump B of one process, and who keeps it.

    Threads by where they stand, containers that gained items, new objects by their type
    and keeper, and all types. Dumps of different processes are compared by type only.
    """
    from tracer.heap.diff import diff as find_diff
    from tracer.heap_compare_view import diff_lines
    from tracer.heap_view import progress_bars
    from tracer.watch import say

    with progress_bars(shown=not (quiet or as_json)) as progress:
        found = find_diff(first, second, limit=how["limit"], only=how["only"], progress=progress)
    if as_json:
        say_json(found)
    else:
        say("\n".join(diff_lines(found)))


@click.command()
@click.argument("paths", type=TRACE, nargs=3, metavar="A B C")
@click.option("-n", "--limit", type=click.IntRange(1), default=10, show_default=True,
              help="How many leaks.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("-q", "--quiet", is_flag=True, help="No progress bars.")
def leaks(paths: tuple[Path, ...], limit: int, as_json: bool, quiet: bool) -> None:
    """Say what leaks, by three dumps of one process, oldest first.

    What was born between A and B, lives on in C and became more from dump to dump, and
    who keeps it. What comes and goes is not shown. Let some minutes of ordinary work lie
    between the dumps; take A when the process has warmed up.
    """
    from tracer.heap.leaks import leaks as find_leaks
    from tracer.heap_compare_view import leak_lines
    from tracer.heap_view import progress_bars
    from tracer.watch import say

    with progress_bars(shown=not (quiet or as_json)) as progress:
        found = find_leaks(paths, limit=limit, progress=progress)
    if as_json:
        say_json(found)
    else:
        say("\n".join(leak_lines(found)))
