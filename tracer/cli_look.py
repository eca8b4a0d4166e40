"""The commands that look: at a trace, at this machine, at themselves."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from tracer.cli_options import PATH, PID, TRACE

_SHELLS = ("bash", "zsh", "fish")


def _list_views(context: click.Context, _param: click.Parameter, wanted: bool) -> None:
    """For an option that makes the others unnecessary."""
    if wanted:
        from tracer.look import show_views

        show_views(as_json=False)
        context.exit(0)


@click.command()
@click.argument("trace", type=TRACE, metavar="TRACE")
@click.option("--view", default="summary", show_default=True, metavar="NAME", help="What to show.")
@click.option(
    "--list-views",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list_views,
    help="Say which views there are.",
)
@click.option("--json", "as_json", is_flag=True, help="JSON, one object per row.")
def analyze(trace: Path, view: str, as_json: bool) -> None:
    """Show what is in a trace: a summary, the parks, the threads and more."""
    from tracer.look import show_view

    show_view(trace, view, as_json)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="JSON, one object per view.")
def views(as_json: bool) -> None:
    """Say which views 'analyze' knows."""
    from tracer.look import show_views

    show_views(as_json)


@click.command()
@click.argument("pid", type=PID, required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def doctor(pid: int | None, as_json: bool) -> int:
    """Say what works here, or for a process, and the command that fixes what does not.

    Without a PID it lists the processes that run Python. Exit code 0 if attaching
    would work with some backend, 1 if not.
    """
    from tracer.doctor import examine, lines
    from tracer.watch import coloured, say

    report = examine(pid)
    if as_json:
        from collector.sinks.json_lines import printable
        from collector.trace.lines import dump

        say(printable(dump(report.to_dict())).decode())
    else:
        say("\n".join(lines(report, coloured(sys.stdout))))
    return 0 if report.attachable else 1


@click.command()
@click.argument("scenario", required=False)
@click.option("--list", "list_only", is_flag=True, help="Say which scenarios there are.")
@click.option(
    "--backend",
    type=click.Choice(["auto", "bcc", "proc"]),
    default="auto",
    show_default=True,
    help="How to look at it.",
)
@click.option("-o", "--output", "trace", type=PATH, metavar="TRACE", help="Where to record to.")
@click.option(
    "--dump/--no-dump",
    default=True,
    show_default=True,
    help="Its long park takes a heap dump, beside the trace.",
)
def demo(
    scenario: str | None, list_only: bool, backend: str, trace: Path | None, dump: bool
) -> int:
    """Run a small program that misbehaves on purpose, and attach to it.

    Exit code 0 if its long park was flagged.
    """
    from tracer.demo import list_demos, run_demo

    if list_only:
        list_demos()
        return 0
    return run_demo(scenario, backend, trace, dump=dump)


@click.command()
@click.argument("shell", type=click.Choice(_SHELLS))
def completion(shell: str) -> None:
    """Print the completion script of a shell.

    For bash: eval "$(parkscope completion bash)"
    """
    from click.shell_completion import get_completion_class

    root = click.get_current_context().find_root()
    completer = get_completion_class(shell)
    if completer is not None:
        source = completer(root.command, {}, "parkscope", "_PARKSCOPE_COMPLETE").source()
        click.echo(source)


@click.command()
def triggers() -> None:
    """Say what conditions may speak of, and what can be done when they hold."""
    from tracer.trigger_view import trigger_lines
    from tracer.watch import say

    say("\n".join(trigger_lines()))


COMMANDS: tuple[click.Command, ...] = (analyze, views, triggers, doctor, demo, completion)
