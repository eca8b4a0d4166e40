"""The commands that take and read heap dumps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tracer.cli_heap_compare import diff, export, leaks
from tracer.cli_heap_graph import path, retainers, say_json, top_of_graph
from tracer.cli_options import PATH, PID, TRACE, Duration


@click.group()
def heap() -> None:
    """Take a consistent heap dump of a live process, and look into it."""


@heap.command()
@click.argument("pid", type=PID)
@click.option(
    "-o", "--output", "path", type=PATH, required=True, metavar="FILE", help="The file to write."
)
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@click.option(
    "--max-pause", type=Duration(1), default="5ms", show_default=True, metavar="TIME",
    help="How long the process may stand still: decides how the image is taken.",
)  # fmt: skip
@click.option(
    "--no-inject", is_flag=True, help="Never make the process execute a system call for it."
)
@click.option("--values", is_flag=True, help="Keep the text of strings; otherwise their lengths.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("-q", "--quiet", is_flag=True, help="No progress bars.")
def dump(pid: int, path: Path, as_json: bool, quiet: bool, **how: Any) -> None:
    """Write every object of a process, with its references, to a file.

    The process stands still for some milliseconds while an image of its memory is taken;
    nothing is loaded into it. Values of strings are left out unless --values is given:
    the file is yours alone (mode 0600), but it may travel.
    """
    from tracer.heap.capture import CaptureOptions
    from tracer.heap.dump import DumpOptions
    from tracer.heap.dump import dump as do_dump
    from tracer.heap_view import dump_lines, progress_bars
    from tracer.watch import say

    taking = CaptureOptions(max_pause_ns=how["max_pause"], inject=not how["no_inject"])
    options = DumpOptions(taking, values=how["values"], force=how["force"])
    with progress_bars(shown=not (quiet or as_json)) as progress:
        result = do_dump(pid, path, options, progress)
    if as_json:
        say_json(result)
    else:
        say("\n".join(dump_lines(result)))


@heap.command()
@click.argument("file", type=TRACE, metavar="FILE")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def info(file: Path, as_json: bool) -> None:
    """Say what a dump holds, how it was taken, and how consistent it is."""
    from tracer.heap.summary import info as find_info
    from tracer.heap_view import info_lines
    from tracer.watch import say

    facts = find_info(file)
    if as_json:
        say_json(facts)
    else:
        say("\n".join(info_lines(facts)))


@heap.command()
@click.argument("file", type=TRACE, metavar="FILE")
@click.option("-n", "--limit", type=click.IntRange(1), default=30, show_default=True,
              help="How many rows.")  # fmt: skip
@click.option("--by-count", is_flag=True, help="The most numerous first, not the largest.")
@click.option("--retained", is_flag=True, help="By what their objects alone keep alive.")
@click.option("--by", type=click.Choice(["type", "module"]), default="type", show_default=True,
              help="What is added up; modules by what they keep alive.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="JSON, one object per row.")
def top(file: Path, limit: int, by_count: bool, retained: bool, by: str, as_json: bool) -> None:
    """List the types of a dump by what their objects take, themselves and nothing else.

    With --retained, by what would go with them; with --by module, so for modules.
    """
    from tracer.heap.summary import top as find_top
    from tracer.heap_view import top_lines
    from tracer.watch import say

    if retained or by == "module":
        if by_count:
            raise click.UsageError("--by-count goes with neither --retained nor --by module")
        top_of_graph(file, limit, by, as_json=as_json)
        return
    rows = find_top(file, limit, by_count)
    if as_json:
        for kind, count, size in rows:
            say_json({"type": kind.name, "objects": count, "shallow_bytes": size})
    else:
        say("\n".join(top_lines(rows)))


heap.add_command(retainers)
heap.add_command(path)
for _command in (diff, leaks, export):
    heap.add_command(_command)

COMMANDS: tuple[click.Command, ...] = (heap,)
